//! How long products take on this machine.

use std::time::Instant;

use kinglet::{Format, Isa, Memory};
use kinglet_kernels::{Activations, Matrix};

/// Runs of a product, of which the shortest counts.
const RUNS: usize = 30;

/// Times that were measured.
#[derive(Default)]
pub(super) struct Times(Vec<((Format, usize, usize), f64)>);

impl Times {
    /// The time of a product with one row of activations, the shortest of several; each shape is
    /// measured once.
    pub(super) fn seconds(&mut self, isa: Isa, format: Format, rows: usize, cols: usize) -> f64 {
        let key = (format, rows, cols);
        if let Some((_, seconds)) = self.0.iter().find(|(known, _)| *known == key) {
            return *seconds;
        }
        let Some(seconds) = measure(isa, format, rows, cols) else { return f64::INFINITY };
        self.0.push((key, seconds));
        seconds
    }
}

fn measure(isa: Isa, format: Format, rows: usize, cols: usize) -> Option<f64> {
    let mut memory = Memory::new(format.bytes(rows, cols)?).ok()?;
    let matrix = Matrix::new(format, rows, cols, memory.bytes()).ok()?;
    let padded = matrix.padded_cols().next_multiple_of(32);
    let (codes, sums, scales) = (vec![1i8; padded], vec![32i16; padded / 32], [1.0]);
    let x = Activations::new(&codes, &sums, &scales, cols);
    let mut out = vec![0.0; rows];
    let mut best = f64::INFINITY;
    for _ in 0..RUNS {
        let start = Instant::now();
        isa.matmul(&matrix, &x, 0..matrix.panels(), &mut out, rows);
        best = best.min(start.elapsed().as_secs_f64());
    }
    std::hint::black_box(&out);
    Some(best)
}
