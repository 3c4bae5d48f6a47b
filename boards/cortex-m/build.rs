//! Makes one firmware of a board and a model.
//!
//! | variable | default | what it chooses |
//! |---|---|---|
//! | `KINGLET_BOARD` | `an386` | `boards/<board>.x`, the memory map, and `boards/<board>.conf`, the rest |
//! | `KINGLET_MODEL` | the storyteller fixture | the file linked into the section `.model` |
//! | `KINGLET_PICTURE` | a strawberry | the PNG file that `caption` names; of 8 bits, RGB |
//! | `KINGLET_MODEL_REGION` | `MODEL_REGION` of the board | the memory `.model` lies in, `FLASH` or `BIG` |

use std::path::{Path, PathBuf};
use std::{env, fs};

const DEFAULT_MODEL: &str = "../../fixtures/storyteller/storyteller.kinglet";
#[cfg(feature = "picture")]
const DEFAULT_PICTURE: &str = "../../fixtures/namer/images/strawberry.png";

fn main() {
    println!("cargo:rustc-check-cfg=cfg(armv6m)");
    if env::var("TARGET").unwrap().starts_with("thumbv6m") {
        println!("cargo:rustc-cfg=armv6m");
    }
    let home = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap());
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap());
    let name = variable("KINGLET_BOARD").unwrap_or("an386".into());
    let board = Board::read(&home, &name);
    let region = variable("KINGLET_MODEL_REGION").unwrap_or(board.value("MODEL_REGION").into());
    let model = home.join(variable("KINGLET_MODEL").unwrap_or(DEFAULT_MODEL.into()));
    write(&out, "memory.x", &read(&home.join(format!("boards/{name}.x"))));
    write(
        &out,
        "model.x",
        &format!("REGION_ALIAS(MODEL, {region});\n{}", read(&home.join("model.x"))),
    );
    // The chip's interrupts by name: there are none (see `__INTERRUPTS` in src/faults.rs).
    write(&out, "device.x", "");
    write(&out, "board.rs", &board.constants(&name));
    write(&out, "model.rs", &model_static(&model));
    #[cfg(feature = "picture")]
    picture(&home.join(variable("KINGLET_PICTURE").unwrap_or(DEFAULT_PICTURE.into())), &out);
    println!("cargo:rustc-link-search={}", out.display());
    for argument in ["--nmagic", "-Tlink.x", "-Tmodel.x", "-Tdefmt.x"] {
        println!("cargo:rustc-link-arg-bins={argument}");
    }
}

/// The lines `NAME=value` of `boards/<board>.conf`, which `boards/run` reads too.
struct Board(Vec<(String, String)>);

impl Board {
    fn read(home: &Path, name: &str) -> Self {
        let text = read(&home.join(format!("boards/{name}.conf")));
        let pairs = text.lines().filter_map(|line| line.split_once('='));
        Self(pairs.map(|(key, value)| (key.into(), value.into())).collect())
    }

    fn value(&self, key: &str) -> &str {
        let pair = self.0.iter().find(|(name, _)| name == key);
        &pair.unwrap_or_else(|| fail(&format!("the board's .conf lacks {key}"))).1
    }

    fn constants(&self, name: &str) -> String {
        format!(
            "/// The board's name.\npub const NAME: &str = {name:?};\n\
             /// Rate of SysTick.\npub const CLOCK_HZ: u32 = {};\n\
             /// Capacity of the arena.\npub const ARENA_BYTES: usize = {};\n",
            self.value("CLOCK_HZ"),
            self.value("ARENA_BYTES")
        )
    }
}

fn model_static(path: &Path) -> String {
    println!("cargo:rerun-if-changed={}", path.display());
    let Ok(path) = path.canonicalize() else {
        fail(&format!(
            "there is no model at {}: set KINGLET_MODEL to a .kinglet file",
            path.display()
        ));
    };
    let bytes = fs::metadata(&path).unwrap().len();
    let path = path.to_str().expect("the model's path is UTF-8");
    format!(
        "#[unsafe(link_section = \".model\")]\n\
         static MODEL: Aligned<[u8; {bytes}]> = Aligned(*include_bytes!({path:?}));\n"
    )
}

/// Writes the bytes of a picture: rows, pixels, channels.
#[cfg(feature = "picture")]
fn picture(path: &Path, out: &Path) {
    println!("cargo:rerun-if-changed={}", path.display());
    let wrong =
        |error: &dyn std::fmt::Display| -> ! { fail(&format!("{}: {error}", path.display())) };
    let file = fs::File::open(path).unwrap_or_else(|error| wrong(&error));
    let mut reader = png::Decoder::new(std::io::BufReader::new(file))
        .read_info()
        .unwrap_or_else(|error| wrong(&error));
    let info = reader.info();
    if (info.color_type, info.bit_depth) != (png::ColorType::Rgb, png::BitDepth::Eight) {
        wrong(&"not a picture of 8 bits, RGB");
    }
    let mut bytes = vec![0; reader.output_buffer_size().unwrap_or_else(|| wrong(&"too large"))];
    reader.next_frame(&mut bytes).unwrap_or_else(|error| wrong(&error));
    fs::write(out.join("picture.rgb"), bytes).unwrap_or_else(|error| wrong(&error));
}

fn variable(name: &str) -> Option<String> {
    println!("cargo:rerun-if-env-changed={name}");
    env::var(name).ok().filter(|value| !value.is_empty())
}

fn read(path: &Path) -> String {
    println!("cargo:rerun-if-changed={}", path.display());
    fs::read_to_string(path).unwrap_or_else(|error| fail(&format!("{}: {error}", path.display())))
}

fn write(out: &Path, name: &str, text: &str) {
    fs::write(out.join(name), text).unwrap_or_else(|error| fail(&format!("{name}: {error}")));
}

fn fail(what: &str) -> ! {
    println!("cargo::error={what}");
    std::process::exit(1)
}
