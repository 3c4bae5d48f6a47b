//! The kernels' operations that a build without the feature `families` does not have. There no
//! model needs them: it is refused when it is opened.

use kinglet_kernels::{Activation, Activations, ActivationsMut, Isa, Mask as Visible};
use kinglet_model::{FAMILIES, Inputs, Mask, Norm};

/// Whether a feed-forward has a gate; `None` is the activation of an output.
#[inline]
pub(super) fn is_gated(gated: Option<bool>) -> bool {
    !FAMILIES || gated.unwrap_or_default()
}

/// Whether an activation is the one that has an operation with its gate.
#[inline]
pub(super) fn is_silu(activation: Activation) -> bool {
    !FAMILIES || activation == Activation::Silu
}

#[cfg(feature = "families")]
mod built {
    use super::*;
    use kinglet_kernels::Bias;

    pub(in super::super) fn layer_norm(
        isa: Isa,
        norm: &Norm<&[f32]>,
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

    /// What the row at position `first` and those after it see of a sequence of `rows` rows, or of
    /// `states` states.
    pub(in super::super) fn visible(
        mask: Mask,
        first: usize,
        rows: usize,
        states: usize,
    ) -> Visible<'static> {
        match mask {
            Mask::Causal => Visible::causal(first + 1),
            Mask::Full => Visible::all(rows),
            Mask::Cross => Visible::all(states),
            Mask::Window(count) => Visible::causal(first + 1).with_window(count as usize),
        }
    }

    /// Scores by distance: `2 r + 1` numbers for each head of `table`, the first row is position
    /// `first`.
    pub(in super::super) fn by_distance<'a>(
        view: Visible<'a>,
        table: &'a [f32],
        first: usize,
    ) -> Visible<'a> {
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

    pub(in super::super) fn layer_norm(
        _: Isa,
        _: &Norm<&[f32]>,
        _: &[f32],
        _: &[f32],
        _: &mut [f32],
    ) {
    }

    pub(in super::super) fn activate(_: Isa, _: Activation, _: &mut [f32], _: Option<&[f32]>) {}

    pub(in super::super) fn visible(_: Mask, first: usize, _: usize, _: usize) -> Visible<'static> {
        Visible::causal(first + 1)
    }

    pub(in super::super) fn by_distance<'a>(
        view: Visible<'a>,
        _: &'a [f32],
        _: usize,
    ) -> Visible<'a> {
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
    activate, by_distance, layer_norm, planes, planes_mut, quantize_planes, visible,
};
