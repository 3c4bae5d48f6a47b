//! Resizing, bit for bit as Pillow 12 does it, from which checkpoints expect their pictures.
//!
//! For each axis on its own, first along the rows, then along the columns, with
//! the scale `s = source / target` and a filter `f` of support `r`, both widened
//! by `w = max(s, 1)` when the picture shrinks (so that nothing is skipped):
//!
//! ```text
//! centre   c  = (x + 0.5) s
//! reads    from = max(trunc(c - r w + 0.5), 0)  ..  to = min(trunc(c + r w + 0.5), source)
//! weights  f((i - c + 0.5) / w), divided by their sum, in units of 2^-22, rounded half away from 0
//! value    clamp((2^21 + sum of weight * byte) >> 22, 0, 255)
//! ```
//!
//! The bytes between the two passes are rounded, too. `Nearest` reads the byte at
//! `trunc(0.5 s + s + ... + s)`, summed step by step.
//!
//! Pillow 13 takes the columns first where that is less work. The weights are the
//! same; what differs is where in between bytes are clamped, which hard edges show.
//! Here the order never changes.
//!
//! Only the part of the target that a crop keeps is computed.

use std::f64::consts::PI;
use std::ops::Range;

/// How a resized pixel is made from those it covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    /// The pixel at its centre.
    Nearest,
    /// A triangle of support 1.
    Bilinear,
    /// The cubic of support 2 with a = -0.5.
    Bicubic,
    /// Lanczos' windowed sine of support 3.
    Lanczos,
}

impl Filter {
    fn support(self) -> f64 {
        match self {
            Self::Nearest => 0.0,
            Self::Bilinear => 1.0,
            Self::Bicubic => 2.0,
            Self::Lanczos => 3.0,
        }
    }

    fn at(self, x: f64) -> f64 {
        let d = x.abs();
        match self {
            Self::Bilinear if d < 1.0 => 1.0 - d,
            Self::Bicubic if d < 1.0 => (1.5 * d - 2.5) * d * d + 1.0,
            Self::Bicubic if d < 2.0 => (((d - 5.0) * d + 8.0) * d - 4.0) * -0.5,
            Self::Lanczos if (-3.0..3.0).contains(&x) => sinc(x) * sinc(x / 3.0),
            _ => 0.0,
        }
    }
}

fn sinc(x: f64) -> f64 {
    if x == 0.0 { 1.0 } else { libm::sin(x * PI) / (x * PI) }
}

const UNIT: i64 = 1 << 22;

/// A target pixel: where it begins to read, and the weights.
struct Tap {
    from: usize,
    weights: Vec<i64>,
}

/// One axis: the part `keep` of `target` pixels made of `source` pixels.
#[derive(Clone, Debug)]
pub(super) struct Axis {
    pub(super) source: u32,
    pub(super) target: u64,
    pub(super) keep: Range<u64>,
}

impl Axis {
    fn taps(&self, filter: Filter) -> Vec<Tap> {
        let scale = f64::from(self.source) / self.target as f64;
        if filter == Filter::Nearest {
            return self.nearest(scale);
        }
        let wide = scale.max(1.0);
        let reach = filter.support() * wide;
        let tap = |x: u64| {
            let centre = (x as f64 + 0.5) * scale;
            // The cast of a negative number is 0, and the pixel at the centre is always read.
            let from = (centre - reach + 0.5) as usize;
            let to = ((centre + reach + 0.5) as usize).min(self.source as usize);
            let weights = (from..to).map(|i| filter.at((i as f64 - centre + 0.5) * (1.0 / wide)));
            let mut weights: Vec<f64> = weights.collect();
            let sum: f64 = weights.iter().sum();
            if sum != 0.0 {
                weights.iter_mut().for_each(|w| *w /= sum);
            }
            Tap {
                from,
                weights: weights.iter().map(|w| (w * UNIT as f64).round() as i64).collect(),
            }
        };
        self.keep.clone().map(tap).collect()
    }

    /// The position is summed, not multiplied, as Pillow does.
    fn nearest(&self, scale: f64) -> Vec<Tap> {
        let mut position = 0.5 * scale;
        let mut taps = vec![];
        for x in 0..self.keep.end {
            if x >= self.keep.start {
                let from = (position as usize).min(self.source as usize - 1);
                taps.push(Tap { from, weights: vec![UNIT] });
            }
            position += scale;
        }
        taps
    }
}

fn byte(sum: [i64; 3]) -> [u8; 3] {
    sum.map(|s| (s >> 22).clamp(0, 255) as u8)
}

/// Resizes `rgb`, rows of three bytes a pixel: what `rows` and `columns` keep of it.
pub(super) fn resample(rgb: &[u8], rows: &Axis, columns: &Axis, filter: Filter) -> Vec<u8> {
    let (down, across) = (rows.taps(filter), columns.taps(filter));
    let first = down.iter().map(|t| t.from).min().unwrap_or(0);
    let end = down.iter().map(|t| t.from + t.weights.len()).max().unwrap_or(0);

    let mut middle = Vec::with_capacity((end - first) * across.len() * 3);
    let stride = columns.source as usize * 3;
    for row in rgb.chunks_exact(stride).take(end).skip(first) {
        let (pixels, _) = row.as_chunks::<3>();
        for tap in &across {
            let mut sum = [UNIT / 2; 3];
            for (pixel, &w) in pixels[tap.from..].iter().zip(&tap.weights) {
                for c in 0..3 {
                    sum[c] += w * i64::from(pixel[c]);
                }
            }
            middle.extend(byte(sum));
        }
    }

    let (middle, _) = middle.as_chunks::<3>();
    let mut out = Vec::with_capacity(down.len() * across.len() * 3);
    for tap in &down {
        let rows = &middle[(tap.from - first) * across.len()..];
        for x in 0..across.len() {
            let mut sum = [UNIT / 2; 3];
            for (pixel, &w) in rows[x..].iter().step_by(across.len()).zip(&tap.weights) {
                for c in 0..3 {
                    sum[c] += w * i64::from(pixel[c]);
                }
            }
            out.extend(byte(sum));
        }
    }
    out
}
