//! Structured pruning: heads and feed-forward channels are taken out of a block, and what remains
//! makes up for them.
//!
//! Both are columns of a block's second product W (d outputs), whose inputs have the second moments
//! H. Taking the columns B out and letting all others change costs the squared error `tr(W_B
//! (H^-1_BB)^-1 W_B^T)` at least, and `W - W_B (H^-1_BB)^-1 H^-1_B:` reaches it (optimal brain
//! surgeon: Hassibi and Stork, 1993; for columns: ZipLM, Kurtic et al., arXiv 2302.04089). Units go
//! one after the other, the cheapest first, so damage is measured on activations and not read off
//! magnitudes.

use std::ops::Range;
use std::sync::Arc;

use ndarray::{Array2, ArrayView2, ArrayViewMut2, Axis};
use rayon::prelude::*;

use crate::rounding::{Hessian, HessianError};
use kinglet_import::checkpoint::Mask;
use kinglet_reference::{BlockWeights, LinearWeights, Operation};

/// How units are taken out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Refit {
    /// The remaining weights make up for them.
    #[default]
    LeastSquares,
    /// The remaining weights stay as they are.
    None,
}

/// What to take out of a model.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Prune {
    /// Heads and channels.
    pub units: Units,
    /// Whole blocks: attention or feed-forward, half a layer each.
    pub blocks: usize,
    /// How.
    pub refit: Refit,
}

/// How many heads and channels go.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Units {
    /// None: all stay.
    #[default]
    All,
    /// These parts of them, 0 to 1.
    Part {
        /// Of all heads.
        heads: f64,
        /// Of all feed-forward channels.
        channels: f64,
    },
    /// As many as the target wants, with the formats.
    Auto,
}

impl Prune {
    /// Whether there is anything to take out.
    pub fn any(&self) -> bool {
        self.units != Units::All || self.blocks > 0
    }
}

/// Units of a block that can be taken out on their own: key/value heads with the query heads that
/// share them (a single such head: its query heads), or channels.
pub fn units(block: &BlockWeights) -> usize {
    match &block.operation {
        Operation::Attention(heads) if heads.kv_heads > 1 => heads.kv_heads,
        Operation::Attention(heads) => heads.heads,
        Operation::FeedForward { .. } => block.output.cols,
        Operation::Projection => 1,
    }
}

/// A block with fewer units, and the squared error of its second product's outputs as a part of
/// their own square.
pub type Cut = (BlockWeights, f64);

/// Takes units out of a block whose second product has inputs with this Hessian: ever more, as
/// many as each of `counts`, which rise.
///
/// # Errors
/// Hessian that are singular beyond help.
///
/// # Panics
/// When there would be no unit left.
pub fn cut(
    block: &BlockWeights,
    hessian: &Hessian,
    counts: &[usize],
    refit: Refit,
) -> Result<Vec<Cut>, HessianError> {
    let all = units(block);
    let mut surgeon = Surgeon::new(&block.output, hessian, block.output.cols / all)?;
    let cuts = counts.iter().map(|&count| {
        assert!(count < all, "{count} of {all} units");
        while all - surgeon.kept.len() < count {
            surgeon.remove();
        }
        let (weight, error) = surgeon.result(hessian, refit);
        (without(block, &surgeon.kept, weight), error)
    });
    Ok(cuts.collect())
}

/// A block with the units `kept`, whose second product has these weights.
fn without(block: &BlockWeights, kept: &[usize], weight: Vec<f32>) -> BlockWeights {
    let all = units(block);
    let size = block.output.cols / all;
    let mut block = block.clone();
    let columns: Vec<usize> =
        kept.iter().flat_map(|&unit| unit * size..(unit + 1) * size).collect();
    block.output = LinearWeights { weight, cols: columns.len(), ..block.output.clone() };
    // Rows of the first product, and of the memory's.
    let (rows, of_memory): (Vec<usize>, Vec<usize>) = match &mut block.operation {
        Operation::FeedForward { gated, .. } => {
            let second = columns.iter().map(|c| all + c).filter(|_| *gated);
            (columns.iter().copied().chain(second).collect(), vec![])
        }
        Operation::Projection => (vec![], vec![]),
        Operation::Attention(heads) => {
            let (keys, values) = (heads.keys().start, heads.values().start);
            let shared: Vec<usize> = match heads.kv_heads > 1 {
                true => kept
                    .iter()
                    .flat_map(|&unit| unit * heads.head_dim..(unit + 1) * heads.head_dim)
                    .collect(),
                false => (0..heads.head_dim).collect(),
            };
            let group = if heads.kv_heads > 1 { heads.group() } else { 1 };
            if let Some(relative) = &heads.relative {
                let size = relative.len() / heads.heads;
                let own =
                    kept.iter().flat_map(|&unit| unit * group * size..(unit + 1) * group * size);
                heads.relative = Some(Arc::new(own.map(|at| relative[at]).collect()));
            }
            heads.heads = kept.len() * group;
            if heads.kv_heads > 1 {
                heads.kv_heads = kept.len();
            }
            let of = |start: usize| shared.iter().map(move |row| start + row);
            let others = of(keys).chain(of(values));
            match heads.mask {
                Mask::Cross => (columns, others.collect()),
                _ => (columns.iter().copied().chain(others).collect(), vec![]),
            }
        }
    };
    for (of, rows) in [(&mut block.input, rows), (&mut block.states, of_memory)] {
        let Some(of) = of else { continue };
        of.weight =
            rows.iter().flat_map(|&row| &of.weight[row * of.cols..][..of.cols]).copied().collect();
        if let Some(bias) = &mut of.bias {
            *bias = rows.iter().map(|&row| bias[row]).collect();
        }
    }
    block
}

/// An operation: what is left, and what it takes to go on.
struct Surgeon {
    /// Columns of a unit.
    size: usize,
    /// W^T, where a unit is a band of rows: as it was, and as it is.
    original: Array2<f64>,
    w: Array2<f64>,
    /// H^-1 of the columns that are left.
    inverse: Array2<f64>,
    kept: Vec<usize>,
}

impl Surgeon {
    fn new(of: &LinearWeights, hessian: &Hessian, size: usize) -> Result<Self, HessianError> {
        let w =
            ArrayView2::from_shape((of.rows(), of.cols), &of.weight).expect("rows times columns");
        let original = w.t().mapv(f64::from).as_standard_layout().into_owned();
        let kept = (0..of.cols / size).collect();
        Ok(Self { size, w: original.clone(), original, inverse: hessian.inverse()?, kept })
    }

    /// Takes the cheapest unit out.
    fn remove(&mut self) {
        let Self { size, w, inverse, kept, .. } = self;
        let (size, (cols, rows)) = (*size, w.dim());
        let cost = |&unit: &usize| {
            let at = unit * size..(unit + 1) * size;
            let (block, w) = (part(inverse, at.clone(), at.clone()), part(w, at, 0..rows));
            let cost = match size {
                1 => w.iter().map(|w| w * w).sum::<f64>() / block[(0, 0)],
                _ => (&solve(block, w) * &w).sum(),
            };
            if cost.is_finite() { cost } else { f64::INFINITY }
        };
        let costs: Vec<f64> = kept.par_iter().map(cost).collect();
        let cheapest = (0..kept.len()).min_by(|&a, &b| costs[a].total_cmp(&costs[b])).unwrap_or(0);
        let unit = kept.remove(cheapest);
        let at = unit * size..(unit + 1) * size;
        let across = part(inverse, 0..cols, at.clone()).to_owned();
        let block = part(inverse, at.clone(), at.clone());
        let (solved, back) = (solve(block, part(w, at.clone(), 0..rows)), solve(block, across.t()));
        // Rows of W^T and of the inverse, each on its own.
        for (of, less) in [(&mut *w, solved), (&mut *inverse, back)] {
            let of = of.axis_iter_mut(Axis(0)).into_par_iter();
            of.zip(across.axis_iter(Axis(0)).into_par_iter()).with_min_len(16).for_each(
                |(mut row, across)| {
                    for (factor, less) in across.iter().zip(less.rows()) {
                        row.scaled_add(-factor, &less);
                    }
                },
            );
        }
        // What is gone stays gone, whatever was rounded.
        part_mut(w, at.clone(), 0..rows).fill(0.0);
        part_mut(inverse, at.clone(), 0..cols).fill(0.0);
        part_mut(inverse, 0..cols, at).fill(0.0);
    }

    /// The weights of the columns that are left, and the error.
    fn result(&self, hessian: &Hessian, refit: Refit) -> (Vec<f32>, f64) {
        let (cols, rows) = self.w.dim();
        let columns: Vec<usize> =
            self.kept.iter().flat_map(|&unit| unit * self.size..(unit + 1) * self.size).collect();
        let mut w = self.w.clone();
        if refit == Refit::None {
            w.fill(0.0);
            columns.iter().for_each(|&c| w.row_mut(c).assign(&self.original.row(c)));
        }
        let h = ArrayView2::from_shape((cols, cols), hessian.matrix())
            .expect("a square")
            .mapv(f64::from);
        let square = |w: &Array2<f64>| (w * &h.dot(w)).sum();
        let whole = square(&self.original);
        let error = if whole > 0.0 { square(&(&self.original - &w)) / whole } else { 0.0 };
        let places = (0..rows).flat_map(|r| columns.iter().map(move |&c| (c, r)));
        (places.map(|place| w[place] as f32).collect(), error)
    }
}

fn part(a: &Array2<f64>, rows: Range<usize>, cols: Range<usize>) -> ArrayView2<'_, f64> {
    let mut part = a.view();
    part.slice_axis_inplace(Axis(0), rows.into());
    part.slice_axis_inplace(Axis(1), cols.into());
    part
}

fn part_mut(a: &mut Array2<f64>, rows: Range<usize>, cols: Range<usize>) -> ArrayViewMut2<'_, f64> {
    let mut part = a.view_mut();
    part.slice_axis_inplace(Axis(0), rows.into());
    part.slice_axis_inplace(Axis(1), cols.into());
    part
}

/// `a^-1 b` for a small symmetric positive definite `a`; not numbers if it is not.
fn solve(a: ArrayView2<'_, f64>, b: ArrayView2<'_, f64>) -> Array2<f64> {
    let n = a.nrows();
    let mut x = b.to_owned();
    let mut lower = a.as_standard_layout().into_owned();
    let Some(l) = lower.as_slice_mut().and_then(|l| crate::rounding::cholesky(l, n).map(|()| &*l))
    else {
        x.fill(f64::NAN);
        return x;
    };
    for i in 0..n {
        for k in 0..i {
            let (done, mut rest) = x.view_mut().split_at(Axis(0), i);
            rest.row_mut(0).scaled_add(-l[i * n + k], &done.row(k));
        }
        x.row_mut(i).mapv_inplace(|v| v / l[i * n + i]);
    }
    for i in (0..n).rev() {
        for k in i + 1..n {
            let (mut rest, done) = x.view_mut().split_at(Axis(0), i + 1);
            rest.row_mut(i).scaled_add(-l[k * n + i], &done.row(k - i - 1));
        }
        x.row_mut(i).mapv_inplace(|v| v / l[i * n + i]);
    }
    x
}

#[cfg(test)]
mod tests {
    use super::*;
    use kinglet_import::checkpoint::{Activation, Rope};
    use kinglet_reference::Heads;
    use kinglet_reference::Inputs;
    use kinglet_reference::testing::{block, numbers};

    fn linear(rows: usize, cols: usize, seed: u32) -> LinearWeights {
        LinearWeights {
            weight: numbers(rows * cols, seed),
            bias: Some(numbers(rows, seed + 1)),
            cols,
            inputs: None,
        }
    }

    fn hessian(x: &[f32], cols: usize) -> Hessian {
        let mut hessian = Hessian::new(cols);
        hessian.add(x);
        hessian.finish().unwrap();
        hessian
    }

    fn feed_forward(inner: usize) -> BlockWeights {
        let middle = Operation::FeedForward { activation: Activation::Silu, gated: true };
        block(vec![1.0; 8], linear(2 * inner, 8, 1), middle, linear(8, inner, 2))
    }

    #[test]
    fn a_channel_that_others_can_stand_in_for_costs_almost_nothing() {
        let block = feed_forward(12);
        // Channel 5 is channel 2 again, as loud as any.
        let mut x = numbers(400 * 12, 3);
        x.chunks_mut(12).for_each(|row| row[5] = row[2]);
        let before = block.clone();
        let (block, error) =
            cut(&block, &hessian(&x, 12), &[1], Refit::LeastSquares).unwrap().remove(0);
        assert!(error < 5e-3, "{error}");
        let (was, is) = (before.input.as_ref().unwrap(), block.input.as_ref().unwrap());
        assert_eq!((block.output.cols, is.rows()), (11, 22));
        // Either of the two went, and the other took over its weights.
        let gone = if is.weight[2 * 8..3 * 8] == was.weight[2 * 8..3 * 8] { 5 } else { 2 };
        let other = if gone == 5 { 2 } else { 4 };
        for r in 0..8 {
            let (want, found) = (
                before.output.weight[r * 12 + 2] + before.output.weight[r * 12 + 5],
                block.output.weight[r * 11 + other],
            );
            assert!((want - found).abs() < 0.05, "{want} {found}");
        }
        let (_, unrepaired) = cut(&before, &hessian(&x, 12), &[1], Refit::None).unwrap().remove(0);
        assert!(unrepaired > 20.0 * error, "{unrepaired} {error}");
    }

    #[test]
    fn heads_go_with_their_keys_and_values() {
        let heads = Heads {
            heads: 6,
            kv_heads: 3,
            head_dim: 2,
            score_scale: 1.0,
            query_norm: None,
            key_norm: None,
            rope: Some(Rope { frequencies: vec![1.0], magnitude: 1.0 }),
            mask: Mask::Causal,
            relative: Some(Arc::new(numbers(6 * 3, 5))),
            head_inputs: Inputs::Rounded,
        };
        let block =
            block(vec![1.0; 8], linear(24, 8, 1), Operation::Attention(heads), linear(8, 12, 2));
        // The second group does nothing.
        let mut x = numbers(200 * 12, 4);
        x.chunks_mut(12).for_each(|row| row[4..8].fill(0.0));
        let before = block.clone();
        let (block, error) =
            cut(&block, &hessian(&x, 12), &[1], Refit::LeastSquares).unwrap().remove(0);
        let Operation::Attention(heads) = &block.operation else { unreachable!() };
        assert_eq!(
            (heads.heads, heads.kv_heads, block.output.cols, block.input.as_ref().unwrap().rows()),
            (4, 2, 8, 16)
        );
        let table = numbers(6 * 3, 5);
        assert_eq!(heads.relative.as_deref().unwrap()[..], [&table[..6], &table[12..]].concat());
        assert!(error < 0.05, "{error}");
        let row = |block: &BlockWeights, row: usize| {
            block.input.as_ref().unwrap().weight[row * 8..][..8].to_vec()
        };
        for (new, old) in [(0, 0), (4, 8), (8, 12), (10, 16), (12, 18), (14, 22)] {
            assert_eq!(row(&block, new), row(&before, old), "{new} {old}");
        }
    }
}
