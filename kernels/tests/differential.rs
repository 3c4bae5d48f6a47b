//! Every instruction set that this machine has, against the scalar reference, bit for bit; and the reference
//! against plain arithmetic in f64 and i64. Shapes are awkward on purpose, values extreme.

use kinglet_kernels::cache::{self, CacheShape, Head};
use kinglet_kernels::layout::{ALIGN, int4_index, int8_index};
use kinglet_kernels::{Activations, ActivationsMut, Format, Isa, Matrix, activations};
use proptest::prelude::*;

/// Bytes at a multiple of 64.
#[derive(Clone)]
struct Aligned {
    memory: Vec<u8>,
    start: usize,
    len: usize,
}

impl Aligned {
    fn new(bytes: &[u8]) -> Self {
        let mut memory = vec![0; bytes.len() + ALIGN];
        let start = memory.as_ptr().align_offset(ALIGN);
        memory[start..start + bytes.len()].copy_from_slice(bytes);
        Self { memory, start, len: bytes.len() }
    }

    fn get(&self) -> &[u8] {
        &self.memory[self.start..][..self.len]
    }
}

/// xorshift64*: a seed gives the same bytes everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 32) as u32
    }

    fn unit(&mut self) -> f32 {
        self.next() as f32 / 2_147_483_648.0 - 1.0
    }

    fn floats(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.unit() * 3.0).collect()
    }
}

/// A matrix of arbitrary bytes with finite scales: every byte is a code.
fn matrix(format: Format, rows: usize, cols: usize, random: &mut Random) -> Aligned {
    let planes = format.planes(rows, cols).unwrap();
    let mut bytes: Vec<u8> = (0..planes.end).map(|_| random.next() as u8).collect();
    for scale in bytes[planes.row_scales..].as_chunks_mut::<4>().0 {
        *scale = (random.unit() * 0.01).to_le_bytes();
    }
    Aligned::new(&bytes)
}

struct Rows {
    codes: Vec<i8>,
    sums: Vec<i16>,
    scales: Vec<f32>,
    cols: usize,
}

impl Rows {
    fn quantize(isa: Isa, x: &[f32], cols: usize) -> Self {
        let m = x.len() / cols;
        let mut rows = Self {
            codes: vec![99; m * activations::stride(cols)],
            sums: vec![99; m * activations::sums(cols)],
            scales: vec![9.0; m],
            cols,
        };
        for (i, row) in x.chunks(cols).enumerate() {
            let mut to = ActivationsMut::new(&mut rows.codes, &mut rows.sums, &mut rows.scales, cols);
            isa.quantize(row, &mut to, i);
        }
        rows
    }

    fn view(&self) -> Activations<'_> {
        Activations::new(&self.codes, &self.sums, &self.scales, self.cols)
    }
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|v| if v.is_nan() { f32::NAN.to_bits() } else { v.to_bits() }).collect()
}

const SHAPES: [(usize, usize, usize); 12] = [
    (1, 1, 1),
    (1, 4, 1),
    (16, 32, 1),
    (17, 33, 2),
    (31, 64, 3),
    (33, 31, 4),
    (5, 172, 5),
    (64, 127, 7),
    (48, 288, 9),
    (97, 101, 8),
    (16, 1024, 1),
    (3, 97, 13),
];

#[test]
fn matmul_equals_the_reference_bit_for_bit() {
    let mut random = Random(1);
    for format in Format::ALL {
        for (rows, cols, m) in SHAPES {
            let bytes = matrix(format, rows, cols, &mut random);
            let w = Matrix::new(format, rows, cols, bytes.get()).unwrap();
            let x = Rows::quantize(Isa::SCALAR, &random.floats(m * cols), cols);
            let mut want = vec![f32::NAN; m * rows];
            Isa::SCALAR.matmul(&w, &x.view(), 0..w.panels(), &mut want, rows);
            for isa in Isa::available() {
                let mut got = vec![f32::NAN; m * rows];
                isa.matmul(&w, &x.view(), 0..w.panels(), &mut got, rows);
                assert_eq!(bits(&got), bits(&want), "{isa:?} {format:?} {rows}x{cols} by {m}");
                // In pieces of one panel, as a budget or a thread would cut it; what lies around stays.
                let mut got = vec![7.0; m * (rows + 3)];
                for p in 0..w.panels() {
                    isa.matmul(&w, &x.view(), p..p + 1, &mut got[p * 16..], rows + 3);
                }
                for (got, want) in got.chunks(rows + 3).zip(want.chunks(rows)) {
                    assert_eq!(bits(&got[..rows]), bits(want), "{isa:?} {format:?} {rows}x{cols} in panels");
                    assert_eq!(got[rows..], [7.0; 3], "{isa:?} wrote beyond its rows");
                }
            }
        }
    }
}

/// The value of a weight by the definition in `layout`, from its bytes.
fn weight(format: Format, bytes: &[u8], rows: usize, cols: usize, r: usize, k: usize) -> i64 {
    let planes = format.planes(rows, cols).unwrap();
    let (panel, lane) = (r / 16, r % 16);
    let inner = cols.next_multiple_of(format.inner());
    match format {
        Format::Int8 => i64::from(bytes[panel * 16 * inner + int8_index(lane, k)] as i8),
        Format::Int4 | Format::Int4Codebook => {
            let (byte, shift) = int4_index(lane, k);
            let nibble = bytes[planes.codes + panel * 8 * inner + byte] >> shift & 15;
            let sub = bytes[planes.sub_scales + (panel * (inner / 32) + k / 32) * 16 + lane];
            let value = if format == Format::Int4 {
                i64::from(nibble) - 8
            } else {
                i64::from(bytes[usize::from(nibble)] as i8)
            };
            value * i64::from(sub as i8)
        }
    }
}

#[test]
fn the_reference_is_what_layout_says() {
    let mut random = Random(2);
    for format in Format::ALL {
        for (rows, cols, m) in SHAPES {
            let bytes = matrix(format, rows, cols, &mut random);
            let w = Matrix::new(format, rows, cols, bytes.get()).unwrap();
            let x = Rows::quantize(Isa::SCALAR, &random.floats(m * cols), cols);
            let scales = format.planes(rows, cols).unwrap().row_scales;
            let mut got = vec![0.0; m * rows];
            Isa::SCALAR.matmul(&w, &x.view(), 0..w.panels(), &mut got, rows);
            for (i, got) in got.iter().enumerate() {
                let (m, r) = (i / rows, i % rows);
                let sum: i64 = (0..cols)
                    .map(|k| weight(format, bytes.get(), rows, cols, r, k) * i64::from(x.view().codes(m)[k]))
                    .sum();
                let scale = f32::from_le_bytes(bytes.get()[scales + 4 * r..][..4].try_into().unwrap());
                assert_eq!(*got, sum as i32 as f32 * (scale * x.view().scale(m)), "{format:?} {rows}x{cols}");
            }
            let mut row = vec![0.0; cols];
            w.dequantize_row(rows - 1, &mut row);
            let scale = f32::from_le_bytes(bytes.get()[scales + 4 * (rows - 1)..][..4].try_into().unwrap());
            for (k, v) in row.iter().enumerate() {
                assert_eq!(*v, weight(format, bytes.get(), rows, cols, rows - 1, k) as f32 * scale);
            }
        }
    }
}

#[test]
fn extreme_codes_do_not_saturate() {
    for format in Format::ALL {
        for fill in [0x80, 0x7f, 0x00, 0xff, 0x81] {
            let (rows, cols) = (16, 1024);
            let planes = format.planes(rows, cols).unwrap();
            let mut bytes = vec![fill; planes.end];
            bytes[planes.row_scales..].as_chunks_mut::<4>().0.fill(1f32.to_le_bytes());
            let bytes = Aligned::new(&bytes);
            let w = Matrix::new(format, rows, cols, bytes.get()).unwrap();
            for sign in [1.0, -1.0] {
                let x = Rows::quantize(Isa::SCALAR, &[sign; 1024], cols);
                let results: Vec<_> = Isa::available()
                    .map(|isa| {
                        let mut out = [0.0; 16];
                        isa.matmul(&w, &x.view(), 0..1, &mut out, 16);
                        bits(&out)
                    })
                    .collect();
                assert!(results.windows(2).all(|w| w[0] == w[1]), "{format:?} {fill:#x}");
            }
        }
    }
}

/// Values that a careless kernel gets wrong.
fn awkward() -> impl Strategy<Value = f32> {
    prop_oneof![
        8 => -4.0f32..4.0,
        1 => proptest::num::f32::ANY,
        1 => prop::sample::select(vec![0.0, -0.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MIN_POSITIVE, 1e-44, f32::MAX]),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn elementwise_operations_equal_the_reference(x in prop::collection::vec(awkward(), 1..150), seed in 1u64..99) {
        let n = x.len();
        let y = Random(seed).floats(n);
        let want = Rows::quantize(Isa::SCALAR, &x, n);
        prop_assert!(want.codes.iter().all(|&c| c != -128));
        for isa in Isa::available() {
            let got = Rows::quantize(isa, &x, n);
            prop_assert_eq!(&got.codes, &want.codes);
            prop_assert_eq!(&got.sums, &want.sums);
            prop_assert_eq!(bits(&got.scales), bits(&want.scales));
            let run = |isa: Isa, op: usize| {
                let mut out = x.clone();
                match op {
                    0 => isa.rms_norm(&x, &y, 1e-5, &mut out),
                    1 => isa.add(&mut out, &y),
                    2 => isa.silu_mul(&mut out, &y),
                    _ => isa.rope(&mut out, &y[..n / 2], &y[n / 2..n / 2 * 2]),
                }
                bits(&out)
            };
            for op in 0..4 {
                prop_assert_eq!(run(isa, op), run(Isa::SCALAR, op), "{:?} operation {}", isa, op);
            }
        }
    }

    #[test]
    fn quantized_rows_are_close(x in prop::collection::vec(-1e3f32..1e3, 1..150)) {
        let rows = Rows::quantize(Isa::SCALAR, &x, x.len());
        for (&x, &c) in x.iter().zip(&rows.codes) {
            prop_assert!((x - f32::from(c) * rows.scales[0]).abs() <= rows.scales[0] * 0.5001);
        }
    }
}

/// Codes and scales of a cache, and the keys and values in it.
type Filled = (Vec<i8>, Vec<f32>, Vec<Vec<f32>>, Vec<Vec<f32>>);

/// A cache filled with random keys and values, its garbage beyond `len` random too.
fn filled(shape: CacheShape, len: usize, random: &mut Random) -> Filled {
    let mut codes: Vec<i8> = (0..shape.codes()).map(|_| random.next() as i8).collect();
    let mut scales = random.floats(shape.scales());
    let (mut keys, mut values) = (vec![], vec![]);
    for position in 0..len {
        let (k, v) = (random.floats(shape.head_dim), random.floats(shape.head_dim));
        cache::store(shape, &mut codes, &mut scales, position, &k, &v);
        keys.push(k);
        values.push(v);
    }
    (codes, scales, keys, values)
}

#[test]
fn attention_equals_the_reference_and_is_attention() {
    let mut random = Random(3);
    for (context, head_dim) in [(1, 1), (16, 8), (70, 20), (64, 64), (200, 48), (129, 33), (300, 256)] {
        for len in [1, 2, 15, 16, 17, 63, 64, 65, 128, 129, 200, 300] {
            let shape = CacheShape::new(context, head_dim);
            if len > shape.positions {
                continue;
            }
            let (codes, scales, keys, values) = filled(shape, len, &mut random);
            let head = Head::new(shape, &codes, &scales);
            let q = random.floats(head_dim);
            let scale = 1.0 / (head_dim as f32).sqrt();
            let mut want = q.clone();
            Isa::SCALAR.attend(&head, len, scale, &mut want, 1, head_dim);
            for isa in Isa::available() {
                let mut got = q.clone();
                isa.attend(&head, len, scale, &mut got, 1, head_dim);
                assert_eq!(bits(&got), bits(&want), "{isa:?} {context} {head_dim} {len}");
            }
            let scores: Vec<f64> = keys
                .iter()
                .map(|k| k.iter().zip(&q).map(|(&k, &q)| f64::from(k) * f64::from(q)).sum::<f64>() * f64::from(scale))
                .collect();
            let top = scores.iter().copied().fold(f64::MIN, f64::max);
            let sum: f64 = scores.iter().map(|s| (s - top).exp()).sum();
            for (d, &got) in want.iter().enumerate() {
                let exact: f64 = scores.iter().zip(&values).map(|(s, v)| (s - top).exp() / sum * f64::from(v[d])).sum();
                assert!((exact - f64::from(got)).abs() < 0.12, "{context} {head_dim} {len}: {exact} {got}");
            }
        }
    }
}

/// Rows of queries at once are the same queries one by one, whatever lies between and behind them.
#[test]
fn attention_of_rows_is_that_of_single_queries() {
    let mut random = Random(7);
    for (context, head_dim, heads, rows, gap) in
        [(80, 16, 1, 1, 0), (70, 20, 3, 5, 7), (200, 48, 1, 9, 1), (129, 33, 8, 3, 0), (140, 64, 2, 70, 5)]
    {
        let shape = CacheShape::new(context, head_dim);
        let (codes, scales, ..) = filled(shape, shape.positions, &mut random);
        let head = Head::new(shape, &codes, &scales);
        let stride = heads * head_dim + gap;
        let q = random.floats(rows * stride - gap);
        for len in [1, 63, context - rows + 1] {
            let mut want = q.clone();
            for row in 0..rows {
                for query in want[row * stride..][..heads * head_dim].chunks_exact_mut(head_dim) {
                    Isa::SCALAR.attend(&head, len + row, 0.3, query, 1, head_dim);
                }
            }
            for isa in Isa::available() {
                let mut got = q.clone();
                isa.attend(&head, len, 0.3, &mut got, heads, stride);
                assert_eq!(bits(&got), bits(&want), "{isa:?} {context} {head_dim} {heads} {rows} {len}");
            }
        }
    }
}

/// Scales and keys of any bits: no panic, and every machine the same, NaN counting as one.
#[test]
fn attention_over_hostile_caches_is_the_same() {
    let mut random = Random(11);
    let wild = [0.0, 1e-45, 1e-38, 1e-31, 1e-20, 1.0, 1e20, 1e30, f32::MAX];
    let pick = |random: &mut Random| wild[random.next() as usize % wild.len()];
    for round in 0..200 {
        let head_dim = 1 + random.next() as usize % 40;
        let shape = CacheShape::new(130, head_dim);
        let (mut codes, mut scales) = (vec![0; shape.codes()], vec![0.0; shape.scales()]);
        for position in 0..130 {
            let mut row =
                || (0..head_dim).map(|_| pick(&mut random) * f32::from((random.next() as i8).signum())).collect();
            let (k, v): (Vec<f32>, Vec<f32>) = (row(), row());
            cache::store(shape, &mut codes, &mut scales, position, &k, &v);
        }
        let head = Head::new(shape, &codes, &scales);
        let mut q: Vec<f32> = (0..3 * head_dim).map(|_| pick(&mut random)).collect();
        if round % 4 == 0 {
            q[0] = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY][round / 4 % 3];
        }
        let run = |isa: Isa| {
            let mut q = q.clone();
            isa.attend(&head, 128, pick(&mut Random(round as u64)), &mut q, 1, head_dim);
            bits(&q)
        };
        let want = run(Isa::SCALAR);
        for isa in Isa::available() {
            assert_eq!(run(isa), want, "{isa:?} round {round}");
        }
    }
}

#[test]
fn wrong_bytes_are_not_a_matrix() {
    use kinglet_kernels::LayoutError::*;
    let bytes = Aligned::new(&[0; 4096]);
    let new = |rows, cols, bytes| Matrix::new(Format::Int8, rows, cols, bytes).map(|_| ());
    let len = Format::Int8.bytes(16, 32).unwrap();
    assert_eq!(new(16, 32, &bytes.get()[..len]), Ok(()));
    assert_eq!(new(16, 32, &bytes.get()[..len - 1]), Err(Length));
    assert_eq!(new(16, 32, &bytes.get()[1..=len]), Err(Alignment));
    assert_eq!(new(0, 32, &[]), Err(Shape));
    assert_eq!(new(usize::MAX, usize::MAX, &[]), Err(Shape));
}
