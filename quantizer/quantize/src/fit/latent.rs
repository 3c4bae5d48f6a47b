//! What a gradient moves of a rounded block, and how far.
//!
//! Behind each code stands a number in units of the levels, and the code is that of the level
//! nearest to it; after each sub-scale stands one whose nearest integer it is. Gradients are those
//! of the rounded values (the straight-through estimator: Bengio et al., arXiv 1308.3432), and
//! steps are Adam's (Kingma and Ba, arXiv 1412.6980).
//!
//! Invariants:
//!
//! - The block is at every step one that can be written. A row whose sums could leave i32 stays as
//!   it was.
//! - Rows do not depend on each other, and the numbers of a row are met in order: threads change no
//!   bit.

use kinglet_kernels::layout::GROUP;
use rayon::prelude::*;

use crate::rounding::levels::{Levels, Row, SUB_SCALE};
use crate::rounding::{RoundedBlock, RoundedLinear};
use kinglet_reference::tape::{BlockGradient, LinearGradient};
use kinglet_reference::{NormWeights, Site};

/// Decay of the means of gradients and of their squares.
const DECAY: [f32; 2] = [0.9, 0.99];
/// How near to a neighbouring level a number may start, as a part of the way there. Half of the way
/// is where codes change: what starts there changes with the noise of the first steps.
const MARGIN: f32 = 0.3;

/// What the weights of the products of a block would be without rounding, as far as that is known.
pub(crate) type Aims = [Option<Vec<f32>>; 3];
/// Means of gradients and of their squares.
type Means = [f32; 2];

/// A number that is rounded to what is stored.
struct Latent {
    at: f32,
    means: Means,
}

impl Latent {
    fn new(at: f32) -> Self {
        Self { at, means: [0.0; 2] }
    }
}

/// How far a step goes.
#[derive(Clone, Copy)]
pub(crate) struct Pace {
    /// Of codes, as a part of the mean distance of two levels; 0 if they stay.
    codes: f32,
    /// Of everything else, as a part of each number.
    others: f32,
    /// What makes up for means that started at 0.
    unbias: [f32; 2],
}

impl Pace {
    /// Of the step of this number, from 0.
    pub(crate) fn new(step: usize, codes: f32, others: f32) -> Self {
        let unbias = DECAY.map(|decay| 1.0 / (1.0 - decay.powi(step as i32 + 1)));
        Self { codes, others, unbias }
    }

    /// The step of a number, of about 1 where gradients agree.
    fn step(&self, [mean, square]: &mut Means, gradient: f32) -> f32 {
        *mean += (1.0 - DECAY[0]) * (gradient - *mean);
        *square += (1.0 - DECAY[1]) * (gradient * gradient - *square);
        let root = (*square * self.unbias[1]).sqrt();
        if root > 0.0 { -*mean * self.unbias[0] / root } else { 0.0 }
    }

    /// A number that grows or shrinks by a part of itself.
    fn stretch(&self, number: &mut f32, means: &mut Means, gradient: f32) {
        *number *= 1.0 + self.others * self.step(means, gradient * *number);
    }

    /// Biases, whose steps are parts of their mean size.
    fn shift(&self, bias: &mut [f32], means: &mut [Means], gradients: &[f32]) {
        let size = (bias.iter().map(|b| b * b).sum::<f32>() / bias.len().max(1) as f32).sqrt();
        for ((bias, means), gradient) in bias.iter_mut().zip(means).zip(gradients) {
            *bias += size * self.others * self.step(means, size * gradient);
        }
    }
}

/// The weights of a norm.
pub(crate) struct NormLatent(Vec<Means>);

impl NormLatent {
    pub(crate) fn new(of: Option<&NormWeights>) -> Self {
        Self(vec![[0.0; 2]; of.map_or(0, |norm| norm.weight.len())])
    }

    pub(crate) fn step(&mut self, of: &mut NormWeights, gradients: &[f32], pace: Pace) {
        for ((weight, means), gradient) in of.weight.iter_mut().zip(&mut self.0).zip(gradients) {
            pace.stretch(weight, means, *gradient);
        }
    }
}

/// A rounded row.
struct RowLatent {
    codes: Vec<Latent>,
    sub_scales: Vec<Latent>,
    scale: Means,
}

impl RowLatent {
    fn new(levels: &Levels, row: &Row, aim: Option<&[f32]>) -> Self {
        let start = |(k, &code): (usize, &i8)| {
            let (center, [low, high]) = (f32::from(levels.value(code)), levels.neighbours(code));
            let exact = aim.map_or(center, |aim| aim[k] / row.unit(k));
            let [low, high] = [low, high].map(|neighbour| center + MARGIN * (neighbour - center));
            Latent::new(if exact.is_finite() { exact.clamp(low, high) } else { center })
        };
        Self {
            codes: row.codes.iter().enumerate().map(start).collect(),
            sub_scales: row.sub_scales.iter().map(|&sub| Latent::new(f32::from(sub))).collect(),
            scale: [0.0; 2],
        }
    }

    /// What the row would be without rounding its codes.
    fn aim<'a>(&'a self, row: &'a Row) -> impl Iterator<Item = f32> + 'a {
        self.codes.iter().enumerate().map(|(k, latent)| latent.at * row.unit(k))
    }

    fn step(&mut self, levels: &Levels, row: &mut Row, gradients: &[f32], pace: Pace) {
        let mut next = row.clone();
        let far = pace.codes * levels.gap();
        let mut along = 0.0;
        for (g, gradients) in gradients.chunks(GROUP).enumerate() {
            let first = g * GROUP;
            let unit = row.unit(first);
            let mut of_group = 0.0;
            for (k, gradient) in (first..).zip(gradients) {
                of_group += gradient * f32::from(levels.value(row.codes[k]));
                if far > 0.0 {
                    let Latent { at, means } = &mut self.codes[k];
                    *at += far * pace.step(means, gradient * unit);
                    next.codes[k] = levels.nearest(*at);
                }
            }
            along += of_group * row.sub_scales.get(g).map_or(1.0, |&sub| f32::from(sub));
            if let (Some(Latent { at, means }), Some(sub)) =
                (self.sub_scales.get_mut(g), next.sub_scales.get_mut(g))
            {
                pace.stretch(at, means, row.scale * of_group);
                *at = at.clamp(-SUB_SCALE, SUB_SCALE);
                *sub = at.round_ties_even() as i8;
            }
        }
        pace.stretch(&mut next.scale, &mut self.scale, along);
        if next.fits(levels) && next.scale.is_finite() {
            *row = next;
        }
    }
}

/// A rounded product.
struct LinearLatent {
    rows: Vec<RowLatent>,
    bias: Vec<Means>,
}

impl LinearLatent {
    fn new(of: &RoundedLinear, aim: Option<&[f32]>) -> Self {
        let of_row = |r: usize| aim.map(|aim| &aim[r * of.cols..(r + 1) * of.cols]);
        let rows =
            of.rows.iter().enumerate().map(|(r, row)| RowLatent::new(&of.levels, row, of_row(r)));
        Self { rows: rows.collect(), bias: vec![[0.0; 2]; of.bias.as_ref().map_or(0, Vec::len)] }
    }

    fn aim(&self, of: &RoundedLinear) -> Vec<f32> {
        self.rows.iter().zip(&of.rows).flat_map(|(latent, row)| latent.aim(row)).collect()
    }

    fn step(&mut self, of: &mut RoundedLinear, gradient: &LinearGradient, pace: Pace) {
        let levels = &of.levels;
        let rows =
            of.rows.par_iter_mut().zip(&mut self.rows).zip(gradient.weight.par_chunks(of.cols));
        rows.with_min_len(8)
            .for_each(|((row, latent), gradients)| latent.step(levels, row, gradients, pace));
        if let Some(bias) = &mut of.bias {
            pace.shift(bias, &mut self.bias, &gradient.bias);
        }
    }
}

/// A rounded block.
pub(crate) struct BlockLatent {
    norm: NormLatent,
    products: [Option<LinearLatent>; 3],
}

impl BlockLatent {
    /// What stands behind a block; in the middle of what is rounded to each code where aims are not
    /// known.
    pub(crate) fn new(of: &RoundedBlock, aims: &Aims) -> Self {
        let product =
            |site: Site| Some(LinearLatent::new(of.product(site)?, aims[site as usize].as_deref()));
        Self { norm: NormLatent::new(of.norm.as_ref()), products: Site::OF_BLOCK.map(product) }
    }

    /// What the weights of the products would be without rounding.
    pub(crate) fn aims(&self, of: &RoundedBlock) -> Aims {
        Site::OF_BLOCK
            .map(|site| Some(self.products[site as usize].as_ref()?.aim(of.product(site)?)))
    }

    /// A step along the gradient.
    pub(crate) fn step(&mut self, of: &mut RoundedBlock, gradient: &BlockGradient, pace: Pace) {
        if let Some(norm) = &mut of.norm {
            self.norm.step(norm, &gradient.norm.weight, pace);
        }
        let gradients = [&gradient.input, &gradient.states, &gradient.output];
        let products = [of.input.as_mut(), of.states.as_mut(), Some(&mut of.output)];
        for ((latent, product), gradient) in self.products.iter_mut().zip(products).zip(gradients) {
            if let (Some(latent), Some(product)) = (latent, product) {
                latent.step(product, gradient, pace);
            }
        }
    }
}
