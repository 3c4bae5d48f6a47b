//! The decoder of a file, in f32.

use kinglet::{Model, OpenError};
use kinglet_model::{Input, Inputs};

use super::AdaptError;
use super::streams::add_positions;
use kinglet_quantize::rounding::dequantize;
use kinglet_reference::{BlockWeights, LinearWeights, NormWeights, ops};

/// The last stack, frozen.
pub(super) struct Decoder {
    pub(super) width: usize,
    /// Nothing where it is the head's.
    pub(super) embedding: Option<Vec<f32>>,
    /// Whether its rows were transformed.
    pub(super) transformed: bool,
    pub(super) scale: f32,
    /// Added to each token's row.
    pub(super) typed: Option<Vec<f32>>,
    pub(super) positions: Option<Vec<f32>>,
    /// The number of its first block in the file.
    pub(super) first: u32,
    pub(super) blocks: Vec<BlockWeights>,
    pub(super) norm: Option<NormWeights>,
    pub(super) head: LinearWeights,
}

impl Decoder {
    pub(super) fn read(model: &Model<'_>) -> Result<Self, AdaptError> {
        let stack = model.last()?;
        let output = model.output()?;
        let (Input::Tokens { embedding, scale, types }, Some(head)) = (&stack.input, &output.head)
        else {
            return Err(AdaptError::NoDecoder);
        };
        if output.dense.is_some() {
            return Err(AdaptError::Interface {
                what: "leads to a decoder with a layer before its head",
            });
        }
        let tied = model.is_tied();
        let typed = types.as_ref().map(|types| {
            let mut row = vec![0.0; types.matrix.cols()];
            types.matrix.dequantize_row(0, &mut row);
            row
        });
        let blocks = (stack.blocks.0..stack.blocks.1)
            .map(|index| Ok(dequantize::block(&model.block(index)?)));
        Ok(Self {
            width: embedding.matrix.cols(),
            embedding: if tied { None } else { Some(dequantize::matrix(&embedding.matrix)) },
            transformed: embedding.inputs == Inputs::Transformed,
            scale: *scale,
            typed,
            positions: stack.positions.map(|table| dequantize::matrix(&table.matrix)),
            first: stack.blocks.0,
            blocks: blocks.collect::<Result<_, OpenError>>()?,
            norm: stack.norm.as_ref().map(dequantize::norm),
            head: dequantize::linear(head),
        })
    }

    /// Width of what its attention across looks at; 0 where it has none.
    pub(super) fn memory(&self) -> usize {
        self.blocks.iter().find_map(|block| Some(block.states.as_ref()?.cols)).unwrap_or(0)
    }

    /// The norms of its attention across.
    pub(super) fn norms(&self) -> Vec<(u32, NormWeights)> {
        let across = |block: &BlockWeights| block.is_cross();
        let numbered = (self.first..).zip(&self.blocks).filter(|(_, block)| across(block));
        numbered.filter_map(|(number, block)| Some((number, block.norm.clone()?))).collect()
    }

    /// Takes over norms that were learned.
    pub(super) fn follow(&mut self, norms: &[(u32, NormWeights)]) {
        for (number, norm) in norms {
            self.blocks[(number - self.first) as usize].norm = Some(norm.clone());
        }
    }

    /// The rows that its first block sees, for tokens of sequences of these lengths.
    pub(super) fn embed(&self, tokens: &[u32], lengths: &[usize]) -> Vec<f32> {
        let width = self.width;
        let table = self.embedding.as_ref().unwrap_or(&self.head.weight);
        let mut stream = vec![];
        for &token in tokens {
            let start = stream.len();
            let row = &table[token as usize * width..][..width];
            let row = if self.transformed { ops::transformed(row, width) } else { row.to_vec() };
            stream.extend(row.iter().map(|x| x * self.scale));
            if let Some(typed) = &self.typed {
                ops::add(&mut stream[start..], typed);
            }
        }
        add_positions(self.positions.as_deref(), width, lengths, &mut stream);
        stream
    }
}
