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

use super::offsets::round_to_offsets;

/// The largest magnitude of a quantized activation.
const ACTIVATION: i64 = 127;
/// The largest magnitude of a sub-scale.
pub(crate) const SUB_SCALE: f32 = 127.0;

/// What codes stand for: one of 16 ascending levels (int4), or themselves (int8).
#[derive(Clone, Debug, PartialEq)]
pub struct Levels {
    /// Values of int4 codes.
    pub values: [i8; 16],
    /// Whether a code is its own value.
    bytes: bool,
    /// Index of the level nearest to `i - 128`.
    nearest: [u8; 256],
    /// The level itself.
    rounded: [f32; 256],
}

impl Levels {
    /// `-8..=7`.
    pub fn uniform() -> Self {
        Self::new(std::array::from_fn(|i| i as i8 - 8))
    }

    /// Codes of eight bits.
    pub fn bytes() -> Self {
        Self { bytes: true, ..Self::uniform() }
    }

    /// Those of a format that has no codebook.
    pub(crate) fn of(format: Format) -> Self {
        if format.is_int8() { Self::bytes() } else { Self::uniform() }
    }

    /// Ascending `values`.
    pub fn new(values: [i8; 16]) -> Self {
        let nearest = std::array::from_fn(|i| {
            let distance = |&level: &usize| (i32::from(values[level]) - (i as i32 - 128)).abs();
            (0..16).min_by_key(distance).unwrap_or(0) as u8
        });
        let rounded = nearest.map(|code| f32::from(values[usize::from(code)]));
        Self { values, bytes: false, nearest, rounded }
    }

    /// What a code stands for.
    #[inline]
    pub fn value(&self, code: i8) -> i8 {
        if self.bytes { code } else { self.values[code as usize & 15] }
    }

    /// The code whose value is nearest.
    #[inline]
    pub(crate) fn nearest(&self, x: f32) -> i8 {
        if self.bytes {
            return to_int(x.clamp(-127.0, 127.0)) as i8;
        }
        self.nearest[(to_int(x.clamp(-128.0, 127.0)) + 128) as usize & 255] as i8
    }

    /// The mean distance of two levels.
    pub(crate) fn gap(&self) -> f32 {
        if self.bytes {
            1.0
        } else {
            (f32::from(self.values[15]) - f32::from(self.values[0])) / 15.0
        }
    }

    /// The values below and above that of a code; beyond the last one by the mean distance.
    pub(crate) fn neighbours(&self, code: i8) -> [f32; 2] {
        let [first, last] = if self.bytes { [-127, 127] } else { [0, 15] };
        let value = |code: i8| f32::from(self.value(code));
        let below = if code > first { value(code - 1) } else { value(code) - self.gap() };
        let above = if code < last { value(code + 1) } else { value(code) + self.gap() };
        [below, above]
    }

    /// What the largest weight of a group may become, in units: a clipped end of the levels, or a
    /// place a little inside, on either side. Eight bits lose more by clipping than they win.
    fn ranges(&self) -> impl Iterator<Item = f32> {
        let ends = [0, 15].map(|code| f32::from(self.values[code]));
        let (ends, sides, first, by, tries) = match self.bytes {
            true => ([127.0; 2], 1, 0.99, 0.01, 4),
            false => (ends, 2, 0.85, 0.05, 7),
        };
        let ends = ends.into_iter().take(sides);
        ends.flat_map(move |end| (0..tries).map(move |i| end * (first + by * i as f32)))
    }

    /// The values nearest to weights divided by a scale, as numbers.
    fn rounded(&self, weights: &[f32; GROUP], inv: f32) -> [f32; GROUP] {
        let limit = if self.bytes { 127.0 } else { 128.0 };
        let nearest = weights.map(|w| to_int((w * inv).clamp(-limit, 127.0)));
        if self.bytes {
            nearest.map(|q| q as f32)
        } else {
            nearest.map(|q| self.rounded[(q + 128) as usize & 255])
        }
    }
}

/// The nearest integer, ties to even, for magnitudes below 2^22. Unlike `round_ties_even`, which is
/// a call on x86-64 without SSE4.1, it is an addition that the compiler can turn into vectors.
fn to_int(x: f32) -> i32 {
    const ROUND: f32 = 12_582_912.0;
    (x + ROUND).to_bits().wrapping_sub(ROUND.to_bits()) as i32
}

/// A rounded row.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Row {
    /// int8: codes. int4: indices of levels. One for each weight.
    pub codes: Vec<i8>,
    /// One for each group of 32; none in [`Format::Int8`].
    pub sub_scales: Vec<i8>,
    /// The row's scale.
    pub scale: f32,
    /// One for each group of 32 in [`Format::Int4Offset`], otherwise none.
    pub offsets: Vec<i8>,
    /// Their scale.
    pub offset_scale: f32,
}

impl Row {
    /// The integer `q` of each weight.
    pub fn integers<'a>(&'a self, levels: &'a Levels) -> impl Iterator<Item = i32> + 'a {
        self.codes.iter().enumerate().map(|(k, &code)| match self.sub_scales.get(k / GROUP) {
            Some(&sub) => i32::from(sub) * i32::from(levels.value(code)),
            None => i32::from(code),
        })
    }

    /// The number that each weight has become.
    pub fn values<'a>(&'a self, levels: &'a Levels) -> impl Iterator<Item = f32> + 'a {
        self.integers(levels).enumerate().map(|(k, q)| match self.offsets.get(k / GROUP) {
            Some(&offset) => self.scale * q as f32 + f32::from(offset) * self.offset_scale,
            None => self.scale * q as f32,
        })
    }

    /// The step between integers at a column.
    pub(crate) fn unit(&self, column: usize) -> f32 {
        self.sub_scales.get(column / GROUP).map_or(self.scale, |&sub| self.scale * f32::from(sub))
    }

    /// Whether no sum of products with activations can leave i32.
    pub fn fits(&self, levels: &Levels) -> bool {
        let offsets: i64 =
            self.offsets.iter().map(|&offset| i64::from(offset).abs() * GROUP as i64).sum();
        let integers: i64 = self.integers(levels).map(|q| i64::from(q).abs()).sum();
        offsets.max(integers) * ACTIVATION <= i64::from(i32::MAX)
    }
}

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
