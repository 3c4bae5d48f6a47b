//! Rank correlation: whether one figure orders things as another does.

/// Spearman's: the correlation of ranks, equal values sharing theirs. Nothing for fewer than three
/// pairs, or when one side is all equal.
pub fn correlation(pairs: &[(f64, f64)]) -> Option<f64> {
    if pairs.len() < 3 {
        return None;
    }
    let a = ranks(pairs.iter().map(|p| p.0).collect());
    let b = ranks(pairs.iter().map(|p| p.1).collect());
    let middle = (pairs.len() as f64 + 1.0) / 2.0;
    let product = |x: &[f64], y: &[f64]| {
        x.iter().zip(y).map(|(x, y)| (x - middle) * (y - middle)).sum::<f64>()
    };
    let spread = (product(&a, &a) * product(&b, &b)).sqrt();
    (spread > 0.0).then(|| product(&a, &b) / spread)
}

fn ranks(values: Vec<f64>) -> Vec<f64> {
    let rank = |v: &f64| {
        let below = values.iter().filter(|o| o.total_cmp(v).is_lt()).count();
        let same = values.iter().filter(|o| o.total_cmp(v).is_eq()).count();
        below as f64 + (same as f64 + 1.0) / 2.0
    };
    values.iter().map(rank).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_correlations() {
        let with = |b: &[f64]| {
            correlation(&(1..).map(f64::from).zip(b.iter().copied()).collect::<Vec<_>>())
        };
        assert_eq!(with(&[10.0, 20.0, 300.0]), Some(1.0));
        assert_eq!(with(&[3.0, 2.0, 1.0, 0.5]), Some(-1.0));
        // scipy.stats.spearmanr([1, 2, 3, 4, 5], [5, 6, 7, 8, 7]) = 0.8207826816681233
        assert!(
            (with(&[5.0, 6.0, 7.0, 8.0, 7.0]).unwrap() - 0.820_782_681_668_123_3).abs() < 1e-12
        );
        assert_eq!((with(&[1.0, 2.0]), with(&[1.0, 1.0, 1.0])), (None, None));
    }
}
