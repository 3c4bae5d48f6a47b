//! What codes stand for, and rows of them.

use kinglet::Format;
use kinglet_kernels::layout::GROUP;

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
    pub(super) fn ranges(&self) -> impl Iterator<Item = f32> {
        let ends = [0, 15].map(|code| f32::from(self.values[code]));
        let (ends, sides, first, by, tries) = match self.bytes {
            true => ([127.0; 2], 1, 0.99, 0.01, 4),
            false => (ends, 2, 0.85, 0.05, 7),
        };
        let ends = ends.into_iter().take(sides);
        ends.flat_map(move |end| (0..tries).map(move |i| end * (first + by * i as f32)))
    }

    /// The values nearest to weights divided by a scale, as numbers.
    pub(super) fn rounded(&self, weights: &[f32; GROUP], inv: f32) -> [f32; GROUP] {
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
pub(super) fn to_int(x: f32) -> i32 {
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
