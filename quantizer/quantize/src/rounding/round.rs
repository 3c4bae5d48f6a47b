//! Rounding rows of weights to codes and scales.
//!
//! The reconstruction of a weight is `row_scale * q` with the integer `q` = code (int8) or
//! sub-scale * level (int4, and grouped int8, whose levels are its codes). Rounding minimises the
//! squared error of the reconstruction, each weight's counted by the importance of its input (the
//! mean of its square, or 1 where nothing is known): scales are searched on a grid and refitted by
//! least squares. Every row is proven not to overflow the kernels' i32 sums: `127 * sum |q|` must
//! fit; a row that would not is coarsened.

use kinglet::Format;
use kinglet_kernels::layout::GROUP;

use super::levels::{Levels, Row, SUB_SCALE, to_int};
use super::offsets::shared;

/// Rounds a row, with as many importances as weights.
pub fn round(format: Format, weights: &[f32], importance: &[f32], levels: &Levels) -> Row {
    if format.has_offsets() {
        return round_to_offsets(weights, importance, levels);
    }
    // Coarser and coarser: fewer steps of code or sub-scale, then larger steps.
    const STEPS: i32 = 14;
    let limit = |n: i32| (SUB_SCALE * 0.75f32.powi(n.min(STEPS))).floor();
    let coarser = (0..).map(|n: i32| (limit(n), (1u64 << (n - STEPS).clamp(0, 40)) as f32));
    for (limit, stretch) in coarser {
        let row = match format {
            Format::Int8 => round_int8(weights, importance, limit),
            _ => round_grouped(weights, importance, levels, limit, stretch),
        };
        if row.fits(levels) {
            return row;
        }
    }
    unreachable!("a row of zeros fits")
}

fn peak(weights: &[f32]) -> f32 {
    weights.iter().fold(0.0, |m, w| w.abs().max(m))
}

/// Lanes of the sums that decide between scales: their order is fixed, and the compiler may use
/// vectors.
const LANES: usize = 8;

/// `(sum of h w q, sum of h q q)`.
fn correlate(weights: &[f32], importance: &[f32], q: &[f32]) -> (f64, f64) {
    let (mut wq, mut qq) = (0.0f64, 0.0f64);
    // Short runs in f32, so that no precision is lost over long rows.
    for ((weights, importance), q) in
        weights.chunks(512).zip(importance.chunks(512)).zip(q.chunks(512))
    {
        let mut lanes = [[0.0f32; LANES]; 2];
        for ((w, h), q) in weights.chunks(LANES).zip(importance.chunks(LANES)).zip(q.chunks(LANES))
        {
            for (i, ((w, h), q)) in w.iter().zip(h).zip(q).enumerate() {
                lanes[0][i] += h * w * q;
                lanes[1][i] += h * q * q;
            }
        }
        wq += lanes[0].iter().map(|&v| f64::from(v)).sum::<f64>();
        qq += lanes[1].iter().map(|&v| f64::from(v)).sum::<f64>();
    }
    (wq, qq)
}

/// The scale that fits `q` to the weights best, and by how much that reduces the squared error
/// below that of zeros.
fn refit(weights: &[f32], importance: &[f32], q: &[f32]) -> (f32, f64) {
    let (wq, qq) = correlate(weights, importance, q);
    if qq == 0.0 { (0.0, 0.0) } else { ((wq / qq) as f32, wq * wq / qq) }
}

fn round_int8(weights: &[f32], importance: &[f32], limit: f32) -> Row {
    let peak = peak(weights);
    let mut q = vec![0.0; weights.len()];
    let mut best = (Row { codes: vec![0; weights.len()], ..Row::default() }, 0.0);
    // Clipping a few large weights a little can pay: try ranges from 80% of the peak.
    for step in 0..=10 {
        let inv = limit / (peak * (0.8 + 0.02 * step as f32));
        if !inv.is_finite() {
            continue;
        }
        for (q, w) in q.iter_mut().zip(weights) {
            *q = to_int((w * inv).clamp(-limit, limit)) as f32;
        }
        let (scale, gain) = refit(weights, importance, &q);
        if gain > best.1 {
            best.1 = gain;
            best.0.scale = scale;
            best.0.codes.iter_mut().zip(&q).for_each(|(code, &q)| *code = q as i8);
        }
    }
    best.0
}

fn assign(
    weights: &[f32],
    importance: &[f32],
    scale: f32,
    levels: &Levels,
    codes: &mut [i8],
) -> f64 {
    let inv = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    let mut error = 0.0;
    for ((&w, h), code) in weights.iter().zip(importance).zip(codes) {
        *code = levels.nearest(w * inv);
        let e = w - scale * f32::from(levels.value(*code));
        error += h * e * e;
    }
    f64::from(error)
}

/// The scale of one group, of either sign, that leaves the smallest squared error.
pub(crate) fn group_scale(weights: &[f32], importance: &[f32], levels: &Levels) -> f32 {
    let largest =
        weights.iter().copied().fold(0.0f32, |m, w| if w.abs() > m.abs() { w } else { m });
    // Copies of a fixed size, which the compiler turns into vectors. What is missing is zero and
    // adds nothing.
    let (mut w, mut h) = ([0.0; GROUP], [0.0; GROUP]);
    w[..weights.len()].copy_from_slice(weights);
    h[..weights.len()].copy_from_slice(importance);
    let mut best = (0.0, 0.0);
    for range in levels.ranges() {
        let tried = largest / range;
        if !tried.is_finite() {
            continue;
        }
        let q = levels.rounded(&w, 1.0 / tried);
        let (mut wq, mut qq) = ([0.0; LANES], [0.0; LANES]);
        for first in (0..GROUP).step_by(LANES) {
            for lane in 0..LANES {
                let (w, h, q) = (w[first + lane], h[first + lane], q[first + lane]);
                wq[lane] += h * w * q;
                qq[lane] += h * q * q;
            }
        }
        let [wq, qq] = [wq, qq].map(|lanes| lanes.iter().map(|&v| f64::from(v)).sum::<f64>());
        if qq > 0.0 && wq * wq / qq > best.1 {
            best = ((wq / qq) as f32, wq * wq / qq);
        }
    }
    best.0
}

fn round_grouped(
    weights: &[f32],
    importance: &[f32],
    levels: &Levels,
    limit: f32,
    stretch: f32,
) -> Row {
    let groups = || weights.chunks(GROUP).zip(importance.chunks(GROUP));
    let scales: Vec<f32> =
        groups().map(|(group, importance)| group_scale(group, importance, levels)).collect();
    let unit = peak(&scales) / limit * stretch;
    let mut row = Row {
        codes: vec![0; weights.len()],
        sub_scales: vec![0; scales.len()],
        scale: unit,
        ..Row::default()
    };
    let codes = row.codes.chunks_mut(GROUP);
    for ((((group, importance), codes), &scale), sub) in
        groups().zip(codes).zip(&scales).zip(&mut row.sub_scales)
    {
        let nearest = (scale / unit).round_ties_even().clamp(-limit, limit);
        let nearest = if nearest == 0.0 && stretch > 1.0 { scale.signum() } else { nearest };
        let tried =
            [nearest, nearest - 1.0, nearest + 1.0].into_iter().filter(|sub| sub.abs() <= limit);
        let mut assign = |sub: f32| assign(group, importance, sub * unit, levels, codes);
        let best = tried.map(|sub| (sub, assign(sub))).min_by(|a, b| a.1.total_cmp(&b.1));
        *sub = best.map_or(0.0, |(sub, _)| sub) as i8;
        assign(f32::from(*sub));
    }
    let q: Vec<f32> = row.integers(levels).map(|q| q as f32).collect();
    row.scale = refit(weights, importance, &q).0;
    row
}

/// Rounds a row to a [`Format::Int4Offset`] of its own: offsets are the middle of each group, the
/// rest is rounded as int4.
pub(crate) fn round_to_offsets(weights: &[f32], importance: &[f32], levels: &Levels) -> Row {
    let middle = |group: &[f32]| {
        let ends =
            group.iter().fold([f32::MAX, f32::MIN], |[low, high], &w| [low.min(w), high.max(w)]);
        (ends[0] + ends[1]) / 2.0
    };
    let middles: Vec<f32> = weights.chunks(GROUP).map(middle).collect();
    let (offset_scale, offsets) = shared(&middles, &vec![1.0; middles.len()], 127.0);
    let rest = weights.chunks(GROUP).zip(&offsets);
    let rest: Vec<f32> = rest
        .flat_map(|(group, &o)| group.iter().map(move |w| w - f32::from(o) * offset_scale))
        .collect();
    let row = Row { offsets, offset_scale, ..round(Format::Int4, &rest, importance, levels) };
    // Too long for offsets: sums might leave i32.
    if row.fits(levels) { row } else { with_none(round(Format::Int4, weights, importance, levels)) }
}

/// A row of int4 with offsets of zero.
fn with_none(row: Row) -> Row {
    Row { offsets: vec![0; row.sub_scales.len()], ..row }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weights(n: usize) -> Vec<f32> {
        let mut state = 1u32;
        let mut uniform = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / 8_388_608.0 - 1.0
        };
        (0..n).map(|_| uniform() + uniform() + uniform()).collect()
    }

    fn relative_error(format: Format, weights: &[f32], levels: &Levels) -> f64 {
        let row = round(format, weights, &vec![1.0; weights.len()], levels);
        let power: f64 = weights.iter().map(|w| f64::from(w * w)).sum();
        let error: f64 =
            row.values(levels).zip(weights).map(|(q, w)| f64::from(q - w).powi(2)).sum();
        (error / power).sqrt()
    }

    #[test]
    fn errors_are_those_of_the_format() {
        let w = weights(4096);
        let uniform = Levels::uniform();
        assert!(relative_error(Format::Int8, &w, &uniform) < 0.009);
        assert!(relative_error(Format::Int8Grouped, &w, &Levels::bytes()) < 0.0055);
        let int4 = relative_error(Format::Int4, &w, &uniform);
        assert!((0.04..0.085).contains(&int4), "{int4}");
    }

    #[test]
    fn zeros_and_constants_are_exact() {
        for format in Format::ALL {
            assert_eq!(relative_error(format, &[0.0; 40], &Levels::of(format)).max(0.0), 0.0);
            assert!(relative_error(format, &[-3.0; 40], &Levels::of(format)) < 1e-6);
        }
        let row = round(Format::Int8, &[1e-42; 8], &[1.0; 8], &Levels::uniform());
        assert!(row.scale.is_finite());
    }

    #[test]
    fn rows_that_could_overflow_are_coarsened() {
        let codebook = Levels::new(std::array::from_fn(|i| (i as i32 * 17 - 127) as i8));
        let long = vec![1.0; 200_000];
        for format in Format::ALL {
            let levels = if format.is_int8() { Levels::bytes() } else { codebook.clone() };
            let row = round(format, &long, &vec![1.0; long.len()], &levels);
            assert!(row.fits(&levels));
            let error = row.values(&levels).map(|q| (q - 1.0).abs()).fold(0.0, f32::max);
            assert!(error < 0.01, "{format:?} {error}");
        }
    }
}
