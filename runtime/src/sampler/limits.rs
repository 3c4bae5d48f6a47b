//! The least weight that top-k or top-p keeps, in few passes over the weights.
//!
//! Weights are numbers from 0 to 1, whose order is that of their bits. A pass counts those of an
//! interval into bins; the bin in which the goal is reached is the next interval. As soon as few
//! enough weights are left, they are collected and sorted instead. The first interval has eight
//! bins an octave, so that what a language model gives is found with one counting and one
//! collecting pass; many equal weights take more.

/// Eight an octave for the first 24 octaves, and one for the weight 1.
const BINS: usize = 24 * 8 + 1;
/// Weights that can be collected, in the memory of the bins.
const MOST: usize = 2 * BINS;
/// After the bits of the largest weight.
const END: u32 = 1f32.to_bits() + 1;
/// Where the first interval starts: 2^-24.
const FIRST: u32 = 1f32.to_bits() - (24 << 23);

/// How many weights, and their sum.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sum {
    count: u32,
    pub(super) sum: f32,
}

impl Sum {
    fn add(&mut self, weight: f32) {
        self.count += 1;
        self.sum += weight;
    }
}

/// When enough weights are kept.
#[derive(Clone, Copy, Debug)]
pub(super) enum Goal {
    /// So many.
    Count(u32),
    /// So much together.
    Sum(f32),
}

impl Goal {
    fn is_met(self, kept: Sum) -> bool {
        match self {
            Self::Count(count) => kept.count >= count,
            Self::Sum(sum) => kept.sum >= sum,
        }
    }
}

/// What a search needs next.
#[derive(Clone, Copy, Debug)]
pub(super) enum Next {
    /// [`Limits::count`] for every weight.
    Count,
    /// [`Limits::collect`] for every weight.
    Collect,
    /// The least weight that is kept, and the sum of those kept.
    Found(f32, f32),
}

/// A search.
#[derive(Clone, Debug)]
pub(super) struct Limits {
    /// Bits of the least weight that the search may keep.
    least: u32,
    /// The bits of the weights that are searched, from here on.
    low: u32,
    /// Up to here.
    high: u32,
    /// A bin is so many bits wide.
    shift: u32,
    /// Weights above the interval.
    above: Sum,
    /// Counts and bits of sums of the bins; or the bits of weights that were collected, the largest
    /// first.
    words: [u32; MOST],
    /// How many were collected.
    len: usize,
}

impl Limits {
    pub(super) const fn new() -> Self {
        Self {
            least: 0,
            low: 0,
            high: 0,
            shift: 0,
            above: Sum { count: 0, sum: 0.0 },
            words: [0; MOST],
            len: 0,
        }
    }

    /// Searches among all weights.
    pub(super) fn start(&mut self) {
        self.least = 0;
        self.within(FIRST, END, Sum::default());
    }

    /// Searches among weights that are at least `limit`.
    pub(super) fn start_from(&mut self, limit: f32) {
        self.least = limit.to_bits();
        self.within(self.least, END, Sum::default());
    }

    fn within(&mut self, low: u32, high: u32, above: Sum) {
        (self.low, self.high, self.above, self.len) = (low, high, above, 0);
        self.shift = 0;
        while (high - low - 1) >> self.shift >= BINS as u32 {
            self.shift += 1;
        }
        self.words = [0; MOST];
    }

    fn holds(&self, weight: f32) -> Option<u32> {
        let bits = weight.to_bits();
        (self.low..self.high).contains(&bits).then(|| bits - self.low)
    }

    /// A weight, when counts are needed.
    #[inline]
    pub(super) fn count(&mut self, weight: f32) {
        let Some(bits) = self.holds(weight) else { return };
        let (bin, bins) = ((bits >> self.shift) as usize, self.words.as_chunks_mut().0);
        if let Some([count, sum]) = bins.get_mut(bin) {
            *count += 1;
            *sum = (f32::from_bits(*sum) + weight).to_bits();
        }
    }

    /// A weight, when all of the interval are to be collected.
    #[inline]
    pub(super) fn collect(&mut self, weight: f32) {
        if self.holds(weight).is_none() {
            return;
        }
        let mut held = weight.to_bits();
        let larger = self.words.iter().take(self.len).filter(|&&bits| bits >= held).count();
        self.len = (self.len + 1).min(MOST);
        for bits in self.words.iter_mut().take(self.len).skip(larger) {
            core::mem::swap(bits, &mut held);
        }
    }

    /// What comes after all weights were counted.
    pub(super) fn counted(&mut self, goal: Goal) -> Next {
        let mut above = self.above;
        let bins = self.words.as_chunks().0.iter().enumerate().rev();
        for (i, &[count, sum]) in bins.filter(|(_, [count, _])| *count > 0) {
            let bin = Sum { count, sum: f32::from_bits(sum) };
            let with = Sum { count: above.count + bin.count, sum: above.sum + bin.sum };
            if !goal.is_met(with) {
                above = with;
                continue;
            }
            let low = self.low + ((i as u32) << self.shift);
            let high = self.high.min(low + (1 << self.shift));
            if high - low == 1 {
                return Next::Found(f32::from_bits(low), with.sum);
            }
            let few = bin.count as usize <= MOST;
            // All of them, if they are few, so that another goal can be found among them.
            match with.count as usize <= MOST {
                true => self.within(low, END, Sum::default()),
                false => self.within(low, high, above),
            }
            return if few { Next::Collect } else { Next::Count };
        }
        if self.low == self.least {
            return Next::Found(f32::from_bits(self.least), above.sum);
        }
        self.within(self.least, self.low, above);
        Next::Count
    }

    /// The least weight that is kept, and the sum of those kept, after all were collected.
    pub(super) fn collected(&self, goal: Goal) -> (f32, f32) {
        let (mut kept, mut limit) = (self.above, f32::INFINITY);
        for value in self.values() {
            // Those that equal the last are kept, too.
            if goal.is_met(kept) && value < limit {
                break;
            }
            kept.add(value);
            limit = value;
        }
        (limit, kept.sum)
    }

    /// Whether what was collected is all that is kept.
    pub(super) fn has_all(&self) -> bool {
        self.len > 0 && self.above.count == 0
    }

    /// The sum of what was collected and is at least `limit`.
    pub(super) fn sum_from(&self, limit: f32) -> f32 {
        self.values().filter(|&value| value >= limit).sum()
    }

    fn values(&self) -> impl Iterator<Item = f32> {
        self.words.iter().take(self.len).map(|&bits| f32::from_bits(bits))
    }
}
