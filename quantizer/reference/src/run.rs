//! A checkpoint that can be run.

use std::borrow::Cow;

use kinglet_import::checkpoint::{Architecture, Checkpoint};
use kinglet_model::Site;

use crate::batch::{Batch, Sample};
use crate::error::ReferenceError;
use crate::forward::{Forward, joined};
use crate::head;
use crate::observer::{Observation, Observer};
use crate::weights::{self, BlockWeights, LinearWeights, NormWeights, read_norm};

/// Weights up to this many bytes as f32 are kept in memory by [`Reference::new`].
pub const RESIDENT_BYTES: usize = 1 << 29;

/// Tokens that go through a block at once: enough to make the products large,
/// few enough that activations stay small beside the weights.
const TOKENS_AT_ONCE: usize = 2048;

/// A checkpoint that can be run.
#[derive(Debug)]
pub struct Reference<'c> {
    checkpoint: &'c Checkpoint,
    resident: Option<Resident>,
}

/// All weights but the embedding, which is read by rows.
#[derive(Debug)]
struct Resident {
    blocks: Vec<BlockWeights>,
    head: Option<Vec<f32>>,
}

impl<'c> Reference<'c> {
    /// Keeps the weights in memory if they need at most [`RESIDENT_BYTES`].
    ///
    /// # Errors
    ///
    /// What is wrong with the weights.
    pub fn new(checkpoint: &'c Checkpoint) -> Result<Self, ReferenceError> {
        Self::with_memory(checkpoint, RESIDENT_BYTES)
    }

    /// Keeps the weights in memory if they need at most so many bytes; otherwise
    /// reads those of a block, or of some rows of the head, when their turn comes.
    ///
    /// # Errors
    ///
    /// What is wrong with the weights, if they are kept.
    pub fn with_memory(checkpoint: &'c Checkpoint, bytes: usize) -> Result<Self, ReferenceError> {
        let mut reference = Self { checkpoint, resident: None };
        let architecture = checkpoint.architecture();
        if weights::bytes(architecture) <= bytes {
            let blocks = (0..architecture.count()).map(|block| reference.block_weights(block));
            let blocks = blocks.collect::<Result<_, _>>()?;
            let head = reference.head_weights()?.map(|head| head.weight);
            reference.resident = Some(Resident { blocks, head });
        }
        Ok(reference)
    }

    /// What is run.
    pub fn architecture(&self) -> &'c Architecture {
        self.checkpoint.architecture()
    }

    /// All logits of one sequence, `vocab` numbers for each token.
    ///
    /// # Errors
    ///
    /// As [`Self::run`].
    pub fn logits(&self, tokens: &[u32]) -> Result<Vec<f32>, ReferenceError> {
        let mut all = Vec::new();
        self.run(&[tokens], |_, _, logits| all.extend_from_slice(logits))?;
        Ok(all)
    }

    /// Runs sequences and hands over the logits of every position, in order:
    /// sequence, position, one number for each token of the vocabulary.
    ///
    /// # Errors
    ///
    /// Tokens or lengths that the model does not have, and what is wrong with the weights.
    pub fn run(
        &self,
        sequences: &[&[u32]],
        sink: impl FnMut(usize, usize, &[f32]),
    ) -> Result<(), ReferenceError> {
        self.finish(self.embed(sequences)?, sink)
    }

    /// Begins, for a model that reads tokens: checks the sequences and looks their tokens up.
    ///
    /// # Errors
    ///
    /// Tokens or lengths that the model does not have, and what is wrong with the embedding.
    pub fn embed(&self, sequences: &[&[u32]]) -> Result<Batch, ReferenceError> {
        let samples: Vec<_> =
            sequences.iter().map(|tokens| Cow::Owned(Sample::from(tokens.to_vec()))).collect();
        Batch::embed(self.checkpoint, &samples)
    }

    /// Begins: checks the samples and looks up what the stacks begin with.
    ///
    /// # Errors
    ///
    /// Samples of another kind or size than the model reads, and what is wrong with the weights of
    /// the inputs.
    pub fn begin(&self, samples: &[Sample]) -> Result<Batch, ReferenceError> {
        let samples: Vec<_> = samples.iter().map(Cow::Borrowed).collect();
        Batch::embed(self.checkpoint, &samples)
    }

    /// Runs samples and hands over the results, in order: as [`Self::run`] does for every position,
    /// or one for each sample where states are pooled.
    ///
    /// # Errors
    ///
    /// As [`Self::begin`], and what is wrong with the weights.
    pub fn run_samples(
        &self,
        samples: &[Sample],
        sink: impl FnMut(usize, usize, &[f32]),
    ) -> Result<(), ReferenceError> {
        self.finish(self.begin(samples)?, sink)
    }

    fn finish(
        &self,
        mut batch: Batch,
        sink: impl FnMut(usize, usize, &[f32]),
    ) -> Result<(), ReferenceError> {
        for block in 0..self.architecture().count() {
            self.advance(&mut batch, block, &mut ())?;
        }
        self.head(&batch, &mut (), sink)
    }

    /// Takes a batch through the block of this number.
    ///
    /// # Errors
    ///
    /// What is wrong with the weights.
    ///
    /// # Panics
    ///
    /// If there is no such block.
    pub fn advance(
        &self,
        batch: &mut Batch,
        block: usize,
        observer: &mut dyn Observer,
    ) -> Result<(), ReferenceError> {
        let weights = self.block(block)?;
        self.advance_with(batch, block, &weights, observer);
        Ok(())
    }

    /// The weights of a block, from memory if they are kept there.
    ///
    /// # Errors
    ///
    /// What is wrong with the weights.
    ///
    /// # Panics
    ///
    /// If there is no such block.
    pub fn block(&self, block: usize) -> Result<Cow<'_, BlockWeights>, ReferenceError> {
        match &self.resident {
            Some(resident) => Ok(Cow::Borrowed(&resident.blocks[block])),
            None => Ok(Cow::Owned(self.block_weights(block)?)),
        }
    }

    /// Takes a batch through a block with other weights than its own, such as rounded ones.
    ///
    /// # Panics
    ///
    /// If the sizes of the weights do not fit the batch or each other.
    pub fn advance_with(
        &self,
        batch: &mut Batch,
        block: usize,
        weights: &BlockWeights,
        observer: &mut dyn Observer,
    ) {
        batch.enter(block);
        batch.step(TOKENS_AT_ONCE, |part| {
            let mut observe = |site, activations: &[f32], cols| {
                observer.observe(&Observation { block, site, activations, cols });
            };
            let normed = weights.normed(part.stream);
            if let Some(input) = &weights.input {
                observe(Site::Input, &normed, input.cols);
            }
            if let Some(states) = &weights.states {
                observe(Site::States, part.sequences.states, states.cols);
            }
            let mixed = weights.mixed(part.sequences, normed);
            observe(Site::Output, &mixed, weights.output.cols);
            joined(weights.base(part.stream), weights.output.apply(&mixed))
        });
    }

    /// Reads the weights of a block.
    ///
    /// # Errors
    ///
    /// What is wrong with the weights.
    ///
    /// # Panics
    ///
    /// If there is no such block.
    pub fn block_weights(&self, block: usize) -> Result<BlockWeights, ReferenceError> {
        Ok(weights::read(
            self.checkpoint,
            self.architecture().block(block).expect("a block of this number"),
        )?)
    }

    /// Reads the norm after the last block, if there is one.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn final_norm(&self) -> Result<Option<NormWeights>, ReferenceError> {
        Ok(read_norm(self.checkpoint, &self.architecture().last().norm)?)
    }

    /// Reads the head, if there is one.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn head_weights(&self) -> Result<Option<LinearWeights>, ReferenceError> {
        let head = self.architecture().output.head.as_ref();
        Ok(head.map(|head| LinearWeights::read(self.checkpoint, head)).transpose()?)
    }

    /// Ends: hands over the results, as [`Self::run_samples`] does.
    ///
    /// # Errors
    ///
    /// What is wrong with the weights.
    pub fn head(
        &self,
        batch: &Batch,
        observer: &mut dyn Observer,
        sink: impl FnMut(usize, usize, &[f32]),
    ) -> Result<(), ReferenceError> {
        self.head_with(None, batch, observer, sink)
    }

    /// The same with the head's weights, if someone has them.
    ///
    /// # Errors
    ///
    /// What is wrong with the weights.
    pub fn head_with(
        &self,
        weights: Option<&[f32]>,
        batch: &Batch,
        observer: &mut dyn Observer,
        sink: impl FnMut(usize, usize, &[f32]),
    ) -> Result<(), ReferenceError> {
        let resident = || self.resident.as_ref().and_then(|resident| resident.head.as_deref());
        head::run(self.checkpoint, weights.or_else(resident), batch, observer, sink)
    }
}
