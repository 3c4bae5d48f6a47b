//! `include/kinglet.h` is what cbindgen makes of the sources.

use std::path::Path;

#[test]
fn the_header_is_that_of_the_sources() {
    let home = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = cbindgen::Config::from_file(home.join("cbindgen.toml")).unwrap();
    let builder = cbindgen::Builder::new().with_config(config);
    // The file and not the crate: cargo need not be asked for its dependencies.
    let builder = builder.with_src(home.join("src/lib.rs"));
    let mut made = Vec::new();
    builder.generate().unwrap().write(&mut made);
    let made = String::from_utf8(made).unwrap();
    let path = home.join("include/kinglet.h");
    if std::env::var_os("KINGLET_WRITE_HEADER").is_some() {
        std::fs::write(&path, &made).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        kept == made,
        "c/include/kinglet.h is not that of the sources; renew it:\n    \
         KINGLET_WRITE_HEADER=1 cargo test -p kinglet-c --test header"
    );
}
