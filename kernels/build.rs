//! Says which vector instructions a 32-bit Arm core has.
//!
//! Stable compilers do not show `dsp` and `mve` as target features, so they are read off the target
//! and the flags that choose the core: `cfg(kinglet_dsp)`, `cfg(kinglet_mve)`.

use std::env;

/// Armv8-M cores with the DSP extension, which Arm makes optional, and those that have Helium as
/// well.
const DSP: [&str; 2] = ["cortex-m33", "cortex-m35p"];
const MVE: [&str; 3] = ["cortex-m52", "cortex-m55", "cortex-m85"];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=CARGO_ENCODED_RUSTFLAGS");
    println!("cargo::rustc-check-cfg=cfg(kinglet_dsp, kinglet_mve)");
    let target = env::var("TARGET").unwrap();
    let main = target.starts_with("thumbv8m.main");
    let (mut dsp, mut mve) = (target.starts_with("thumbv7em"), false);
    let flags = env::var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
    for flag in flags.split('\x1f') {
        let flag = flag.trim_start_matches("--codegen=").trim_start_matches("-C");
        if let Some(cpu) = flag.strip_prefix("target-cpu=") {
            mve |= main && MVE.contains(&cpu);
            dsp |= mve || main && DSP.contains(&cpu);
        }
        for feature in
            flag.strip_prefix("target-feature=").into_iter().flat_map(|list| list.split(','))
        {
            match feature {
                "+dsp" => dsp |= main,
                "+mve" | "+mve.fp" => (dsp, mve) = (dsp | main, mve | main),
                "-dsp" => (dsp, mve) = (false, false),
                "-mve" => mve = false,
                _ => {}
            }
        }
    }
    if mve {
        println!("cargo::rustc-cfg=kinglet_mve");
    } else if dsp {
        println!("cargo::rustc-cfg=kinglet_dsp");
    }
}
