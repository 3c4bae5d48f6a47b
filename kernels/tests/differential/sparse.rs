//! Sparse matrices: the bits of the dense ones that have zeros where they have nothing, and
//! harmless whatever their index says.

use kinglet_kernels::LayoutError::{Alignment, Length, Shape};
use kinglet_kernels::layout::{GROUP, PANEL};
use kinglet_kernels::{Format, Isa, Matrix};

use crate::support::*;

/// Cut panels, cut groups, whole ones, and more groups than a word of the index has bits.
const SHAPES: &[(usize, usize)] = if MIRI {
    &[(19, 100)]
} else {
    &[
        (1, 1),
        (16, 32),
        (17, 33),
        (33, 31),
        (47, 61),
        (48, 288),
        (79, 132),
        (5, 1024),
        (21, 1100),
        (37, 2090),
    ]
};

/// Every remainder of what kernels take at a time, and more than one reading of a panel.
fn row_counts() -> impl Iterator<Item = usize> {
    (1..=20).filter(|&m| !MIRI || m == 5).chain([67].into_iter().filter(|_| !MIRI))
}

/// Which blocks there are: by panel and group.
type There = fn(&mut Random, usize, usize) -> bool;
const PATTERNS: [(&str, There); 6] = [
    ("all", |_, _, _| true),
    ("none", |_, _, _| false),
    ("half", |random, _, _| random.next().is_multiple_of(2)),
    ("few", |random, _, _| random.next().is_multiple_of(7)),
    ("every other panel", |_, panel, _| panel % 2 == 1),
    ("the first groups, then the others", |_, panel, group| (group < 2) == (panel == 0)),
];

fn product(isa: Isa, w: &Matrix<'_>, x: &Rows) -> Vec<u32> {
    let mut out = vec![7.0; x.scales.len() * w.rows()];
    isa.matmul(w, &x.view(), 0..w.panels(), &mut out, w.rows());
    bits(&out)
}

#[test]
fn equals_the_dense_matrix() {
    let mut random = Random(11);
    for format in sparse_formats() {
        for &(rows, cols) in SHAPES {
            for (pattern, there) in PATTERNS {
                let mut dense = Weights::random(format, rows, cols, &mut random);
                let sparse = dense.split_off(|panel, group| there(&mut random, panel, group));
                let w = sparse.matrix();
                assert!(w.is_sparse() && w.index_is_sound());
                for m in row_counts() {
                    let x = Rows::random(m, cols, &mut random);
                    let want = product(Isa::SCALAR, &dense.matrix(), &x);
                    for isa in all_sets() {
                        let name = || format!("{isa:?} {format:?} {rows}x{cols} by {m}, {pattern}");
                        assert_eq!(product(isa, &w, &x), want, "{}", name());
                    }
                }
            }
        }
    }
}

#[test]
fn any_range_of_panels_is_that_part_of_the_whole() {
    let mut random = Random(12);
    // Under Miri few numbers in as many kinds of panels: most of its time is the reference's.
    let (rows, cols) = if MIRI { (35, 36) } else { (83, 100) };
    for format in sparse_formats() {
        let mut dense = Weights::random(format, rows, cols, &mut random);
        let sparse = dense.split_off(|_, _| random.next().is_multiple_of(2));
        let w = sparse.matrix();
        // Under Miri the first panels and the last, which is cut; `a_lying_index` has a single row
        // there.
        for m in [1, 6].into_iter().filter(|&m| !MIRI || m == 6) {
            let x = Rows::random(m, cols, &mut random);
            let all = product(Isa::SCALAR, &dense.matrix(), &x);
            for start in
                (0..w.panels()).filter(|start| !MIRI || [0, w.panels() - 2].contains(start))
            {
                for end in (start..=w.panels()).filter(|end| !MIRI || end - start == 2) {
                    for isa in all_sets() {
                        let mut out = vec![7.0; m * rows];
                        isa.matmul(&w, &x.view(), start..end, &mut out[start * PANEL..], rows);
                        for (i, got) in bits(&out).into_iter().enumerate() {
                            let inside = (start * PANEL..end * PANEL).contains(&(i % rows));
                            let want = if inside { all[i] } else { 7f32.to_bits() };
                            assert_eq!(got, want, "{isa:?} {format:?} by {m}, {start}..{end}, {i}");
                        }
                    }
                }
            }
        }
    }
}

/// Products with an index of any bits give one and the same nonsense everywhere.
#[test]
fn a_lying_index_is_nonsense_everywhere() {
    let mut random = Random(13);
    for format in sparse_formats() {
        for &(rows, cols) in SHAPES {
            for round in 0..if MIRI { 1 } else { 8 } {
                let mut dense = Weights::random(format, rows, cols, &mut random);
                let mut sparse = dense.split_off(|_, _| random.next().is_multiple_of(2));
                let blocks = sparse.matrix().blocks();
                let index = format.sparse_planes(rows, cols, blocks).unwrap().index;
                for word in sparse.bytes_mut()[index..].as_chunks_mut::<4>().0 {
                    let words = [u32::MAX, 0, random.next(), random.next() % (blocks as u32 + 2)];
                    *word = random.pick(&words).to_le_bytes();
                }
                let w = sparse.matrix();
                for m in [1, 9] {
                    let x = Rows::random(m, cols, &mut random);
                    let want = product(Isa::SCALAR, &w, &x);
                    for isa in all_sets() {
                        assert_eq!(
                            product(isa, &w, &x),
                            want,
                            "{isa:?} {format:?} {rows}x{cols} by {m}, {round}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn an_index_is_sound_or_not() {
    let sound = |change: fn(&mut [u8])| {
        let mut dense = Weights::random(Format::Int4, 40, 70, &mut Random(14));
        let mut sparse = dense.split_off(|panel, group| panel != 1 || group == 2);
        let index = Format::Int4.sparse_planes(40, 70, 7).unwrap().index;
        change(&mut sparse.bytes_mut()[index..]);
        sparse.matrix().index_is_sound()
    };
    assert!(sound(|_| {}));
    assert!(!sound(|index| index[0] = 1), "a first panel that starts later");
    assert!(!sound(|index| index[8] = 2), "a panel that starts too early");
    assert!(!sound(|index| index[4] = 3), "a block too few");
    assert!(!sound(|index| index[20] = 15), "a group that there is not");
    assert!(!sound(|index| index[23] = 128), "a group that there is not");
}

#[test]
fn the_number_of_blocks_follows_from_the_bytes() {
    for format in sparse_formats() {
        for (rows, cols) in [(1usize, 1usize), (40, 70), (17, 1100)] {
            let most = rows.div_ceil(PANEL) * cols.div_ceil(GROUP);
            let memory = Weights::new(
                format,
                rows,
                cols,
                &vec![0; format.sparse_planes(rows, cols, most + 1).unwrap().end],
            );
            let new = |len: usize| {
                Matrix::sparse(format, rows, cols, &memory.bytes()[..len]).map(|w| w.blocks())
            };
            for blocks in 0..=most {
                let len = format.sparse_planes(rows, cols, blocks).unwrap().end;
                assert_eq!(new(len), Ok(blocks));
                assert_eq!((new(len - 1), new(len + 1)), (Err(Length), Err(Length)));
            }
            assert_eq!(
                new(format.sparse_planes(rows, cols, most + 1).unwrap().end),
                Err(Length),
                "more than there can be"
            );
            let first = format.sparse_planes(rows, cols, 0).unwrap().end;
            let moved =
                Matrix::sparse(format, rows, cols, &memory.bytes()[1..=first]).map(|w| w.blocks());
            assert_eq!(moved, Err(Alignment));
            assert_eq!(Matrix::sparse(format, 0, cols, &[]).map(|w| w.blocks()), Err(Shape));
            assert_eq!(
                Matrix::sparse(format, usize::MAX, usize::MAX, &[]).map(|w| w.blocks()),
                Err(Shape)
            );
        }
    }
}
