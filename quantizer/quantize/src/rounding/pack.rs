//! Laying out rounded rows as `kinglet_kernels::layout` defines it. A matrix is produced panel by
//! panel, in the order of the file: codes as they come; sub-scales, row scales and, of a sparse
//! matrix, the index are kept until the end.

use kinglet::Format;
use kinglet_kernels::layout::{ALIGN, GROUP, PANEL, Planes, int4_index, int8_index};

use super::levels::{Levels, Row};
use super::rounded::RoundedLinear;
use kinglet_model::write::{Kind, WriteError};

/// How a rounded matrix is stored: sparse where at least an eighth of the bytes is saved. A product
/// with a sparse matrix that has nearly all blocks takes up to a quarter longer than with the dense
/// one.
pub fn kind(of: &RoundedLinear) -> Kind {
    let (rows, groups) = (of.rows.len(), of.cols.div_ceil(GROUP));
    let there =
        |panel: &[Row]| (0..groups).filter(|&group| is_there(panel, group, &of.levels)).count();
    let blocks = of.rows.chunks(PANEL).map(there).sum();
    let sparse = of.format.sparse_planes(rows, of.cols, blocks).map(|planes| planes.end);
    match (sparse, of.format.bytes(rows, of.cols)) {
        (Some(sparse), Some(dense)) if sparse <= dense - dense / 8 => {
            Kind::Sparse(of.format, blocks)
        }
        _ => Kind::Matrix(of.format),
    }
}

/// Lays out a rounded matrix as [`kind`] says.
///
/// # Errors
///
/// When the matrix is too large for the format, and whatever `put` returns.
pub fn write(
    of: &RoundedLinear,
    put: &mut dyn FnMut(&[u8]) -> Result<(), WriteError>,
) -> Result<(), WriteError> {
    let (rows, cols) = (of.rows.len(), of.cols);
    let too_large = || WriteError::TooLarge { what: format!("a product ({rows} x {cols})") };
    let mut packer = Packer::new(kind(of), rows, cols, &of.levels).ok_or_else(too_large)?;
    put(&packer.start())?;
    for panel in of.rows.chunks(PANEL) {
        let codes = packer.codes(panel);
        put(&codes)?;
        packer.scales(panel, codes.len());
    }
    put(&packer.end())
}

/// Whether some integer of a panel's group is not zero.
fn is_there(panel: &[Row], group: usize, levels: &Levels) -> bool {
    panel.iter().any(|row| {
        let codes = &row.codes[group * GROUP..row.codes.len().min((group + 1) * GROUP)];
        match row.sub_scales.get(group) {
            None => codes.iter().any(|&code| code != 0),
            Some(0) => false,
            Some(_) => codes.iter().any(|&code| levels.value(code) != 0),
        }
    })
}

/// A matrix in the making.
pub(crate) struct Packer<'l> {
    format: Format,
    levels: &'l Levels,
    sparse: bool,
    planes: Planes,
    cols: usize,
    sub_scales: Vec<u8>,
    row_scales: Vec<u8>,
    index: Vec<u8>,
    offsets: Vec<u8>,
    offset_scales: Vec<u8>,
    blocks: u32,
    written: usize,
}

impl<'l> Packer<'l> {
    /// A `rows` x `cols` matrix; `None` where the size overflows, or `kind` is no matrix.
    pub(crate) fn new(kind: Kind, rows: usize, cols: usize, levels: &'l Levels) -> Option<Self> {
        let (format, sparse, planes) = match kind {
            Kind::Matrix(format) => (format, false, format.planes(rows, cols)?),
            Kind::Sparse(format, blocks) => {
                (format, true, format.sparse_planes(rows, cols, blocks)?)
            }
            Kind::F32 | Kind::U32 => return None,
        };
        Some(Self {
            format,
            levels,
            sparse,
            planes,
            cols,
            sub_scales: vec![],
            row_scales: vec![],
            index: vec![],
            offsets: vec![],
            offset_scales: vec![],
            blocks: 0,
            written: 0,
        })
    }

    /// The first bytes.
    pub(crate) fn start(&mut self) -> Vec<u8> {
        match self.format {
            Format::Int4Codebook => {
                let mut bytes: Vec<u8> = self.levels.values.iter().map(|&v| v as u8).collect();
                bytes.resize(ALIGN, 0);
                self.written = bytes.len();
                bytes
            }
            Format::Int8 | Format::Int8Grouped | Format::Int4 | Format::Int4Offset => vec![],
        }
    }

    /// The groups of a panel that are stored.
    fn groups(&self, rows: &[Row]) -> Vec<usize> {
        (0..self.cols.div_ceil(GROUP))
            .filter(|&g| !self.sparse || is_there(rows, g, self.levels))
            .collect()
    }

    /// The codes of the next panel, from up to 16 rows.
    pub(crate) fn codes(&self, rows: &[Row]) -> Vec<u8> {
        let groups = self.groups(rows);
        let padding = if self.sparse { GROUP } else { self.format.inner() };
        let inner =
            if self.sparse { groups.len() * GROUP } else { self.cols.next_multiple_of(padding) };
        // Padding meets activations of zero; nibble 0 is as good as any.
        let mut bytes =
            vec![0; if self.format.is_int8() { PANEL * inner } else { PANEL * inner / 2 }];
        for (r, row) in rows.iter().enumerate() {
            for (to, &from) in groups.iter().enumerate() {
                for (k, &code) in row.codes[from * GROUP..].iter().take(GROUP).enumerate() {
                    if self.format.is_int8() {
                        bytes[int8_index(r, to * GROUP + k)] = code as u8;
                    } else {
                        let (byte, shift) = int4_index(r, to * GROUP + k);
                        bytes[byte] |= (code as u8 & 15) << shift;
                    }
                }
            }
        }
        bytes
    }

    /// Notes the scales and the index of the next panel; `codes` are the bytes written for it.
    pub(crate) fn scales(&mut self, rows: &[Row], codes: usize) {
        self.written += codes;
        let groups = self.groups(rows);
        if self.format.is_grouped() {
            for &group in &groups {
                let sub = |r: usize| rows.get(r).map_or(0, |row| row.sub_scales[group]);
                self.sub_scales.extend((0..PANEL).map(|r| sub(r) as u8));
            }
        }
        let scale = |r: usize| rows.get(r).map_or(0.0, |row| row.scale);
        self.row_scales.extend((0..PANEL).flat_map(|r| scale(r).to_le_bytes()));
        if self.format.has_offsets() {
            for &group in &groups {
                let offset = |r: usize| rows.get(r).map_or(0, |row| row.offsets[group]);
                self.offsets.extend((0..PANEL).map(|r| offset(r) as u8));
            }
            let scale = |r: usize| rows.get(r).map_or(0.0, |row| row.offset_scale);
            self.offset_scales.extend((0..PANEL).flat_map(|r| scale(r).to_le_bytes()));
        }
        if self.sparse {
            let mut words = vec![0u32; self.cols.div_ceil(GROUP).div_ceil(32)];
            groups.iter().for_each(|g| words[g / 32] |= 1 << (g % 32));
            self.index
                .extend([self.blocks].iter().chain(&words).flat_map(|word| word.to_le_bytes()));
            self.blocks += groups.len() as u32;
        }
    }

    /// What follows the last panel's codes.
    pub(crate) fn end(self) -> Vec<u8> {
        let mut bytes = vec![0; self.planes.end - self.written];
        let mut put = |start: usize, plane: &[u8]| {
            bytes[start - self.written..][..plane.len()].copy_from_slice(plane)
        };
        put(self.planes.sub_scales, &self.sub_scales);
        put(self.planes.row_scales, &self.row_scales);
        put(self.planes.index, &self.index);
        put(self.planes.offsets, &self.offsets);
        put(self.planes.offset_scales, &self.offset_scales);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kinglet::Matrix;
    use kinglet_kernels::{Activations, activations};
    use kinglet_reference::Inputs;

    /// Rows of which the blocks on a chessboard are zero, and some integers of the others.
    fn linear(format: Format, chess: bool) -> RoundedLinear {
        let (rows, cols) = (37, 75);
        let levels = Levels::new(std::array::from_fn(|i| (i as i8 - 7) * 5));
        let levels = if format == Format::Int4Codebook { levels } else { Levels::of(format) };
        let row = |r: usize| {
            let zero = |k: usize| chess && (r / PANEL + k / GROUP) % 2 == 1;
            let (integer, none) = if format.is_int8() {
                (7, 0)
            } else {
                (3, if r.is_multiple_of(2) { 9 } else { 7 })
            };
            Row {
                codes: (0..cols)
                    .map(|k| if zero(k) { none } else { (r + k) as i8 % integer })
                    .collect(),
                // Of a group that is zero either the sub-scale is, or all levels are.
                sub_scales: match format {
                    Format::Int8 => vec![],
                    Format::Int8Grouped | Format::Int4 | Format::Int4Offset => {
                        (0..3).map(|g| if zero(g * GROUP) { 0 } else { r as i8 }).collect()
                    }
                    Format::Int4Codebook => (0..3)
                        .map(|g| if zero(g * GROUP) && r.is_multiple_of(2) { 0 } else { 1 })
                        .collect(),
                },
                scale: 0.5 + r as f32,
                offsets: if format.has_offsets() { vec![3, -2, r as i8] } else { vec![] },
                offset_scale: 0.25,
            }
        };
        RoundedLinear {
            format,
            levels,
            rows: (0..rows).map(row).collect(),
            cols,
            inputs: Inputs::Rounded,
            bias: None,
        }
    }

    #[test]
    fn what_is_packed_reads_back() {
        for format in Format::ALL {
            for chess in [false, true].into_iter().filter(|chess| !chess || format.may_be_sparse())
            {
                let of = linear(format, chess);
                let mut bytes = vec![];
                write(&of, &mut |part| {
                    bytes.extend_from_slice(part);
                    Ok(())
                })
                .unwrap();
                let mut memory = kinglet::Memory::new(bytes.len()).unwrap();
                memory.bytes().copy_from_slice(&bytes);
                // Panels of 2, 1 and 2 blocks.
                assert_eq!(
                    kind(&of),
                    if chess { Kind::Sparse(format, 5) } else { Kind::Matrix(format) }
                );
                let new = if chess { Matrix::sparse } else { Matrix::new };
                let matrix = new(format, of.rows.len(), of.cols, memory.bytes()).unwrap();
                assert!(matrix.index_is_sound());
                // Ones one after the other: each column by itself.
                let stride = activations::stride(of.cols);
                let (mut codes, mut sums) =
                    (vec![0; of.cols * stride], vec![0; of.cols * activations::sums(of.cols)]);
                let scales = vec![1.0; of.cols];
                for k in 0..of.cols {
                    codes[k * stride + k] = 1;
                    sums[k * activations::sums(of.cols) + k / GROUP] = 1;
                }
                let x = Activations::new(&codes, &sums, &scales, of.cols);
                let mut got = vec![9.0; of.cols * of.rows.len()];
                kinglet::Isa::detect().matmul(
                    &matrix,
                    &x,
                    0..matrix.panels(),
                    &mut got,
                    of.rows.len(),
                );
                for (r, row) in of.rows.iter().enumerate() {
                    let got: Vec<f32> = (0..of.cols).map(|k| got[k * of.rows.len() + r]).collect();
                    let want: Vec<f32> = row.values(&of.levels).collect();
                    assert_eq!(got, want, "{format:?} {chess} row {r}");
                }
            }
        }
    }

    #[test]
    fn a_zero_matrix_has_no_blocks() {
        let mut of = linear(Format::Int8, false);
        of.rows.iter_mut().for_each(|row| row.codes.fill(0));
        assert_eq!(kind(&of), Kind::Sparse(Format::Int8, 0));
    }
}
