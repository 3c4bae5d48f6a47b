//! Throughput of every operation on every instruction set of this machine, beside what the machine
//! can do.
//!
//! ```text
//! cargo bench -p kinglet-kernels                    everything, two minutes
//! cargo bench -p kinglet-kernels -- decode/int4     the cases whose names contain this
//! KINGLET_ISA=avx2 cargo bench -p kinglet-kernels   one instruction set
//! ```
//!
//! An answer that differs from the scalar reference in one bit ends the run before the operation is
//! timed. All operations run on one thread.
//!
//! The table at the end compares each median with a limit that was measured in the same run, on the
//! same memory sizes:
//!
//! | case | achieved | limit |
//! |---|---|---|
//! | `decode`: one row of activations | bytes of weights a second | the slower of reading as many bytes, and of multiplying in L1 |
//! | `prefill`: 64 rows; `attend` | multiply-accumulates a second | multiplying in L1 |
//! | the others, 4,096 values in L1 | values a second | reading the bytes that they read and write from L1 |
//!
//! *Reading* is the best time of a plain loop that sums a buffer of that size in four streams. It
//! is compiled as the benchmark is: for x86-64 without `-Ctarget-cpu=native` it has 16-byte loads,
//! which caches can exceed but main memory cannot, so more than 100% is possible there.
//! *Multiplying in L1* is the best time of the same instruction set's int8 product with operands of
//! at most 24 KiB, so it bounds how the product is fed, not how it is written; int4 is held against
//! it, too. Limits are best times and results medians: on a machine that others use both are low.
//!
//! Decode has a matrix for each level of memory: 512x512, 4096x4096, and 32768x8192, which no cache
//! holds (256 MiB in int8, 136 in int4). `silu_mul` includes copying its operand back.

use std::cell::RefCell;
use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{Criterion, SamplingMode};
use kinglet_kernels::cache::{self, CacheShape, Head};
use kinglet_kernels::layout::ALIGN;
use kinglet_kernels::{
    Activation, Activations, ActivationsMut, Format, Isa, Mask, Matrix, Scratch, ValueFormat,
    activations, scalar,
};

const DECODE: [(usize, usize); 3] = [(512, 512), (4096, 4096), (32768, 8192)];
const PREFILL: (usize, usize, usize) = (1024, 1024, 64);
const VALUES: usize = 4096;
const HEADS: usize = 8;
const HEAD_DIM: usize = 128;
const DEPTH: usize = 128;

fn main() {
    let criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(400))
        .without_plots()
        .configure_from_args();
    let mut run = Run { criterion, sets: sets(), peaks: vec![], lines: vec![] };
    run.peaks = run.sets.iter().map(|&isa| peak(isa)).collect();
    for format in Format::ALL {
        for (rows, cols) in DECODE {
            decode(&mut run, format, rows, cols);
        }
        prefill(&mut run, format);
    }
    attend(&mut run, 1);
    attend(&mut run, 64);
    elementwise(&mut run);
    run.finish();
}

/// What `KINGLET_ISA` names, or all that the machine has.
fn sets() -> Vec<Isa> {
    match std::env::var("KINGLET_ISA") {
        Ok(name) => vec![
            Isa::by_name(&name)
                .unwrap_or_else(|| panic!("KINGLET_ISA: this machine has no {name}")),
        ],
        Err(_) => Isa::available().collect(),
    }
}

/// A line of the closing table.
struct Line {
    case: String,
    isa: Isa,
    unit: &'static str,
    achieved: f64,
    limit: f64,
    bound: &'static str,
}

struct Run {
    criterion: Criterion,
    sets: Vec<Isa>,
    /// Multiply-accumulates a second of each set.
    peaks: Vec<f64>,
    lines: Vec<Line>,
}

/// Work of one call, and the seconds that it takes at the least, with the reason.
struct Work {
    unit: &'static str,
    amount: f64,
    limit: f64,
    bound: &'static str,
}

impl Run {
    /// Times `call` on every set after comparing what it returns with the reference.
    fn case(
        &mut self,
        case: &str,
        work: impl Fn(f64) -> Work,
        mut call: impl FnMut(Isa, bool) -> Vec<f32>,
    ) {
        let want = bits(&call(Isa::SCALAR, true));
        let mut group = self.criterion.benchmark_group(case);
        group.sampling_mode(SamplingMode::Flat);
        for (&isa, &peak) in self.sets.iter().zip(&self.peaks) {
            assert!(bits(&call(isa, true)) == want, "{case}: {isa:?} differs from the reference");
            let samples = RefCell::new(vec![]);
            group.bench_function(isa.name(), |bencher| {
                bencher.iter_custom(|times| {
                    let start = Instant::now();
                    for _ in 0..times {
                        black_box(call(isa, false));
                    }
                    let spent = start.elapsed();
                    samples.borrow_mut().push(spent.as_secs_f64() / times as f64);
                    spent
                });
            });
            let mut samples = samples.into_inner();
            samples.sort_by(f64::total_cmp);
            let Some(median) = samples.get(samples.len() / 2) else { continue };
            let Work { unit, amount, limit, bound } = work(peak);
            let (achieved, limit) = (amount / median, amount / limit);
            self.lines.push(Line { case: case.into(), isa, unit, achieved, limit, bound });
        }
        group.finish();
    }

    fn finish(self) {
        println!("\nread, GB/s            1 thread   all cores");
        for (name, len) in
            [("16 KiB", 1 << 14), ("256 KiB", 1 << 18), ("16 MiB", 1 << 24), ("256 MiB", 1 << 28)]
        {
            let cores = std::thread::available_parallelism().map_or(1, usize::from);
            println!("{name:<18} {:>11.1} {:>11.1}", read(len, 1) / 1e9, read(len, cores) / 1e9);
        }
        println!("\nmultiply in L1     GMAC/s");
        for (isa, peak) in self.sets.iter().zip(&self.peaks) {
            println!("{:<14} {:>10.1}", isa.name(), peak / 1e9);
        }
        println!(
            "\n{:<34} {:<10} {:>9} {:>9}  {:<8} {:>7}  bound",
            "case", "set", "achieved", "limit", "", ""
        );
        for Line { case, isa, unit, achieved, limit, bound } in self.lines {
            let (name, percent) = (isa.name(), 100.0 * achieved / limit);
            println!(
                "{case:<34} {name:<10} {:>9.2} {:>9.2}  {unit:<8} {percent:>6.0}%  {bound}",
                achieved / 1e9,
                limit / 1e9
            );
        }
    }
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|v| v.to_bits()).collect()
}

/// The best of some times that `call` takes, in seconds.
fn best(mut call: impl FnMut()) -> f64 {
    let mut best = f64::MAX;
    let begun = Instant::now();
    let mut times = 1u32;
    while begun.elapsed() < Duration::from_millis(300) {
        let start = Instant::now();
        for _ in 0..times {
            call();
        }
        let spent = start.elapsed().as_secs_f64();
        best = best.min(spent / f64::from(times));
        if spent < 1e-3 {
            times *= 2;
        }
    }
    best
}

/// Bytes a second at which `threads` threads each read `len` bytes of their own.
fn read(len: usize, threads: usize) -> f64 {
    let buffers = vec![vec![1u64; len / 8]; threads];
    let seconds = best(|| {
        std::thread::scope(|scope| {
            // Small buffers are read many times, so that starting the threads does not count.
            let again = ((1 << 26) / len).max(1);
            let work = move |buffer: &[u64]| {
                (0..again).for_each(|_| _ = black_box(sum(black_box(buffer))))
            };
            for buffer in &buffers[1..] {
                scope.spawn(move || work(buffer));
            }
            work(&buffers[0]);
        });
    });
    (threads * len * ((1 << 26) / len).max(1)) as f64 / seconds
}

/// The sum of four streams.
fn sum(buffer: &[u64]) -> u64 {
    let quarter = buffer.len() / 4;
    let streams: [&[[u64; 4]]; 4] =
        std::array::from_fn(|i| buffer[i * quarter..][..quarter].as_chunks().0);
    let mut sums = [[0u64; 4]; 4];
    for i in 0..streams[0].len() {
        for (sums, stream) in sums.iter_mut().zip(streams) {
            for (sum, v) in sums.iter_mut().zip(stream[i]) {
                *sum = sum.wrapping_add(v);
            }
        }
    }
    sums.as_flattened().iter().fold(0, |a, b| a.wrapping_add(*b))
}

/// Multiply-accumulates a second of a set's int8 product, everything in L1.
fn peak(isa: Isa) -> f64 {
    let mut random = Random(1);
    let rate = |rows: usize, cols: usize, m: usize, random: &mut Random| {
        let (w, x) = (Weights::new(Format::Int8, rows, cols, random), Rows::new(m, cols, random));
        let (w, x, mut out) = (w.matrix(), x.view(), vec![0.0; m * rows]);
        (rows * cols * m) as f64
            / best(|| isa.matmul(&w, &x, 0..w.panels(), black_box(&mut out), rows))
    };
    [(16, 512, 16), (64, 192, 64), (64, 192, 1)]
        .map(|(rows, cols, m)| rate(rows, cols, m, &mut random))
        .into_iter()
        .fold(0.0, f64::max)
}

fn decode(run: &mut Run, format: Format, rows: usize, cols: usize) {
    let case = format!("decode/{}/{rows}x{cols}", name(format));
    let mut random = Random(2);
    let w = Weights::new(format, rows, cols, &mut random);
    let (w, x) = (w.matrix(), Rows::new(1, cols, &mut random));
    let reading = w.bytes() as f64 / read(w.bytes(), 1);
    let work = |peak| {
        let multiplying = (rows * cols) as f64 / peak;
        let bound = if reading > multiplying { "reading" } else { "multiplying" };
        Work { unit: "GB/s", amount: w.bytes() as f64, limit: reading.max(multiplying), bound }
    };
    run.case(&case, work, matmul(&w, &x));
}

fn prefill(run: &mut Run, format: Format) {
    let (rows, cols, m) = PREFILL;
    let mut random = Random(3);
    let w = Weights::new(format, rows, cols, &mut random);
    let (w, x) = (w.matrix(), Rows::new(m, cols, &mut random));
    let macs = (rows * cols * m) as f64;
    run.case(
        &format!("prefill/{}/{rows}x{cols}x{m}", name(format)),
        multiplying(macs),
        matmul(&w, &x),
    );
}

fn matmul(w: &Matrix<'_>, x: &Rows) -> impl FnMut(Isa, bool) -> Vec<f32> {
    let mut out = vec![0.0; x.scales.len() * w.rows()];
    move |isa, answer| {
        isa.matmul(w, &x.view(), 0..w.panels(), black_box(&mut out), w.rows());
        if answer { out.clone() } else { vec![] }
    }
}

fn multiplying(macs: f64) -> impl Fn(f64) -> Work {
    move |peak| Work { unit: "GMAC/s", amount: macs, limit: macs / peak, bound: "multiplying" }
}

/// Queries of `rows` rows, the last of which sees `DEPTH` positions; 8 of them share a key/value
/// head.
fn attend(run: &mut Run, rows: usize) {
    let mut random = Random(4);
    let shape = CacheShape::new(DEPTH, HEAD_DIM, ValueFormat::Int8);
    let (mut codes, mut scales) = (vec![0; shape.codes()], vec![0; shape.scales()]);
    for position in 0..DEPTH {
        let (key, value) = (random.floats(HEAD_DIM), random.floats(HEAD_DIM));
        cache::store(shape, &mut codes, &mut scales, position, &key, &value);
    }
    let head = Head::new(shape, &codes, &scales);
    let queries = random.floats(rows * HEADS * HEAD_DIM);
    let (mut q, mut scratch) = (queries.clone(), Scratch::EMPTY);
    let first = DEPTH - rows + 1;
    let macs: usize = (first..=DEPTH).map(|seen| 2 * seen * HEAD_DIM * HEADS).sum();
    let case = format!("attend/depth {DEPTH}/{HEADS} heads/{rows} rows");
    run.case(&case, multiplying(macs as f64), |isa, answer| {
        if answer {
            q.copy_from_slice(&queries);
        }
        let (over, queries) = ((&head, Mask::causal(first), 0.09), black_box(&mut q));
        isa.attend_in(over, (queries, HEADS, HEADS * HEAD_DIM), None, &mut scratch);
        if answer { q.clone() } else { vec![] }
    });
}

fn elementwise(run: &mut Run) {
    let mut random = Random(5);
    let (x, y) = (random.floats(VALUES), random.floats(VALUES));
    let l1 = read(1 << 14, 1);
    let moving = |bytes: usize| {
        let limit = (VALUES * bytes) as f64 / l1;
        move |_| Work { unit: "Gvalue/s", amount: VALUES as f64, limit, bound: "reading" }
    };
    let answer_of = |answer: bool, out: &[f32]| if answer { out.to_vec() } else { vec![] };

    let mut to = Rows {
        codes: vec![0; VALUES],
        sums: vec![0; VALUES / 32],
        scales: vec![0.0],
        cols: VALUES,
    };
    run.case("quantize", moving(5), |isa, answer| {
        isa.quantize(&x, &mut to.view_mut(), 0);
        let codes =
            to.codes.iter().map(|&c| f32::from(c)).chain(to.sums.iter().map(|&s| f32::from(s)));
        if answer { codes.chain(to.scales.iter().copied()).collect() } else { vec![] }
    });
    let mut out = vec![0.0; VALUES];
    run.case("rms_norm", moving(12), |isa, answer| {
        isa.rms_norm(&x, &y, 1e-5, black_box(&mut out));
        answer_of(answer, &out)
    });
    run.case("layer_norm", moving(16), |isa, answer| {
        isa.layer_norm(&x, &y, &x, 1e-5, black_box(&mut out));
        answer_of(answer, &out)
    });
    for (name, activation) in [
        ("gelu", Activation::Gelu),
        ("gelu_tanh", Activation::GeluTanh),
        ("tanh", Activation::Tanh),
    ] {
        run.case(name, moving(8), |isa, answer| {
            out.copy_from_slice(&x);
            isa.activate(activation, black_box(&mut out));
            answer_of(answer, &out)
        });
    }
    run.case("silu_mul", moving(12), |isa, answer| {
        out.copy_from_slice(&x);
        isa.silu_mul(black_box(&mut out), &y);
        answer_of(answer, &out)
    });
    transforms(run, &x);
    let (sin, cos): (Vec<f32>, Vec<f32>) =
        (0..VALUES as u32 / 2).map(|i| scalar::sin_cos(i.wrapping_mul(7_654_321))).unzip();
    run.case("rope", moving(12), |isa, answer| {
        if answer {
            out.copy_from_slice(&x);
        }
        isa.rope(black_box(&mut out), &cos, &sin);
        answer_of(answer, &out)
    });
}

/// Transforms of rows of several lengths.
fn transforms(run: &mut Run, x: &[f32]) {
    let l1 = read(1 << 14, 1);
    let mut out = vec![0.0; VALUES];
    for n in [576, 1536, VALUES] {
        let limit = (n * 8) as f64 / l1;
        let work = move |_| Work { unit: "Gvalue/s", amount: n as f64, limit, bound: "reading" };
        run.case(&format!("transform {n}"), work, |isa, answer| {
            if answer {
                out.copy_from_slice(x);
            }
            isa.transform(black_box(&mut out[..n]));
            if answer { out[..n].to_vec() } else { vec![] }
        });
    }
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

/// xorshift64*.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// From -1 to 1.
    fn floats(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| (self.next() >> 40) as f32 / 8_388_608.0 - 1.0).collect()
    }
}

/// A matrix of random codes.
struct Weights {
    format: Format,
    rows: usize,
    cols: usize,
    memory: Vec<u8>,
    start: usize,
}

impl Weights {
    fn new(format: Format, rows: usize, cols: usize, random: &mut Random) -> Self {
        let planes = format.planes(rows, cols).expect("a shape");
        let mut memory = vec![0u8; planes.end + ALIGN];
        let start = memory.as_ptr().align_offset(ALIGN);
        let bytes = &mut memory[start..][..planes.end];
        bytes.as_chunks_mut().0.iter_mut().for_each(|word| *word = random.next().to_le_bytes());
        bytes[planes.row_scales..].as_chunks_mut::<4>().0.fill(0.01f32.to_le_bytes());
        Self { format, rows, cols, memory, start }
    }

    fn matrix(&self) -> Matrix<'_> {
        let len = self.format.bytes(self.rows, self.cols).expect("a shape");
        Matrix::new(self.format, self.rows, self.cols, &self.memory[self.start..][..len])
            .expect("a matrix")
    }
}

/// Quantized rows.
struct Rows {
    codes: Vec<i8>,
    sums: Vec<i16>,
    scales: Vec<f32>,
    cols: usize,
}

impl Rows {
    fn new(rows: usize, cols: usize, random: &mut Random) -> Self {
        let (codes, sums) =
            (vec![0; rows * activations::stride(cols)], vec![0; rows * activations::sums(cols)]);
        let mut new = Self { codes, sums, scales: vec![0.0; rows], cols };
        for row in 0..rows {
            Isa::SCALAR.quantize(&random.floats(cols), &mut new.view_mut(), row);
        }
        new
    }

    fn view(&self) -> Activations<'_> {
        Activations::new(&self.codes, &self.sums, &self.scales, self.cols)
    }

    fn view_mut(&mut self) -> ActivationsMut<'_> {
        ActivationsMut::new(&mut self.codes, &mut self.sums, &mut self.scales, self.cols)
    }
}
