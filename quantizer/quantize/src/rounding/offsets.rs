//! Scales of a row that are given for each group, as the file has them: 8-bit sub-scales and one
//! f32.

/// Scales of the row that are tried: from the least that has room for the largest number, to twice
/// that.
const TRIED: usize = 192;

/// Numbers as `scale * code`, the squared error of each counted by its weight: codes of at most
/// `limit`, and the scale. The scale is searched, and refitted to the codes.
pub(crate) fn shared(numbers: &[f32], weights: &[f32], limit: f32) -> (f32, Vec<i8>) {
    let peak = numbers.iter().fold(0.0f32, |peak, x| peak.max(x.abs()));
    let code = |x: f32, inv: f32| (x * inv).round_ties_even().clamp(-limit, limit);
    // By how much codes reduce the squared error below that of zeros, and the scale that does.
    let fitted = |inv: f32| -> (f64, f64) {
        let (mut along, mut square) = (0.0, 0.0);
        for (&x, &weight) in numbers.iter().zip(weights) {
            let code = f64::from(code(x, inv));
            along += f64::from(weight) * f64::from(x) * code;
            square += f64::from(weight) * code * code;
        }
        if square > 0.0 { (along * along / square, along / square) } else { (0.0, 0.0) }
    };
    let tried = (0..TRIED).map(|step| limit / peak / (1.0 + step as f32 / TRIED as f32));
    let mut best = (0.0, 0.0, 0.0);
    for inv in tried.filter(|inv| inv.is_finite()) {
        let (gain, scale) = fitted(inv);
        if gain > best.0 {
            best = (gain, scale, inv);
        }
    }
    let (_, scale, inv) = best;
    (scale as f32, numbers.iter().map(|&x| code(x, inv) as i8).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rounding::levels::{Levels, Row};
    use crate::rounding::round::round;
    use kinglet::Format;
    use kinglet_kernels::layout::GROUP;
    use kinglet_reference::testing::numbers;

    #[test]
    fn a_shared_scale_is_the_best_of_those_tried() {
        let x = numbers(40, 3);
        let (scale, codes) = shared(&x, &[1.0; 40], 127.0);
        let error = |scale: f32| -> f32 {
            let codes = x.iter().map(|x| (x / scale).round_ties_even().clamp(-127.0, 127.0));
            codes.zip(&x).map(|(code, x)| (x - scale * code).powi(2)).sum()
        };
        let found: f32 =
            codes.iter().zip(&x).map(|(&code, x)| (x - scale * f32::from(code)).powi(2)).sum();
        let peak = x.iter().fold(0.0f32, |peak, x| peak.max(x.abs()));
        assert!(found < error(peak / 127.0), "{found}");
        assert_eq!(shared(&[0.0; 3], &[1.0; 3], 127.0), (0.0, vec![0; 3]));
        assert_eq!(shared(&[2.0, -4.0], &[0.0; 2], 127.0).1, vec![0; 2]);
    }

    #[test]
    fn offsets_serve_groups_that_lie_on_one_side() {
        let w: Vec<f32> = numbers(128, 4)
            .iter()
            .enumerate()
            .map(|(k, w)| w + [3.0, -5.0][k / GROUP % 2])
            .collect();
        let levels = Levels::uniform();
        let error =
            |row: &Row| -> f32 { row.values(&levels).zip(&w).map(|(v, w)| (v - w).powi(2)).sum() };
        let plain = round(Format::Int4, &w, &[1.0; 128], &levels);
        let offset = round(Format::Int4Offset, &w, &[1.0; 128], &levels);
        assert!(plain.offsets.is_empty() && offset.offsets.len() == 4);
        assert!(error(&offset) < 0.1 * error(&plain), "{} {}", error(&offset), error(&plain));
    }
}
