//! One kernel at a time, for counting its instructions under an emulator.
//!
//! `count list` names the cases; `count CASE` runs one of them once between two marker instructions
//! (AArch64 alone) and prints its name, its multiply-accumulates and the bytes of weights (or of
//! cache) it reads. A case is named by instruction set, operation and size:
//! `neon/matmul/int8/512x512x1` is one row of activations times 512 x 512 weights. What runs before
//! the markers prepares the operands, so a count belongs to the operation with its dispatch, and to
//! nothing else.

use std::hint::black_box;

use kinglet_kernels::cache::{self, CacheShape, Head};
use kinglet_kernels::layout::{ALIGN, GROUP, PANEL, Planes};
use kinglet_kernels::{
    Activations, ActivationsMut, Format, Isa, Mask, Matrix, Scratch, ValueFormat, activations,
};

/// Rows and columns of the matrices.
const SHAPES: [(usize, usize); 4] = [(512, 512), (288, 288), (768, 288), (288, 768)];
/// Rows of activations: a token, and a piece of a prompt.
const ROWS: [usize; 2] = [1, 16];
/// Dimensions of the heads.
const HEADS: [usize; 2] = [48, 64];
/// Positions that attention sees.
const DEPTH: usize = 128;
/// Values of the elementwise operations.
const LEN: usize = 512;
/// Values of a transform: 2^6 * 3^2.
const SPREAD: usize = 576;

/// What one instruction set is to run.
#[derive(Clone, Copy)]
enum Case {
    Matmul(Format, usize, usize, usize),
    /// So many quarters of the blocks of 512 x 512 weights, times one row.
    Sparse(Format, usize),
    Attend(usize),
    RmsNorm,
    Quantize,
    SiluMul,
    Rope,
    Transform,
}

impl Case {
    fn all() -> Vec<Self> {
        let mut all = vec![];
        for format in counted() {
            for (rows, cols) in SHAPES {
                all.extend(ROWS.map(|m| Self::Matmul(format, rows, cols, m)));
            }
        }
        all.extend(
            counted().flat_map(|format| [4, 2, 1].map(|quarters| Self::Sparse(format, quarters))),
        );
        all.extend(HEADS.map(Self::Attend));
        all.extend([Self::RmsNorm, Self::Quantize, Self::SiluMul, Self::Rope, Self::Transform]);
        all
    }

    fn name(self) -> String {
        match self {
            Self::Matmul(format, rows, cols, m) => {
                format!("matmul/{}/{rows}x{cols}x{m}", name(format))
            }
            Self::Sparse(format, quarters) => format!("sparse/{}/{quarters}-of-4", name(format)),
            Self::Attend(head_dim) => format!("attend/{head_dim}x{DEPTH}"),
            Self::RmsNorm => format!("rms_norm/{LEN}"),
            Self::Quantize => format!("quantize/{LEN}"),
            Self::SiluMul => format!("silu_mul/{LEN}"),
            Self::Rope => format!("rope/{LEN}"),
            Self::Transform => format!("transform/{SPREAD}"),
        }
    }

    /// Runs the case; multiply-accumulates and bytes.
    fn run(self, isa: Isa) -> (usize, usize) {
        match self {
            Self::Matmul(format, rows, cols, m) => matmul(isa, format, rows, cols, m),
            Self::Sparse(format, quarters) => sparse(isa, format, quarters),
            Self::Attend(head_dim) => attend(isa, head_dim),
            Self::Transform => {
                let mut x = values(SPREAD);
                measured(|| isa.transform(&mut x));
                black_box(x);
                (0, 0)
            }
            _ => {
                let (mut x, y) = (values(LEN), values(LEN));
                let mut out = vec![0.0; LEN];
                let (mut codes, mut sums) =
                    (vec![0; activations::stride(LEN)], vec![0; activations::sums(LEN)]);
                let mut scales = [0.0];
                let mut to = ActivationsMut::new(&mut codes, &mut sums, &mut scales, LEN);
                match self {
                    Self::RmsNorm => measured(|| isa.rms_norm(&x, &y, 1e-5, &mut out)),
                    Self::Quantize => measured(|| isa.quantize(&x, &mut to, 0)),
                    Self::SiluMul => measured(|| isa.silu_mul(&mut x, &y)),
                    _ => measured(|| isa.rope(&mut x, &y[..LEN / 2], &y[LEN / 2..])),
                }
                black_box((x, out, codes));
                (0, 0)
            }
        }
    }
}

/// The formats that have kernels of their own.
fn counted() -> impl Iterator<Item = Format> {
    Format::ALL.into_iter().filter(|format| !format.has_offsets())
}

fn name(format: Format) -> &'static str {
    match format {
        Format::Int8 => "int8",
        Format::Int8Grouped => "grouped",
        Format::Int4 => "int4",
        Format::Int4Codebook => "codebook",
        Format::Int4Offset => "int4-offset",
    }
}

/// Runs `f` between the markers.
#[inline(never)]
fn measured(f: impl FnOnce()) {
    // SAFETY: registers keep their values; the instruction only tells the emulator where to start.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        std::arch::asm!("mov x27, x27", options(nostack, preserves_flags));
    }
    f();
    // SAFETY: as above.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        std::arch::asm!("mov x26, x26", options(nostack, preserves_flags));
    }
}

/// Numbers in -1..1 without a pattern.
fn values(n: usize) -> Vec<f32> {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state as f32 / 2_147_483_648.0 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

fn matmul(isa: Isa, format: Format, rows: usize, cols: usize, m: usize) -> (usize, usize) {
    let planes = format.planes(rows, cols).expect("a shape");
    let memory = weights(planes);
    let w = Matrix::new(format, rows, cols, aligned(&memory, planes)).expect("a matrix");
    product(isa, &w, m)
}

/// Memory with any weights, and room to align them.
fn weights(planes: Planes) -> Vec<u8> {
    let mut memory = vec![0u8; planes.end + ALIGN];
    let start = memory.as_ptr().align_offset(ALIGN);
    let bytes = &mut memory[start..][..planes.end];
    for (byte, v) in bytes.iter_mut().zip(values(planes.row_scales)) {
        *byte = (v * 127.0) as i8 as u8;
    }
    bytes[planes.row_scales..planes.index].as_chunks_mut::<4>().0.fill(0.01f32.to_le_bytes());
    memory
}

fn aligned(memory: &[u8], planes: Planes) -> &[u8] {
    &memory[memory.as_ptr().align_offset(ALIGN)..][..planes.end]
}

/// Blocks that are there are scattered; multiply-accumulates are those of the dense matrix.
fn sparse(isa: Isa, format: Format, quarters: usize) -> (usize, usize) {
    const SIZE: usize = 512;
    let there = |p: usize, g: usize| (p + g * g / 3) % 4 < quarters;
    let mask =
        |p: usize| (0..SIZE / GROUP).filter(|&g| there(p, g)).fold(0u32, |mask, g| mask | 1 << g);
    let blocks = (0..SIZE / PANEL).map(|p| mask(p).count_ones()).sum::<u32>() as usize;
    let planes = format.sparse_planes(SIZE, SIZE, blocks).expect("a shape");
    let mut memory = weights(planes);
    let start = memory.as_ptr().align_offset(ALIGN) + planes.index;
    let mut before = 0;
    for (p, [first, there]) in memory[start..].as_chunks_mut::<4>().0.as_chunks_mut::<2>().0
        [..SIZE / PANEL]
        .iter_mut()
        .enumerate()
    {
        (*first, *there) = (u32::to_le_bytes(before), mask(p).to_le_bytes());
        before += mask(p).count_ones();
    }
    let w = Matrix::sparse(format, SIZE, SIZE, aligned(&memory, planes)).expect("a matrix");
    product(isa, &w, 1)
}

fn product(isa: Isa, w: &Matrix<'_>, m: usize) -> (usize, usize) {
    let (rows, cols) = (w.rows(), w.cols());
    let (mut codes, mut sums) =
        (vec![0; m * activations::stride(cols)], vec![0; m * activations::sums(cols)]);
    let mut scales = vec![0.0; m];
    for (row, x) in values(m * cols).chunks(cols).enumerate() {
        isa.quantize(x, &mut ActivationsMut::new(&mut codes, &mut sums, &mut scales, cols), row);
    }
    let x = Activations::new(&codes, &sums, &scales, cols);
    let mut out = vec![0.0; m * rows];
    measured(|| isa.matmul(w, &x, 0..w.panels(), &mut out, rows));
    black_box(out);
    (m * rows * cols, w.bytes())
}

fn attend(isa: Isa, head_dim: usize) -> (usize, usize) {
    let shape = CacheShape::new(DEPTH, head_dim, ValueFormat::Int8);
    let (mut codes, mut scales) = (vec![0; shape.codes()], vec![0; shape.scales()]);
    for (position, kv) in values(DEPTH * 2 * head_dim).chunks(2 * head_dim).enumerate() {
        let (key, value) = kv.split_at(head_dim);
        cache::store(shape, &mut codes, &mut scales, position, key, value);
    }
    let head = Head::new(shape, &codes, &scales);
    let mut q = values(head_dim);
    let (over, mut scratch) = ((&head, Mask::causal(DEPTH), 0.125), Scratch::EMPTY);
    measured(|| isa.attend_in(over, (&mut q, 1, head_dim), None, &mut scratch));
    black_box(q);
    // Keys once, values with two planes of weights.
    (3 * DEPTH * head_dim, shape.codes())
}

fn main() {
    let wanted = std::env::args().nth(1).unwrap_or_else(|| "list".into());
    for isa in Isa::available() {
        for case in Case::all() {
            let name = format!("{}/{}", isa.name(), case.name());
            if wanted == "list" {
                println!("{name}");
            } else if wanted == name {
                let (macs, bytes) = case.run(isa);
                println!("{name} {macs} multiply-accumulates, {bytes} bytes");
                return;
            }
        }
    }
    if wanted != "list" {
        eprintln!("no case {wanted}; `count list` names those of this machine");
        std::process::exit(2);
    }
}
