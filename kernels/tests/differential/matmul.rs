//! Matrix products: shapes that leave remainders of every kind, ranges of panels, and codes at the
//! ends of their range.

use std::ops::Range;

use kinglet_kernels::layout::{PANEL, int4_index, int8_index};
use kinglet_kernels::{Format, Isa};

use crate::support::*;

/// One row, one column, primes, whole tiles, groups and panels, and one more or less; up to 10
/// panels.
const SHAPES: &[(usize, usize)] = if MIRI {
    &[(3, 36)]
} else {
    &[
        (1, 1),
        (1, 4),
        (2, 5),
        (15, 3),
        (16, 32),
        (17, 33),
        (31, 64),
        (32, 36),
        (33, 31),
        (5, 172),
        (47, 61),
        (64, 127),
        (79, 128),
        (48, 288),
        (97, 101),
        (149, 68),
        (3, 1024),
    ]
};

/// Rows of activations: each remainder of blocks of up to 8 rows twice, of 16 once.
fn row_counts() -> impl Iterator<Item = usize> {
    let counts: &[usize] = if MIRI { &[13] } else { &[32, 37, 67] };
    (1..20).filter(|_| !MIRI).chain(counts.iter().copied())
}

const GAP: usize = 3;
const UNTOUCHED: f32 = 7.0;

/// The product of some panels in memory with a gap after each row.
fn product(isa: Isa, w: &Weights, x: &Rows, panels: Range<usize>) -> Vec<u32> {
    let w = w.matrix();
    let stride = w.rows() + GAP;
    let mut out = vec![UNTOUCHED; x.rows() * stride];
    let start = (panels.start * PANEL).min(out.len());
    isa.matmul(&w, &x.view(), panels, &mut out[start..], stride);
    bits(&out)
}

/// What [`product`] gives where a whole product was `all`.
fn only(panels: &Range<usize>, rows: usize, all: &[u32]) -> Vec<u32> {
    let inside = |i: usize| {
        (panels.start * PANEL..rows.min(panels.end * PANEL)).contains(&(i % (rows + GAP)))
    };
    all.iter().enumerate().map(|(i, &v)| if inside(i) { v } else { UNTOUCHED.to_bits() }).collect()
}

fn assert_all_sets_agree(w: &Weights, x: &Rows, what: &str) {
    let all = 0..w.matrix().panels();
    let want = product(Isa::SCALAR, w, x, all.clone());
    for isa in vector_sets() {
        let name = || format!("{isa:?} {:?} {}x{} by {}{what}", w.format, w.rows, w.cols, x.rows());
        assert_eq!(product(isa, w, x, all.clone()), want, "{}", name());
    }
}

#[test]
fn equals_the_reference() {
    let mut random = Random(1);
    for format in Format::ALL {
        for &(rows, cols) in SHAPES {
            let w = Weights::random(format, rows, cols, &mut random);
            for m in row_counts() {
                assert_all_sets_agree(&w, &Rows::random(m, cols, &mut random), "");
            }
        }
    }
}

/// As a budget or a thread would cut the work; what lies around stays.
#[test]
fn any_range_of_panels_is_that_part_of_the_whole() {
    let mut random = Random(2);
    let shapes: &[(usize, usize)] =
        if MIRI { &[(84, 5)] } else { &[(17, 33), (80, 31), (149, 68)] };
    for format in Format::ALL {
        for &(rows, cols) in shapes {
            let w = Weights::random(format, rows, cols, &mut random);
            for m in [1, 2, 9].into_iter().take(if MIRI { 1 } else { 3 }) {
                let x = Rows::random(m, cols, &mut random);
                let end = w.matrix().panels();
                let all = product(Isa::SCALAR, &w, &x, 0..end);
                for range in (0..=end).flat_map(|start| (start..=end).map(move |end| start..end)) {
                    if MIRI && (range.start > 1 || range.end < 6) {
                        continue;
                    }
                    for isa in all_sets() {
                        let got = product(isa, &w, &x, range.clone());
                        assert_eq!(
                            got,
                            only(&range, rows, &all),
                            "{isa:?} {format:?} {rows}x{cols} by {m} {range:?}"
                        );
                    }
                }
            }
        }
    }
}

/// Patterns of the largest activations: a sum of two, four or a group's neighbours is as large as
/// it can be, or cancels.
fn extreme_rows(rows: usize, cols: usize) -> impl Iterator<Item = Rows> {
    [|_, _| 127, |_, _| -127, |_, k| [127, -127][k % 2], |m, k| [127, -127][(k / 4 + m) % 2]]
        .into_iter()
        .map(move |code: fn(usize, usize) -> i8| Rows::of_codes(rows, cols, code))
}

/// The largest weights of each format; sums of codebooks leave 32 bits and wrap.
fn extreme_weights(format: Format, shape: (usize, usize)) -> Vec<Weights> {
    let ends = [[-128, -128], [127, 127], [-128, 127]];
    if format == Format::Int8 {
        return ends
            .iter()
            .map(|e| Weights::filled(format, shape, [0; 2], e.map(|c| c as u8), [0; 2]))
            .collect();
    }
    let codebooks: &[[i8; 2]] = if format == Format::Int4Codebook { &ends } else { &[[0; 2]] };
    let codes = match format.is_int8() {
        true => [[0x80; 2], [0x7f; 2], [0x80, 0x7f], [0xff; 2], [0x00; 2], [0x81; 2]],
        false => [[0x00; 2], [0xff; 2], [0x0f; 2], [0xf0; 2], [0x00, 0xff], [0x10; 2]],
    };
    let mut all = vec![];
    for (&codebook, codes) in codebooks.iter().flat_map(|c| codes.iter().map(move |n| (c, *n))) {
        all.extend(ends.iter().map(|&subs| Weights::filled(format, shape, codebook, codes, subs)));
    }
    all
}

#[test]
#[cfg_attr(miri, ignore = "the same code on other numbers")]
fn extreme_codes_neither_saturate_nor_differ_where_they_wrap() {
    let (shape, row_counts): (_, &[usize]) = ((65, 1100), &[1, 8]);
    for format in Format::ALL {
        for w in extreme_weights(format, shape) {
            for x in row_counts.iter().flat_map(|&m| extreme_rows(m, shape.1)) {
                let what =
                    || format!(", weights {:?}..., codes {:?}...", &w.bytes()[..64], &x.codes[..8]);
                assert_all_sets_agree(&w, &x, &what());
                let want = by_definition(&w, &x);
                let mut got = vec![0.0; want.len()];
                Isa::SCALAR.matmul(
                    &w.matrix(),
                    &x.view(),
                    0..w.matrix().panels(),
                    &mut got,
                    shape.0,
                );
                assert_eq!(bits(&got), bits(&want), "{format:?}{}", what());
            }
        }
    }
}

/// Sums of int8 products beyond 32 bits, which no model has: they wrap everywhere.
#[test]
#[cfg_attr(miri, ignore = "a long row")]
fn a_row_too_long_for_32_bits_wraps() {
    let shape = (3, 140_000);
    for w in extreme_weights(Format::Int8, shape) {
        for x in extreme_rows(1, shape.1) {
            assert_all_sets_agree(&w, &x, " wrapping");
        }
    }
}

/// `sum * (row_scale * token_scale)` in this order, whatever the scales are.
#[test]
#[cfg_attr(miri, ignore = "the same code on other numbers")]
fn scales_of_any_bits_multiply_alike() {
    let wild =
        [0.0, -0.0, 1e-45, -1e-39, 1e-20, 1.0, -3e38, f32::INFINITY, f32::NEG_INFINITY, f32::NAN];
    let mut random = Random(3);
    for format in Format::ALL {
        let mut w = Weights::random(format, 83, 40, &mut random);
        let scales = format.planes(83, 40).unwrap().row_scales;
        for scale in w.bytes_mut()[scales..].as_chunks_mut::<4>().0 {
            *scale = random.pick(&wild).to_le_bytes();
        }
        for m in [1, wild.len()] {
            let mut x = Rows::random(m, 40, &mut random);
            x.scales.copy_from_slice(&wild[..m]);
            for &first in &wild[..if m == 1 { wild.len() } else { 1 }] {
                x.scales[0] = first;
                assert_all_sets_agree(&w, &x, " wild scales");
            }
        }
    }
}

/// The value of a weight by the definition in `layout`, from its bytes.
fn weight(w: &Weights, r: usize, k: usize) -> i64 {
    let (format, bytes) = (w.format, w.bytes());
    let planes = format.planes(w.rows, w.cols).unwrap();
    let (panel, lane) = (r / PANEL, r % PANEL);
    let inner = w.cols.next_multiple_of(format.inner());
    match format {
        Format::Int8 => i64::from(bytes[panel * PANEL * inner + int8_index(lane, k)] as i8),
        _ => {
            let (byte, shift) = int4_index(lane, k);
            let nibble = || bytes[planes.codes + panel * 8 * inner + byte] >> shift & 15;
            let sub = bytes[planes.sub_scales + (panel * (inner / 32) + k / 32) * PANEL + lane];
            let value = match format {
                Format::Int4 | Format::Int4Offset => i64::from(nibble()) - 8,
                Format::Int4Codebook => i64::from(bytes[usize::from(nibble())] as i8),
                _ => i64::from(bytes[panel * PANEL * inner + int8_index(lane, k)] as i8),
            };
            value * i64::from(sub as i8)
        }
    }
}

fn row_scale(w: &Weights, r: usize) -> f32 {
    let scales = w.format.planes(w.rows, w.cols).unwrap().row_scales;
    f32::from_le_bytes(w.bytes()[scales + 4 * r..][..4].try_into().unwrap())
}

/// Offset of a weight, and the scale of its row.
fn offset(w: &Weights, r: usize, k: usize) -> (i64, f32) {
    let planes = w.format.planes(w.rows, w.cols).unwrap();
    let groups = w.cols.div_ceil(32);
    let offset = w.bytes()[planes.offsets + (r / PANEL * groups + k / 32) * PANEL + r % PANEL];
    let scale = w.bytes()[planes.offset_scales + 4 * r..][..4].try_into().unwrap();
    (i64::from(offset as i8), f32::from_le_bytes(scale))
}

/// The product in plain 64-bit arithmetic, of each plane and then of both.
fn by_definition(w: &Weights, x: &Rows) -> Vec<f32> {
    let mut out = vec![];
    for (m, scale) in x.scales.iter().enumerate() {
        let codes = x.view().codes(m);
        for r in 0..w.rows {
            let sum: i64 = (0..w.cols).map(|k| weight(w, r, k) * i64::from(codes[k])).sum();
            let mut y = sum as i32 as f32 * (row_scale(w, r) * scale);
            if w.format.has_offsets() {
                let sum: i64 = (0..w.cols).map(|k| offset(w, r, k).0 * i64::from(codes[k])).sum();
                y += sum as i32 as f32 * (offset(w, r, 0).1 * scale);
            }
            out.push(y);
        }
    }
    let pairs = out.chunks(x.planes * w.rows);
    pairs
        .flat_map(|y| {
            (0..w.rows)
                .map(|r| y[r..].iter().step_by(w.rows).copied().reduce(|a, b| a + b).unwrap())
        })
        .collect()
}

#[test]
#[cfg_attr(miri, ignore = "safe code")]
fn the_reference_is_what_layout_says() {
    let mut random = Random(4);
    for format in Format::ALL {
        for &(rows, cols) in SHAPES {
            let w = Weights::random(format, rows, cols, &mut random);
            let x = Rows::random(3, cols, &mut random);
            let mut got = vec![0.0; 3 * rows];
            Isa::SCALAR.matmul(&w.matrix(), &x.view(), 0..w.matrix().panels(), &mut got, rows);
            assert_eq!(bits(&got), bits(&by_definition(&w, &x)), "{format:?} {rows}x{cols}");
            let mut row = vec![0.0; cols];
            w.matrix().dequantize_row(rows - 1, &mut row);
            for (k, v) in row.iter().enumerate() {
                let mut want = weight(&w, rows - 1, k) as f32 * row_scale(&w, rows - 1);
                if format.has_offsets() {
                    let (offset, scale) = offset(&w, rows - 1, k);
                    want += offset as f32 * scale;
                }
                assert_eq!(*v, want);
            }
        }
    }
}

/// Of every format, in one block of rows and panels and in several.
#[test]
fn two_planes_are_added() {
    let mut random = Random(5);
    let shapes: &[(usize, usize)] =
        if MIRI { &[(20, 36)] } else { &[(1, 1), (17, 33), (149, 68), (300, 64)] };
    for format in Format::ALL {
        for &(rows, cols) in shapes {
            let w = Weights::random(format, rows, cols, &mut random);
            for m in [1, 2, 3, 8, 9, 16, 33, 67].into_iter().filter(|&m| !MIRI || m == 9) {
                let x = Rows::quantize_planes(Isa::SCALAR, &random.floats(m * cols), cols);
                let want = by_definition(&w, &x);
                let mut got = vec![0.0; m * rows];
                Isa::SCALAR.matmul(&w.matrix(), &x.view(), 0..w.matrix().panels(), &mut got, rows);
                assert_eq!(bits(&got), bits(&want), "{format:?} {rows}x{cols} by {m}");
                assert_all_sets_agree(&w, &x, " in two planes");
                if MIRI {
                    continue; // the same loads and stores again
                }
                let all = product(Isa::SCALAR, &w, &x, 0..w.matrix().panels());
                let range = w.matrix().panels() / 3..w.matrix().panels().div_ceil(2);
                for isa in all_sets() {
                    assert_eq!(
                        product(isa, &w, &x, range.clone()),
                        only(&range, rows, &all),
                        "{isa:?} {format:?}"
                    );
                }
                // Some of the rows by themselves.
                let mut part = vec![0.0; rows];
                let one = x.view().slice(m / 2, 1);
                Isa::SCALAR.matmul(&w.matrix(), &one, 0..w.matrix().panels(), &mut part, rows);
                assert_eq!(bits(&part), bits(&want[m / 2 * rows..][..rows]));
            }
        }
    }
}

#[test]
fn offsets_are_in_no_sparse_matrix() {
    assert_eq!(Format::Int4Offset.sparse_planes(16, 32, 1), None);
    let w = Weights::new(
        Format::Int4Offset,
        16,
        32,
        &vec![0; Format::Int4Offset.bytes(16, 32).unwrap()],
    );
    // Codes, sub-scales, row scales, offsets, offset scales.
    assert_eq!(w.bytes().len(), 256 + 64 + 64 + 64 + 64);
    assert!(kinglet_kernels::Matrix::sparse(Format::Int4Offset, 16, 32, w.bytes()).is_err());
}

#[test]
fn wrong_bytes_are_not_a_matrix() {
    use kinglet_kernels::LayoutError::*;
    use kinglet_kernels::Matrix;
    let len = Format::Int8.bytes(16, 32).unwrap();
    let w = Weights::new(Format::Int8, 16, 64, &vec![0; Format::Int8.bytes(16, 64).unwrap()]);
    let bytes = w.bytes();
    let new = |rows, cols, bytes| Matrix::new(Format::Int8, rows, cols, bytes).map(|_| ());
    assert_eq!(new(16, 32, &bytes[..len]), Ok(()));
    assert_eq!(new(16, 32, &bytes[..len - 1]), Err(Length));
    assert_eq!(new(16, 32, &bytes[1..=len]), Err(Alignment));
    assert_eq!(new(0, 32, &[]), Err(Shape));
    assert_eq!(new(usize::MAX, usize::MAX, &[]), Err(Shape));
}
