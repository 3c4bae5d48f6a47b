//! Hidden states beside the reference's.
//!
//! State 0 is the embedding, state n the residual stream after block n - 1, in the runtime's taps
//! as in the reference. A pruned model has fewer blocks; each of its states meets the one after
//! the same half of the same layer.

use kinglet::Model;

use super::{EvaluateError, Hidden, Part, Place, StateError};
use kinglet_import::checkpoint::Architecture;

/// Where a model's states are among the reference's.
pub(super) struct Alignment {
    /// For each state of the model, that of the reference.
    pub(super) states: Vec<Option<usize>>,
    places: Vec<Option<Place>>,
}

impl Alignment {
    /// No state has a partner where the reference is of another width.
    pub(super) fn new(
        model: &Model<'_>,
        architecture: &Architecture,
    ) -> Result<Self, EvaluateError> {
        let mut places = vec![None];
        for index in 0..model.blocks() {
            let block = model.block(index).map_err(EvaluateError::run)?;
            let part = match block.attention() {
                Some(_) => Part::Attention,
                None => Part::FeedForward,
            };
            places.push(Some(Place { stack: 0, layer: block.layer, part }));
        }
        let same_width = model.last().is_ok_and(|stack| stack.width == architecture.last().width);
        let partner = |own: &Option<Place>| match own {
            _ if !same_width => None,
            None => Some(0),
            Some(own) => Place::all(architecture).position(|place| place == *own).map(|at| at + 1),
        };
        Ok(Self { states: places.iter().map(partner).collect(), places })
    }
}

/// States of a reference, for the first tokens of a group.
pub(super) struct Kept {
    /// Numbers in a row.
    pub(super) width: usize,
    /// Tokens whose rows are kept.
    pub(super) tokens: usize,
    /// The rows of each state; empty where no model needs them.
    pub(super) states: Vec<Vec<f32>>,
}

#[derive(Clone, Copy, Default)]
struct Sum {
    after: Option<Place>,
    tokens: usize,
    error: f64,
    cosine: f64,
}

/// Sums over tokens, for each state that has a partner.
#[derive(Clone, Default)]
pub(super) struct States(Vec<Sum>);

impl States {
    pub(super) fn new(alignment: &Alignment) -> Self {
        let paired =
            alignment.states.iter().zip(&alignment.places).filter(|(partner, _)| partner.is_some());
        Self(paired.map(|(_, &after)| Sum { after, ..Sum::default() }).collect())
    }

    /// Compares rows of the model's state `state`, the first of them that of token `first` of the
    /// group.
    pub(super) fn compare(
        &mut self,
        alignment: &Alignment,
        state: usize,
        rows: &[f32],
        kept: &Kept,
        first: usize,
    ) {
        let Some(partner) = alignment.states[state] else { return };
        let place = alignment.states[..state].iter().flatten().count();
        let width = kept.width;
        let partners = &kept.states[partner][(first.min(kept.tokens) * width)..];
        for (h, r) in rows.chunks_exact(width).zip(partners.chunks_exact(width)) {
            self.0[place].token(h, r);
        }
    }

    pub(super) fn add(&mut self, other: Self) {
        if self.0.is_empty() {
            *self = other;
            return;
        }
        for (sum, other) in self.0.iter_mut().zip(other.0) {
            sum.tokens += other.tokens;
            sum.error += other.error;
            sum.cosine += other.cosine;
        }
    }

    pub(super) fn finish(self) -> Option<Hidden> {
        let tokens = self.0.first().map(|sum| sum.tokens).filter(|&n| n > 0)?;
        let mean = |sum: f64| sum / tokens as f64;
        let states = self.0.iter().map(|sum| StateError {
            after: sum.after,
            relative_error: mean(sum.error),
            cosine: mean(sum.cosine),
        });
        Some(Hidden { tokens, states: states.collect() })
    }
}

impl Sum {
    fn token(&mut self, h: &[f32], r: &[f32]) {
        let (mut difference, mut hh, mut rr, mut hr) = (0.0, 0.0, 0.0, 0.0);
        for (&h, &r) in h.iter().zip(r) {
            let (h, r) = (f64::from(h), f64::from(r));
            difference += (h - r) * (h - r);
            hh += h * h;
            rr += r * r;
            hr += h * r;
        }
        self.tokens += 1;
        // Two rows of zeros are equal; against one, anything is entirely wrong.
        let same = difference == 0.0;
        self.error += if same {
            0.0
        } else if rr == 0.0 {
            1.0
        } else {
            (difference / rr).sqrt()
        };
        self.cosine += if same {
            1.0
        } else if hh * rr == 0.0 {
            0.0
        } else {
            hr / (hh * rr).sqrt()
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_relative_to_the_reference() {
        let mut sum = Sum::default();
        sum.token(&[3.0, 4.0], &[3.0, 4.0]);
        sum.token(&[0.0, 2.0], &[2.0, 0.0]);
        sum.token(&[0.0, 0.0], &[0.0, 0.0]);
        sum.token(&[1.0, 0.0], &[0.0, 0.0]);
        assert!(
            (sum.error - (2f64.sqrt() + 1.0)).abs() < 1e-12 && sum.cosine == 2.0,
            "{} {}",
            sum.error,
            sum.cosine
        );
    }
}
