//! Gradients of products and norms.

use ndarray::Axis;
use rayon::prelude::*;

use crate::product::{multiply, view, view_mut};
use crate::{LinearWeights, NormWeights, ops, prepare};
use kinglet_import::checkpoint::NormKind;

/// Which weights' gradients are wanted; that of the inputs always is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Learns {
    /// None but those of norms, which cost nothing.
    Norms,
    /// All.
    All,
}

/// The gradients of a norm's weights.
#[derive(Default)]
pub struct NormGradient {
    /// As the weights.
    pub weight: Vec<f32>,
    /// As the bias; empty without one.
    pub bias: Vec<f32>,
}

/// The gradients of a product's weights.
#[derive(Default)]
pub struct LinearGradient {
    /// As the weights.
    pub weight: Vec<f32>,
    /// As the bias; empty without one.
    pub bias: Vec<f32>,
}

/// Gradients of weights and inputs.
pub(super) fn linear(
    of: &LinearWeights,
    x: &[f32],
    gradient: &[f32],
    learns: Learns,
) -> (LinearGradient, Vec<f32>) {
    if learns == Learns::Norms {
        return (LinearGradient::default(), of.back(gradient));
    }
    let (rows, cols) = (of.rows(), of.cols);
    let tokens = x.len() / cols;
    let x = &*prepare(of.inputs, x, cols);
    let from = view(gradient, tokens, rows);
    let mut weight = vec![0.0; rows * cols];
    multiply(from.t(), view(x, tokens, cols), view_mut(&mut weight, rows, cols));
    let bias = match of.bias {
        Some(_) => from.axis_iter(Axis(1)).map(|column| column.iter().sum()).collect(),
        None => vec![],
    };
    (LinearGradient { weight, bias }, of.back(gradient))
}

/// Gradients of weights and inputs of a norm.
pub fn norm(of: &NormWeights, x: &[f32], gradient: &[f32]) -> (NormGradient, Vec<f32>) {
    let n = of.weight.len();
    let mut inputs = vec![0.0; x.len()];
    // Of each row the mean that is taken away, and what the rest is multiplied by.
    let rows: Vec<[f32; 2]> = inputs
        .par_chunks_mut(n)
        .zip(x.par_chunks(n))
        .zip(gradient.par_chunks(n))
        .map(|((to, x), gradient)| {
            let products = || gradient.iter().zip(&of.weight);
            let (mean, shift) = match of.kind {
                NormKind::Rms => (0.0, 0.0),
                NormKind::Layer => {
                    let mean = x.iter().map(|&x| f64::from(x)).sum::<f64>() / n as f64;
                    let shift = products().map(|(&g, &w)| f64::from(g * w)).sum::<f64>() / n as f64;
                    (mean, shift)
                }
            };
            let square: f64 =
                x.iter().map(|&x| (f64::from(x) - mean) * (f64::from(x) - mean)).sum();
            let scale = (1.0 / (square / n as f64 + f64::from(of.eps)).sqrt()) as f32;
            let (mean, shift) = (mean as f32, scale * shift as f32);
            let along: f32 = x.iter().zip(products()).map(|(x, (g, w))| (x - mean) * g * w).sum();
            let back = along * scale * scale * scale / n as f32;
            for ((to, x), (g, w)) in to.iter_mut().zip(x).zip(products()) {
                *to = scale * w * g - (x - mean) * back - shift;
            }
            [mean, scale]
        })
        .collect();
    let mut weight = vec![0.0; n];
    let mut bias = vec![0.0; of.bias.as_ref().map_or(0, Vec::len)];
    for ((x, gradient), [mean, scale]) in x.chunks(n).zip(gradient.chunks(n)).zip(rows) {
        for ((to, x), g) in weight.iter_mut().zip(x).zip(gradient) {
            *to += g * (x - mean) * scale;
        }
        ops::add(&mut bias, gradient);
    }
    (NormGradient { weight, bias }, inputs)
}
