//! Golden sequences: an answer that travels with the file, so that any device can check itself
//! against its maker.

use super::layout::GoldenRecord;

/// FNV-1a, 64 bits, over the bits of f32 values taken as 32-bit words; every NaN counts as one and
/// the same.
///
/// <http://www.isthe.com/chongo/tech/comp/fnv/>, with words in place of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogitsHash(u64);

impl Default for LogitsHash {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl LogitsHash {
    /// Adds the logits of one position.
    pub fn update(&mut self, logits: &[f32]) {
        for v in logits {
            let bits = if v.is_nan() { 0x7fc0_0000 } else { v.to_bits() };
            self.0 = (self.0 ^ u64::from(bits)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    /// The hash of what was added.
    pub fn value(self) -> u64 {
        self.0
    }
}

/// A sequence and the hash of the outputs that chose its tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Golden<'a> {
    /// Rows of the source: as many as `source` has tokens or, where the model reads something else,
    /// of `Source::Pattern`.
    pub rows: usize,
    /// Tokens of the source.
    pub source: &'a [u32],
    /// The tokens given.
    pub prompt: &'a [u32],
    /// The most probable tokens that followed, one after the other.
    pub answer: &'a [u32],
    /// [`LogitsHash`] of the outputs of the source, if there are any, and of the logits that chose
    /// each token of `answer`.
    pub hash: u64,
}

impl<'a> Golden<'a> {
    /// `None` with neither source nor prompt. Of a lone stack, `prompt` are the tokens of a
    /// decoder, `source` those of an encoder.
    pub(super) fn new(record: GoldenRecord, tokens: &'a [u32], reads_tokens: bool) -> Option<Self> {
        let rows = record.source as usize;
        let (source, tokens) = tokens.split_at_checked(if reads_tokens { rows } else { 0 })?;
        let (prompt, answer) = tokens.split_at_checked(record.prompt as usize)?;
        let something = rows > 0 || !prompt.is_empty();
        something.then_some(Self { rows, source, prompt, answer, hash: record.hash })
    }
}
