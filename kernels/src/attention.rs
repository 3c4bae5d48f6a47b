//! Softmax attention over the int8 key/value cache, for queries that share a key/value head.
//!
//! Both products are integer sums. The cache is cut at every [`CHUNK`] (64) positions; a chunk's
//! result depends on nothing but the query and the chunk, and results are merged in order, so any
//! division of the work gives the same bits:
//!
//! ```text
//! s[j] = (q . k[j]) * (key_scale[j] * (query_scale * (scale * log2 e)))   integer dot product
//! s[j] = s[j] + bias                                                      where there is one
//! m    = max s,   e[j] = 2^(s[j] - m),   l = sum e                        16 lanes
//! w[j] = e[j] * value_scale[j],   c[j] = round(w[j] * (16383 / max w))    14 bits: two 7-bit planes
//! o[d] = (sum c[j] * v[j][d]) * unit,   unit = max w / 16383              integer dot product
//!        (values of 4 bits: w, c and unit for each 32 dimensions, with the scales of these)
//! merge: M = max(m1, m2), a = 2^(m1 - M), b = 2^(m2 - M),   l = l1 a + l2 b,   o = o1 a + sum2 (unit2 b)
//! ```
//!
//! Weights of 14 bits lose nothing that int8 values keep, and as two planes of 7 bits they are
//! ordinary activations: every fast int8 product serves attention as it is. Where `max w` is below
//! [`LEAST`](crate::scalar::softmax::LEAST) all `c` are zero; therefore no step depends on subnormal numbers, and machines whose
//! vectors flush them (Helium) agree.

use core::ops::Range;

use crate::activations;
use crate::activations::Row;
use crate::cache::{CHUNK, Head, MAX_HEAD_DIM, Tiles};
use crate::gemm::Product;
use crate::layout::{GROUP, PANEL};
use crate::mask::Mask;
use crate::scalar::{Weights, exp2_below, max};

/// Maximum and sum of weights of some chunks.
#[derive(Clone, Copy)]
#[repr(C)]
struct Partial {
    max: f32,
    sum: f32,
}

impl Partial {
    const EMPTY: Self = Self { max: f32::NEG_INFINITY, sum: 0.0 };

    /// Takes over maximum and sum of a chunk. Returns what the output so far, and that of the
    /// chunk, are to be multiplied by.
    #[inline(always)]
    fn merge(&mut self, chunk: &Weights) -> [f32; 2] {
        let top = max(self.max, chunk.max);
        let (a, b) = (exp2_below(self.max - top), exp2_below(chunk.max - top));
        self.max = top;
        self.sum = self.sum * a + chunk.sum * b;
        [a, b]
    }
}

/// `M` queries on their way through the chunks. Their output grows where the queries were.
#[derive(Clone, Copy)]
#[repr(C)]
struct Block<const M: usize> {
    codes: [[i8; MAX_HEAD_DIM]; M],
    sums: [[i16; MAX_HEAD_DIM / GROUP]; M],
    scales: [f32; M],
    totals: [Partial; M],
    /// Of the keys or the values of a chunk.
    cache_scales: [f32; CHUNK],
    scores: [[f32; CHUNK]; M],
    weights: [Weights; M],
}

impl<const M: usize> Block<M> {
    /// Zeros, which take no place in a program's constants.
    const EMPTY: Self = Self {
        codes: [[0; MAX_HEAD_DIM]; M],
        sums: [[0; MAX_HEAD_DIM / GROUP]; M],
        scales: [0.0; M],
        totals: [Partial { max: 0.0, sum: 0.0 }; M],
        cache_scales: [0.0; CHUNK],
        scores: [[0.0; CHUNK]; M],
        weights: [Weights { max: 0.0, ..Weights::EMPTY }; M],
    };
}

/// What attention works in: plain memory, whose contents matter only from one part of a query to
/// the next.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub struct Scratch {
    /// Of values that do not lie as a product reads them. Aligned, as products want it.
    tiles: Tiles,
    query: Block<1>,
}

impl Scratch {
    /// Zeros.
    pub const EMPTY: Self = Self { tiles: [0; CHUNK * PANEL], query: Block::EMPTY };
}

// SAFETY: each field, and each field of `Block<1>`, `Partial` and `Weights`, is an array of
// integers or of f32, for which zeros are values.
unsafe impl bytemuck::Zeroable for Scratch {}

// SAFETY: `Scratch` and the structs in it are `repr(C)`, and any bytes are values of their fields,
// which are arrays of integers and f32. None has padding: the size is the sum of those of the
// fields, which the assertion below compares.
unsafe impl bytemuck::Pod for Scratch {}

const _: () = assert!(
    size_of::<Scratch>()
        == size_of::<Tiles>()
            + (MAX_HEAD_DIM + MAX_HEAD_DIM / GROUP * 2)
            + 4 * (1 + 2 + CHUNK + CHUNK)
            + (4 * 3 + 2 * CHUNK + 2 * 2 * CHUNK / GROUP)
);

impl core::fmt::Debug for Scratch {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Scratch")
    }
}

/// One query and some chunks of it, in order from the first to the last that it sees.
#[derive(Clone, Debug)]
pub struct Part {
    /// Number of the query: rows first, then heads.
    pub query: usize,
    /// Chunks of the cache; those that the query does not see count for nothing.
    pub chunks: Range<usize>,
}

/// Replaces queries by their attention over the first positions of `head`: `q` holds rows of
/// `stride` values, the last may be cut, with `heads` queries side by side at the start of each.
/// `M` queries are computed together, `P` panels of the cache at a time when there is one; `N` is
/// `2 * M`.
#[inline(always)]
pub(crate) fn attend_with<const P: usize, const M: usize, const N: usize>(
    product: impl Product,
    (head, mask, scale): (&Head<'_>, Mask<'_>, f32),
    (q, heads, stride): (&mut [f32], usize, usize),
    part: Option<Part>,
    scratch: &mut Scratch,
) {
    let count = q.len().div_ceil(stride) * heads;
    let mut queries = Queries { q, heads, stride, dim: head.shape().head_dim, mask };
    let (range, chunks) = match part {
        Some(part) => (part.query..part.query + 1, part.chunks),
        None => (0..count, 0..usize::MAX),
    };
    let together = if M > 1 && range.len() == count { count / M * M } else { range.start };
    let Scratch { tiles, query } = scratch;
    if range.start < together {
        let mut block = Block::<M>::EMPTY;
        for first in (range.start..together).step_by(M) {
            attend_block::<1, M, N>(
                product,
                (head, scale),
                &mut queries,
                (first, &chunks),
                &mut block,
                tiles,
            );
        }
    }
    for first in together..range.end {
        attend_block::<P, 1, 2>(
            product,
            (head, scale),
            &mut queries,
            (first, &chunks),
            query,
            tiles,
        );
    }
}

/// Queries by number: rows first, then heads.
struct Queries<'q, 's> {
    q: &'q mut [f32],
    heads: usize,
    stride: usize,
    dim: usize,
    mask: Mask<'s>,
}

impl Queries<'_, '_> {
    fn get(&mut self, i: usize) -> &mut [f32] {
        &mut self.q[i / self.heads * self.stride + i % self.heads * self.dim..][..self.dim]
    }

    /// The end of the positions that query `i` sees.
    fn end(&self, i: usize) -> usize {
        self.mask.end(i / self.heads)
    }

    /// The first position that query `i` sees.
    fn start(&self, i: usize) -> usize {
        self.mask.start(i / self.heads)
    }

    /// Adds the bias, if there is one, to scores of query `i`, of which the first is that of
    /// position `first`.
    #[inline(always)]
    fn add_bias(&self, scores: &mut [f32], i: usize, first: usize) {
        self.mask.add_bias(scores, i / self.heads, [i % self.heads, self.heads], first);
    }
}

/// `M` queries from number `first`, as far as they see some chunks. They begin with the first chunk
/// that one of them sees, and are done with the last.
// Longer than sixty lines: scores, weights and sums of a chunk are arrays that each step reads and
// writes, so that the steps as functions would have as many arguments as lines.
#[inline(always)]
fn attend_block<const P: usize, const M: usize, const N: usize>(
    product: impl Product,
    (head, scale): (&Head<'_>, f32),
    queries: &mut Queries<'_, '_>,
    (first, chunks): (usize, &Range<usize>),
    block: &mut Block<M>,
    tiles: &mut Tiles,
) {
    let dim = queries.dim;
    let all = queries.start(first) / CHUNK..queries.end(first + M - 1).div_ceil(CHUNK);
    if chunks.contains(&all.start) {
        let scale = scale * core::f32::consts::LOG2_E;
        for m in 0..M {
            let query = queries.get(first + m);
            let codes = &mut block.codes[m][..activations::stride(dim)];
            block.scales[m] = product.quantize(query, codes, &mut block.sums[m]) * scale;
            query.fill(0.0);
        }
        block.totals = [Partial::EMPTY; M];
    }
    // Loops instead of closures in `map` and `from_fn`, which would not be compiled with an
    // instruction set's features.
    let mut rows = [Row::EMPTY; M];
    for m in 0..M {
        rows[m] = Row {
            codes: &block.codes[m][..head.shape().key_stride()],
            sums: &block.sums[m][..activations::sums(dim)],
        };
    }
    let (scales, scores) = (&block.scales, &mut block.scores);
    let (totals, weights) = (&mut block.totals, &mut block.weights);
    let cache_scales = &mut block.cache_scales;
    for chunk in all.start.max(chunks.start)..all.end.min(chunks.end) {
        // Of a block that spans rows the first may not reach the last chunk, nor the last one the
        // first.
        let (mut seen, mut hidden) = ([0; M], [0; M]);
        for m in 0..M {
            seen[m] = queries.end(first + m).saturating_sub(chunk * CHUNK).min(CHUNK);
            hidden[m] = queries.start(first + m).saturating_sub(chunk * CHUNK).min(CHUNK);
        }
        head.key_scales(chunk, cache_scales);
        let keys = |i: usize| head.keys(chunk * CHUNK / PANEL + i);
        let count = seen[M - 1].div_ceil(PANEL);
        panels::<P, M>(
            product,
            0..count,
            (count, tiles),
            keys,
            |_, _| &[],
            rows,
            |i, sums| {
                let key_scales = &cache_scales.as_chunks::<PANEL>().0[i];
                for m in 0..M {
                    // A value of its own first: the compiler sees that nothing overlaps, and
                    // vectorizes.
                    let mut panel = [0.0; PANEL];
                    for j in 0..PANEL {
                        panel[j] = sums[m][j] as f32 * (key_scales[j] * scales[m]);
                    }
                    scores[m].as_chunks_mut().0[i] = panel;
                }
            },
        );
        for m in 0..M {
            queries.add_bias(&mut scores[m][..seen[m]], first + m, chunk * CHUNK);
            scores[m][seen[m]..].fill(f32::NEG_INFINITY);
            scores[m][..hidden[m]].fill(f32::NEG_INFINITY);
        }
        let (len, shape) = (head.shape().chunk_len(chunk), head.shape());
        let mut factors = [[0.0; 2]; M];
        for group in 0..shape.value_groups() {
            head.value_scales(chunk, group, cache_scales);
            for m in 0..M {
                product.softmax(&scores[m], &cache_scales[..seen[m]], &mut weights[m]);
            }
            let mut rows = [Row::EMPTY; N];
            for i in 0..N {
                let (w, plane) = (&weights[i / 2], i % 2);
                rows[i] = Row { codes: &w.planes[plane][..len], sums: &w.sums[plane] };
            }
            for m in (0..M).filter(|&m| seen[m] > hidden[m]) {
                // Groups differ in their unit alone.
                if group == 0 {
                    factors[m] = totals[m].merge(&weights[m]);
                }
            }
            panels::<P, N>(
                product,
                shape.panels(group),
                (shape.whole_panels(), tiles),
                |i| head.values(chunk, i),
                |i, tiles| head.widen_values(chunk, i, tiles),
                rows,
                |i, sums| {
                    for m in (0..M).filter(|&m| seen[m] > hidden[m]) {
                        let [old, new] = [factors[m][0], weights[m].unit * factors[m][1]];
                        let out = &mut queries.get(first + m)[i * PANEL..];
                        add_values(out, [&sums[2 * m], &sums[2 * m + 1]], old, new);
                    }
                },
            );
        }
    }
    if chunks.contains(&(all.end - 1)) {
        for m in 0..M {
            let inv = 1.0 / totals[m].sum;
            for q in queries.get(first + m) {
                *q *= inv;
            }
        }
    }
}

/// `out = out * old + (128 * high + low) * new`, for one panel or what is left of one.
#[inline(always)]
fn add_values(out: &mut [f32], [high, low]: [&[i32; PANEL]; 2], old: f32, new: f32) {
    let sums = high.iter().zip(low);
    let add = |o: f32, (&high, &low): (&i32, &i32)| {
        o * old + high.wrapping_mul(128).wrapping_add(low) as f32 * new
    };
    if let Some(out) = out.first_chunk_mut::<PANEL>() {
        // A value of its own first, as for scores.
        let mut panel = *out;
        for (o, sums) in panel.iter_mut().zip(sums) {
            *o = add(*o, sums);
        }
        *out = panel;
    } else {
        for (o, sums) in out.iter_mut().zip(sums) {
            *o = add(*o, sums);
        }
    }
}

/// `M` rows times some panels, `P` at a time; `each` gets a panel's number and its sums. Panels
/// from `whole` on do not lie as tiles: `widen` makes some of them in `tiles`.
#[inline(always)]
fn panels<'c, const P: usize, const M: usize>(
    product: impl Product,
    range: Range<usize>,
    (whole, tiles): (usize, &mut Tiles),
    codes: impl Fn(usize) -> &'c [u8],
    widen: impl for<'t> Fn(usize, &'t mut Tiles) -> &'t [u8],
    rows: [Row<'_>; M],
    mut each: impl FnMut(usize, &[[i32; PANEL]; M]),
) {
    let mut i = range.start;
    // With one panel at a time the other loop does all.
    while P > 1 && i + P <= range.end.min(whole) {
        let mut side: [&[u8]; P] = [&[]; P];
        for p in 0..P {
            side[p] = codes(i + p);
        }
        let sums = product.int8::<P, M>(side, rows);
        for (p, sums) in sums.iter().enumerate() {
            each(i + p, sums);
        }
        i += P;
    }
    for i in i..range.end {
        let codes = if i < whole { codes(i) } else { widen(i, tiles) };
        let [sums] = product.int8::<1, M>([codes], rows);
        each(i, &sums);
    }
}
