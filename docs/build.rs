//! Takes the firmware example out of the README, with the model that it names beside it.

use std::path::Path;
use std::{env, fs};

fn main() {
    let out = env::var_os("OUT_DIR").expect("cargo sets it");
    let out = Path::new(&out);
    let root = Path::new("..");
    let (readme, model) =
        (root.join("README.md"), root.join("fixtures/storyteller/storyteller.kinglet"));
    for file in [&readme, &model] {
        println!("cargo::rerun-if-changed={}", file.display());
    }
    let text = fs::read_to_string(readme).expect("the README can be read");
    let (_, block) = text.split_once("```rust\n").expect("the README has code");
    let (code, _) = block.split_once("\n```").expect("code ends");
    fs::write(out.join("firmware.rs"), code).expect("the output directory can be written");
    fs::copy(model, out.join("model.kinglet")).expect("the model can be copied");
}
