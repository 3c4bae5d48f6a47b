//! Finding the sections of a file.

use super::crc::Crc32;
use super::error::{OpenError, SectionProblem};
use super::layout::{ALIGN, Head, MAGIC, MAX_SECTIONS, SectionEntry, VERSION, section};

/// The sections of a file, empty where there is none.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sections<'a> {
    /// The file, without what may follow it in memory.
    pub(super) file: &'a [u8],
    entries: &'a [u8],
}

impl<'a> Sections<'a> {
    /// Checks head and section table: order, bounds, alignment and their checksum.
    pub(super) fn open(bytes: &'a [u8]) -> Result<Self, OpenError> {
        let found = bytes.len() as u64;
        if !bytes.starts_with(&MAGIC) {
            return Err(OpenError::NotKinglet);
        }
        if bytes.as_ptr().align_offset(ALIGN) != 0 {
            return Err(OpenError::Unaligned);
        }
        let head =
            Head::read(bytes).ok_or(OpenError::Truncated { needed: Head::SIZE as u64, found })?;
        if head.version != VERSION {
            return Err(OpenError::Version { found: head.version });
        }
        let truncated = OpenError::Truncated { needed: head.bytes, found };
        let file =
            usize::try_from(head.bytes).ok().and_then(|n| bytes.get(..n)).ok_or(truncated)?;
        let table = usize::from(head.sections) * SectionEntry::SIZE;
        let start = file.get(..Head::SIZE + table).ok_or(truncated)?;
        if u32::from(head.sections) > MAX_SECTIONS || head_crc(start) != head.crc {
            return Err(OpenError::HeadChecksum);
        }
        let sections = Self { file, entries: start.get(Head::SIZE..).unwrap_or_default() };
        sections.check_table(Head::SIZE + table)?;
        Ok(sections)
    }

    fn check_table(&self, mut end: usize) -> Result<(), OpenError> {
        for entry in self.iter() {
            let fail = |problem| Err(OpenError::Section { kind: entry.kind, problem });
            let range = self.range(&entry).filter(|range| range.start >= end);
            let Some(range) = range else {
                return fail(SectionProblem::Bounds);
            };
            if range.start % ALIGN != 0 {
                return fail(SectionProblem::Misaligned);
            }
            if entry.reserved != 0 {
                return fail(SectionProblem::Reserved);
            }
            if self.iter().filter(|other| other.kind == entry.kind).count() > 1 {
                return fail(SectionProblem::Duplicate);
            }
            end = range.end;
        }
        Ok(())
    }

    fn range(&self, entry: &SectionEntry) -> Option<core::ops::Range<usize>> {
        let start = usize::try_from(entry.offset).ok()?;
        let end = start.checked_add(usize::try_from(entry.bytes).ok()?)?;
        (end <= self.file.len()).then_some(start..end)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = SectionEntry> + 'a {
        self.entries.chunks_exact(SectionEntry::SIZE).filter_map(SectionEntry::read)
    }

    /// The entry of a kind and its bytes.
    pub(super) fn find(&self, kind: u32) -> Option<(SectionEntry, &'a [u8])> {
        let entry = self.iter().find(|entry| entry.kind == kind)?;
        Some((entry, self.bytes(&entry)))
    }

    /// The bytes of an entry.
    pub(super) fn bytes(&self, entry: &SectionEntry) -> &'a [u8] {
        self.range(entry).and_then(|range| self.file.get(range)).unwrap_or_default()
    }

    /// A section that must be there, exactly `bytes` long, with its checksum right.
    pub(super) fn table(&self, kind: u32, bytes: u64) -> Result<&'a [u8], OpenError> {
        let fail = |problem| OpenError::Section { kind, problem };
        let (entry, found) = self.find(kind).ok_or(fail(SectionProblem::Missing))?;
        if found.len() as u64 != bytes {
            return Err(fail(SectionProblem::Length));
        }
        if Crc32::of(found) != entry.crc {
            return Err(fail(SectionProblem::Checksum));
        }
        Ok(found)
    }

    /// A section that must be there, of any length; its checksum is left to a full verification.
    pub(super) fn required(&self, kind: u32) -> Result<&'a [u8], OpenError> {
        let missing = OpenError::Section { kind, problem: SectionProblem::Missing };
        self.find(kind).map(|(_, bytes)| bytes).ok_or(missing)
    }

    /// A section that may be absent.
    pub(super) fn optional(&self, kind: u32) -> &'a [u8] {
        self.find(kind).map(|(_, bytes)| bytes).unwrap_or_default()
    }

    /// Whether a section's checksum is this table's business; weights have one for each tensor.
    pub(super) fn has_crc(kind: u32) -> bool {
        kind != section::WEIGHTS
    }
}

/// The checksum of head and section table; its own bytes count as zeros.
fn head_crc(bytes: &[u8]) -> u32 {
    let mut crc = Crc32::default();
    for (at, &byte) in bytes.iter().enumerate() {
        crc.update(&[if (12..16).contains(&at) { 0 } else { byte }]);
    }
    crc.value()
}
