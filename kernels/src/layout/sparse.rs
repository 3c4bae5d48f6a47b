//! Matrices of blocks, of which a sparse one leaves out those that are zero.

use super::matrix::Matrix;
use super::tiles::{PANEL, WORD, index_words};

/// A panel of a sparse matrix.
pub(crate) struct SparsePanel<'a> {
    /// Bit `g % 32` of word `g / 32`: group `g` is there. Bits from `groups` on, and more of them
    /// than there are blocks, mean nothing.
    pub(crate) there: &'a [u32],
    /// Groups of the matrix.
    pub(crate) groups: usize,
    /// Codes of the panel's blocks, and of all after it in a sparse matrix.
    pub(crate) codes: &'a [u8],
    /// Their sub-scales; none in [`Format::Int8`](super::Format).
    pub(crate) sub_scales: &'a [[i8; PANEL]],
}

impl<'a> Matrix<'a> {
    /// Whether the index is one: it counts the blocks there are, and names no group that there is
    /// not. Reads the index of every panel; products rely on nothing of this.
    pub fn index_is_sound(&self) -> bool {
        let mut blocks = 0;
        for panel in self.index.chunks_exact(1 + index_words(self.cols)) {
            let mut beyond = self.groups();
            if panel[0] as usize != blocks {
                return false;
            }
            for &word in &panel[1..] {
                if beyond < WORD && word >> beyond != 0 {
                    return false;
                }
                beyond = beyond.saturating_sub(WORD);
                blocks += word.count_ones() as usize;
            }
        }
        blocks == self.blocks() || !self.is_sparse()
    }

    /// The blocks of panel `p` of a sparse matrix.
    #[inline(always)]
    pub(crate) fn sparse_panel(&self, p: usize) -> SparsePanel<'a> {
        let words = index_words(self.cols);
        let panel = self.index.get(p * (1 + words)..).and_then(<[u32]>::split_first);
        let (&first, there) = panel.unwrap_or((&0, &[]));
        // A corrupt index may point past the last block, where a panel has none.
        let first = (first as usize).min(self.codes.len() / self.format.block_bytes());
        SparsePanel {
            there: there.get(..words).unwrap_or_default(),
            groups: self.groups(),
            codes: &self.codes[first * self.format.block_bytes()..],
            sub_scales: &self.sub_scales.as_chunks().0
                [if self.format.is_grouped() { first } else { 0 }..],
        }
    }

    /// The number of panel `p`'s first block, in a matrix of blocks: any but a dense one of
    /// [`Format::Int8`].
    pub(crate) fn first_block(&self, p: usize) -> usize {
        if !self.is_sparse() {
            return p * self.groups();
        }
        // A corrupt index may point past the last block, where a panel has none.
        let first = self.index.get(p * (1 + index_words(self.cols))).copied().unwrap_or_default();
        (first as usize).min(self.blocks())
    }

    /// Which of the groups `start..start + count` of panel `p` are there: bit 0 for the first.
    /// `count` is not zero, and one word of an index speaks of all of them.
    pub(crate) fn there(&self, p: usize, start: usize, count: usize) -> u32 {
        let word = p * (1 + index_words(self.cols)) + 1 + start / WORD;
        let word = if self.is_sparse() {
            self.index.get(word).copied().unwrap_or_default()
        } else {
            u32::MAX
        };
        word >> (start % WORD) & u32::MAX >> ((WORD - count) % WORD)
    }

    /// Codes and sub-scales of `count` blocks from `first` on, in a matrix of blocks; `None` when
    /// there are not as many.
    pub(crate) fn stored(
        &self,
        first: usize,
        count: usize,
    ) -> Option<(&'a [u8], &'a [[i8; PANEL]])> {
        let bytes = self.format.block_bytes();
        let codes = self.codes.get(first * bytes..(first + count) * bytes)?;
        let subs = self.sub_scales.as_chunks().0;
        Some((codes, if self.format.is_grouped() { subs.get(first..first + count)? } else { &[] }))
    }
}
