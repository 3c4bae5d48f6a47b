//! What follows from several records: the last stack, its width and outputs, golden sequences.

use crate::description::{InPlace, Input, Mask, Stack};
use crate::error::OpenError;
use crate::families::FAMILIES;
use crate::golden::Golden;
use crate::layout::{GoldenRecord, section};
use crate::model::Model;

impl<'a> Model<'a> {
    /// The last stack: the decoder, or the encoder of a model that has no decoder.
    ///
    /// # Errors
    /// As [`Model::stack`], when the bytes changed since the file was opened.
    pub fn last(&self) -> Result<Stack<InPlace<'a>>, OpenError> {
        self.stack(self.stacks() - 1)
    }

    /// Width of the last stack's stream where it starts.
    pub fn width(&self) -> usize {
        self.last().map_or(0, |stack| stack.width)
    }

    /// Whether the last stack reads tokens one after the other; otherwise the model is an encoder.
    pub fn is_decoder(&self) -> bool {
        !FAMILIES || self.decoder().is_ok_and(|decoder| decoder)
    }

    fn decoder(&self) -> Result<bool, OpenError> {
        let stack = self.last()?;
        let mut width = stack.width;
        // The width of a stack before; a stack without a cross block does not look at it.
        let states = match self.stacks() {
            1 => 0,
            n => self.end_width(n - 2),
        };
        let mut sees_all = false;
        for at in stack.blocks.0..stack.blocks.1 {
            let block = self.block_at(at, width, states)?;
            width = block.output.matrix.rows();
            sees_all |= block.attention().is_some_and(|a| a.mask == Mask::Full);
        }
        Ok(!sees_all && matches!(stack.input, Input::Tokens { .. }))
    }

    /// Outputs of the head: tokens of the vocabulary, classes, or the width of what comes out
    /// without a head.
    pub fn outputs(&self) -> usize {
        match self.output() {
            Ok(output) => match (output.head, output.dense) {
                (Some(head), _) => head.matrix.rows(),
                (None, Some((dense, _))) => dense.matrix.rows(),
                (None, None) => self.end_width(self.stacks() - 1),
            },
            Err(_) => 0,
        }
    }

    /// Positions that the last stack was made for.
    pub fn context(&self) -> usize {
        self.last().map_or(0, |stack| stack.context)
    }

    /// The golden sequences, as far as they are well formed.
    pub fn golden(&self) -> impl Iterator<Item = Golden<'a>> + use<'a> {
        let mut rest = self.sections.optional(section::GOLDEN);
        let reads_tokens = matches!(self.stack(0), Ok(Stack { input: Input::Tokens { .. }, .. }));
        core::iter::from_fn(move || {
            let record = GoldenRecord::read(rest)?;
            let tail = rest.get(GoldenRecord::SIZE..)?;
            let (tokens, tail) = tail.split_at_checked((record.tokens as usize).checked_mul(4)?)?;
            rest = tail;
            Golden::new(record, bytemuck::try_cast_slice(tokens).ok()?, reads_tokens)
        })
    }
}
