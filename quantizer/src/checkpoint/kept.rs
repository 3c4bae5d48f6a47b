//! A checkpoint with a part of its vocabulary.
//!
//! Invariant: a list of kept tokens ascends, so new ids follow the order of the
//! old ones. Tokens without a row in the model (some tokenizers have more than it)
//! come last in both, so the rest is numbered alike with and without them.

use std::sync::Arc;

use super::architecture::Order;
use super::{Checkpoint, CheckpointError};

/// The tokens that a checkpoint was cut down to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    ids: Vec<u32>,
    of: usize,
}

impl Kept {
    /// Their ids in the whole vocabulary, ascending: the new id of each is its place.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Tokens of the whole model.
    pub fn of(&self) -> usize {
        self.of
    }
}

impl Checkpoint {
    /// Cuts the vocabulary down to tokens whose ids ascend: what remains is
    /// described, read and tokenized as if there had never been others.
    ///
    /// # Errors
    ///
    /// A list without a token of the model or out of order, and a second one.
    pub fn keep_tokens(&mut self, ids: Vec<u32>) -> Result<(), CheckpointError> {
        let refuse = |problem: &str| Err(CheckpointError::Tokens { problem: problem.to_owned() });
        let architecture = &mut self.architecture;
        let of = architecture.vocab;
        if self.kept.is_some() {
            return refuse("others were taken out before; open the checkpoint again");
        }
        if !ids.is_sorted_by(|a, b| a < b) {
            return refuse("their ids do not ascend");
        }
        let rows: Arc<[u32]> = ids.iter().copied().filter(|&id| (id as usize) < of).collect();
        if rows.is_empty() {
            return refuse("none of them is the model's");
        }
        let new = |id: u32| ids.binary_search(&id).ok().and_then(|at| u32::try_from(at).ok());
        architecture.vocab = rows.len();
        for table in [&mut architecture.embed, &mut architecture.head] {
            table.rows = rows.len();
            table.order = Order::Chosen(Arc::clone(&rows));
        }
        architecture.bos = architecture.bos.and_then(new);
        architecture.eos = architecture.eos.iter().copied().filter_map(new).collect();
        self.kept = Some(Kept { ids, of });
        Ok(())
    }
}
