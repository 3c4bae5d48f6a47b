//! A codebook for a tensor: 16 levels that suit its values.
//!
//! Lloyd's algorithm (Least squares quantization in PCM, 1982) on groups of 32 weights divided by
//! their own scales, each weighted by its scale squared and its input's importance, so that the
//! error counted is that of the product. Deterministic.

use kinglet_kernels::layout::GROUP;

use super::levels::Levels;
use super::round::group_scale;

/// Rounds of Lloyd's algorithm; later ones move no level by more than a step of int8.
const ROUNDS: usize = 12;

/// Where to start: denser in the middle, as weights are.
fn start() -> [i8; 16] {
    std::array::from_fn(|i| {
        let t = (i as f64 - 7.5) / 7.5;
        (127.0 * (0.6 * t + 0.4 * t * t * t)).round() as i8
    })
}

/// Fits levels to sampled rows, whose inputs have these importances.
pub(crate) fn fit(rows: &[&[f32]], importance: &[f32]) -> Levels {
    let mut levels = Levels::new(start());
    for _ in 0..ROUNDS {
        let next = improve(&levels, rows, importance);
        if next == levels.values {
            break;
        }
        levels = Levels::new(next);
    }
    levels
}

/// One round: the weighted mean of the values next to each level.
fn improve(levels: &Levels, rows: &[&[f32]], importance: &[f32]) -> [i8; 16] {
    let mut sums = [(0.0f64, 0.0f64); 16];
    for (group, importance) in
        rows.iter().flat_map(|row| row.chunks(GROUP).zip(importance.chunks(GROUP)))
    {
        let scale = group_scale(group, importance, levels);
        if scale == 0.0 {
            continue;
        }
        let weight = f64::from(scale) * f64::from(scale);
        for (&w, &importance) in group.iter().zip(importance) {
            let v = w / scale;
            let weight = weight * f64::from(importance);
            let (sum, count) = &mut sums[levels.nearest(v) as usize & 15];
            *sum += weight * f64::from(v);
            *count += weight;
        }
    }
    let means: [f64; 16] = std::array::from_fn(|i| {
        let (sum, count) = sums[i];
        if count > 0.0 { sum / count } else { f64::from(levels.values[i]) }
    });
    let stretch = 127.0 / means.iter().fold(1.0, |m: f64, v| m.max(v.abs()));
    let mut next = means.map(|v| (v * stretch).round() as i8);
    next.sort_unstable();
    next
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rounding::round::round;
    use kinglet::Format;

    #[test]
    fn a_fitted_codebook_beats_even_levels() {
        let mut state = 9u32;
        let mut uniform = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / 16_777_216.0
        };
        // Box and Muller: normal values.
        let mut normal =
            || (-2.0 * uniform().max(1e-9).ln()).sqrt() * (6.283_185_5 * uniform()).cos();
        let rows: Vec<Vec<f32>> = (0..32).map(|_| (0..256).map(|_| normal()).collect()).collect();
        let error = |format, levels: &Levels| -> f64 {
            let of_row = |row: &Vec<f32>| {
                let rounded = round(format, row, &[1.0; 256], levels);
                let errors = rounded
                    .integers(levels)
                    .zip(row)
                    .map(|(q, w)| f64::from(q as f32 * rounded.scale - w));
                errors.map(|e| e * e).sum::<f64>()
            };
            rows.iter().map(of_row).sum()
        };
        let sample: Vec<&[f32]> = rows.iter().map(Vec::as_slice).collect();
        let fitted = error(Format::Int4Codebook, &fit(&sample, &[1.0; 256]));
        let uniform = error(Format::Int4, &Levels::uniform());
        assert!(fitted < 0.85 * uniform, "{fitted} {uniform}");
    }
}
