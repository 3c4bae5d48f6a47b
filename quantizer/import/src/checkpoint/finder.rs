//! Looking tensors up by name, and noticing those that nobody asked for.

use std::collections::BTreeSet;

use super::tensors::Tensors;
use super::{CheckpointError, TensorRef};

/// Extra tensors listed in the error.
const LISTED: usize = 8;

/// Tensors, and which of them were used.
pub(super) struct Finder<'a> {
    tensors: &'a Tensors,
    used: BTreeSet<String>,
    /// What to do when a tensor is missing.
    incomplete: &'static str,
}

impl<'a> Finder<'a> {
    pub(super) fn new(tensors: &'a Tensors, incomplete: &'static str) -> Self {
        Self { tensors, used: BTreeSet::new(), incomplete }
    }

    /// Whether there is such a tensor.
    pub(super) fn has(&self, name: &str) -> bool {
        self.tensors.get(name).is_some()
    }

    /// Rows of a matrix, where there is one.
    pub(super) fn rows(&self, name: &str) -> Option<usize> {
        self.tensors.get(name).and_then(|stored| stored.shape.first().copied())
    }

    /// A vector.
    pub(super) fn vector(&mut self, name: &str, len: usize) -> Result<TensorRef, CheckpointError> {
        self.find(name, &[len], self.incomplete)
    }

    /// A matrix.
    pub(super) fn matrix(
        &mut self,
        name: &str,
        rows: usize,
        cols: usize,
    ) -> Result<TensorRef, CheckpointError> {
        self.find(name, &[rows, cols], self.incomplete)
    }

    /// A tensor of several dimensions, as a matrix with a row for each of the first.
    pub(super) fn matrix_of(
        &mut self,
        name: &str,
        shape: &[usize],
    ) -> Result<TensorRef, CheckpointError> {
        self.find(name, shape, self.incomplete)
    }

    /// Looks a tensor up and checks its shape, but for dimensions of 1 in front, and its type. More
    /// than two dimensions give a row for each of the first.
    pub(super) fn find(
        &mut self,
        name: &str,
        shape: &[usize],
        hint: &'static str,
    ) -> Result<TensorRef, CheckpointError> {
        let Some(stored) = self.tensors.get(name) else {
            return Err(CheckpointError::MissingTensor {
                tensor: name.to_owned(),
                shape: shape.to_owned(),
                hint,
            });
        };
        let more = stored.shape.len().saturating_sub(shape.len());
        let same = stored.shape.iter().take(more).all(|size| *size == 1)
            && stored.shape.iter().skip(more).eq(shape);
        if !same {
            return Err(CheckpointError::WrongShape {
                tensor: name.to_owned(),
                expected: shape.to_owned(),
                found: stored.shape.clone(),
            });
        }
        if let Err(found) = &stored.element {
            return Err(CheckpointError::WrongDtype {
                tensor: name.to_owned(),
                found: found.clone(),
            });
        }
        self.used.insert(name.to_owned());
        let (rows, cols) = match shape {
            [first, rest @ ..] if !rest.is_empty() => (*first, rest.iter().product()),
            _ => (1, shape.iter().product()),
        };
        Ok(TensorRef::stored(name, rows, cols))
    }

    /// Fails if a tensor was not used, unless it is known to mean nothing.
    pub(super) fn refuse_extra(
        &self,
        harmless: impl Fn(&str) -> bool,
    ) -> Result<(), CheckpointError> {
        let extra =
            || self.tensors.names().filter(|name| !self.used.contains(*name) && !harmless(name));
        match extra().count() {
            0 => Ok(()),
            count => Err(CheckpointError::ExtraTensors {
                names: extra().take(LISTED).map(str::to_owned).collect(),
                count,
            }),
        }
    }
}
