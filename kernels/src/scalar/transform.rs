//! An orthogonal transform that spreads every value over many, so that the few large ones of a row
//! of activations do not set the step in which all others are rounded.
//!
//! A row of n = 2^a 3^b m values (m has no factor 2 or 3) is m blocks, each of which is multiplied
//! by the Kronecker product of b matrices of order 3 and the Walsh-Hadamard matrix of order 2^a:
//!
//! ```text
//! H = [1 1; 1 -1] / sqrt 2      R = I - 2/3 J = [1 -2 -2; -2 1 -2; -2 -2 1] / 3      T = R x ... x R x H x ... x H
//! ```
//!
//! Both are symmetric and their own inverses, and so is T. A weight matrix W becomes W T once, when
//! it is quantized, and `(W T) (T x) = W x`. Walsh-Hadamard transforms for this purpose: QuIP#
//! (Tseng et al., arXiv 2402.04396), QuaRot (Ashkboos et al., arXiv 2404.00456). R is the
//! Householder reflection of the vector of ones: a third of a value stays, two thirds of it go to
//! each of the others.
//!
//! The order of operations is that of the factors, from the last to the first: all square roots as
//! one factor, distances 1, 2, 4, ... of H, then R with distances 2^a, 3 * 2^a, ... Taking two
//! distances in one pass changes no bit.
//!
//! [`transform`] is that, a value at a time, and small; [`transform_lanes`] has the same bits and
//! works on [`LANES`] values, which wide registers hold.

use super::LANES;

/// Whether a row of `len` values can be transformed: a multiple of 4.
pub const fn transforms(len: usize) -> bool {
    len > 0 && len.is_multiple_of(4)
}

/// `x = T x`. The length is a multiple of 4.
pub(crate) fn transform(x: &mut [f32]) {
    let factor = root(x.len().trailing_zeros());
    x.iter_mut().for_each(|x| *x *= factor);
    let (mut rest, mut step) = (x.len(), 1);
    while rest.is_multiple_of(2) {
        for block in x.chunks_exact_mut(2 * step) {
            let (a, b) = block.split_at_mut(step);
            for (a, b) in a.iter_mut().zip(b) {
                (*a, *b) = (*a + *b, *a - *b);
            }
        }
        (step, rest) = (2 * step, rest / 2);
    }
    while rest.is_multiple_of(3) {
        for block in x.chunks_exact_mut(3 * step) {
            let (a, rest) = block.split_at_mut(step);
            let (b, c) = rest.split_at_mut(step);
            for ((a, b), c) in a.iter_mut().zip(b).zip(c) {
                let part = (*a + *b + *c) * (2.0 / 3.0);
                (*a, *b, *c) = (*a - part, *b - part, *c - part);
            }
        }
        (step, rest) = (3 * step, rest / 3);
    }
}

/// Values that go together.
type Chunk = [f32; LANES];

/// [`transform`] in lanes.
#[inline(always)]
pub(crate) fn transform_lanes(x: &mut [f32]) {
    if !x.len().is_multiple_of(LANES) {
        return transform(x);
    }
    let factor = root(x.len().trailing_zeros());
    let chunks = x.as_chunks_mut::<LANES>().0;
    for chunk in &mut *chunks {
        within(chunk, factor);
    }
    let (mut rest, mut step) = (chunks.len(), 1);
    while rest.is_multiple_of(4) {
        twice(chunks, step);
        (step, rest) = (4 * step, rest / 4);
    }
    if rest.is_multiple_of(2) {
        once(chunks, step);
        (step, rest) = (2 * step, rest / 2);
    }
    while rest.is_multiple_of(3) {
        thirds(chunks, step);
        (step, rest) = (3 * step, rest / 3);
    }
}

/// `2^(-power / 2)`.
#[inline(always)]
pub(crate) fn root(power: u32) -> f32 {
    let whole = f32::from_bits((127 - power / 2) << 23);
    if power.is_multiple_of(2) { whole } else { whole * core::f32::consts::FRAC_1_SQRT_2 }
}

/// The factor, and distances 1, 2, 4 and 8.
#[inline(always)]
fn within(x: &mut Chunk, factor: f32) {
    let mut v = *x;
    for v in &mut v {
        *v *= factor;
    }
    v = distance::<1>(v);
    v = distance::<2>(v);
    v = distance::<4>(v);
    *x = distance::<8>(v);
}

/// `a + b` where `a` was, `a - b` where `b` was, `D` after it.
#[inline(always)]
fn distance<const D: usize>(v: Chunk) -> Chunk {
    let mut out = [0.0; LANES];
    for i in 0..LANES {
        out[i] = if i & D == 0 { v[i] + v[i ^ D] } else { v[i ^ D] - v[i] };
    }
    out
}

#[inline(always)]
fn add(a: &Chunk, b: &Chunk) -> Chunk {
    let mut out = [0.0; LANES];
    for i in 0..LANES {
        out[i] = a[i] + b[i];
    }
    out
}

#[inline(always)]
fn subtract(a: &Chunk, b: &Chunk) -> Chunk {
    let mut out = [0.0; LANES];
    for i in 0..LANES {
        out[i] = a[i] - b[i];
    }
    out
}

/// One distance of H: `step` chunks.
#[inline(always)]
fn once(chunks: &mut [Chunk], step: usize) {
    for block in chunks.chunks_exact_mut(2 * step) {
        let (a, b) = block.split_at_mut(step);
        for (a, b) in a.iter_mut().zip(b) {
            (*a, *b) = (add(a, b), subtract(a, b));
        }
    }
}

/// Two distances of H: `step` and `2 * step` chunks.
#[inline(always)]
fn twice(chunks: &mut [Chunk], step: usize) {
    for block in chunks.chunks_exact_mut(4 * step) {
        let (first, second) = block.split_at_mut(2 * step);
        let ((a, b), (c, d)) = (first.split_at_mut(step), second.split_at_mut(step));
        for (((a, b), c), d) in a.iter_mut().zip(b).zip(c).zip(d) {
            let (e, f, g, h) = (add(a, b), subtract(a, b), add(c, d), subtract(c, d));
            (*a, *b, *c, *d) = (add(&e, &g), add(&f, &h), subtract(&e, &g), subtract(&f, &h));
        }
    }
}

/// R with a distance of `step` chunks.
#[inline(always)]
fn thirds(chunks: &mut [Chunk], step: usize) {
    for block in chunks.chunks_exact_mut(3 * step) {
        let (a, rest) = block.split_at_mut(step);
        let (b, c) = rest.split_at_mut(step);
        for ((a, b), c) in a.iter_mut().zip(b).zip(c) {
            let mut part = add(&add(a, b), c);
            for v in &mut part {
                *v *= 2.0 / 3.0;
            }
            (*a, *b, *c) = (subtract(a, &part), subtract(b, &part), subtract(c, &part));
        }
    }
}
