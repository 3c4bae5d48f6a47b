//! The kernels' operations that a build without the feature `families` does not have. There no
//! model needs them: it is refused when it is opened.

use kinglet_kernels::{Activation, Activations, ActivationsMut, Isa, Sight as View};

use crate::format::Inputs;

#[cfg(feature = "families")]
mod built {
    use super::*;
    use crate::format::Norm;
    use kinglet_kernels::Bias;

    pub(in super::super) fn layer_norm(
        isa: Isa,
        norm: &Norm<'_>,
        bias: &[f32],
        x: &[f32],
        out: &mut [f32],
    ) {
        isa.layer_norm(x, norm.weight, bias, norm.eps, out);
    }

    /// `activation(x)`, times `up` if there is a gate.
    pub(in super::super) fn activate(
        isa: Isa,
        activation: Activation,
        x: &mut [f32],
        up: Option<&[f32]>,
    ) {
        isa.activate(activation, x);
        if let Some(up) = up {
            isa.mul(x, up);
        }
    }

    /// The view of all `len` positions.
    pub(in super::super) fn all(len: usize) -> View<'static> {
        View::all(len)
    }

    /// Scores by distance: `2 r + 1` numbers for each head of `table`, the first row is position
    /// `first`.
    pub(in super::super) fn by_distance<'a>(
        view: View<'a>,
        table: &'a [f32],
        first: usize,
    ) -> View<'a> {
        if table.is_empty() { view } else { view.with_bias(Bias { table, first }) }
    }

    /// Rounds a row to its planes.
    pub(in super::super) fn quantize_planes(
        isa: Isa,
        x: &mut [f32],
        to: &mut ActivationsMut<'_>,
        row: usize,
    ) {
        isa.quantize_planes(x, to, row);
    }

    /// Rows of as many planes as a product with such inputs has.
    pub(in super::super) fn planes<'a>(x: Activations<'a>, inputs: Inputs) -> Activations<'a> {
        x.in_planes(inputs.planes())
    }

    /// Memory for the same.
    pub(in super::super) fn planes_mut<'a>(
        x: ActivationsMut<'a>,
        inputs: Inputs,
    ) -> ActivationsMut<'a> {
        x.in_planes(inputs.planes())
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

    pub(in super::super) fn quantize_planes(
        _: Isa,
        _: &mut [f32],
        _: &mut ActivationsMut<'_>,
        _: usize,
    ) {
    }

    pub(in super::super) fn planes<'a>(x: Activations<'a>, _: Inputs) -> Activations<'a> {
        x
    }

    pub(in super::super) fn planes_mut<'a>(x: ActivationsMut<'a>, _: Inputs) -> ActivationsMut<'a> {
        x
    }
}

pub(super) use built::{
    activate, all, by_distance, layer_norm, planes, planes_mut, quantize_planes,
};
