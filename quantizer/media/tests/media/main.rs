//! Pictures and recordings: what Pillow and the definitions give, files that are damaged or lie,
//! and, where the checkpoints are, a real front end and real pictures.

mod front_ends;
mod pictures;
mod preprocessors;
mod sounds;

use std::path::{Path, PathBuf};

use kinglet_fixtures::host::Random;
use tempfile::TempDir;

/// A folder, and a file in it with these bytes.
fn file(name: &str, bytes: &[u8]) -> (TempDir, PathBuf) {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    (dir, path)
}

/// Changes up to three bytes.
fn damage(bytes: &mut [u8], random: &mut Random) {
    for _ in 0..=random.below(3) {
        let at = random.below(bytes.len());
        bytes[at] = random.below(256) as u8;
    }
}

/// The numbers of a NumPy file, as they lie.
fn npy(path: &Path) -> Vec<u8> {
    let bytes = std::fs::read(path).unwrap();
    let header = usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    bytes[10 + header..].to_vec()
}
