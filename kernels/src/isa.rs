//! Dispatch: an [`Isa`] is the proof that its instructions exist here.

use core::fmt;
use core::ops::Range;

#[cfg(feature = "families")]
use crate::activation::Activation;
use crate::activations::{Activations, ActivationsMut};
use crate::arch::Vector;
use crate::attention::{Part, Scratch};
use crate::cache::{CHUNK, Head};
use crate::layout::{Matrix, PANEL};
use crate::mask::Mask;
use crate::scalar::{self, transforms};

/// An instruction set that this machine has, with every operation of the forward pass. All give the
/// same bits.
///
/// The reference is reached by way of a table, so that a program which never names it, on a core
/// whose vectors are known when it is compiled, does not contain it.
#[derive(Clone, Copy)]
pub struct Isa(Result<Vector, &'static Reference>);

crate::vector::with_operations! { reference [] }

/// Calls an operation on the instruction set that the value stands for.
macro_rules! dispatch {
    ($isa:expr, $op:ident($($arg:expr),*)) => {
        match $isa.0 {
            Err(reference) => (reference.$op)($($arg),*),
            Ok(vector) => vector.$op($($arg),*),
        }
    };
}

impl Isa {
    /// The reference, present everywhere.
    pub const SCALAR: Self = Self(Err(&REFERENCE));

    /// The fastest instruction set of this machine.
    pub fn detect() -> Self {
        Vector::available().last().map_or(Self::SCALAR, |vector| Self(Ok(vector)))
    }

    /// Every instruction set of this machine, slowest first.
    pub fn available() -> impl Iterator<Item = Self> {
        core::iter::once(Self::SCALAR).chain(Vector::available().map(|vector| Self(Ok(vector))))
    }

    /// The instruction set called `name`, if this machine has it.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::available().find(|isa| isa.name() == name)
    }

    /// A short lower-case name.
    pub fn name(self) -> &'static str {
        self.0.map_or("scalar", Vector::name)
    }

    /// Rows of `x` times the panels `panels` (16 rows each) of `w`: row `m` of the result goes to
    /// `out[m * stride..]`, the first row of the first panel at its start. A row of two planes
    /// gives the sum of both planes' results.
    ///
    /// # Panics
    /// When `x` and `w` differ in inner values, the panels are not `w`'s, or `out` is too short.
    pub fn matmul(
        self,
        w: &Matrix<'_>,
        x: &Activations<'_>,
        panels: Range<usize>,
        out: &mut [f32],
        stride: usize,
    ) {
        fit!(x.cols() == w.cols() && panels.start <= panels.end && panels.end <= w.panels());
        if panels.is_empty() || x.rows() == 0 {
            return;
        }
        let width = w.rows().min(panels.end * PANEL) - panels.start * PANEL;
        let needed = (x.rows() - 1).saturating_mul(stride).saturating_add(width);
        fit!(out.len() >= needed && (x.rows() == 1 || stride >= width));
        #[cfg(feature = "families")]
        if crate::planes::is_sum(w, x) {
            let plain = w.without_offsets();
            return crate::planes::matmul(w, x, panels, out, stride, &|x, panels, out, stride| {
                dispatch!(self, matmul(&plain, x, panels, out, stride));
            });
        }
        dispatch!(self, matmul(w, x, panels, out, stride));
    }

    /// Quantizes `x` into row `row` of `to`: one scale, codes rounded to nearest even in
    /// -127..=127.
    ///
    /// # Panics
    /// When the lengths differ.
    pub fn quantize(self, x: &[f32], to: &mut ActivationsMut<'_>, row: usize) {
        let (codes, sums, scale) = to.row(row);
        fit!(codes.len() == crate::activations::stride(x.len()));
        *scale = dispatch!(self, quantize(x, codes, sums));
    }

    /// Quantizes `x` into both planes of row `row` of `to`: the high one as [`Isa::quantize`] does,
    /// the low one what that leaves out, with a scale of its own. `x` is changed.
    ///
    /// # Panics
    /// When the lengths differ, or rows have one plane.
    #[cfg(feature = "families")]
    pub fn quantize_planes(self, x: &mut [f32], to: &mut ActivationsMut<'_>, row: usize) {
        fit!(to.planes() == 2);
        crate::planes::quantize(x, to, row, &|x, codes, sums| {
            dispatch!(self, quantize(x, codes, sums))
        });
    }

    /// RMS norm: `out = x / sqrt(mean(x^2) + eps) * weight`.
    ///
    /// # Panics
    /// When the lengths differ.
    pub fn rms_norm(self, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
        fit!(x.len() == weight.len() && x.len() == out.len());
        dispatch!(self, rms_norm(x, weight, eps, out));
    }

    /// Layer norm: `out = (x - mean) / sqrt(variance + eps) * weight + bias`.
    ///
    /// # Panics
    /// When the lengths differ.
    #[cfg(feature = "families")]
    pub fn layer_norm(self, x: &[f32], weight: &[f32], bias: &[f32], eps: f32, out: &mut [f32]) {
        fit!(x.len() == weight.len() && x.len() == bias.len() && x.len() == out.len());
        dispatch!(self, layer_norm(x, weight, bias, eps, out));
    }

    /// `x = activation(x)`. That of `Silu` is [`Isa::silu_mul`]'s by 1.
    #[cfg(feature = "families")]
    pub fn activate(self, activation: Activation, x: &mut [f32]) {
        dispatch!(self, activate(activation, x));
    }

    /// `x *= y`.
    ///
    /// # Panics
    /// When the lengths differ.
    #[cfg(feature = "families")]
    pub fn mul(self, x: &mut [f32], y: &[f32]) {
        fit!(x.len() == y.len());
        dispatch!(self, mul(x, y));
    }

    /// `x += y`.
    ///
    /// # Panics
    /// When the lengths differ.
    pub fn add(self, x: &mut [f32], y: &[f32]) {
        fit!(x.len() == y.len());
        dispatch!(self, add(x, y));
    }

    /// `gate = silu(gate) * up`.
    ///
    /// # Panics
    /// When the lengths differ.
    pub fn silu_mul(self, gate: &mut [f32], up: &[f32]) {
        fit!(gate.len() == up.len());
        dispatch!(self, silu_mul(gate, up));
    }

    /// Rotates the pairs `(x[i], x[i + n])` by the `n` angles with these cosines and sines.
    ///
    /// # Panics
    /// When there are not as many cosines as sines, or `x` is shorter than both.
    pub fn rope(self, x: &mut [f32], cos: &[f32], sin: &[f32]) {
        fit!(cos.len() == sin.len() && x.len() >= 2 * cos.len());
        dispatch!(self, rope(x, cos, sin));
    }

    /// Spreads each of the values over many, as `docs/numbers.md` defines it
    /// ([`scalar::transforms`] tells the lengths). Applied twice, it gives the values back but for
    /// rounding.
    ///
    /// # Panics
    /// When the length is not a multiple of 4.
    pub fn transform(self, x: &mut [f32]) {
        fit!(transforms(x.len()));
        dispatch!(self, transform(x));
    }

    /// Replaces queries by their softmax attention over the first positions of `head`; scores are
    /// multiplied by `scale`. `q` holds rows of `stride` values, the last may be cut; the `heads`
    /// queries that share the key/value head stand side by side at the start of each. Which
    /// positions a row sees, `mask` says.
    ///
    /// # Panics
    /// When a row would see no position or more than the cache has, a row is narrower than its
    /// queries, or a bias is no table for `heads` heads.
    pub fn attend(
        self,
        head: &Head<'_>,
        mask: Mask<'_>,
        scale: f32,
        q: &mut [f32],
        heads: usize,
        stride: usize,
    ) {
        let mut scratch = Scratch::EMPTY;
        self.attend_in((head, mask, scale), (q, heads, stride), None, &mut scratch);
    }

    /// [`Isa::attend`] in lent memory: all queries, or a part of one. Parts of a query that come in
    /// order, with nothing else in the same scratch between them, and end with its last chunk give
    /// the same bits as the whole; until then the query's place holds what is not its attention
    /// yet.
    ///
    /// # Panics
    /// As [`Isa::attend`], and when there is no such query.
    pub fn attend_in(
        self,
        (head, mask, scale): (&Head<'_>, Mask<'_>, f32),
        (q, heads, stride): (&mut [f32], usize, usize),
        part: Option<Part>,
        scratch: &mut Scratch,
    ) {
        let width = heads.saturating_mul(head.shape().head_dim);
        fit!(0 < width && width <= stride && !q.is_empty() && (q.len() - 1) % stride + 1 >= width);
        fit!(mask.fits(head.shape().positions, heads, (q.len() - 1) / stride));
        fit!(part.as_ref().is_none_or(|part| part.query / heads <= (q.len() - 1) / stride));
        dispatch!(self, attend((head, mask, scale), (q, heads, stride), part, scratch));
    }

    /// The softmax of chunks of scores, one by one as attention computes it, for measuring.
    #[doc(hidden)]
    pub fn softmax(self, scores: &[[f32; CHUNK]], value_scales: &[f32]) {
        let mut weights = scalar::Weights::EMPTY;
        for (scores, value_scales) in scores.iter().zip(value_scales.chunks(CHUNK)) {
            dispatch!(self, softmax(scores, value_scales, &mut weights));
            core::hint::black_box(&weights);
        }
    }
}

impl PartialEq for Isa {
    fn eq(&self, other: &Self) -> bool {
        self.0.ok() == other.0.ok()
    }
}

impl Eq for Isa {}

impl fmt::Debug for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(feature = "defmt")]
impl defmt::Format for Isa {
    fn format(&self, f: defmt::Formatter<'_>) {
        defmt::write!(f, "{=str}", self.name());
    }
}
