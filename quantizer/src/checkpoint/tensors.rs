//! The tensors of a checkpoint: which file holds each, where, of what shape, and
//! the reading of their rows.
//!
//! Each entry is known to lie within its file, so sizes in memory are bounded by
//! sizes on disk. A file can still be cut while it is open; then reading fails.

use std::collections::BTreeMap;
use std::ops::Range;

use super::architecture::Order;
use super::element::{self, Element};
use super::file::PositionedFile;
use super::{CheckpointError, TensorRef};

/// Bytes read from a file at once.
const READ_AT_ONCE: usize = 1 << 18;

/// One tensor in a file.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) file: usize,
    /// From the beginning of the file.
    pub(super) offset: u64,
    /// How its numbers lie, or the name of a type that is not read.
    pub(super) element: Result<Element, String>,
    /// Rows are whole blocks of the element.
    pub(super) shape: Vec<usize>,
}

/// All tensors of a checkpoint.
#[derive(Debug, Default)]
pub(super) struct Tensors {
    pub(super) files: Vec<PositionedFile>,
    pub(super) entries: BTreeMap<String, Stored>,
}

impl Tensors {
    /// The tensor of this name.
    pub(super) fn get(&self, name: &str) -> Option<&Stored> {
        self.entries.get(name)
    }

    /// All names, in order.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// The file of a tensor.
    pub(super) fn file(&self, stored: &Stored) -> Option<&PositionedFile> {
        self.files.get(stored.file)
    }

    /// Reads some rows into `out`.
    pub(super) fn read_rows(
        &self,
        tensor: &TensorRef,
        rows: Range<usize>,
        out: &mut [f32],
    ) -> Result<(), CheckpointError> {
        let reader = Reader::new(self, tensor).ok_or_else(|| unknown(tensor))?;
        let fits = rows.start <= rows.end && rows.end <= tensor.rows;
        if !fits || rows.len().checked_mul(tensor.cols) != Some(out.len()) {
            return Err(CheckpointError::RowRange {
                tensor: tensor.name.clone(),
                start: rows.start,
                end: rows.end,
                rows: tensor.rows,
                cols: tensor.cols,
                buffer: out.len(),
            });
        }
        let cols = tensor.cols.max(1);
        match &tensor.order {
            Order::Stored => reader.numbers(rows.start.saturating_mul(tensor.cols), out),
            Order::Interleaved(head_dim) if tensor.rows == 1 => {
                // A bias: its numbers are what rows are to a matrix.
                let mut stored = vec![0.0; out.len()];
                reader.numbers(rows.start.saturating_mul(tensor.cols), &mut stored)?;
                for (i, out) in out.iter_mut().enumerate() {
                    *out = stored.get(interleaved(i, *head_dim)).copied().ok_or_else(|| unknown(tensor))?;
                }
                Ok(())
            }
            Order::Interleaved(head_dim) => {
                for (row, out) in rows.zip(out.chunks_mut(cols)) {
                    reader.numbers(interleaved(row, *head_dim).saturating_mul(cols), out)?;
                }
                Ok(())
            }
            Order::Chosen(chosen) => {
                let chosen = chosen.get(rows).ok_or_else(|| unknown(tensor))?;
                for (row, out) in chosen.iter().zip(out.chunks_mut(cols)) {
                    reader.numbers((*row as usize).saturating_mul(cols), out)?;
                }
                Ok(())
            }
        }
    }
}

/// Where row `row` of the half-split pairing is in the order of the interleaved one.
fn interleaved(row: usize, head_dim: usize) -> usize {
    let (head, at, half) = (row / head_dim, row % head_dim, head_dim / 2);
    head * head_dim + at % half * 2 + at / half
}

/// The refusal of a reference to something else.
pub(super) fn unknown(tensor: &TensorRef) -> CheckpointError {
    CheckpointError::UnknownTensor { tensor: tensor.name.clone() }
}

/// One tensor's numbers.
struct Reader<'t> {
    tensor: &'t TensorRef,
    file: &'t PositionedFile,
    offset: u64,
    element: Element,
}

impl<'t> Reader<'t> {
    /// None if the checkpoint has no such tensor of this shape.
    fn new(tensors: &'t Tensors, tensor: &'t TensorRef) -> Option<Self> {
        let stored = tensors.get(&tensor.name)?;
        let same = match *stored.shape {
            [cols] => (tensor.rows, tensor.cols) == (1, cols),
            [rows, cols] => match &tensor.order {
                // Ascending, so the last says that all exist.
                Order::Chosen(chosen) => {
                    let exist = chosen.last().is_some_and(|last| (*last as usize) < rows);
                    exist && (tensor.rows, tensor.cols) == (chosen.len(), cols)
                }
                _ => (tensor.rows, tensor.cols) == (rows, cols),
            },
            _ => false,
        };
        let element = *stored.element.as_ref().ok()?;
        let file = tensors.file(stored).filter(|_| same)?;
        Some(Self { tensor, file, offset: stored.offset, element })
    }

    /// Reads numbers from the `skipped`th on, which begins a block.
    fn numbers(&self, skipped: usize, out: &mut [f32]) -> Result<(), CheckpointError> {
        let (numbers, size) = (self.element.numbers(), self.element.bytes());
        let at_once = READ_AT_ONCE / size * numbers;
        let mut bytes = vec![0; out.len().min(at_once).div_ceil(numbers) * size];
        let mut done = skipped;
        for out in out.chunks_mut(at_once) {
            let bytes = &mut bytes[..out.len().div_ceil(numbers) * size];
            let offset = (done / numbers) as u64 * size as u64;
            self.file.read_exact_at(bytes, self.offset.saturating_add(offset))?;
            self.element.convert(bytes, out);
            if let Some((at, value)) = element::first_not_finite(out) {
                return Err(CheckpointError::NotFinite {
                    tensor: self.tensor.name.clone(),
                    row: (done + at) / self.tensor.cols,
                    col: (done + at) % self.tensor.cols,
                    value,
                });
            }
            done += out.len();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_is_undone() {
        // A head of six: pairs (0, 3), (1, 4), (2, 5) lie as 0 3 1 4 2 5.
        let stored = [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11];
        for row in 0..12 {
            assert_eq!(stored[interleaved(row, 6)], row);
        }
    }
}
