//! What the machine can do at best.

use std::hint::black_box;
use std::time::Instant;

use kinglet::Parallel;

/// Memory that no cache holds.
pub(super) struct Bandwidth(Vec<u64>);

/// Streams of a thread: one alone reaches little more than half of what several do.
const STREAMS: usize = 8;

impl Bandwidth {
    pub(super) fn new() -> Self {
        Self(vec![1; 256 << 17]) // 256 MiB
    }

    /// Bytes a second with all threads reading it once.
    pub(super) fn measure<P: Parallel>(&self, parallel: &P) -> f64 {
        let start = Instant::now();
        read(parallel, parallel.ways(), &self.0);
        size_of_val(&*self.0) as f64 / start.elapsed().as_secs_f64()
    }
}

fn read<P: Parallel>(parallel: &P, ways: usize, memory: &[u64]) {
    if ways < 2 {
        black_box(sum(memory));
        return;
    }
    let (a, b) = memory.split_at(memory.len() / ways * (ways / 2));
    parallel.join(|| read(parallel, ways / 2, a), || read(parallel, ways - ways / 2, b));
}

fn sum(memory: &[u64]) -> [[u64; 8]; STREAMS] {
    let streams: Vec<&[[u64; 8]]> =
        memory.chunks_exact(memory.len() / STREAMS).map(|stream| stream.as_chunks().0).collect();
    let lines = streams.iter().map(|stream| stream.len()).min().unwrap_or(0);
    let mut sums = [[0; 8]; STREAMS];
    for line in 0..lines {
        for (sums, stream) in sums.iter_mut().zip(&streams) {
            for (sum, v) in sums.iter_mut().zip(&stream[line]) {
                *sum ^= v;
            }
        }
    }
    sums
}
