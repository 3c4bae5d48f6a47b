//! The operations of the f32 forward pass, on rows of f32.

use crate::checkpoint::{Activation, Attention, Rope};

/// A matrix by rows: outputs x inputs.
#[derive(Debug)]
pub(super) struct Matrix {
    cols: usize,
    values: Vec<f32>,
}

impl Matrix {
    pub(super) fn new(cols: usize, values: Vec<f32>) -> Self {
        Self { cols, values }
    }

    pub(super) fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.cols..][..self.cols]
    }

    /// Each row of `x` times the transpose of this matrix. Four rows at a time meet one row of weights.
    pub(super) fn apply(&self, x: &[f32]) -> Vec<f32> {
        let (k, n) = (self.cols, self.values.len() / self.cols);
        let mut y = vec![0.0; x.len() / k * n];
        for (y, x) in y.chunks_mut(4 * n).zip(x.chunks(4 * k)) {
            for (column, w) in self.values.chunks_exact(k).enumerate() {
                for (y, x) in y.chunks_exact_mut(n).zip(x.chunks_exact(k)) {
                    y[column] = dot(x, w);
                }
            }
        }
        y
    }
}

/// A dot product in 16 lanes, which the compiler turns into vectors.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0f32; 16];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<16>(), b.as_chunks::<16>());
    for (a, b) in a.iter().zip(b) {
        for ((lane, a), b) in lanes.iter_mut().zip(a).zip(b) {
            *lane += a * b;
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    lanes.iter().sum::<f32>() + rest
}

pub(super) fn rms_norm(x: &[f32], width: usize, weight: &[f32], eps: f32) -> Vec<f32> {
    let row = |x: &[f32]| {
        let inv = 1.0 / (dot(x, x) / width as f32 + eps).sqrt();
        x.iter().zip(weight).map(|(x, w)| x * inv * w).collect::<Vec<_>>()
    };
    x.chunks_exact(width).flat_map(row).collect()
}

/// Rotates each head of each row by its position.
pub(super) fn rotate(x: &mut [f32], heads: usize, dim: usize, rope: &Rope) {
    let pairs = rope.inv_freq.len();
    for (position, row) in x.chunks_exact_mut(heads * dim).enumerate() {
        for (i, frequency) in rope.inv_freq.iter().enumerate() {
            let (sin, cos) = (position as f64 * frequency).sin_cos();
            let (sin, cos) = (sin as f32 * rope.magnitude, cos as f32 * rope.magnitude);
            for head in row.chunks_exact_mut(dim) {
                let (a, b) = (head[i], head[i + pairs]);
                (head[i], head[i + pairs]) = (a * cos - b * sin, b * cos + a * sin);
            }
        }
    }
}

/// Causal softmax attention.
pub(super) fn attend(a: &Attention, q: &[f32], k: &[f32], v: &[f32]) -> Vec<f32> {
    let (dim, kv_width) = (a.head_dim, a.kv_heads * a.head_dim);
    let mut out = vec![0.0; q.len()];
    let rows = q.chunks_exact(a.heads * dim).zip(out.chunks_exact_mut(a.heads * dim));
    for (position, (q, out)) in rows.enumerate() {
        for (h, (q, out)) in q.chunks_exact(dim).zip(out.chunks_exact_mut(dim)).enumerate() {
            let start = h / (a.heads / a.kv_heads) * dim;
            let head = |x: &[f32], i: usize| -> std::ops::Range<usize> {
                debug_assert!(i * kv_width < x.len());
                i * kv_width + start..i * kv_width + start + dim
            };
            let mut scores: Vec<f32> = (0..=position).map(|i| dot(q, &k[head(k, i)]) * a.scale).collect();
            let top = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            scores.iter_mut().for_each(|s| *s = (*s - top).exp());
            let sum: f32 = scores.iter().sum();
            for (i, score) in scores.iter().enumerate() {
                let weight = score / sum;
                out.iter_mut().zip(&v[head(v, i)]).for_each(|(o, v)| *o += weight * v);
            }
        }
    }
    out
}

/// `x = activation(x) * up`.
pub(super) fn gate(activation: Activation, x: &mut [f32], up: &[f32]) {
    for (x, up) in x.iter_mut().zip(up) {
        *x = activate(activation, *x) * up;
    }
}

fn activate(activation: Activation, x: f32) -> f32 {
    match activation {
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::Relu => x.max(0.0),
        // The C library's erf is not in std; the tanh form differs by less than 5e-4 and the runtime has neither yet.
        Activation::Gelu | Activation::GeluTanh => {
            let cubic =
                std::f32::consts::FRAC_2_SQRT_PI * std::f32::consts::FRAC_1_SQRT_2 * (x + 0.044_715 * x * x * x);
            0.5 * x * (1.0 + cubic.tanh())
        }
    }
}
