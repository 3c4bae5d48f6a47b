//! A checkpoint with a part of its vocabulary.
//!
//! Invariant: a list of kept tokens ascends, so new ids follow the order of the
//! old ones. Tokens without a row in the model (some tokenizers have more than it)
//! come last in both, so the rest is numbered alike with and without them.

use std::sync::Arc;

use super::architecture::Order;
use super::{Architecture, CheckpointError, Input, TensorRef, embedding};

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

    /// Cuts the vocabulary of a description down to tokens whose ids ascend.
    pub(super) fn cut(
        architecture: &mut Architecture,
        ids: Vec<u32>,
    ) -> Result<Self, CheckpointError> {
        let refuse = |problem| Err(refused(problem));
        let of = architecture.vocab();
        let tables = || architecture.stacks.iter().filter_map(embedding);
        if tables().any(|table| Some(table) != tables().next()) {
            return refuse("source and target have vocabularies of their own");
        }
        if !ids.is_sorted_by(|a, b| a < b) {
            return refuse("their ids do not ascend");
        }
        let rows: Arc<[u32]> = ids.iter().copied().filter(|&id| (id as usize) < of).collect();
        if rows.is_empty() {
            return refuse("none of them is the model's");
        }
        let new = |id: u32| ids.binary_search(&id).ok().and_then(|at| u32::try_from(at).ok());
        // One vocabulary serves source and target; a head of other outputs than tokens stays.
        let embeddings =
            architecture.stacks.iter_mut().filter_map(|stack| match &mut stack.input {
                Input::Tokens { embedding, .. } => embedding.tensor_mut(),
                _ => None,
            });
        let head = architecture.output.head.iter_mut().flat_map(|head| &mut head.parts);
        let head = head.flat_map(|part| [&mut part.weight].into_iter().chain(&mut part.bias));
        let of_tokens =
            |table: &&mut TensorRef| table.rows == of || (table.rows, table.cols) == (1, of);
        for table in embeddings.chain(head).filter(of_tokens) {
            if table.order != Order::Stored {
                return refuse("the rows of its tables are not those of the file");
            }
            if table.rows == 1 {
                table.cols = rows.len();
            } else {
                table.rows = rows.len();
            }
            table.order = Order::Chosen(Arc::clone(&rows));
        }
        architecture.start = architecture.start.and_then(new);
        architecture.bos = architecture.bos.and_then(new);
        architecture.eos = architecture.eos.iter().copied().filter_map(new).collect();
        Ok(Self { ids, of })
    }
}

/// What is wrong with a list of tokens.
pub(super) fn refused(problem: &str) -> CheckpointError {
    CheckpointError::Tokens { problem: problem.to_owned() }
}
