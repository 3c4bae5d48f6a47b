//! What each kernel costs on this core, for a plugin that counts the instructions between the
//! marks.
//!
//! ```text
//! count [isa=NAME] CASE ...    one region of marks a case, in this order
//! count list                   the names of all cases
//! ```
//!
//! For each case it prints the name and by how many multiply-accumulates or elements to divide the
//! count.

#![no_std]
#![no_main]

use core::mem::MaybeUninit;

use cortex_m_rt::entry;
use kinglet_cortex_m::arena::Arena;
use kinglet_cortex_m::host::{ARGUMENT_BYTES, Arguments, Exit, exit};
use kinglet_cortex_m::memory::{Memory, Random};
use kinglet_cortex_m::{marks, say};
use kinglet_kernels::cache::{CHUNK, CacheShape, Head};
use kinglet_kernels::{
    ActivationsMut, Format, Isa, Mask, Matrix, Scratch, ValueFormat, activations,
};

/// What is measured.
#[derive(Clone, Copy)]
enum Case {
    /// Rows, columns, rows of activations.
    Matmul(Format, usize, usize, usize),
    /// The same for one row and a sparse matrix with so many quarters of the blocks; to be divided
    /// by the work of the dense one.
    Sparse(Format, usize, usize, usize),
    /// Scores, a chunk at a time.
    Softmax(usize),
    RmsNorm(usize),
    Quantize(usize),
    SiluMul(usize),
    Transform(usize),
    /// Positions, dimensions of a head.
    Attend(usize, usize),
}

use Case::{Attend, Matmul, Quantize, RmsNorm, SiluMul, Softmax, Sparse, Transform};
use Format::{Int4, Int4Codebook, Int8, Int8Grouped};

const CASES: [(&str, Case); 33] = [
    ("int8-512x512", Matmul(Int8, 512, 512, 1)),
    ("int8-768x288", Matmul(Int8, 768, 288, 1)),
    ("int8-288x768", Matmul(Int8, 288, 768, 1)),
    ("grouped-512x512", Matmul(Int8Grouped, 512, 512, 1)),
    ("grouped-768x288", Matmul(Int8Grouped, 768, 288, 1)),
    ("grouped-288x768", Matmul(Int8Grouped, 288, 768, 1)),
    ("int4-512x512", Matmul(Int4, 512, 512, 1)),
    ("int4-768x288", Matmul(Int4, 768, 288, 1)),
    ("int4-288x768", Matmul(Int4, 288, 768, 1)),
    ("codebook-512x512", Matmul(Int4Codebook, 512, 512, 1)),
    ("codebook-768x288", Matmul(Int4Codebook, 768, 288, 1)),
    ("codebook-288x768", Matmul(Int4Codebook, 288, 768, 1)),
    ("int8-512x512x16", Matmul(Int8, 512, 512, 16)),
    ("grouped-512x512x16", Matmul(Int8Grouped, 512, 512, 16)),
    ("int4-512x512x16", Matmul(Int4, 512, 512, 16)),
    ("codebook-512x512x16", Matmul(Int4Codebook, 512, 512, 16)),
    ("int8-512x512-all-blocks", Sparse(Int8, 512, 512, 4)),
    ("int8-512x512-half-of-blocks", Sparse(Int8, 512, 512, 2)),
    ("int8-512x512-quarter-of-blocks", Sparse(Int8, 512, 512, 1)),
    ("grouped-512x512-half-of-blocks", Sparse(Int8Grouped, 512, 512, 2)),
    ("int4-512x512-all-blocks", Sparse(Int4, 512, 512, 4)),
    ("int4-512x512-half-of-blocks", Sparse(Int4, 512, 512, 2)),
    ("int4-512x512-quarter-of-blocks", Sparse(Int4, 512, 512, 1)),
    ("codebook-512x512-all-blocks", Sparse(Int4Codebook, 512, 512, 4)),
    ("codebook-512x512-half-of-blocks", Sparse(Int4Codebook, 512, 512, 2)),
    ("codebook-512x512-quarter-of-blocks", Sparse(Int4Codebook, 512, 512, 1)),
    ("softmax-512", Softmax(512)),
    ("rms-norm-512", RmsNorm(512)),
    ("quantize-512", Quantize(512)),
    ("silu-mul-512", SiluMul(512)),
    ("transform-64", Transform(64)),
    ("transform-576", Transform(576)),
    ("attend-128x64", Attend(128, 64)),
];

#[entry]
fn main() -> ! {
    let mut words = [MaybeUninit::uninit(); ARGUMENT_BYTES];
    let arguments = Arguments::read(&mut words);
    let name = arguments.text_of("isa");
    let Some(isa) = name.map_or(Some(Isa::detect()), Isa::by_name) else {
        say!("no instruction set {}", name.unwrap_or(""));
        exit(Exit::Unusable)
    };
    let names = arguments.rest();
    if names == "list" {
        for (name, _) in CASES {
            say!("{name}");
        }
        exit(Exit::Good)
    }
    let mut arena = Arena::take().expect("nothing took it before");
    for name in names.split(' ').filter(|name| !name.is_empty()) {
        let Some((_, case)) = CASES.iter().find(|(known, _)| *known == name) else {
            say!("no case {name}; `list` prints them");
            exit(Exit::Unusable)
        };
        let capacity = kinglet_cortex_m::board::ARENA_BYTES;
        let units = run(isa, *case, Memory::new(arena.lend(capacity).expect("it is the capacity")));
        say!("{name} {units} {}", isa.name());
    }
    exit(Exit::Good)
}

/// Runs a case between the marks. Returns its multiply-accumulates, or elements.
// Longer than sixty lines: one arm a case, and each reads from top to bottom.
fn run(isa: Isa, case: Case, mut memory: Memory<'_>) -> usize {
    let mut random = Random(1);
    match case {
        Matmul(format, rows, cols, tokens) => {
            let w = memory.bytes(format.bytes(rows, cols).expect("a shape"));
            random.matrix(format, rows, cols, w);
            let w = Matrix::new(format, rows, cols, w).expect("a matrix");
            let x = random.activations(&mut memory, tokens, cols);
            let out = memory.floats(tokens * rows);
            marks::begin();
            isa.matmul(&w, &x, 0..w.panels(), out, rows);
            marks::end();
            tokens * rows * cols
        }
        Sparse(format, rows, cols, quarters) => {
            let w = random.sparse(&mut memory, format, [rows, cols], quarters);
            let x = random.activations(&mut memory, 1, cols);
            let out = memory.floats(rows);
            marks::begin();
            isa.matmul(&w, &x, 0..w.panels(), out, rows);
            marks::end();
            rows * cols
        }
        Softmax(n) => {
            let (scores, scales) = (memory.floats(n), memory.floats(n));
            random.floats(scores, 8.0);
            random.floats(scales, 1.0);
            scales.iter_mut().for_each(|s| *s = s.abs());
            let scores = scores.as_chunks::<CHUNK>().0;
            marks::begin();
            isa.softmax(scores, scales);
            marks::end();
            n
        }
        RmsNorm(n) => {
            let (x, weight, out) = (memory.floats(n), memory.floats(n), memory.floats(n));
            random.floats(x, 4.0);
            random.floats(weight, 1.0);
            marks::begin();
            isa.rms_norm(x, weight, 1e-5, out);
            marks::end();
            n
        }
        Quantize(n) => {
            let (x, codes, sums, scales) = (
                memory.floats(n),
                memory.codes(activations::stride(n)),
                memory.sums(activations::sums(n)),
                memory.floats(1),
            );
            random.floats(x, 4.0);
            let mut to = ActivationsMut::new(codes, sums, scales, n);
            marks::begin();
            isa.quantize(x, &mut to, 0);
            marks::end();
            n
        }
        SiluMul(n) => {
            let (gate, up) = (memory.floats(n), memory.floats(n));
            random.floats(gate, 8.0);
            random.floats(up, 4.0);
            marks::begin();
            isa.silu_mul(gate, up);
            marks::end();
            n
        }
        Transform(n) => {
            let x = memory.floats(n);
            random.floats(x, 4.0);
            marks::begin();
            isa.transform(x);
            marks::end();
            n
        }
        Attend(positions, dim) => {
            let shape = CacheShape::new(positions, dim, ValueFormat::Int8);
            let (codes, scales) = (memory.codes(shape.codes()), memory.halves(shape.scales()));
            random.cache(codes, scales);
            let q = memory.floats(dim);
            random.floats(q, 1.0);
            let head = Head::new(shape, codes, scales);
            let (over, mut scratch) = ((&head, Mask::causal(positions), 0.125), Scratch::EMPTY);
            marks::begin();
            isa.attend_in(over, (q, 1, dim), None, &mut scratch);
            marks::end();
            2 * positions * dim
        }
    }
}
