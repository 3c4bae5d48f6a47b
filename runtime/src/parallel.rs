//! How work is divided. Every division gives the same bits; [`Parallel`] only decides who does it.

use kinglet_kernels::ActivationsMut;

/// Runs two pieces of work, perhaps at the same time.
pub trait Parallel: Sync {
    /// How many pieces are worth making.
    fn ways(&self) -> usize;

    /// Runs both and returns when both are done.
    fn join(&self, a: impl FnOnce() + Send, b: impl FnOnce() + Send);

    /// Multiply-accumulates, or what takes as long, that are worth handing over.
    fn worth(&self) -> usize {
        1 << 15
    }
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

    fn worth(&self) -> usize {
        (*self).worth()
    }
}

/// A pool of threads. Idle threads sleep.
#[cfg(feature = "std")]
#[derive(Debug)]
pub struct Threads(rayon::ThreadPool);

#[cfg(feature = "std")]
impl Threads {
    /// A pool of `n` threads; 0 means one for each core.
    ///
    /// # Errors
    /// When the system gives no threads.
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

/// Work that can be cut between units.
pub(crate) trait Divide: Sized + Send {
    /// How many units there are.
    fn units(&self) -> usize;

    /// The first `at` units, and the others.
    fn divide(self, at: usize) -> (Self, Self);
}

/// Items in units of `size`; the last may be cut.
pub(crate) struct Units<'a, T> {
    pub(crate) items: &'a mut [T],
    pub(crate) size: usize,
}

impl<T: Send> Divide for Units<'_, T> {
    fn units(&self) -> usize {
        self.items.len().div_ceil(self.size)
    }

    fn divide(self, at: usize) -> (Self, Self) {
        let (a, b) = self.items.split_at_mut(at * self.size);
        (Self { items: a, size: self.size }, Self { items: b, size: self.size })
    }
}

impl Divide for ActivationsMut<'_> {
    fn units(&self) -> usize {
        self.rows()
    }

    fn divide(self, at: usize) -> (Self, Self) {
        self.split_at(at)
    }
}

/// What only one piece of work can have; the others make their own.
pub(crate) struct Only<'a, T>(pub(crate) Option<&'a mut T>);

impl<T: Send> Divide for Only<'_, T> {
    fn units(&self) -> usize {
        usize::MAX
    }

    fn divide(self, _: usize) -> (Self, Self) {
        (self, Self(None))
    }
}

/// Two that are cut alike.
impl<A: Divide, B: Divide> Divide for (A, B) {
    fn units(&self) -> usize {
        self.0.units()
    }

    fn divide(self, at: usize) -> (Self, Self) {
        let ((a, c), (b, d)) = (self.0.divide(at), self.1.divide(at));
        ((a, b), (c, d))
    }
}

/// Cuts `items` into as many pieces as the machine has ways, fewer if a unit's `cost` in
/// multiply-accumulates makes them too small, and calls `work` with the number of the first unit of
/// each.
pub(crate) fn split<P: Parallel, D: Divide>(
    parallel: &P,
    cost: usize,
    items: D,
    work: &(impl Fn(usize, D) + Sync),
) {
    split_into(parallel, parallel.ways(), cost, items, work);
}

/// The same for units that differ in cost: into more pieces, so that who is done early takes
/// another.
pub(crate) fn split_uneven<P: Parallel, D: Divide>(
    parallel: &P,
    cost: usize,
    items: D,
    work: &(impl Fn(usize, D) + Sync),
) {
    let ways = parallel.ways();
    split_into(parallel, if ways > 1 { 8 * ways } else { 1 }, cost, items, work);
}

fn split_into<P: Parallel, D: Divide>(
    parallel: &P,
    pieces: usize,
    cost: usize,
    items: D,
    work: &(impl Fn(usize, D) + Sync),
) {
    let worth = items.units().saturating_mul(cost.max(1)) / parallel.worth().max(1);
    split_from(parallel, pieces.min(worth), 0, items, work);
}

fn split_from<P: Parallel, D: Divide>(
    parallel: &P,
    pieces: usize,
    first: usize,
    items: D,
    work: &(impl Fn(usize, D) + Sync),
) {
    let units = items.units();
    if pieces < 2 || units < 2 {
        return work(first, items);
    }
    let half = units / 2;
    let (a, b) = items.divide(half);
    parallel.join(
        || split_from(parallel, pieces / 2, first, a, work),
        || split_from(parallel, pieces - pieces / 2, first + half, b, work),
    );
}
