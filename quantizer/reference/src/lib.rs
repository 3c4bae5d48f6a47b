//! The forward pass of a checkpoint in f32: what quantization is measured
//! against, and where calibration looks on.
//!
//! Many sequences go through one block together, so each block's weights are
//! needed once for all of them, and in memory one block at a time:
//!
//! ```text
//! embed -> Batch --advance(block 0)--> Batch --advance(block 1)--> ... --head--> logits, or what is pooled
//!                      ^ BlockWeights: resident, or read and dropped
//! ```
//!
//! Blocks are numbered over all stacks. The first block of a later stack finds the hand-over done:
//! the states of the stack before have become the memory, or its input.
//!
//! [`Reference::run`] and [`Reference::logits`] do all of it; a quantizer that
//! rounds block after block takes the steps itself, with weights of its own.
//!
//! Invariants:
//!
//! - Everything is f32 (sums of squares and positions in f64). Work is divided
//!   at fixed places whatever the number of threads, so the same machine gives
//!   the same bits with any number. Another instruction set may round elsewhere.
//! - Tokens and lengths are checked when a batch is made; after that only
//!   reading can fail.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod attention;
mod batch;
mod head;
pub mod ops;
pub mod product;
pub mod random;
pub mod tape;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod weights;

use std::borrow::Cow;

use kinglet_import::checkpoint::{Architecture, Checkpoint, CheckpointError};

pub use batch::Part;
pub use batch::{Batch, Sample, Sequences, Source};
pub use kinglet_model::{Inputs, Operation, Site};
pub use weights::{
    ApplyNorm, BlockWeights, Forward, Heads, LinearWeights, NormWeights, Numbers, Vectors,
};
pub use weights::{base, joined, mix, prepare, read_norm, relative_of};

/// Weights up to this many bytes as f32 are kept in memory by [`Reference::new`].
pub const RESIDENT_BYTES: usize = 1 << 29;
/// Tokens that go through a block at once: enough to make the products large,
/// few enough that activations stay small beside the weights.
const TOKENS_AT_ONCE: usize = 2048;

/// Why a reference could not run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReferenceError {
    /// The weights could not be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A token that the model does not have.
    #[error(
        "token {token} at position {position} of sequence {sequence} is not one of the model's \
         {vocab}: encode the text with the model's own tokenizer"
    )]
    Token {
        /// The sequence.
        sequence: usize,
        /// The position in it.
        position: usize,
        /// The token.
        token: u32,
        /// Tokens of the model.
        vocab: usize,
    },
    /// A sequence longer than the model's context.
    #[error(
        "sequence {sequence} has {length} tokens, the model's context is {context}: cut it, or \
         open the checkpoint for a longer context"
    )]
    Length {
        /// The sequence.
        sequence: usize,
        /// Its length.
        length: usize,
        /// The longest possible.
        context: usize,
    },
    /// A sample of another kind than the model reads.
    #[error("sample {sequence} is nothing that the model reads: give it {reads}")]
    Source {
        /// The sample.
        sequence: usize,
        /// What the model reads.
        reads: &'static str,
    },
    /// Numbers that make no whole rows, or a picture of another size.
    #[error("sample {sequence} has {found} numbers, which is not a multiple of {of}")]
    Size {
        /// The sample.
        sequence: usize,
        /// Numbers of it.
        found: usize,
        /// Numbers of a row, or of a picture.
        of: usize,
    },
    /// A chain that no importer makes.
    #[error(
        "the model's stacks do not follow from each other; this is a defect of the importer, \
         please report it"
    )]
    Chain,
}

/// The input of one or several products, for some tokens.
#[derive(Debug, Clone, Copy)]
pub struct Observation<'a> {
    /// The block it happens in.
    pub block: usize,
    /// The products.
    pub site: Site,
    /// One row of `cols` numbers for each token, sequences one after the other.
    pub activations: &'a [f32],
    /// Inputs of the products.
    pub cols: usize,
}

/// Someone who looks on, told in a fixed order from one thread.
pub trait Observer {
    /// Sees the input of some products before they are computed.
    fn observe(&mut self, observation: &Observation<'_>);
}

/// No one.
impl Observer for () {
    fn observe(&mut self, _: &Observation<'_>) {}
}

impl<F: FnMut(&Observation<'_>)> Observer for F {
    fn observe(&mut self, observation: &Observation<'_>) {
        self(observation);
    }
}

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
