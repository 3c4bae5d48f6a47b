//! Proves a firmware image: vector kernels return the bits of the reference, the model is whole,
//! this core computes the bits of the file's maker whatever the chunk size and however often it is
//! interrupted, and nothing but the planned memory is touched.
//!
//! ```text
//! self-test [break=golden|arena|panic|fault|stack]
//! ```
//!
//! `break` does something wrong on purpose, to show that it is found.

#![no_std]
#![no_main]

use core::mem::MaybeUninit;

use cortex_m_rt::entry;
use kinglet::{Golden, LogitsHash, Model, Options, Progress, Session, Source};
use kinglet_cortex_m::arena::Arena;
use kinglet_cortex_m::host::{ARGUMENT_BYTES, Arguments, Exit, exit};
use kinglet_cortex_m::memory::{Memory, Random};
use kinglet_cortex_m::{board, engine, faults, registers, say, stack};
use kinglet_kernels::cache::{CacheShape, Head};
use kinglet_kernels::{ActivationsMut, Format, Isa, Mask, Matrix, ValueFormat, activations};

/// Multiply-accumulates between two interruptions: little enough to stop within every matrix.
const BUDGET: u64 = 1000;
/// Bytes that the kernels are tried in.
const KERNEL_BYTES: usize = 128 * 1024;
/// Rows, columns and rows of activations: parts of panels, tiles, groups and of what a kernel takes
/// at a time.
const ROWS: [usize; 4] = [1, 17, 33, 90];
const COLS: [usize; 7] = [1, 4, 33, 64, 97, 130, 700];
const TOKENS: [usize; 3] = [1, 2, 3];
/// Dimensions of a head, queries that share it, and positions they see.
const HEADS: [(usize, usize); 4] = [(6, 1), (33, 2), (48, 3), (64, 1)];
const LENS: [usize; 10] = [1, 3, 4, 16, 17, 63, 64, 65, 100, 130];

/// Numbers of what is computed one by one, and how large they are.
const LENGTHS: [usize; 8] = [1, 4, 16, 31, 32, 64, 92, 172];
const SIZES: [f32; 5] = [0.0, 1e-41, 1e-32, 4.0, 400.0];

/// Tokens run together: one by one, and in odd chunks. Ascending, as a larger plan may dirty what a
/// smaller one must not.
const PREFILLS: [usize; 2] = [1, 7];

#[entry]
fn main() -> ! {
    let mut words = [MaybeUninit::uninit(); ARGUMENT_BYTES];
    let fault = Arguments::read(&mut words).text_of("break").unwrap_or("");
    faults::provoke(fault);
    let mut arena = Arena::take().expect("nothing took it before");
    kernels(&mut arena);
    let model = engine::open();
    engine::or_exit(model.verify(|_| ()), "checksums", Exit::Wrong);
    say!("{}: {} bytes of model, checksums ok", board::NAME, model.bytes().len());
    let mut planned = 0;
    for prefill in PREFILLS {
        let options = Options { prefill, ..options(&model) };
        planned = goldens(&model, options, &mut arena, fault == "golden");
        if let (true, Some(memory)) = (fault == "arena", arena.lend(planned + 1)) {
            memory[planned] = 0;
        }
        engine::check(&arena, planned);
    }
    say!("prefill {PREFILLS:?}: the same hashes");
    say!("arena: {planned} bytes planned, {} used, the rest untouched", arena.used(planned));
    say!("stack: {} bytes used of {}", stack::high_water(), stack::capacity());
    exit(Exit::Good)
}

/// Compares every instruction set with the reference.
fn kernels(arena: &mut Arena) {
    for isa in Isa::available().filter(|isa| *isa != Isa::SCALAR) {
        let mut random = Random(1);
        let (mut products, mut attentions) = (0, 0);
        for (format, rows, cols) in
            Format::ALL.iter().flat_map(|&f| ROWS.map(|r| COLS.map(|c| (f, r, c)))).flatten()
        {
            for tokens in TOKENS {
                for quarters in
                    [None, Some(2)].into_iter().filter(|q| q.is_none() || format.may_be_sparse())
                {
                    product(isa, format, [rows, cols, tokens], quarters, &mut random, lend(arena));
                    products += 1;
                }
            }
        }
        for (head, len) in HEADS.iter().flat_map(|&head| LENS.map(|len| (head, len))) {
            for (scale, odd) in [
                (0.1, 0.1),
                (1.0, 0.0),
                (30.0, 0.0),
                (1.0, f32::MAX),
                (1.0, f32::INFINITY),
                (1.0, f32::NAN),
            ] {
                attention(isa, head, len, [scale, odd], &mut random, lend(arena));
                attentions += 1;
            }
        }
        for (n, size) in LENGTHS.iter().flat_map(|&n| SIZES.map(|size| (n, size))) {
            for odd in [0.0, 1e30, f32::MAX, f32::INFINITY, f32::NEG_INFINITY, f32::NAN] {
                elementwise(isa, n, [size, odd], &mut random, lend(arena));
            }
        }
        say!(
            "{}: {products} matrix products and {attentions} attentions, the reference's bits",
            isa.name()
        );
    }
    arena.renew();
}

fn lend(arena: &mut Arena) -> Memory<'_> {
    Memory::new(arena.lend(KERNEL_BYTES).expect("every board has as much"))
}

/// Runs an operation, which must keep the registers that a function keeps.
fn keeps(isa: Isa, work: impl FnMut(), what: &str) {
    if !registers::kept(work) {
        say!("{}: {what} changes a register that it must keep", isa.name());
        exit(Exit::Wrong)
    }
}

/// With a dense matrix, or with a sparse one that has some quarters of the blocks.
fn product(
    isa: Isa,
    format: Format,
    shape: [usize; 3],
    quarters: Option<usize>,
    random: &mut Random,
    mut memory: Memory<'_>,
) {
    let [rows, cols, tokens] = shape;
    let w = if let Some(quarters) = quarters {
        random.sparse(&mut memory, format, [rows, cols], quarters)
    } else {
        let w = memory.bytes(format.bytes(rows, cols).expect("a shape"));
        random.matrix(format, rows, cols, w);
        engine::or_exit(Matrix::new(format, rows, cols, w), "matrix", Exit::Wrong)
    };
    let x = random.activations(&mut memory, tokens, cols);
    let [got, want] = [isa, Isa::SCALAR].map(|isa| {
        let out = memory.floats(rows * tokens);
        keeps(isa, || isa.matmul(&w, &x, 0..w.panels(), out, rows), "matmul");
        out
    });
    same(isa, got, want, format_args!("matmul {format:?} {shape:?} {quarters:?}"));
}

/// `odd` is added to one value of each query, so that scores and weights are huge, infinite or no
/// numbers.
fn attention(
    isa: Isa,
    head: (usize, usize),
    len: usize,
    [scale, odd]: [f32; 2],
    random: &mut Random,
    mut memory: Memory<'_>,
) {
    let (dim, heads) = head;
    let shape = CacheShape::new(len + 1, dim, ValueFormat::Int8);
    let (codes, scales) = (memory.codes(shape.codes()), memory.halves(shape.scales()));
    random.cache(codes, scales);
    // Some as small and as large as scales can be.
    for scale in scales.iter_mut() {
        match random.bits() & 63 {
            // The upper halves of 1.3e34, 1.3e-32 and 1.8e-40.
            0 => *scale = 0x7820,
            1 => *scale = 0x0a85,
            2 => *scale = 0x0002,
            _ => {}
        }
    }
    let (q, rows) = (memory.floats(2 * heads * dim), 2);
    random.floats(q, 1.0);
    q.iter_mut().step_by(dim).for_each(|q| *q += odd);
    let head = Head::new(shape, codes, scales);
    let [got, want] = [isa, Isa::SCALAR].map(|isa| {
        let out = memory.floats(q.len());
        out.copy_from_slice(q);
        let stride = out.len() / rows;
        keeps(isa, || isa.attend(&head, Mask::causal(len), scale, out, heads, stride), "attend");
        out
    });
    same(
        isa,
        got,
        want,
        format_args!("attend {dim} x {heads}, {len} positions, scale {scale}, odd {odd}"),
    );
    #[cfg(feature = "families")]
    families::attention(isa, &head, (len, heads), [scale, odd], (q, random), &mut memory);
}

/// `odd` is added to one number.
fn elementwise(
    isa: Isa,
    n: usize,
    [size, odd]: [f32; 2],
    random: &mut Random,
    mut memory: Memory<'_>,
) {
    let (x, y) = (memory.floats(n), memory.floats(n));
    random.floats(x, size);
    random.floats(y, 4.0);
    x[n / 2] += odd;
    let [got, want] = [isa, Isa::SCALAR].map(|isa| {
        let (normed, gate, scale) = (memory.floats(n), memory.floats(n), memory.floats(1));
        keeps(isa, || isa.rms_norm(x, y, 1e-5, normed), "rms_norm");
        gate.copy_from_slice(x);
        keeps(isa, || isa.silu_mul(gate, y), "silu_mul");
        let (codes, sums) =
            (memory.codes(activations::stride(n)), memory.sums(activations::sums(n)));
        codes.fill(1);
        sums.fill(1);
        let mut to = ActivationsMut::new(codes, sums, scale, n);
        keeps(isa, || isa.quantize(x, &mut to, 0), "quantize");
        (normed, gate, scale, codes, sums)
    });
    same(isa, got.0, want.0, format_args!("rms_norm {n}, size {size}, odd {odd}"));
    same(isa, got.1, want.1, format_args!("silu_mul {n}, size {size}, odd {odd}"));
    same(isa, got.2, want.2, format_args!("quantize {n}, size {size}, odd {odd}: scale"));
    if (&got.3, &got.4) != (&want.3, &want.4) {
        say!("{}: quantize {n}, size {size}, odd {odd}: other codes", isa.name());
        exit(Exit::Wrong)
    }
    #[cfg(feature = "families")]
    families::elementwise(isa, [x, y], format_args!("{n}, size {size}, odd {odd}"), &mut memory);
}

/// What only some families need.
#[cfg(feature = "families")]
mod families {
    use kinglet_kernels::{Activation, Bias};

    use super::*;

    /// All positions with a bias, of which some numbers are `odd` and some hide what they are added
    /// to.
    pub(super) fn attention(
        isa: Isa,
        head: &Head<'_>,
        (len, heads): (usize, usize),
        [scale, odd]: [f32; 2],
        (q, random): (&[f32], &mut Random),
        memory: &mut Memory<'_>,
    ) {
        let table = memory.floats(heads * 81);
        random.floats(table, 8.0);
        table.iter_mut().step_by(5).for_each(|add| *add = f32::NEG_INFINITY);
        table[random.bits() as usize % 81] = odd;
        let mask = Mask::all(len).with_bias(Bias { table, first: len / 2 });
        let [got, want] = [isa, Isa::SCALAR].map(|isa| {
            let out = memory.floats(q.len());
            out.copy_from_slice(q);
            isa.attend(head, mask, scale, out, heads, out.len() / 2);
            out
        });
        same(
            isa,
            got,
            want,
            format_args!(
                "attend with bias, {heads} heads, {len} positions, scale {scale}, odd {odd}"
            ),
        );
    }

    pub(super) fn elementwise(
        isa: Isa,
        [x, y]: [&[f32]; 2],
        what: core::fmt::Arguments<'_>,
        memory: &mut Memory<'_>,
    ) {
        let [got, want] = [isa, Isa::SCALAR].map(|isa| {
            let (normed, product) = (memory.floats(x.len()), memory.floats(x.len()));
            isa.layer_norm(x, y, y, 1e-5, normed);
            product.copy_from_slice(x);
            isa.mul(product, y);
            let activated = Activation::ALL.map(|activation| {
                let out = memory.floats(x.len());
                out.copy_from_slice(x);
                isa.activate(activation, out);
                out
            });
            (normed, product, activated)
        });
        same(isa, got.0, want.0, format_args!("layer_norm {what}"));
        same(isa, got.1, want.1, format_args!("mul {what}"));
        for (i, (got, want)) in got.2.iter().zip(&want.2).enumerate() {
            same(isa, got, want, format_args!("{} {what}", Activation::ALL[i].name()));
        }
    }
}

/// NaN has no defined bits, all others must be equal.
fn same(isa: Isa, got: &[f32], want: &[f32], what: core::fmt::Arguments<'_>) {
    let differ = |(got, want): (&f32, &f32)| {
        got.to_bits() != want.to_bits() && !(got.is_nan() && want.is_nan())
    };
    if let Some(at) = got.iter().zip(want).position(differ) {
        say!("{}: {what}: {} at {at}, the reference {}", isa.name(), got[at], want[at]);
        exit(Exit::Wrong)
    }
}

/// The context and source that the golden sequences need. A file without any proves nothing.
fn options(model: &Model<'_>) -> Options {
    let all = engine::or_exit(Options::of(model), "model", Exit::Unusable);
    let Some(context) = model.golden().map(|golden| engine::positions(&golden)).max() else {
        say!("the model has no golden sequences");
        exit(Exit::Unusable)
    };
    // Features and pictures come in rows, of which the plan has one more where there is a class
    // token.
    let source =
        model.golden().map(|golden| golden.source.len()).max().filter(|&tokens| tokens > 0);
    Options { context: context.max(1), source: source.unwrap_or(all.source), ..all }
}

/// Checks every golden sequence, and returns the bytes of arena that were planned for that.
fn goldens(model: &Model<'_>, options: Options, arena: &mut Arena, spoil: bool) -> usize {
    let (mut session, planned) = engine::session(model, options, arena);
    for (number, mut golden) in model.golden().enumerate() {
        golden.hash ^= u64::from(spoil);
        if let Err(error) = session.check_golden(&golden) {
            say!("golden {number}, prefill {}: {error}", options.prefill);
            exit(Exit::Wrong)
        }
        let (tokens, hash) = (golden.answer.len(), golden.hash);
        say!(
            "golden {number}: {tokens} tokens, logits hash {hash:016x} ok (prefill {})",
            options.prefill
        );
    }
    let first = model.golden().next().expect("a longest was found");
    let (pieces, hash) =
        engine::or_exit(in_pieces(&mut session, &first), "run in pieces", Exit::Wrong);
    let want = prompt_hash(&mut session, &first);
    if hash != want {
        say!("golden 0 in {pieces} pieces: logits hash {hash:016x}, at once {want:016x}");
        exit(Exit::Wrong)
    }
    say!(
        "golden 0: prompt in {pieces} pieces, logits hash {hash:016x} as at once (prefill {})",
        options.prefill
    );
    planned
}

/// Runs the prompt of `golden`, stopping after every [`BUDGET`]. Returns how many pieces that were,
/// and the hash of the logits at the end.
fn in_pieces(
    session: &mut Session<'_, '_>,
    golden: &Golden<'_>,
) -> Result<(u32, u64), kinglet::RunError> {
    let mut pieces = 0;
    let mut resume = |session: &mut Session<'_, '_>| {
        pieces += 1;
        while session.resume(BUDGET)? == Progress::Pending {
            pieces += 1;
        }
        Ok(())
    };
    session.rewind(0)?;
    if let Some(source) = source(golden) {
        session.begin_source(source)?;
        resume(session)?;
    }
    for tokens in golden.prompt.chunks(session.options().prefill) {
        session.begin(tokens, 1)?;
        resume(session)?;
    }
    Ok((pieces, hash(session.logits())))
}

/// What a golden sequence reads first.
fn source<'g>(golden: &Golden<'g>) -> Option<Source<'g>> {
    match golden.source {
        [] if golden.rows == 0 => None,
        [] => Some(Source::Pattern(golden.rows)),
        tokens => Some(Source::Tokens(tokens)),
    }
}

fn prompt_hash(session: &mut Session<'_, '_>, golden: &Golden<'_>) -> u64 {
    engine::or_exit(at_once(session, golden), "run at once", Exit::Wrong);
    hash(session.logits())
}

fn at_once(session: &mut Session<'_, '_>, golden: &Golden<'_>) -> Result<(), kinglet::RunError> {
    session.rewind(0)?;
    if let Some(source) = source(golden) {
        session.encode(source)?;
    }
    if !golden.prompt.is_empty() {
        session.feed(golden.prompt)?;
    }
    Ok(())
}

fn hash(logits: &[f32]) -> u64 {
    let mut hash = LogitsHash::default();
    hash.update(logits);
    hash.value()
}
