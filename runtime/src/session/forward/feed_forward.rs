//! The feed-forward: gate and up become what the last product of a block sees.

use core::ops::Range;

use kinglet_kernels::Activation;

use super::super::arena::Arena;
use super::super::families;
use super::Context;
use crate::parallel::{Parallel, Units, split};

impl<P: Parallel> Context<'_, P> {
    /// Gate and up become `activation(gate) * up`; without a gate, up becomes its activation.
    pub(super) fn activate(
        &self,
        inner: usize,
        bias: Option<&[f32]>,
        gated: Option<bool>,
        activation: Activation,
        rows: Range<usize>,
        arena: &mut Arena<'_>,
    ) {
        let stride = self.stride;
        let gated = families::is_gated(gated);
        let wide =
            Units { items: &mut arena.wide[rows.start * stride..rows.end * stride], size: stride };
        split(self.parallel, 8 * inner, wide, &|_, wide| {
            for wide in wide.items.chunks_exact_mut(stride) {
                let all = &mut wide[..if gated { 2 * inner } else { inner }];
                if let Some(bias) = bias {
                    self.isa.add(all, bias);
                }
                let (gate, up) = all.split_at_mut(inner);
                if gated && families::is_silu(activation) {
                    self.isa.silu_mul(gate, up);
                } else {
                    families::activate(self.isa, activation, gate, gated.then_some(&*up));
                }
            }
        });
    }
}
