//! Softmax attention of one query over the int8 key/value cache.
//!
//! Both products are integer sums. The cache is cut at every [`CHUNK`] (64) positions; a chunk's result depends on
//! nothing but the chunk, and results are merged in order, so any division of the work gives the same bits:
//!
//! ```text
//! s[j] = (q . k[j]) * (key_scale[j] * (query_scale * scale))         integer dot product
//! m    = max s,   e[j] = exp(s[j] - m),   l = sum e                  16 lanes
//! w[j] = e[j] * value_scale[j],   c[j] = round(w[j] * 16383 / max w) 14 bits: two 7-bit planes
//! o[d] = (sum c[j] * v[j][d]) * (max w / 16383)                      integer dot product
//! merge: M = max(m1, m2), a = exp(m1 - M), b = exp(m2 - M),   l = l1 a + l2 b,   o = o1 a + o2 b
//! ```
//!
//! Weights of 14 bits lose nothing that int8 values keep, and as two planes of 7 bits they are ordinary activations:
//! every fast int8 product serves attention as it is.

use super::math::exp;
use super::{max, quantize, round_to_int, sum};
use crate::activations;
use crate::cache::{CHUNK, Head, MAX_HEAD_DIM};
use crate::layout::{GROUP, PANEL};
use crate::product::{Product, Row};

const TOP: f32 = 16383.0;

/// One chunk's maximum, sum of weights and output.
struct Partial {
    max: f32,
    sum: f32,
    out: [f32; MAX_HEAD_DIM],
}

/// Replaces the query `q` (one head) by its attention over the first `len` positions of `head`.
#[inline(always)]
pub(crate) fn attend_with(product: impl Product, head: &Head<'_>, len: usize, scale: f32, q: &mut [f32]) {
    let mut codes = [0i8; MAX_HEAD_DIM];
    let mut sums = [0i16; MAX_HEAD_DIM / GROUP];
    let padded = activations::stride(q.len());
    let query_scale = quantize(q, &mut codes[..padded], &mut sums);
    let q_row = Row { codes: &codes[..head.shape().key_stride()], sums: &sums[..activations::sums(q.len())] };
    let mut total = Partial { max: 0.0, sum: 0.0, out: [0.0; MAX_HEAD_DIM] };
    for chunk in 0..len.div_ceil(CHUNK) {
        let n = CHUNK.min(len - chunk * CHUNK);
        let part = attend_chunk(product, head, chunk, n, q_row, query_scale * scale);
        if chunk == 0 {
            total = part;
        } else {
            merge(&mut total, &part, q.len());
        }
    }
    let inv = 1.0 / total.sum;
    for (q, o) in q.iter_mut().zip(&total.out) {
        *q = o * inv;
    }
}

#[inline(always)]
fn merge(a: &mut Partial, b: &Partial, dim: usize) {
    let top = max(a.max, b.max);
    let (fa, fb) = (exp(a.max - top), exp(b.max - top));
    a.max = top;
    a.sum = a.sum * fa + b.sum * fb;
    for (a, b) in a.out[..dim].iter_mut().zip(&b.out) {
        *a = *a * fa + b * fb;
    }
}

#[inline(always)]
fn attend_chunk(product: impl Product, head: &Head<'_>, chunk: usize, n: usize, q: Row<'_>, scale: f32) -> Partial {
    let mut part = Partial { max: f32::NEG_INFINITY, sum: 0.0, out: [0.0; MAX_HEAD_DIM] };
    let mut weights = [0.0f32; CHUNK];
    let first = chunk * CHUNK;
    for (i, scores) in weights[..n].chunks_mut(PANEL).enumerate() {
        let [[acc]] = product.int8([head.keys(first / PANEL + i)], [q]);
        for ((s, &acc), &key_scale) in scores.iter_mut().zip(&acc).zip(&head.key_scales()[first + i * PANEL..]) {
            *s = acc as f32 * (key_scale * scale);
        }
    }
    part.max = weights[..n].iter().fold(f32::NEG_INFINITY, |m, &s| max(m, s));
    for s in &mut weights[..n] {
        *s = exp(*s - part.max);
    }
    part.sum = sum(&weights, |e| e);
    for (w, &value_scale) in weights[..n].iter_mut().zip(&head.value_scales()[first..]) {
        *w *= value_scale;
    }
    let (planes, unit) = split_weights(&weights);
    let group_sum = |group: &[i8]| group.iter().map(|&c| i16::from(c)).sum();
    let sums: [[i16; CHUNK / GROUP]; 2] =
        planes.map(|plane| core::array::from_fn(|g| group_sum(&plane[g * GROUP..][..GROUP])));
    let len = head.shape().chunk_len(chunk);
    let rows = [0, 1].map(|i| Row { codes: &planes[i][..len], sums: &sums[i] });
    for (i, out) in part.out[..head.shape().head_dim].chunks_mut(PANEL).enumerate() {
        let [[high, low]] = product.int8([head.values(chunk, i)], rows);
        for ((o, &high), &low) in out.iter_mut().zip(&high).zip(&low) {
            *o = high.wrapping_mul(128).wrapping_add(low) as f32 * unit;
        }
    }
    part
}

/// The weights as 14-bit codes in two planes (`128 * first + second`), and the value of one unit.
#[inline(always)]
fn split_weights(weights: &[f32; CHUNK]) -> ([[i8; CHUNK]; 2], f32) {
    let peak = weights.iter().fold(0.0, |m, &w| max(m, w));
    let inv = if peak > 0.0 { TOP / peak } else { 0.0 };
    let mut planes = [[0i8; CHUNK]; 2];
    let [high, low] = &mut planes;
    for ((high, low), &w) in high.iter_mut().zip(low).zip(weights) {
        let t = w * inv;
        let t = if t < TOP { t } else { TOP };
        let t = if t > 0.0 { t } else { 0.0 };
        let code = round_to_int(t);
        *high = (code >> 7) as i8;
        *low = (code & 127) as i8;
    }
    (planes, peak / TOP)
}
