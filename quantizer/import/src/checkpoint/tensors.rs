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

    /// Adds those of a folder, under its name and theirs.
    pub(super) fn add_folder(&mut self, folder: &str, others: Self) {
        let first = self.files.len();
        self.files.extend(others.files);
        for (name, stored) in others.entries {
            self.entries
                .insert(format!("{folder}/{name}"), Stored { file: first + stored.file, ..stored });
        }
    }

    /// All names, in order.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// The file of a tensor.
    pub(super) fn file(&self, stored: &Stored) -> Option<&PositionedFile> {
        self.files.get(stored.file)
    }

    /// How the numbers of a matrix lie, whose rows lie one by one.
    pub(super) fn element(&self, tensor: &TensorRef) -> Option<Element> {
        Reader::new(self, tensor).filter(Reader::has_rows).map(|reader| reader.element)
    }

    /// The bytes of some rows of such a matrix.
    pub(super) fn read_blocks(
        &self,
        tensor: &TensorRef,
        rows: Range<usize>,
    ) -> Result<(Element, Vec<u8>), CheckpointError> {
        let reader = Reader::new(self, tensor).filter(Reader::has_rows);
        let reader = reader.filter(|_| rows.end <= tensor.rows).ok_or_else(|| unknown(tensor))?;
        Ok((reader.element, reader.blocks(rows)?))
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
        reader.read(rows, out)?;
        if tensor.factor != 1.0 {
            out.iter_mut().for_each(|number| *number *= tensor.factor);
        }
        Ok(())
    }
}

/// Dimensions that are not 1.
fn squeezed(shape: &[usize]) -> impl Iterator<Item = &usize> {
    shape.iter().filter(|size| **size != 1)
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
    /// Numbers in a row of the file.
    stride: usize,
    /// Whether the file has a vector, of which numbers are chosen.
    vector: bool,
}

impl<'t> Reader<'t> {
    /// None if the checkpoint has no such tensor of this shape.
    fn new(tensors: &'t Tensors, tensor: &'t TensorRef) -> Option<Self> {
        let stored = tensors.get(&tensor.name)?;
        let element = *stored.element.as_ref().ok()?;
        let (rows, cols) = (tensor.rows, tensor.cols);
        let fits = |first: usize, count: usize, all: usize| {
            first.checked_add(count).is_some_and(|end| end <= all)
        };
        let shape: Vec<usize> = squeezed(&stored.shape).copied().collect();
        let same = match &tensor.order {
            Order::Stored | Order::Interleaved(_) => shape.iter().eq(squeezed(&[rows, cols])),
            // Ascending, so the last says that all exist.
            Order::Chosen(chosen) => {
                let last = chosen.last().map_or(usize::MAX, |&last| last as usize);
                match *shape {
                    [all] => fits(last, 1, all) && chosen.len() == tensor.len(),
                    [all, wide] => fits(last, 1, all) && (rows, cols) == (chosen.len(), wide),
                    _ => false,
                }
            }
            Order::From(first) => {
                let all = shape.iter().try_fold(1usize, |all, size| all.checked_mul(*size));
                element.numbers() == 1 && fits(*first, tensor.len(), all?)
            }
            Order::Transposed(first) => {
                let inner = |inner: usize, all: usize| inner == cols && fits(*first, rows, all);
                element.numbers() == 1 && matches!(*stored.shape, [rows, all] if inner(rows, all))
            }
            Order::Patches(channels) => match *stored.shape {
                [outputs, inner, height, width] => {
                    let all = inner.checked_mul(height).and_then(|n| n.checked_mul(width));
                    element.numbers() == 1
                        && (outputs, inner) == (rows, *channels)
                        && all == Some(cols)
                }
                _ => false,
            },
        };
        let file = tensors.file(stored).filter(|_| same)?;
        let stride = stored.shape.last().copied().unwrap_or(1);
        let vector = rows == 1 && shape.len() == 1;
        Some(Self { tensor, file, offset: stored.offset, element, stride, vector })
    }

    /// Reads rows that exist into as much space as they need.
    fn read(&self, rows: Range<usize>, out: &mut [f32]) -> Result<(), CheckpointError> {
        let cols = self.tensor.cols.max(1);
        let at = |row: usize| row.saturating_mul(cols);
        match &self.tensor.order {
            Order::Stored => self.numbers(at(rows.start), out),
            Order::From(first) => self.numbers(at(rows.start).saturating_add(*first), out),
            Order::Interleaved(_) | Order::Chosen(_) if self.vector => {
                // A bias: its numbers are what rows are to a matrix.
                if rows.is_empty() {
                    return Ok(());
                }
                let last = (0..cols).map(|i| self.row(i)).max().map_or(0, |last| last + 1);
                let mut stored = vec![0.0; last];
                self.numbers(0, &mut stored)?;
                for (i, out) in out.iter_mut().enumerate() {
                    *out = stored.get(self.row(i)).copied().ok_or_else(|| unknown(self.tensor))?;
                }
                Ok(())
            }
            Order::Interleaved(_) | Order::Chosen(_) => {
                for (row, out) in rows.zip(out.chunks_mut(cols)) {
                    self.numbers(at(self.row(row)), out)?;
                }
                Ok(())
            }
            Order::Transposed(first) => {
                let mut band = vec![0.0; rows.len()];
                for col in 0..cols {
                    self.numbers(col.saturating_mul(self.stride) + first + rows.start, &mut band)?;
                    for (out, number) in out.chunks_mut(cols).zip(&band) {
                        if let Some(out) = out.get_mut(col) {
                            *out = *number;
                        }
                    }
                }
                Ok(())
            }
            Order::Patches(channels) => {
                let mut stored = vec![0.0; cols];
                let area = cols / channels.max(&1);
                for (row, out) in rows.zip(out.chunks_mut(cols)) {
                    self.numbers(at(row), &mut stored)?;
                    for (i, out) in out.iter_mut().enumerate() {
                        *out = stored
                            .get(i % channels * area + i / channels)
                            .copied()
                            .unwrap_or_default();
                    }
                }
                Ok(())
            }
        }
    }

    /// Where a row is in the file.
    fn row(&self, row: usize) -> usize {
        match &self.tensor.order {
            Order::Interleaved(head_dim) => interleaved(row, *head_dim),
            Order::Chosen(chosen) => chosen.get(row).map_or(0, |&row| row as usize),
            _ => row,
        }
    }

    /// Whether it is a matrix whose rows are rows of the file.
    fn has_rows(&self) -> bool {
        !self.vector
            && matches!(self.tensor.order, Order::Stored | Order::Interleaved(_) | Order::Chosen(_))
    }

    /// The bytes of such rows.
    fn blocks(&self, rows: Range<usize>) -> Result<Vec<u8>, CheckpointError> {
        let size = self.tensor.cols / self.element.numbers() * self.element.bytes();
        let mut bytes = vec![0; rows.len() * size];
        for (row, bytes) in rows.zip(bytes.chunks_mut(size.max(1))) {
            let offset = self.row(row) as u64 * size as u64;
            self.file.read_exact_at(bytes, self.offset.saturating_add(offset))?;
        }
        Ok(bytes)
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

    /// A file of 0, 1, 2, ... as a tensor of this shape.
    fn counting(shape: &[usize]) -> (tempfile::TempDir, Tensors) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("numbers");
        let count: usize = shape.iter().product();
        let bytes: Vec<u8> = (0..count).flat_map(|i| (i as f32).to_le_bytes()).collect();
        std::fs::write(&path, bytes).unwrap();
        let stored =
            Stored { file: 0, offset: 0, element: Ok(Element::F32), shape: shape.to_owned() };
        let files = vec![PositionedFile::open(&path).unwrap()];
        (dir, Tensors { files, entries: BTreeMap::from([("t".to_owned(), stored)]) })
    }

    /// Some rows, after the whole was read and agrees with them.
    fn read(shape: &[usize], tensor: &TensorRef) -> Option<Vec<f32>> {
        let (_dir, tensors) = counting(shape);
        let mut all = vec![0.0; tensor.len()];
        tensors.read_rows(tensor, 0..tensor.rows, &mut all).ok()?;
        for row in 0..tensor.rows {
            let mut one = vec![0.0; tensor.cols];
            tensors.read_rows(tensor, row..row + 1, &mut one).unwrap();
            assert_eq!(one, all[row * tensor.cols..][..tensor.cols]);
        }
        Some(all)
    }

    fn matrix(rows: usize, cols: usize) -> TensorRef {
        TensorRef::stored("t", rows, cols)
    }

    #[test]
    fn dimensions_of_one_do_not_count() {
        assert_eq!(read(&[1, 2, 3], &matrix(2, 3)).unwrap(), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
        assert_eq!(read(&[1, 1, 3], &matrix(1, 3)).unwrap(), [0.0, 1.0, 2.0]);
        assert_eq!(read(&[1, 2, 3], &matrix(3, 2)), None);
        assert_eq!(read(&[2, 2, 3], &matrix(4, 3)), None);
    }

    #[test]
    fn parts_are_rows_of_matrices_and_numbers_of_vectors() {
        assert_eq!(read(&[4, 2], &matrix(4, 2).part(1, 2)).unwrap(), [2.0, 3.0, 4.0, 5.0]);
        assert_eq!(read(&[6], &matrix(1, 6).part(2, 3)).unwrap(), [2.0, 3.0, 4.0]);
        assert_eq!(read(&[4, 2], &matrix(4, 2).part(3, 1)).unwrap(), [6.0, 7.0]);
        assert_eq!(read(&[4, 2], &matrix(4, 2).part(3, 2)), None);
        assert_eq!(read(&[6], &matrix(1, 6).part(usize::MAX, 3)), None);
        let chosen =
            |rows, cols| TensorRef { order: Order::Chosen([1, 3].into()), ..matrix(rows, cols) };
        assert_eq!(read(&[4, 2], &chosen(2, 2)).unwrap(), [2.0, 3.0, 6.0, 7.0]);
        assert_eq!(read(&[1, 4], &chosen(1, 2)).unwrap(), [1.0, 3.0]);
        assert_eq!(read(&[3], &chosen(1, 2)), None);
    }

    #[test]
    fn columns_can_be_rows() {
        // Three inputs, four outputs.
        assert_eq!(
            read(&[3, 4], &matrix(3, 4).transposed(1, 2)).unwrap(),
            [1.0, 5.0, 9.0, 2.0, 6.0, 10.0]
        );
        assert_eq!(read(&[3, 4], &matrix(3, 4).transposed(3, 2)), None);
        assert_eq!(
            read(&[3, 4], &matrix(3, 4).transposed(3, 1).times(2.0)).unwrap(),
            [6.0, 14.0, 22.0]
        );
    }

    #[test]
    fn convolutions_are_read_pixel_by_pixel() {
        // Two outputs of three channels of two by two.
        let found = read(&[2, 3, 2, 2], &matrix(2, 12).patches(3)).unwrap();
        assert_eq!(found[..12], [0.0, 4.0, 8.0, 1.0, 5.0, 9.0, 2.0, 6.0, 10.0, 3.0, 7.0, 11.0]);
        assert_eq!(found[12..15], [12.0, 16.0, 20.0]);
        assert_eq!(read(&[2, 3, 2, 2], &matrix(2, 12).patches(2)), None);
    }

    #[test]
    fn the_order_is_undone() {
        // A head of six: pairs (0, 3), (1, 4), (2, 5) lie as 0 3 1 4 2 5.
        let stored = [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11];
        for row in 0..12 {
            assert_eq!(stored[interleaved(row, 6)], row);
        }
    }
}
