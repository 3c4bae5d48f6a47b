//! Random numbers, matrices, activations and caches, and how results are compared.

use std::ops::Range;

pub(crate) use kinglet_kernels::ValueFormat;
use kinglet_kernels::cache::{self, CacheShape, Head};
use kinglet_kernels::layout::{ALIGN, GROUP, PANEL};
use kinglet_kernels::{Activations, ActivationsMut, Format, Isa, Matrix, activations};

/// Miri executes some thousand times slower: fewer shapes, the same paths.
pub(crate) const MIRI: bool = cfg!(miri);

/// The instruction sets to compare with the reference.
pub(crate) fn vector_sets() -> impl Iterator<Item = Isa> {
    Isa::available().filter(|&isa| isa != Isa::SCALAR)
}

/// Those, and the reference, where Miri need not look at it.
pub(crate) fn all_sets() -> impl Iterator<Item = Isa> {
    Isa::available().skip(usize::from(MIRI))
}

/// The formats that have sparse matrices.
pub(crate) fn sparse_formats() -> impl Iterator<Item = Format> {
    Format::ALL.into_iter().filter(|format| format.may_be_sparse())
}

/// xorshift64*: a seed gives the same bytes everywhere.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 32) as u32
    }

    pub(crate) fn unit(&mut self) -> f32 {
        self.next() as f32 / 2_147_483_648.0 - 1.0
    }

    pub(crate) fn floats(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.unit() * 3.0).collect()
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.next() as usize % from.len()]
    }
}

/// The bits of results; a NaN has no defined bits.
pub(crate) fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|v| if v.is_nan() { f32::NAN.to_bits() } else { v.to_bits() }).collect()
}

/// A matrix and its memory, which starts at a multiple of 64.
pub(crate) struct Weights {
    pub(crate) format: Format,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) sparse: bool,
    memory: Vec<u8>,
    start: usize,
    len: usize,
}

impl Weights {
    pub(crate) fn new(format: Format, rows: usize, cols: usize, bytes: &[u8]) -> Self {
        let mut memory = vec![0; bytes.len() + ALIGN];
        let start = (memory.as_ptr().addr()).next_multiple_of(ALIGN) - memory.as_ptr().addr();
        memory[start..][..bytes.len()].copy_from_slice(bytes);
        Self { format, rows, cols, sparse: false, memory, start, len: bytes.len() }
    }

    /// The sparse matrix of the blocks for which `there` gives true, asked by panel and group. The
    /// others become zero in `self`, too.
    pub(crate) fn split_off(&mut self, mut there: impl FnMut(usize, usize) -> bool) -> Self {
        let (format, rows, cols) = (self.format, self.rows, self.cols);
        let (panels, groups) = (rows.div_ceil(PANEL), cols.div_ceil(GROUP));
        let from = format.planes(rows, cols).unwrap();
        let panel_bytes = (from.sub_scales - from.codes) / panels;
        let block_bytes = if format.is_int8() { GROUP * PANEL } else { GROUP * PANEL / 2 };
        let (mut codes, mut subs, mut index) =
            (self.bytes()[..from.codes].to_vec(), vec![], vec![]);
        let mut blocks = 0u32;
        for panel in 0..panels {
            let mut bits = vec![0u8; groups.div_ceil(32) * 4];
            let before = blocks;
            for group in 0..groups {
                let start = from.codes + panel * panel_bytes + group * block_bytes;
                // The last block of int8 may be cut.
                let bytes =
                    start..(start + block_bytes).min(from.codes + (panel + 1) * panel_bytes);
                let scales = match format {
                    Format::Int8 => 0..0,
                    _ => {
                        from.sub_scales + (panel * groups + group) * PANEL
                            ..from.sub_scales + (panel * groups + group + 1) * PANEL
                    }
                };
                if there(panel, group) {
                    bits[group / 8] |= 1 << (group % 8);
                    blocks += 1;
                    codes.extend_from_slice(&self.bytes()[bytes.clone()]);
                    codes.resize(codes.len() + block_bytes - bytes.len(), 0x55);
                    subs.extend_from_slice(&self.bytes()[scales]);
                } else if !format.is_grouped() {
                    self.bytes_mut()[bytes].fill(0);
                } else {
                    self.bytes_mut()[scales].fill(0);
                }
            }
            index.extend(before.to_le_bytes());
            index.extend(bits);
        }
        let to = format.sparse_planes(rows, cols, blocks as usize).unwrap();
        let mut bytes = vec![0; to.end];
        for (start, plane) in [
            (0, &codes),
            (to.sub_scales, &subs),
            (to.row_scales, &self.bytes()[from.row_scales..].to_vec()),
            (to.index, &index),
        ] {
            bytes[start..][..plane.len()].copy_from_slice(plane);
        }
        Self { sparse: true, ..Self::new(format, rows, cols, &bytes) }
    }

    /// Arbitrary bytes with finite row scales, padding included: every byte is a code.
    pub(crate) fn random(format: Format, rows: usize, cols: usize, random: &mut Random) -> Self {
        let mut bytes: Vec<u8> =
            (0..format.bytes(rows, cols).unwrap()).map(|_| random.next() as u8).collect();
        let planes = format.planes(rows, cols).unwrap();
        for scales in [planes.row_scales..planes.index, planes.offset_scales..planes.end] {
            for scale in bytes[scales].as_chunks_mut::<4>().0 {
                *scale = (random.unit() * 0.01).to_le_bytes();
            }
        }
        Self::new(format, rows, cols, &bytes)
    }

    /// Planes repeat the values given for them; offsets are the sub-scales, scales of rows are 1.
    pub(crate) fn filled(
        format: Format,
        (rows, cols): (usize, usize),
        codebook: [i8; 2],
        codes: [u8; 2],
        subs: [i8; 2],
    ) -> Self {
        let planes = format.planes(rows, cols).unwrap();
        let mut bytes = vec![0; planes.end];
        let mut fill = |range: Range<usize>, values: [u8; 2]| {
            bytes[range]
                .iter_mut()
                .zip(values.iter().cycle())
                .for_each(|(byte, value)| *byte = *value);
        };
        fill(0..planes.codes, codebook.map(|c| c as u8));
        fill(planes.codes..planes.sub_scales, codes);
        fill(planes.sub_scales..planes.row_scales, subs.map(|s| s as u8));
        fill(planes.offsets..planes.offset_scales, subs.map(|s| s as u8));
        for scales in [planes.row_scales..planes.index, planes.offset_scales..planes.end] {
            bytes[scales].as_chunks_mut::<4>().0.fill(1f32.to_le_bytes());
        }
        Self::new(format, rows, cols, &bytes)
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.memory[self.start..][..self.len]
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..][..self.len]
    }

    pub(crate) fn matrix(&self) -> Matrix<'_> {
        self.matrix_in(self.bytes())
    }

    /// The matrix in a copy of its bytes.
    pub(crate) fn matrix_in<'b>(&self, bytes: &'b [u8]) -> Matrix<'b> {
        let new = if self.sparse { Matrix::sparse } else { Matrix::new };
        new(self.format, self.rows, self.cols, bytes).unwrap()
    }
}

/// Rows of activations and their memory.
#[derive(Clone)]
pub(crate) struct Rows {
    pub(crate) codes: Vec<i8>,
    pub(crate) sums: Vec<i16>,
    pub(crate) scales: Vec<f32>,
    pub(crate) cols: usize,
    /// Of a row.
    pub(crate) planes: usize,
}

impl Rows {
    /// Memory for `rows` rows that holds other values than those to be written.
    pub(crate) fn garbage(rows: usize, cols: usize) -> Self {
        Self {
            codes: vec![99; rows * activations::stride(cols)],
            sums: vec![99; rows * activations::sums(cols)],
            scales: vec![9.0; rows],
            cols,
            planes: 1,
        }
    }

    pub(crate) fn quantize(isa: Isa, x: &[f32], cols: usize) -> Self {
        let mut rows = Self::garbage(x.len() / cols, cols);
        for (i, row) in x.chunks(cols).enumerate() {
            let mut to =
                ActivationsMut::new(&mut rows.codes, &mut rows.sums, &mut rows.scales, cols);
            isa.quantize(row, &mut to, i);
        }
        rows
    }

    /// Rows of two planes each.
    pub(crate) fn quantize_planes(isa: Isa, x: &[f32], cols: usize) -> Self {
        let rows = x.len() / cols;
        let mut to = Self { planes: 2, ..Self::garbage(2 * rows, cols) };
        for (i, row) in x.chunks(cols).enumerate() {
            let mut to =
                ActivationsMut::new(&mut to.codes, &mut to.sums, &mut to.scales, cols).in_planes(2);
            assert_eq!((to.rows(), to.planes()), (rows, 2));
            isa.quantize_planes(&mut row.to_vec(), &mut to, i);
        }
        to
    }

    pub(crate) fn random(rows: usize, cols: usize, random: &mut Random) -> Self {
        Self::quantize(Isa::SCALAR, &random.floats(rows * cols), cols)
    }

    /// Rows of the codes that `code` gives for row and column.
    pub(crate) fn of_codes(rows: usize, cols: usize, code: impl Fn(usize, usize) -> i8) -> Self {
        let stride = activations::stride(cols);
        let codes: Vec<i8> = (0..rows * stride)
            .map(|i| if i % stride < cols { code(i / stride, i % stride) } else { 0 })
            .collect();
        let sums =
            codes.chunks(GROUP).map(|group| group.iter().map(|&c| i16::from(c)).sum()).collect();
        Self { codes, sums, scales: vec![1.0; rows], cols, planes: 1 }
    }

    pub(crate) fn view(&self) -> Activations<'_> {
        Activations::new(&self.codes, &self.sums, &self.scales, self.cols).in_planes(self.planes)
    }

    pub(crate) fn rows(&self) -> usize {
        self.scales.len() / self.planes
    }
}

/// How values of a cache may be coded.
pub(crate) const VALUES: [ValueFormat; 2] = [ValueFormat::Int8, ValueFormat::Int4];

/// A scale as a cache holds it.
pub(crate) fn half(scale: f32) -> u16 {
    (scale.to_bits() >> 16) as u16
}

/// The cache of a head and its memory.
pub(crate) struct Cache {
    pub(crate) shape: CacheShape,
    pub(crate) codes: Vec<i8>,
    pub(crate) scales: Vec<u16>,
}

impl Cache {
    /// Random bytes and scales: what positions hold that nobody wrote.
    pub(crate) fn garbage(shape: CacheShape, random: &mut Random) -> Self {
        let codes = (0..shape.codes()).map(|_| random.next() as i8).collect();
        let scales = (0..shape.scales()).map(|_| half(random.unit() * 3.0)).collect();
        Self { shape, codes, scales }
    }

    pub(crate) fn store(&mut self, position: usize, key: &[f32], value: &[f32]) {
        cache::store(self.shape, &mut self.codes, &mut self.scales, position, key, value);
    }

    /// Random keys and values at all positions.
    pub(crate) fn random(
        context: usize,
        head_dim: usize,
        values: ValueFormat,
        random: &mut Random,
    ) -> Self {
        let shape = CacheShape::new(context, head_dim, values);
        let mut cache = Self::garbage(shape, random);
        for position in 0..shape.positions {
            let (key, value) = (random.floats(head_dim), random.floats(head_dim));
            cache.store(position, &key, &value);
        }
        cache
    }

    pub(crate) fn head(&self) -> Head<'_> {
        Head::new(self.shape, &self.codes, &self.scales)
    }
}
