//! The kernels' operations that a build without the feature `families` does not have. There no model needs them: it is refused when it is opened.

use kinglet_kernels::{Activation, Isa, Sight as View};

#[cfg(feature = "families")]
mod built {
    use super::*;
    use crate::format::Norm;
    use kinglet_kernels::Bias;

    pub(in super::super) fn layer_norm(isa: Isa, norm: &Norm<'_>, bias: &[f32], x: &[f32], out: &mut [f32]) {
        isa.layer_norm(x, norm.weight, bias, norm.eps, out);
    }

    /// `activation(x)`, times `up` if there is a gate.
    pub(in super::super) fn activate(isa: Isa, activation: Activation, x: &mut [f32], up: Option<&[f32]>) {
        isa.activate(activation, x);
        if let Some(up) = up {
            isa.mul(x, up);
        }
    }

    /// The view of all `len` positions.
    pub(in super::super) fn all(len: usize) -> View<'static> {
        View::all(len)
    }

    /// Scores by distance: `2 r + 1` numbers for each head of `table`, the first row is position `first`.
    pub(in super::super) fn by_distance<'a>(view: View<'a>, table: &'a [f32], first: usize) -> View<'a> {
        if table.is_empty() { view } else { view.with_bias(Bias { table, first }) }
    }
}

#[cfg(not(feature = "families"))]
mod built {
    use super::*;
    use crate::format::Norm;

    pub(in super::super) fn layer_norm(_: Isa, _: &Norm<'_>, _: &[f32], _: &[f32], _: &mut [f32]) {}

    pub(in super::super) fn activate(_: Isa, _: Activation, _: &mut [f32], _: Option<&[f32]>) {}

    pub(in super::super) fn all(len: usize) -> View<'static> {
        View::earlier(len)
    }

    pub(in super::super) fn by_distance<'a>(view: View<'a>, _: &'a [f32], _: usize) -> View<'a> {
        view
    }
}

pub(super) use built::{activate, all, by_distance, layer_norm};
