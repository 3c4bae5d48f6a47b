//! From numbers to places on paper, with ticks at round numbers.

use std::ops::RangeInclusive;

/// An axis.
#[derive(Clone, Debug)]
pub(crate) struct Scale {
    log: bool,
    low: f64,
    high: f64,
    pixels: (f64, f64),
    /// The round numbers within the range.
    pub(crate) ticks: Vec<f64>,
}

impl Scale {
    /// An axis for `values` over these pixels; logarithmic if all values are positive and they span
    /// a factor of 8. Values that are not finite do not count.
    pub(crate) fn new(values: impl Iterator<Item = f64>, pixels: RangeInclusive<f64>) -> Self {
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        for value in values.filter(|v| v.is_finite()) {
            (low, high) = (low.min(value), high.max(value));
        }
        if low > high {
            (low, high) = (0.0, 1.0);
        }
        let log = low > 0.0 && high / low > 8.0;
        let ticks = if log {
            (low, high) = (low / 1.15, high * 1.15);
            log_ticks(low, high)
        } else {
            // From zero, where that does not squeeze the data into a corner.
            if low > 0.0 && high > 1.4 * low {
                low = 0.0;
            }
            if high == low {
                (low, high) = (low.min(0.0), if high > 0.0 { high * 1.2 } else { 1.0 });
            }
            let step = step(high - low);
            (low, high) = ((low / step).floor() * step, (high / step).ceil() * step);
            let n = ((high - low) / step).round() as usize;
            (0..=n).map(|i| low + i as f64 * step).collect()
        };
        Self { log, low, high, pixels: (*pixels.start(), *pixels.end()), ticks }
    }

    pub(crate) fn at(&self, value: f64) -> f64 {
        let f = |v: f64| if self.log { v.ln() } else { v };
        let part = (f(value) - f(self.low)) / (f(self.high) - f(self.low));
        self.pixels.0 + part * (self.pixels.1 - self.pixels.0)
    }
}

/// Powers of ten with what lies between, few enough to be read: 1, 1-3, 1-2-5.
fn log_ticks(low: f64, high: f64) -> Vec<f64> {
    let exponents = low.log10().floor() as i32..=high.log10().ceil() as i32;
    let ticks = |digits: &[f64]| -> Vec<f64> {
        let all = exponents.clone().flat_map(|e| digits.iter().map(move |d| d * 10f64.powi(e)));
        all.filter(|t| (low..=high).contains(t)).collect()
    };
    let candidates = [ticks(&[1.0]), ticks(&[1.0, 3.0]), ticks(&[1.0, 2.0, 5.0])];
    candidates
        .into_iter()
        .find(|ticks| ticks.len() >= 3)
        .unwrap_or_else(|| ticks(&[1.0, 2.0, 3.0, 5.0, 7.0]))
}

/// A round step for about four intervals.
fn step(span: f64) -> f64 {
    let rough = span / 4.0;
    let power = 10f64.powf(rough.log10().floor());
    let digits = [1.0, 2.0, 2.5, 5.0, 10.0].into_iter().find(|d| d * power >= rough * 0.99);
    digits.unwrap_or(10.0) * power
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_cover_the_data() {
        let linear = Scale::new([3.0, 17.0].into_iter(), 0.0..=100.0);
        assert_eq!(
            (linear.log, linear.ticks.as_slice()),
            (false, &[0.0, 5.0, 10.0, 15.0, 20.0][..])
        );
        assert_eq!((linear.at(0.0), linear.at(20.0)), (0.0, 100.0));
        let log = Scale::new([0.002, 0.5].into_iter(), 0.0..=100.0);
        assert!(log.log && log.ticks.len() >= 3, "{log:?}");
        assert!(log.at(0.002) > 0.0 && log.at(0.5) < 100.0);
        let narrow = Scale::new([100.0, 101.0].into_iter(), 0.0..=100.0);
        assert!(
            narrow.ticks.len() >= 3 && narrow.at(100.0) >= 0.0 && narrow.at(101.0) <= 100.0,
            "{narrow:?}"
        );
    }

    #[test]
    fn strange_values_do_no_harm() {
        for values in [
            vec![],
            vec![f64::NAN],
            vec![0.0],
            vec![5.0],
            vec![-1.0, -1.0],
            vec![f64::INFINITY, 1.0],
        ] {
            let scale = Scale::new(values.iter().copied(), 0.0..=100.0);
            assert!(!scale.ticks.is_empty() && scale.ticks.len() < 20, "{values:?} {scale:?}");
            assert!(scale.ticks.iter().all(|&t| scale.at(t).is_finite()), "{values:?} {scale:?}");
        }
    }
}
