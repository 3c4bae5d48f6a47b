//! Products and what surrounds them: norms, and the rounding of their inputs.

use core::ops::Range;

use kinglet_kernels::layout::PANEL;
use kinglet_kernels::{Activations, ActivationsMut, Matrix};
use kinglet_model::{FAMILIES, Inputs, Linear, Norm};

use super::super::arena::Arena;
use super::super::families;
use super::super::rounding::{activations, quantize_row, rows_of};
use super::{Context, QUANTIZE};
use crate::parallel::{Divide, Parallel, Units, split};

/// The norm of what a branch sees, that of the stream itself, and what the branch's first product
/// has its inputs go through.
pub(super) type Norms<'n> = (Option<&'n Norm<&'n [f32]>>, Option<&'n Norm<&'n [f32]>>, Inputs);

impl<P: Parallel> Context<'_, P> {
    /// Units of a product of all `rows` rows of activations, into `wide`.
    pub(super) fn product(
        &self,
        of: &Linear<'_>,
        rows: usize,
        units: Range<usize>,
        arena: &mut Arena<'_>,
    ) {
        let memory = (&*arena.codes, &*arena.sums, &*arena.scales);
        let x = activations(memory, of.inputs, of.matrix.cols(), rows);
        self.units(&of.matrix, &x, units, arena.wide, self.stride);
    }

    /// Units of a product: unit `u` is panel `u / rows` times row `u % rows`.
    pub(super) fn units(
        &self,
        w: &Matrix<'_>,
        x: &Activations<'_>,
        units: Range<usize>,
        out: &mut [f32],
        stride: usize,
    ) {
        let rows = x.rows();
        let mut at = units.start;
        while at < units.end {
            let (panel, row, left) = (at / rows, at % rows, units.end - at);
            let (panels, rows) = match (row, left / rows) {
                (0, whole @ 1..) => (whole, rows),
                _ => (1, left.min(rows - row)),
            };
            let x = x.slice(row, rows);
            self.matmul(w, &x, panel..panel + panels, &mut out[row * stride..], stride);
            at += panels * rows;
        }
    }

    /// Quantizes the first `width` values of rows of `wide`.
    pub(super) fn quantize(
        &self,
        wide: &mut [f32],
        width: usize,
        inputs: Inputs,
        to: ActivationsMut<'_>,
    ) {
        let stride = self.stride;
        let wide = Units { items: &mut wide[..to.rows() * stride], size: stride };
        split(self.parallel, QUANTIZE * width, (wide, to), &|_, (wide, mut to)| {
            for (row, wide) in wide.items.chunks_exact_mut(stride).enumerate() {
                quantize_row(self.isa, &mut wide[..width], inputs, &mut to, row);
            }
        });
    }

    pub(super) fn norm(&self, norm: &Norm<&[f32]>, x: &[f32], out: &mut [f32]) {
        match norm.bias {
            Some(bias) if norm.is_layer() => families::layer_norm(self.isa, norm, bias, x, out),
            _ => self.isa.rms_norm(x, norm.weight, norm.eps, out),
        }
    }

    /// Norms rows of the residual stream, the first is row `from`, and quantizes them as the rows
    /// `to` of `rows` for a product with such inputs; as they are where nothing changes them, they
    /// also stay in the first rows of `wide`. The stream itself takes the second norm, if there is
    /// one.
    pub(super) fn norm_rows(
        &self,
        (norm, stream, inputs): Norms<'_>,
        from: usize,
        to: Range<usize>,
        rows: usize,
        arena: &mut Arena<'_>,
    ) {
        let (width, stride) = (self.run.width, self.stride);
        let residual =
            Units { items: &mut arena.residual[from * width..][..to.len() * width], size: width };
        let normed = Units { items: &mut arena.wide[..to.len() * stride], size: stride };
        let x = rows_of((arena.codes, arena.sums, arena.scales), inputs, width, rows, to);
        let rows = ((normed, residual), x);
        split(self.parallel, 2 * QUANTIZE * width, rows, &|_, (streams, mut x)| {
            let (normed, residual) = streams;
            let pairs =
                normed.items.chunks_exact_mut(stride).zip(residual.items.chunks_exact_mut(width));
            for (row, (normed, residual)) in pairs.enumerate() {
                let normed = &mut normed[..width];
                match norm {
                    Some(norm) => self.norm(norm, residual, normed),
                    None => normed.copy_from_slice(residual),
                }
                quantize_row(self.isa, normed, inputs, &mut x, row);
                if let Some(stream) = stream.filter(|_| FAMILIES) {
                    self.norm(stream, residual, normed);
                    residual.copy_from_slice(normed);
                }
            }
        });
    }

    /// Norms rows of the residual stream in place.
    pub(super) fn norm_in_place(
        &self,
        norm: &Norm<&[f32]>,
        rows: Range<usize>,
        arena: &mut Arena<'_>,
    ) {
        let (width, stride) = (self.run.width, self.stride);
        let residual =
            Units { items: &mut arena.residual[rows.start * width..rows.end * width], size: width };
        let normed = Units { items: &mut arena.wide[..rows.len() * stride], size: stride };
        split(self.parallel, 2 * QUANTIZE * width, (normed, residual), &|_, (normed, residual)| {
            let pairs =
                normed.items.chunks_exact_mut(stride).zip(residual.items.chunks_exact_mut(width));
            for (normed, residual) in pairs {
                self.norm(norm, residual, &mut normed[..width]);
                residual.copy_from_slice(&normed[..width]);
            }
        });
    }

    /// The panels `panels` of `w` times all rows of `x`. One row is divided by panels, several by
    /// rows.
    pub(super) fn matmul(
        &self,
        w: &Matrix<'_>,
        x: &Activations<'_>,
        panels: Range<usize>,
        out: &mut [f32],
        stride: usize,
    ) {
        let first = panels.start * PANEL;
        let width = w.rows().min(panels.end * PANEL) - first;
        let end = (x.rows() - 1) * stride + first + width;
        if x.rows() == 1 {
            let out = Units { items: &mut out[first..end], size: PANEL };
            split(self.parallel, PANEL * w.cols(), out, &|panel, out| {
                let start = panels.start + panel;
                self.isa.matmul(w, x, start..start + out.units(), out.items, stride);
            });
        } else {
            // Vector kernels take sixteen rows at a time.
            let together = if x.rows() < 32 { 1 } else { 16 };
            let out = Units { items: &mut out[..end], size: together * stride };
            split(self.parallel, together * panels.len() * PANEL * w.cols(), out, &|unit, out| {
                let x = x.slice(together * unit, out.items.len().div_ceil(stride));
                self.isa.matmul(w, &x, panels.clone(), &mut out.items[first..], stride);
            });
        }
    }
}
