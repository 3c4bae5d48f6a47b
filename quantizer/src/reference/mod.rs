//! The forward pass of a checkpoint in f32: what quantization is measured
//! against, and where calibration looks on.
//!
//! Many sequences go through one block together, so each block's weights are
//! needed once for all of them, and in memory one block at a time:
//!
//! ```text
//! embed -> Batch --advance(block 0)--> Batch --advance(block 1)--> ... --head--> logits
//!                      ^ BlockWeights: resident, or read and dropped
//! ```
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

pub(crate) mod attention;
mod batch;
mod head;
pub(crate) mod ops;
pub(crate) mod product;
mod weights;

use std::borrow::Cow;

use crate::checkpoint::{Architecture, Checkpoint, CheckpointError};

pub use batch::Batch;
pub(crate) use batch::Part;
pub use weights::{BlockWeights, Heads, LinearWeights, Middle, NormWeights};

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
        "token {token} at position {position} of sequence {sequence} is not one of the model's {vocab}: encode the text with the model's own tokenizer"
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
        "sequence {sequence} has {length} tokens, the model's context is {context}: cut it, or open the checkpoint for a longer context"
    )]
    Length {
        /// The sequence.
        sequence: usize,
        /// Its length.
        length: usize,
        /// The longest possible.
        context: usize,
    },
}

/// Which products see some activations as their input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Site {
    /// The first product of a block.
    Input,
    /// The second.
    Output,
    /// The head, with the number of blocks as its block.
    Head,
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
    head: Vec<f32>,
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
            reference.resident = Some(Resident { blocks, head: reference.head_weights()?.weight });
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
    pub fn run(&self, sequences: &[&[u32]], sink: impl FnMut(usize, usize, &[f32])) -> Result<(), ReferenceError> {
        let mut batch = self.embed(sequences)?;
        for block in 0..self.architecture().count() {
            self.advance(&mut batch, block, &mut ())?;
        }
        self.head(&batch, &mut (), sink)
    }

    /// Begins: checks the sequences and looks their tokens up.
    ///
    /// # Errors
    ///
    /// Tokens or lengths that the model does not have, and what is wrong with the embedding.
    pub fn embed(&self, sequences: &[&[u32]]) -> Result<Batch, ReferenceError> {
        Batch::embed(self.checkpoint, sequences)
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
    pub fn advance(&self, batch: &mut Batch, block: usize, observer: &mut dyn Observer) -> Result<(), ReferenceError> {
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
    pub fn advance_with(&self, batch: &mut Batch, block: usize, weights: &BlockWeights, observer: &mut dyn Observer) {
        for part in batch.parts(TOKENS_AT_ONCE) {
            let mut observe = |site, activations: &[f32], cols| {
                observer.observe(&Observation { block, site, activations, cols });
            };
            let normed = weights.norm.apply(part.stream);
            observe(Site::Input, &normed, weights.input.cols);
            let mixed = weights.middle.mix(&part.lengths, weights.input.apply(&normed));
            observe(Site::Output, &mixed, weights.output.cols);
            ops::add(part.stream, &weights.output.apply(&mixed));
        }
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
        Ok(BlockWeights::read(self.checkpoint, self.architecture().block(block).expect("a block of this number"))?)
    }

    /// Reads the last norm.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn final_norm(&self) -> Result<NormWeights, ReferenceError> {
        let norm = self.architecture().last().norm.as_ref().expect("a norm");
        Ok(NormWeights::read(self.checkpoint, norm)?)
    }

    /// Reads the head.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn head_weights(&self) -> Result<LinearWeights, ReferenceError> {
        let head = &self.architecture().output.head.as_ref().expect("a head").weight;
        Ok(LinearWeights { weight: self.checkpoint.read(head)?, bias: None, cols: head.cols(), rounds: false })
    }

    /// Ends: hands over the logits of every position, as [`Self::run`] does.
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
        let resident = self.resident.as_ref().map(|resident| resident.head.as_slice());
        head::run(self.checkpoint, resident, batch, observer, sink)
    }
}
