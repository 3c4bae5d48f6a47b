//! How work is divided. Every division gives the same bits; [`Parallel`] only decides who does it.

/// Runs two pieces of work, perhaps at the same time.
pub trait Parallel: Sync {
    /// How many pieces are worth making.
    fn ways(&self) -> usize;

    /// Runs both and returns when both are done.
    fn join(&self, a: impl FnOnce() + Send, b: impl FnOnce() + Send);
}

/// One after the other, on the caller's thread.
#[derive(Clone, Copy, Debug, Default)]
pub struct Serial;

impl Parallel for Serial {
    fn ways(&self) -> usize {
        1
    }

    fn join(&self, a: impl FnOnce() + Send, b: impl FnOnce() + Send) {
        a();
        b();
    }
}

impl<P: Parallel> Parallel for &P {
    fn ways(&self) -> usize {
        (*self).ways()
    }

    fn join(&self, a: impl FnOnce() + Send, b: impl FnOnce() + Send) {
        (*self).join(a, b);
    }
}

/// A pool of threads. Idle threads sleep.
#[cfg(feature = "std")]
#[derive(Debug)]
pub struct Threads(rayon::ThreadPool);

#[cfg(feature = "std")]
impl Threads {
    /// A pool of `n` threads; 0 means one for each core.
    pub fn new(n: usize) -> std::io::Result<Self> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(n).build();
        pool.map(Self).map_err(std::io::Error::other)
    }

    /// Runs `work` on a thread of the pool, so that what it joins starts without waking one first.
    pub fn enter<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        self.0.install(work)
    }
}

#[cfg(feature = "std")]
impl Parallel for Threads {
    fn ways(&self) -> usize {
        self.0.current_num_threads()
    }

    fn join(&self, a: impl FnOnce() + Send, b: impl FnOnce() + Send) {
        self.0.join(a, b);
    }
}

/// Cuts `items` at multiples of `unit` into as many pieces as the machine has ways and calls `work` with the
/// number of the first unit of each.
pub(crate) fn split<P: Parallel, T: Send>(
    parallel: &P,
    items: &mut [T],
    unit: usize,
    work: &(impl Fn(usize, &mut [T]) + Sync),
) {
    split_from(parallel, parallel.ways(), 0, items, unit, work);
}

fn split_from<P: Parallel, T: Send>(
    parallel: &P,
    ways: usize,
    first: usize,
    items: &mut [T],
    unit: usize,
    work: &(impl Fn(usize, &mut [T]) + Sync),
) {
    let units = items.len().div_ceil(unit);
    if ways < 2 || units < 2 {
        return work(first, items);
    }
    let half = units / 2;
    let (a, b) = items.split_at_mut(half * unit);
    parallel.join(
        || split_from(parallel, ways / 2, first, a, unit, work),
        || split_from(parallel, ways - ways / 2, first + half, b, unit, work),
    );
}
