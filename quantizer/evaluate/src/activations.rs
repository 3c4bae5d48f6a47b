//! The shape of a text's hidden states: into how many directions they spread, and how they bend
//! from token to token.
//!
//! The entropy is the matrix-based one of a prompt (Skean et al., arXiv 2412.09563 and 2502.02013),
//! which tells how much a layer keeps apart: of the states Z, a row for each token, the eigenvalues
//! l of K = Z Z^T over its trace, S = - sum of l ln l; that is Rényi's entropy of order alpha as
//! alpha goes to 1, or von Neumann's. Rows are neither centred nor scaled. It is at most the
//! logarithm of the smaller of tokens and width, which the normalized entropy is divided by; exp(S)
//! is the effective rank. Z^T Z has the same eigenvalues, so the smaller matrix is taken.
//!
//! The curvature is the mean angle between a step from one token to the next and the step after it,
//! in radians.
//!
//! Over several texts, entropies may have two modes, as the first paper saw in middle layers.
//! Sarle's coefficient says so: it is 5/9 for even distributions, more for those of two modes (1 at
//! most) and less for those of one, but heavy skew raises it, too.

/// The states of a text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shape {
    /// Entropy in nats.
    pub entropy: f64,
    /// The same, over what it could be at most; 0 where that is 0.
    pub normalized: f64,
    /// Directions that would have this entropy if they were alike.
    pub effective_rank: f64,
    /// Mean angle between steps; nothing for fewer than three tokens, or where all stand still.
    pub curvature: Option<f64>,
}

impl Shape {
    /// Of `rows`, one of `width` numbers for each token. Nothing where there are none, or all are 0
    /// or one is not finite.
    pub fn of(rows: &[f32], width: usize) -> Option<Self> {
        let rows: Vec<&[f32]> = rows.chunks_exact(width.max(1)).collect();
        let tokens = rows.len();
        let mut gram = match tokens <= width {
            true => symmetric(tokens, |a, b| dot(rows[a], rows[b])),
            false => symmetric(width, |a, b| {
                rows.iter().map(|row| f64::from(row[a]) * f64::from(row[b])).sum()
            }),
        };
        let size = tokens.min(width);
        let trace: f64 = (0..size).map(|i| gram[i * size + i]).sum();
        if !(trace > 0.0 && trace.is_finite()) {
            return None;
        }
        gram.iter_mut().for_each(|x| *x /= trace);
        let parts = eigenvalues(gram, size);
        let entropy = -parts.iter().filter(|&&l| l > 0.0).map(|l| l * l.ln()).sum::<f64>();
        let entropy = entropy.max(0.0);
        let most = (size as f64).ln();
        Some(Self {
            entropy,
            normalized: if size > 1 { entropy / most } else { 0.0 },
            effective_rank: entropy.exp(),
            curvature: curvature(&rows),
        })
    }
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

fn symmetric(size: usize, at: impl Fn(usize, usize) -> f64) -> Vec<f64> {
    let mut matrix = vec![0.0; size * size];
    for (a, b) in (0..size).flat_map(|a| (0..=a).map(move |b| (a, b))) {
        matrix[a * size + b] = at(a, b);
        matrix[b * size + a] = matrix[a * size + b];
    }
    matrix
}

/// Eigenvalues of a symmetric matrix, in no order: Jacobi's rotations, each of which makes a pair
/// of numbers 0, until all but the diagonal are.
pub fn eigenvalues(mut m: Vec<f64>, size: usize) -> Vec<f64> {
    const SWEEPS: usize = 60;
    let whole: f64 = m.iter().map(|x| x * x).sum();
    for _ in 0..SWEEPS {
        let pairs = || (0..size).flat_map(|p| (p + 1..size).map(move |q| (p, q)));
        let off: f64 = pairs().map(|(p, q)| m[p * size + q] * m[p * size + q]).sum();
        if off <= 1e-28 * whole {
            break;
        }
        for (p, q) in pairs() {
            rotate(&mut m, size, p, q);
        }
    }
    (0..size).map(|i| m[i * size + i]).collect()
}

fn rotate(m: &mut [f64], size: usize, p: usize, q: usize) {
    let off = m[p * size + q];
    if off == 0.0 {
        return;
    }
    let theta = (m[q * size + q] - m[p * size + p]) / (2.0 * off);
    let tangent = 1.0_f64.copysign(theta) / (theta.abs() + theta.hypot(1.0));
    let cos = 1.0 / tangent.hypot(1.0);
    let sin = tangent * cos;
    for k in 0..size {
        let (a, b) = (m[k * size + p], m[k * size + q]);
        (m[k * size + p], m[k * size + q]) = (cos * a - sin * b, sin * a + cos * b);
    }
    for k in 0..size {
        let (a, b) = (m[p * size + k], m[q * size + k]);
        (m[p * size + k], m[q * size + k]) = (cos * a - sin * b, sin * a + cos * b);
    }
}

fn curvature(rows: &[&[f32]]) -> Option<f64> {
    let steps: Vec<Vec<f32>> = rows
        .windows(2)
        .map(|pair| pair[1].iter().zip(pair[0]).map(|(b, a)| b - a).collect())
        .collect();
    let angle = |pair: &[Vec<f32>]| {
        let lengths = (dot(&pair[0], &pair[0]) * dot(&pair[1], &pair[1])).sqrt();
        (lengths > 0.0).then(|| (dot(&pair[0], &pair[1]) / lengths).clamp(-1.0, 1.0).acos())
    };
    let angles: Vec<f64> = steps.windows(2).filter_map(angle).collect();
    (!angles.is_empty()).then(|| angles.iter().sum::<f64>() / angles.len() as f64)
}

/// What an even distribution has; more speaks for two modes.
pub const EVEN: f64 = 5.0 / 9.0;

/// Sarle's coefficient of bimodality, with the corrections for finite samples. Nothing for fewer
/// than four values, or equal ones.
pub fn bimodality(values: &[f64]) -> Option<f64> {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let moment = |power| values.iter().map(|x| (x - mean).powi(power)).sum::<f64>() / n;
    let variance = moment(2);
    if values.len() < 4 || variance <= 1e-24 * (1.0 + mean * mean) {
        return None;
    }
    let skewness = (n * (n - 1.0)).sqrt() / (n - 2.0) * moment(3) / variance.powf(1.5);
    let excess = moment(4) / (variance * variance) - 3.0;
    let spread = (n - 2.0) * (n - 3.0);
    let kurtosis = (n - 1.0) / spread * ((n + 1.0) * excess + 6.0);
    Some((skewness * skewness + 1.0) / (kurtosis + 3.0 * (n - 1.0) * (n - 1.0) / spread))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: f64, b: f64) {
        assert!((a - b).abs() < 1e-9, "{a} {b}");
    }

    #[test]
    fn entropies_of_known_states() {
        let identity: Vec<f32> = (0..25).map(|i| if i % 6 == 0 { 3.0 } else { 0.0 }).collect();
        let shape = Shape::of(&identity, 5).unwrap();
        close(shape.entropy, 5.0_f64.ln());
        close(shape.normalized, 1.0);
        close(shape.effective_rank, 5.0);
        // All tokens alike: one direction, and no step.
        let same = Shape::of(&[1.0, 2.0].repeat(7), 2).unwrap();
        assert!(same.entropy < 1e-9 && same.curvature.is_none(), "{same:?}");
        // Parts of a quarter and of three, whichever of the two matrices is smaller.
        let wanted = -(0.25 * 0.25_f64.ln() + 0.75 * 0.75_f64.ln());
        let root = 3.0_f32.sqrt();
        let wide = Shape::of(&[1.0, 0.0, 0.0, 0.0, root, 0.0], 3).unwrap();
        let long = Shape::of(&[1.0, 0.0, 0.0, root, 0.0, 0.0], 2).unwrap();
        assert!(
            (wide.entropy - wanted).abs() < 1e-6 && (long.entropy - wanted).abs() < 1e-6,
            "{wide:?} {long:?}"
        );
        assert_eq!(Shape::of(&[0.0; 6], 3), None);
    }

    #[test]
    fn eigenvalues_of_a_dense_matrix() {
        // numpy.linalg.eigvalsh([[2, 1, 0], [1, 2, 1], [0, 1, 2]]) is 2 - sqrt 2, 2, 2 + sqrt 2.
        let mut found = eigenvalues(vec![2.0, 1.0, 0.0, 1.0, 2.0, 1.0, 0.0, 1.0, 2.0], 3);
        found.sort_by(f64::total_cmp);
        let root = 2.0_f64.sqrt();
        found.iter().zip([2.0 - root, 2.0, 2.0 + root]).for_each(|(a, b)| close(*a, b));
    }

    #[test]
    fn curvatures_of_known_paths() {
        let curve = |rows: &[f32]| Shape::of(rows, 2).unwrap().curvature.unwrap();
        close(curve(&[1.0, 1.0, 2.0, 2.0, 3.0, 3.0]), 0.0);
        close(curve(&[0.0, 0.0, 1.0, 0.0, 1.0, 1.0, 2.0, 1.0]), std::f64::consts::FRAC_PI_2);
        close(curve(&[0.0, 0.0, 1.0, 0.0, 0.0, 0.0]), std::f64::consts::PI);
    }

    #[test]
    fn two_modes_are_told_from_one() {
        let two: Vec<f64> = (0..100).map(|i| f64::from(i % 2) + 0.001 * f64::from(i)).collect();
        let even: Vec<f64> = (0..10_000).map(f64::from).collect();
        // The middles of equal parts of a logistic distribution.
        let one: Vec<f64> = (0..1000)
            .map(|i| (f64::from(i) + 0.5) / 1000.0)
            .map(|p| (p / (1.0 - p)).ln())
            .collect();
        assert!(bimodality(&two).unwrap() > 0.9);
        assert!((bimodality(&even).unwrap() - EVEN).abs() < 1e-3);
        assert!(bimodality(&one).unwrap() < 0.4);
        assert_eq!((bimodality(&[1.0, 2.0, 3.0]), bimodality(&[1.0; 9])), (None, None));
    }
}
