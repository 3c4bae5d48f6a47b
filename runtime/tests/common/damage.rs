//! Files that are changed, with checksums that are right again.

use kinglet_model::Crc32;
use kinglet_model::layout::{Head, SectionEntry};

/// The section table.
pub fn entries(bytes: &[u8]) -> Vec<SectionEntry> {
    let head = Head::read(bytes).unwrap();
    (0..usize::from(head.sections))
        .filter_map(|i| SectionEntry::read(bytes.get(64 + 32 * i..)?))
        .collect()
}

/// Makes all checksums of head and sections right again, as far as they lie within the file.
pub fn seal(bytes: &mut [u8]) {
    let Some(mut head) = Head::read(bytes) else { return };
    let n = usize::from(head.sections).min(64);
    for i in 0..n {
        let Some(entry) = bytes.get(64 + 32 * i..).and_then(SectionEntry::read) else { return };
        let range = usize::try_from(entry.offset).ok().zip(usize::try_from(entry.bytes).ok());
        let contents = range.and_then(|(start, len)| bytes.get(start..start.checked_add(len)?));
        let crc = contents.map_or(0, Crc32::of).to_le_bytes();
        bytes[64 + 32 * i + 4..][..4].copy_from_slice(&crc);
    }
    head.crc = 0;
    let mut crc = Crc32::default();
    crc.update(&head.write());
    let Some(table) = bytes.get(64..64 + 32 * n) else { return };
    crc.update(table);
    bytes[12..16].copy_from_slice(&crc.value().to_le_bytes());
}

/// A file with `change` applied to a section, its checksums right again.
pub fn with(bytes: &[u8], kind: u32, change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let entry = *entries(&bytes).iter().find(|e| e.kind == kind).unwrap();
    change(&mut bytes[entry.offset as usize..][..entry.bytes as usize]);
    seal(&mut bytes);
    bytes
}
