//! The integer products, as every instruction set supplies them, and the walk over rows and panels
//! that all share.

use core::ops::Range;
use core::slice;

use crate::activations::{Activations, Row};
use crate::layout::{CHUNK, Format, GROUP, GROUP_BYTES, Matrix, PANEL, SparsePanel};
use crate::scalar::{self, Weights};

/// Sums of the 16 rows of each of `P` panels with `M` rows of activations.
pub(crate) type Sums<const P: usize, const M: usize> = [[[i32; PANEL]; M]; P];

/// What an instruction set supplies of its own: the integer products, whose sums wrap, and whatever
/// f32 work it does better than the reference's text compiled for it.
pub(crate) trait Product: Copy {
    /// Int8 tiles, 64 bytes for each 4 codes.
    fn int8<const P: usize, const M: usize>(
        self,
        codes: [&[u8]; P],
        rows: [Row<'_>; M],
    ) -> Sums<P, M>;

    /// Int4 groups with their sub-scales; `levels` are those of a codebook, otherwise -8 to 7.
    fn int4<const P: usize, const M: usize>(
        self,
        codes: [&[u8]; P],
        subs: [&[[i8; PANEL]]; P],
        levels: Option<&[i8; 16]>,
        rows: [Row<'_>; M],
    ) -> Sums<P, M>;

    /// Int8 groups with their sub-scales.
    #[inline(always)]
    fn int8_grouped<const P: usize, const M: usize>(
        self,
        codes: [&[u8]; P],
        subs: [&[[i8; PANEL]]; P],
        rows: [Row<'_>; M],
    ) -> Sums<P, M> {
        grouped(self, codes, subs, rows)
    }

    /// `sums += part`, wrapping.
    #[inline(always)]
    fn add(self, sums: &mut [i32; PANEL], part: &[i32; PANEL]) {
        for r in 0..PANEL {
            sums[r] = sums[r].wrapping_add(part[r]);
        }
    }

    /// Quantizes a row, see [`scalar::quantize`](crate::scalar).
    #[inline(always)]
    fn quantize(self, x: &[f32], codes: &mut [i8], sums: &mut [i16]) -> f32 {
        scalar::quantize(x, codes, sums)
    }

    /// See [`scalar::rms_norm`](crate::scalar).
    #[inline(always)]
    fn rms_norm(self, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
        scalar::rms_norm(x, weight, eps, out);
    }

    /// See [`scalar::silu_mul`](crate::scalar).
    #[inline(always)]
    fn silu_mul(self, gate: &mut [f32], up: &[f32]) {
        scalar::silu_mul(gate, up);
    }

    /// See [`scalar::transforms`](crate::scalar).
    #[inline(always)]
    fn transform(self, x: &mut [f32]) {
        scalar::transform_lanes(x);
    }

    /// The softmax of attention, see [`scalar::softmax`](crate::scalar).
    #[inline(always)]
    fn softmax(self, scores: &[f32; CHUNK], value_scales: &[f32], to: &mut Weights) {
        scalar::softmax(scores, value_scales, to);
    }
}

/// The int8 product of each group, times its sub-scales.
#[inline(always)]
fn grouped<const P: usize, const M: usize>(
    product: impl Product,
    codes: [&[u8]; P],
    subs: [&[[i8; PANEL]]; P],
    rows: [Row<'_>; M],
) -> Sums<P, M> {
    let n = subs[0].len();
    let mut blocks: [&[[u8; GROUP * PANEL]]; P] = [&[]; P];
    let mut scales: [&[[i8; PANEL]]; P] = [&[]; P];
    for p in 0..P {
        (blocks[p], scales[p]) = (&codes[p].as_chunks().0[..n], &subs[p][..n]);
    }
    let (mut x, mut x_sums): ([&[[i8; GROUP]]; M], [&[i16]; M]) = ([&[]; M], [&[]; M]);
    for m in 0..M {
        (x[m], x_sums[m]) = (&rows[m].codes.as_chunks().0[..n], &rows[m].sums[..n]);
    }
    let mut sums = [[[0i32; PANEL]; M]; P];
    for g in 0..n {
        let mut group = [Row::EMPTY; M];
        for m in 0..M {
            group[m] = Row { codes: &x[m][g], sums: slice::from_ref(&x_sums[m][g]) };
        }
        for p in 0..P {
            let [parts] = product.int8([&blocks[p][g]], group);
            for m in 0..M {
                for r in 0..PANEL {
                    let part = parts[m][r].wrapping_mul(i32::from(scales[p][g][r]));
                    sums[p][m][r] = sums[p][m][r].wrapping_add(part);
                }
            }
        }
    }
    sums
}

/// Rows of activations for one reading of the panels: what they take stays in a second-level cache.
const ROWS: usize = 64;

/// Where results go: row `m`, panel `p` at `out[m * stride + p * 16..]`.
pub(crate) struct Out<'o> {
    pub(crate) out: &'o mut [f32],
    pub(crate) stride: usize,
}

impl Out<'_> {
    /// The place of the first `width` values of a panel's results for a row.
    #[inline(always)]
    pub(crate) fn place(&mut self, row: usize, panel: usize, width: usize) -> &mut [f32] {
        &mut self.out[row * self.stride + panel * PANEL..][..width]
    }
}

/// Rows of `x` times panels of `w`: `M` rows at once with one panel, then single rows with `P`
/// panels at once.
#[inline(always)]
pub(crate) fn matmul_with<const P: usize, const M: usize>(
    product: impl Product,
    w: &Matrix<'_>,
    x: &Activations<'_>,
    panels: Range<usize>,
    out: &mut [f32],
    stride: usize,
) {
    let first = panels.start;
    let mut out = Out { out, stride };
    for start in (0..x.rows()).step_by(ROWS) {
        let end = x.rows().min(start + ROWS);
        let many = if M == 1 { start } else { end - (end - start) % M };
        for p in panels.clone() {
            for m in (start..many).step_by(M) {
                block::<1, M>(product, w, x, p, m, &mut out, first);
            }
        }
        for m in many..end {
            let together = panels.len() / P * P;
            for p in (first..first + together).step_by(P) {
                block::<P, 1>(product, w, x, p, m, &mut out, first);
            }
            for p in first + together..panels.end {
                block::<1, 1>(product, w, x, p, m, &mut out, first);
            }
        }
    }
}

/// `P` panels from `p` times `M` rows from `m`.
#[inline(always)]
fn block<const P: usize, const M: usize>(
    product: impl Product,
    w: &Matrix<'_>,
    x: &Activations<'_>,
    p: usize,
    m: usize,
    out: &mut Out<'_>,
    first: usize,
) {
    let inner = w.padded_cols();
    // Loops, since closures in `from_fn` would not be inlined into functions compiled with an
    // instruction set's features.
    let mut rows = [Row::EMPTY; M];
    for i in 0..M {
        rows[i] = Row { codes: &x.codes(m + i)[..inner], sums: x.sums(m + i) };
    }
    let (mut codes, mut subs): ([&[u8]; P], [&[[i8; PANEL]]; P]) = ([&[]; P], [&[]; P]);
    for i in 0..P {
        (codes[i], subs[i]) = (w.panel_codes(p + i), w.panel_sub_scales(p + i));
    }
    let sums = match w.format() {
        Format::Int8 => product.int8(codes, rows),
        Format::Int8Grouped => product.int8_grouped(codes, subs, rows),
        Format::Int4 | Format::Int4Offset => product.int4(codes, subs, None, rows),
        Format::Int4Codebook => product.int4(codes, subs, Some(&w.levels()), rows),
    };
    for (i, sums) in sums.iter().enumerate() {
        let width = w.panel_rows(p + i);
        let scales = w.panel_row_scales(p + i);
        for (j, sums) in sums.iter().enumerate() {
            store(sums, scales, x.scale(m + j), out.place(m + j, p + i - first, width));
        }
    }
}

/// [`matmul_with`] for a sparse matrix: one panel at a time with `M` rows at once, then with single
/// ones.
#[inline(always)]
pub(crate) fn matmul_sparse<const M: usize>(
    product: impl Product,
    w: &Matrix<'_>,
    x: &Activations<'_>,
    panels: Range<usize>,
    out: &mut [f32],
    stride: usize,
) {
    let first = panels.start;
    let mut out = Out { out, stride };
    for start in (0..x.rows()).step_by(ROWS) {
        let end = x.rows().min(start + ROWS);
        let many = if M == 1 { start } else { end - (end - start) % M };
        for p in panels.clone() {
            for m in (start..many).step_by(M) {
                sparse_block::<M>(product, w, x, p, m, &mut out, first);
            }
            for m in many..end {
                sparse_block::<1>(product, w, x, p, m, &mut out, first);
            }
        }
    }
}

/// Panel `p` times `M` rows from `m`.
#[inline(always)]
fn sparse_block<const M: usize>(
    product: impl Product,
    w: &Matrix<'_>,
    x: &Activations<'_>,
    p: usize,
    m: usize,
    out: &mut Out<'_>,
    first: usize,
) {
    let panel = w.sparse_panel(p);
    let mut rows = [Row::EMPTY; M];
    for i in 0..M {
        rows[i] = x.row(m + i);
    }
    let levels = if w.format() == Format::Int4Codebook { Some(&w.levels()) } else { None };
    let sums = match w.format() {
        Format::Int8 => sparse_sums::<M, { GROUP * PANEL }, 0>(product, &panel, None, rows),
        Format::Int8Grouped => sparse_sums::<M, { GROUP * PANEL }, 1>(product, &panel, None, rows),
        _ => sparse_sums::<M, GROUP_BYTES, 1>(product, &panel, levels, rows),
    };
    for i in 0..M {
        let out = out.place(m + i, p - first, w.panel_rows(p));
        store(&sums[i], w.panel_row_scales(p), x.scale(m + i), out);
    }
}

/// The dense product of each block that there is, of `BYTES` bytes and `SCALES` sub-scales a row,
/// with the activations of its group. What is left out adds nothing to sums that wrap.
#[inline(always)]
fn sparse_sums<const M: usize, const BYTES: usize, const SCALES: usize>(
    product: impl Product,
    panel: &SparsePanel<'_>,
    levels: Option<&[i8; 16]>,
    rows: [Row<'_>; M],
) -> [[i32; PANEL]; M] {
    let blocks = panel.codes.as_chunks::<BYTES>().0;
    let subs = &panel.sub_scales[..SCALES * blocks.len()];
    let (mut x, mut x_sums): ([&[[i8; GROUP]]; M], [&[i16]; M]) = ([&[]; M], [&[]; M]);
    for i in 0..M {
        x[i] = &rows[i].codes.as_chunks().0[..panel.groups];
        x_sums[i] = &rows[i].sums[..panel.groups];
    }
    let mut sums = [[0i32; PANEL]; M];
    let mut b = 0;
    for (i, &word) in panel.there.iter().enumerate() {
        let mut word = word;
        while word != 0 {
            let g = i * u32::BITS as usize + word.trailing_zeros() as usize;
            word &= word - 1;
            // Never where the index is sound.
            if g >= panel.groups || b >= blocks.len() {
                return sums;
            }
            let mut group = [Row::EMPTY; M];
            for i in 0..M {
                group[i] = Row { codes: &x[i][g], sums: slice::from_ref(&x_sums[i][g]) };
            }
            let [part] = if SCALES == 0 {
                product.int8([&blocks[b]], group)
            } else if BYTES == GROUP * PANEL {
                product.int8_grouped([&blocks[b]], [slice::from_ref(&subs[b])], group)
            } else {
                product.int4([&blocks[b]], [slice::from_ref(&subs[b])], levels, group)
            };
            for i in 0..M {
                product.add(&mut sums[i], &part[i]);
            }
            b += 1;
        }
    }
    sums
}

/// Writes a panel's sums as `(sum as f32) * (row_scale * token_scale)`; the last panel may be cut.
#[inline(always)]
pub(crate) fn store(
    sums: &[i32; PANEL],
    row_scales: &[f32; PANEL],
    token_scale: f32,
    out: &mut [f32],
) {
    match <&mut [f32; PANEL]>::try_from(&mut *out) {
        Ok(out) => {
            // All results before the first is stored, so that the compiler need not ask whether
            // memory overlaps.
            let mut results = [0.0; PANEL];
            store_each(sums, row_scales, token_scale, &mut results);
            *out = results;
        }
        Err(_) => store_cut(sums, row_scales, token_scale, out),
    }
}

/// On its own, so that the common case keeps its fixed length.
#[cold]
#[inline(never)]
fn store_cut(sums: &[i32; PANEL], row_scales: &[f32; PANEL], token_scale: f32, out: &mut [f32]) {
    store_each(sums, row_scales, token_scale, out);
}

/// As many as fit into `out`.
#[inline(always)]
pub(crate) fn store_each(sums: &[i32], row_scales: &[f32], token_scale: f32, out: &mut [f32]) {
    for ((out, &sum), &scale) in out.iter_mut().zip(sums).zip(row_scales) {
        *out = sum as f32 * (scale * token_scale);
    }
}
