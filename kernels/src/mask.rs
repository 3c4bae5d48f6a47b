//! What the rows of a call of attention see.

#[cfg(feature = "families")]
pub use rest::Bias;
use rest::Rest;

/// The positions that each row sees: up to which one, and from which one on.
#[derive(Clone, Copy, Debug)]
pub struct Mask<'a> {
    len: usize,
    rest: Rest<'a>,
}

impl Mask<'_> {
    /// Row `t` sees `len + t` positions: with its own at the end, a row of a decoder.
    pub const fn causal(len: usize) -> Self {
        Self { len, rest: Rest::CAUSAL }
    }

    /// The end of the positions that row `row` sees.
    #[inline(always)]
    pub(crate) fn end(&self, row: usize) -> usize {
        self.len + self.rest.more(row)
    }

    /// The first position that row `row` sees.
    #[inline(always)]
    pub(crate) fn start(&self, row: usize) -> usize {
        self.rest.start(self.end(row))
    }

    /// Whether each row up to `last` sees a position and no more than there are, and a bias, if
    /// there is one, is a table for `heads` heads.
    #[inline(always)]
    pub(crate) fn fits(&self, positions: usize, heads: usize, last: usize) -> bool {
        (1..=positions).contains(&self.len)
            && self.rest.more(last) <= positions - self.len
            && self.rest.fits(heads, last)
    }

    /// Adds the bias of head `head` of `heads` to scores of row `row`, of which the first is that
    /// of position `first`.
    #[inline(always)]
    pub(crate) fn add_bias(
        &self,
        scores: &mut [f32],
        row: usize,
        [head, heads]: [usize; 2],
        first: usize,
    ) {
        self.rest.add_bias(scores, row, [head, heads], first);
    }
}

/// Everything that some families need.
#[cfg(feature = "families")]
mod rest {
    use super::Mask;

    /// A bias by distance: `table[h][clamp(j - (first + t), -R, R) + R]` is added to the score of
    /// row `t`, head `h` of the call and position `j`, after scaling. The unit is log 2, so what a
    /// model adds to scores is multiplied by log2(e) beforehand.
    #[derive(Clone, Copy, Debug)]
    pub struct Bias<'a> {
        /// For each head of the call `2 R + 1` numbers.
        pub table: &'a [f32],
        /// The position of row 0.
        pub first: usize,
    }

    #[derive(Clone, Copy, Debug)]
    pub(super) struct Rest<'a> {
        /// How many positions further a row sees than the one before.
        step: usize,
        /// The most positions that a row sees, its own among them; at least 1.
        window: usize,
        bias: Option<Bias<'a>>,
    }

    impl<'a> Mask<'a> {
        /// Every row sees the same `len` positions: a row of an encoder, or of cross attention.
        pub const fn all(len: usize) -> Self {
            Self { len, rest: Rest { step: 0, window: usize::MAX, bias: None } }
        }

        /// The same positions with a bias.
        pub const fn with_bias(self, bias: Bias<'a>) -> Self {
            Self { len: self.len, rest: Rest { bias: Some(bias), ..self.rest } }
        }

        /// Of these positions the last `window`, at least one: a row of a decoder whose attention
        /// slides.
        pub const fn with_window(self, window: usize) -> Self {
            let window = if window == 0 { 1 } else { window };
            Self { len: self.len, rest: Rest { window, ..self.rest } }
        }
    }

    impl Rest<'_> {
        pub(super) const CAUSAL: Self = Self { step: 1, window: usize::MAX, bias: None };

        #[inline(always)]
        pub(super) fn more(&self, row: usize) -> usize {
            self.step * row
        }

        #[inline(always)]
        pub(super) fn start(&self, end: usize) -> usize {
            end.saturating_sub(self.window)
        }

        pub(super) fn fits(&self, heads: usize, last: usize) -> bool {
            self.bias.is_none_or(|Bias { table, first }| {
                table.len().is_multiple_of(heads)
                    && table.len() / heads % 2 == 1
                    && first.checked_add(last).is_some()
            })
        }

        #[inline(always)]
        pub(super) fn add_bias(
            &self,
            scores: &mut [f32],
            row: usize,
            [head, heads]: [usize; 2],
            first: usize,
        ) {
            let Some(bias) = self.bias else { return };
            let width = bias.table.len() / heads;
            let table = &bias.table[head * width..][..width];
            // Places in the table are positions less `back`, and not before the first place or
            // after the last.
            let (position, reach) = (bias.first + row, width / 2);
            let start =
                (first + reach).checked_sub(position).filter(|start| start + scores.len() <= width);
            if let Some(start) = start {
                for (score, add) in scores.iter_mut().zip(&table[start..]) {
                    *score += add;
                }
            } else {
                for (j, score) in scores.iter_mut().enumerate() {
                    *score += table[(first + j + reach).saturating_sub(position).min(width - 1)];
                }
            }
        }
    }
}

/// A program for decoders alone is smaller.
#[cfg(not(feature = "families"))]
mod rest {
    use core::marker::PhantomData;

    #[derive(Clone, Copy, Debug)]
    pub(super) struct Rest<'a>(PhantomData<&'a [f32]>);

    impl Rest<'_> {
        pub(super) const CAUSAL: Self = Self(PhantomData);

        #[inline(always)]
        pub(super) fn more(&self, row: usize) -> usize {
            row
        }

        #[inline(always)]
        pub(super) fn start(&self, _: usize) -> usize {
            0
        }

        #[inline(always)]
        pub(super) fn fits(&self, _: usize, _: usize) -> bool {
            true
        }

        #[inline(always)]
        pub(super) fn add_bias(&self, _: &mut [f32], _: usize, _: [usize; 2], _: usize) {}
    }
}
