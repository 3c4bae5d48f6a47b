//! The tables of a section while they are filled.

use kinglet_tokenizer::layout::Table;

/// The tables' bytes, by table.
#[derive(Default)]
pub(super) struct Tables(pub(super) [Vec<u8>; Table::ALL.len()]);

impl Tables {
    pub(super) fn put(&mut self, table: Table, words: impl IntoIterator<Item = u32>) {
        self.0[table as usize].extend(words.into_iter().flat_map(u32::to_le_bytes));
    }
}
