//! Structured pruning: heads and feed-forward channels are taken out of a block, and what remains makes up for them.
//!
//! Both are columns of a block's second product W (d outputs), whose inputs have the second moments H. Taking the columns B out and
//! letting all others change costs the squared error `tr(W_B (H^-1_BB)^-1 W_B^T)` at least, and
//! `W - W_B (H^-1_BB)^-1 H^-1_B:` reaches it (optimal brain surgeon: Hassibi and Stork, 1993; for columns: ZipLM, Kurtic et al., arXiv 2302.04089).
//! Units go one after the other, the cheapest first, so damage is measured on activations and not read off magnitudes.

use std::ops::Range;

use ndarray::{Array2, ArrayView2, ArrayViewMut2, Axis};
use rayon::prelude::*;

use crate::quantize::{Moments, MomentsError};
use crate::reference::{BlockWeights, LinearWeights, Middle};

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

/// Units of a block that can be taken out on their own: key/value heads with the query heads that share them (a single such head: its
/// query heads), or channels.
pub fn units(block: &BlockWeights) -> usize {
    match &block.middle {
        Middle::Attention(heads) if heads.kv_heads > 1 => heads.kv_heads,
        Middle::Attention(heads) => heads.heads,
        Middle::FeedForward(_) => block.output.cols,
    }
}

/// Takes `count` units out of a block whose second product has inputs with these moments. Returns the squared error of the
/// product's outputs, as a part of their own square.
///
/// # Errors
/// Moments that are singular beyond help.
///
/// # Panics
/// When there would be no unit left.
pub fn cut(block: &mut BlockWeights, moments: &Moments, count: usize, refit: Refit) -> Result<f64, MomentsError> {
    let all = units(block);
    assert!(count < all, "{count} of {all} units");
    let size = block.output.cols / all;
    let (kept, weight, error) = surgeon(&block.output, moments, size, count, refit)?;
    let columns: Vec<usize> = kept.iter().flat_map(|&unit| unit * size..(unit + 1) * size).collect();
    block.output = LinearWeights { weight, cols: columns.len(), ..block.output.clone() };
    let rows: Vec<usize> = match &mut block.middle {
        Middle::FeedForward(_) => columns.iter().copied().chain(columns.iter().map(|c| all + c)).collect(),
        Middle::Attention(heads) => {
            let (keys, values) = (heads.keys().start, heads.values().start);
            let shared: Vec<usize> = match heads.kv_heads > 1 {
                true => kept.iter().flat_map(|&unit| unit * heads.dim..(unit + 1) * heads.dim).collect(),
                false => (0..heads.dim).collect(),
            };
            if heads.kv_heads > 1 {
                heads.heads = kept.len() * heads.group();
                heads.kv_heads = kept.len();
            } else {
                heads.heads = kept.len();
            }
            let of = |start: usize| shared.iter().map(move |row| start + row);
            columns.iter().copied().chain(of(keys)).chain(of(values)).collect()
        }
    };
    let input = &mut block.input;
    input.weight = rows.iter().flat_map(|&row| &input.weight[row * input.cols..][..input.cols]).copied().collect();
    if let Some(bias) = &mut input.bias {
        *bias = rows.iter().map(|&row| bias[row]).collect();
    }
    Ok(error)
}

/// Units that stay, the weights of their columns, and the error.
fn surgeon(
    of: &LinearWeights,
    moments: &Moments,
    size: usize,
    count: usize,
    refit: Refit,
) -> Result<(Vec<usize>, Vec<f32>, f64), MomentsError> {
    let (rows, cols) = (of.rows(), of.cols);
    let original = ArrayView2::from_shape((rows, cols), &of.weight).expect("rows times columns").mapv(f64::from);
    // W^T: a unit is a band of rows.
    let mut w = original.t().as_standard_layout().into_owned();
    let mut inverse = moments.inverse()?;
    let mut kept: Vec<usize> = (0..cols / size).collect();
    for _ in 0..count {
        let cost = |&unit: &usize| {
            let at = unit * size..(unit + 1) * size;
            let (block, w) = (part(&inverse, at.clone(), at.clone()), part(&w, at, 0..rows));
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
        let across = part(&inverse, 0..cols, at.clone()).to_owned();
        let block = part(&inverse, at.clone(), at.clone());
        let (solved, back) = (solve(block, part(&w, at.clone(), 0..rows)), solve(block, across.t()));
        // Rows of W^T and of the inverse, each on its own.
        for (of, less) in [(&mut w, solved), (&mut inverse, back)] {
            let of = of.axis_iter_mut(Axis(0)).into_par_iter();
            of.zip(across.axis_iter(Axis(0)).into_par_iter()).with_min_len(16).for_each(|(mut row, across)| {
                for (factor, less) in across.iter().zip(less.rows()) {
                    row.scaled_add(-factor, &less);
                }
            });
        }
        // What is gone stays gone, whatever was rounded.
        part_mut(&mut w, at.clone(), 0..rows).fill(0.0);
        part_mut(&mut inverse, at.clone(), 0..cols).fill(0.0);
        part_mut(&mut inverse, 0..cols, at).fill(0.0);
    }
    if refit == Refit::None {
        w = original.t().as_standard_layout().into_owned();
        for unit in (0..cols / size).filter(|unit| !kept.contains(unit)) {
            part_mut(&mut w, unit * size..(unit + 1) * size, 0..rows).fill(0.0);
        }
    }
    let h = ArrayView2::from_shape((cols, cols), moments.matrix()).expect("a square").mapv(f64::from);
    let square = |w: &Array2<f64>| (w * &h.dot(w)).sum();
    let original = original.t().as_standard_layout().into_owned();
    let whole = square(&original);
    let error = if whole > 0.0 { square(&(&original - &w)) / whole } else { 0.0 };
    let columns: Vec<usize> = kept.iter().flat_map(|&unit| unit * size..(unit + 1) * size).collect();
    let weight = (0..rows).flat_map(|r| columns.iter().map(move |&c| (r, c))).map(|(r, c)| w[(c, r)] as f32).collect();
    Ok((kept, weight, error))
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
    let Some(l) = lower.as_slice_mut().and_then(|l| crate::quantize::cholesky(l, n).map(|()| &*l)) else {
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
    use crate::checkpoint::{Activation, Rope};
    use crate::reference::{Heads, NormWeights};

    fn numbers(n: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / 8_388_608.0 - 1.0
        };
        (0..n).map(|_| next()).collect()
    }

    fn linear(rows: usize, cols: usize, seed: u32) -> LinearWeights {
        LinearWeights { weight: numbers(rows * cols, seed), bias: Some(numbers(rows, seed + 1)), cols, rounds: false }
    }

    fn moments(x: &[f32], cols: usize) -> Moments {
        let mut moments = Moments::new(cols);
        moments.add(x);
        moments.finish().unwrap();
        moments
    }

    fn feed_forward(inner: usize) -> BlockWeights {
        BlockWeights {
            norm: NormWeights { weight: vec![1.0; 8], eps: 1e-5 },
            input: linear(2 * inner, 8, 1),
            middle: Middle::FeedForward(Activation::Silu),
            output: linear(8, inner, 2),
        }
    }

    #[test]
    fn a_channel_that_others_can_stand_in_for_costs_almost_nothing() {
        let mut block = feed_forward(12);
        // Channel 5 is channel 2 again, as loud as any.
        let mut x = numbers(400 * 12, 3);
        x.chunks_mut(12).for_each(|row| row[5] = row[2]);
        let before = block.clone();
        let error = cut(&mut block, &moments(&x, 12), 1, Refit::LeastSquares).unwrap();
        assert!(error < 5e-3, "{error}");
        assert_eq!((block.output.cols, block.input.rows()), (11, 22));
        // Either of the two went, and the other took over its weights.
        let gone = if block.input.weight[2 * 8..3 * 8] == before.input.weight[2 * 8..3 * 8] { 5 } else { 2 };
        let other = if gone == 5 { 2 } else { 4 };
        for r in 0..8 {
            let (want, found) = (
                before.output.weight[r * 12 + 2] + before.output.weight[r * 12 + 5],
                block.output.weight[r * 11 + other],
            );
            assert!((want - found).abs() < 0.05, "{want} {found}");
        }
        let mut plain = before;
        let unrepaired = cut(&mut plain, &moments(&x, 12), 1, Refit::None).unwrap();
        assert!(unrepaired > 20.0 * error, "{unrepaired} {error}");
    }

    #[test]
    fn heads_go_with_their_keys_and_values() {
        let heads = Heads {
            heads: 6,
            kv_heads: 3,
            dim: 2,
            scale: 1.0,
            query_norm: None,
            key_norm: None,
            rope: Rope { inv_freq: vec![1.0], magnitude: 1.0 },
        };
        let mut block = BlockWeights {
            norm: NormWeights { weight: vec![1.0; 8], eps: 1e-5 },
            input: linear(24, 8, 1),
            middle: Middle::Attention(heads),
            output: linear(8, 12, 2),
        };
        // The second group does nothing.
        let mut x = numbers(200 * 12, 4);
        x.chunks_mut(12).for_each(|row| row[4..8].fill(0.0));
        let before = block.clone();
        let error = cut(&mut block, &moments(&x, 12), 1, Refit::LeastSquares).unwrap();
        let Middle::Attention(heads) = &block.middle else { unreachable!() };
        assert_eq!((heads.heads, heads.kv_heads, block.output.cols, block.input.rows()), (4, 2, 8, 16));
        assert!(error < 0.05, "{error}");
        let row = |block: &BlockWeights, row: usize| block.input.weight[row * 8..][..8].to_vec();
        for (new, old) in [(0, 0), (4, 8), (8, 12), (10, 16), (12, 18), (14, 22)] {
            assert_eq!(row(&block, new), row(&before, old), "{new} {old}");
        }
    }
}
