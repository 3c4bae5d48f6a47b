//! Sizes whose products do not fit the machine: refused as any other that do not fit, and never
//! taken for the small number that is left of them.

use std::panic::{AssertUnwindSafe, catch_unwind};

use kinglet_kernels::cache::{self, CacheShape, Head, MAX_HEAD_DIM};
use kinglet_kernels::{Activations, Format, Isa, Mask, ValueFormat};

use crate::support::{Random, Weights};

/// Whether the operands are refused; an overflow that a build for tests finds is no refusal.
fn refused<T>(what: impl FnOnce() -> T) -> bool {
    let payload = catch_unwind(AssertUnwindSafe(what)).err();
    let said = payload.as_ref().and_then(|payload| payload.downcast_ref::<&str>());
    said.is_some_and(|said| said.contains("operands do not fit"))
}

#[test]
fn a_stride_beyond_the_address_space_is_refused() {
    let mut random = Random(3);
    let bytes: Vec<u8> =
        (0..Format::Int8.bytes(16, 32).unwrap()).map(|_| random.next() as u8).collect();
    let weights = Weights::new(Format::Int8, 16, 32, &bytes);
    for rows in [2, 3, 5, 17, 33] {
        let (codes, sums, scales) = (vec![1; rows * 32], vec![32; rows], vec![1.0; rows]);
        let x = Activations::new(&codes, &sums, &scales, 32);
        let top = 1 << (usize::BITS - 1);
        for stride in [
            top,
            top + 16,
            (usize::MAX / (rows - 1)).saturating_add(1),
            usize::MAX - 15,
            usize::MAX,
        ] {
            for isa in Isa::available() {
                let mut out = vec![0.0; 16 + rows];
                let matmul = || isa.matmul(&weights.matrix(), &x, 0..1, &mut out, stride);
                assert!(refused(matmul), "{rows} rows, stride {stride:#x}, {isa:?}");
            }
        }
    }
}

#[test]
fn rows_beyond_the_address_space_are_refused() {
    for cols in [usize::MAX, usize::MAX - 30, 1 << (usize::BITS - 1)] {
        assert!(refused(|| Activations::new(&[0; 64], &[0; 2], &[0.0; 2], cols)), "{cols:#x}");
    }
}

#[test]
fn a_cache_beyond_the_address_space_has_no_memory() {
    let whole = CacheShape::new(usize::MAX, MAX_HEAD_DIM, ValueFormat::Int8);
    assert!(whole.positions > usize::MAX / 2 && whole.positions.is_multiple_of(16));
    assert_eq!((whole.codes(), whole.scales()), (usize::MAX, usize::MAX));
    for shape in [
        CacheShape { positions: 1 << (usize::BITS - 1), ..whole },
        CacheShape { positions: 1 << (usize::BITS - 4), head_dim: 16, ..whole },
        CacheShape { positions: 16, head_dim: usize::MAX, ..whole },
        whole,
    ] {
        assert!(refused(|| Head::new(shape, &[], &[])), "{shape:?}");
        let store = || cache::store(shape, &mut [], &mut [], 0, &[0.0; 16], &[0.0; 16]);
        assert!(refused(store), "{shape:?}");
    }
}

#[test]
fn heads_and_positions_beyond_the_address_space_are_refused() {
    let shape = CacheShape::new(16, 16, ValueFormat::Int8);
    let (codes, scales) = (vec![0; shape.codes()], vec![0; shape.scales()]);
    let head = Head::new(shape, &codes, &scales);
    let heads = (1 << (usize::BITS - 4)) + 1;
    for isa in Isa::available() {
        let mut q = [0.0; 32];
        let attend = || isa.attend(&head, Mask::causal(4), 1.0, &mut q, heads, 32);
        assert!(refused(attend), "{isa:?}");
        let beyond = || isa.attend(&head, Mask::causal(usize::MAX), 1.0, &mut [0.0; 32], 1, 16);
        assert!(refused(beyond), "{isa:?}");
    }
}
