//! The merges: always the pair of the lowest rank, the leftmost of equals, until no pair merges.
//!
//! ```text
//! scratch, for n symbols:   ids [n]   spans [n]   ranks [n]   winners [< n + log2 n + 1]
//! ```
//!
//! A symbol lives at the place of its first part. `spans` holds its width at its first and at its
//! last place, which is all that is needed to walk to both neighbours. `ranks[i]` is the rank of
//! the symbol at `i` with its right neighbour, `NONE` if they do not merge or nothing starts at
//! `i`. `winners` is a tournament over the ranks: level by level, the place of the lower rank of
//! two, the left one of equals, up to a single place at its end.
//!
//! Invariants: all indices come from this module, none from the file; each round joins two symbols,
//! so there are fewer than n rounds, of O(log n + log merges) each, whatever the merge table says.

use super::layout::NONE;
use super::tables::Merges;

/// Words of scratch that merging `symbols` symbols takes.
pub(super) const fn scratch_words(symbols: usize) -> usize {
    let mut total = symbols.saturating_mul(3);
    let mut level = symbols;
    while level > 1 {
        level = level.div_ceil(2);
        total = total.saturating_add(level);
    }
    total
}

/// The symbols of one piece during merging.
struct Chain<'s, 'a> {
    ids: &'s mut [u32],
    spans: &'s mut [u32],
    ranks: &'s mut [u32],
    winners: &'s mut [u32],
    merges: Merges<'a>,
}

/// Merges the `symbols` ids at the start of `scratch` and hands the resulting tokens to `emit`, in
/// order.
///
/// The scratch must hold [`scratch_words`]`(symbols)` words; with fewer, the ids are emitted as
/// they are.
pub(super) fn merge(
    merges: Merges<'_>,
    symbols: usize,
    scratch: &mut [u32],
    mut emit: impl FnMut(u32),
) {
    let (ids, rest) = scratch.split_at_mut(symbols.min(scratch.len()));
    if symbols < 2 || rest.len() < scratch_words(symbols) - symbols {
        ids.iter().for_each(|&id| emit(id));
        return;
    }
    let (spans, rest) = rest.split_at_mut(symbols);
    let (ranks, rest) = rest.split_at_mut(symbols);
    let (winners, _) = rest.split_at_mut(scratch_words(symbols) - 3 * symbols);
    let mut chain = Chain { ids, spans, ranks, winners, merges };
    chain.start();
    while chain.join_best() {}
    let mut at = 0;
    while at < symbols {
        emit(chain.ids[at]);
        at += chain.spans[at] as usize;
    }
}

impl Chain<'_, '_> {
    /// Single symbols, their ranks, and the first tournament, in time linear in the symbols.
    fn start(&mut self) {
        let n = self.ids.len();
        self.spans.fill(1);
        for i in 0..n {
            self.ranks[i] = self.rank_of(i);
        }
        let (mut below, mut width, mut base) = (None, n, 0);
        while width > 1 {
            for pair in 0..width.div_ceil(2) {
                self.winners[base + pair] = self.play(below, width, pair);
            }
            below = Some(base);
            width = width.div_ceil(2);
            base += width;
        }
    }

    /// Joins the best pair; false if none is left.
    fn join_best(&mut self) -> bool {
        let left = self.winners[self.winners.len() - 1] as usize;
        let Some(result) = self.merges.result(self.ranks[left]) else {
            return false;
        };
        let right = left + self.spans[left] as usize;
        let width = self.spans[left] + self.spans[right];
        self.ids[left] = result;
        self.spans[left] = width;
        self.spans[left + width as usize - 1] = width;
        self.set_rank(right, NONE);
        self.set_rank(left, self.rank_of(left));
        if left > 0 {
            let before = left - self.spans[left - 1] as usize;
            self.set_rank(before, self.rank_of(before));
        }
        true
    }

    /// The rank of the symbol at `at` with its right neighbour.
    fn rank_of(&self, at: usize) -> u32 {
        let right = at + self.spans[at] as usize;
        if right < self.ids.len() { self.merges.rank(self.ids[at], self.ids[right]) } else { NONE }
    }

    /// The winner of pair `pair` of a level of `width` places whose winners start at `below`; the
    /// lowest level has no winners but the places themselves.
    fn play(&self, below: Option<usize>, width: usize, pair: usize) -> u32 {
        let player = |i: usize| below.map_or(i as u32, |base| self.winners[base + i]);
        let left = player(2 * pair);
        if 2 * pair + 1 == width {
            return left;
        }
        let right = player(2 * pair + 1);
        if self.ranks[right as usize] < self.ranks[left as usize] { right } else { left }
    }

    /// Changes one rank and replays the matches it takes part in.
    fn set_rank(&mut self, at: usize, rank: u32) {
        if self.ranks[at] == rank {
            return;
        }
        self.ranks[at] = rank;
        let (mut below, mut width, mut base, mut pair) = (None, self.ids.len(), 0, at / 2);
        while width > 1 {
            let winner = self.play(below, width, pair);
            // A match that someone else won before and wins again changes nothing above it.
            if self.winners[base + pair] == winner && winner as usize != at {
                return;
            }
            self.winners[base + pair] = winner;
            below = Some(base);
            width = width.div_ceil(2);
            base += width;
            pair /= 2;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tables::{PairTable, WordTable};
    use super::*;

    /// Merges of bytes: 1 + 2 -> 10 (rank 0), 10 + 3 -> 11 (rank 2), 2 + 3 -> 12 (rank 1), 1 + 1 ->
    /// 1 (rank 3).
    fn tokens(input: &[u32]) -> impl Iterator<Item = u32> {
        let words = |words: &[u32]| {
            words.iter().flat_map(|w| w.to_le_bytes()).collect::<std::vec::Vec<u8>>()
        };
        let starts = words(&[0, 0, 2, 3, 3, 3, 3, 3, 3, 3, 3, 4]);
        let pairs = words(&[1, 3, 2, 0, 3, 1, 3, 2]);
        let results = words(&[10, 12, 11, 1]);
        let merges = Merges {
            starts: WordTable::new(&starts),
            pairs: PairTable::new(&pairs),
            results: WordTable::new(&results),
        };
        let mut scratch = std::vec![0; scratch_words(input.len())];
        scratch[..input.len()].copy_from_slice(input);
        let mut out = std::vec::Vec::new();
        merge(merges, input.len(), &mut scratch, |id| out.push(id));
        out.into_iter()
    }

    #[test]
    fn the_lowest_rank_goes_first() {
        assert!(tokens(&[1, 2, 3]).eq([11]));
        assert!(tokens(&[2, 3, 1, 2]).eq([12, 10]));
        assert!(tokens(&[1, 2, 3, 3]).eq([11, 3]));
        assert!(tokens(&[]).eq([]));
        assert!(tokens(&[2]).eq([2]));
    }

    #[test]
    fn the_leftmost_of_equals_goes_first() {
        for n in 2..40 {
            assert!(tokens(&std::vec![1; n]).eq([1]));
        }
    }

    #[test]
    fn scratch_is_less_than_four_words_a_symbol_and_a_logarithm() {
        for n in 1..5000 {
            assert!(scratch_words(n) <= 4 * n + usize::BITS as usize);
            assert!(scratch_words(n) >= scratch_words(n - 1));
        }
    }
}
