//! Operations on memory that ends where an inaccessible page begins, or begins where one ends: a
//! load or a store beyond a slice is a crash. Operands are read-only.

use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::ptr::{null_mut, slice_from_raw_parts_mut};

use bytemuck::Pod;
use kinglet_kernels::cache::Head;
use kinglet_kernels::{Activation, Activations, ActivationsMut, Bias, Format, Isa, Mask};

use crate::support::*;

/// Where in its pages a slice lies.
#[derive(Clone, Copy, Debug, PartialEq)]
enum At {
    Start,
    End,
}

/// A slice in pages of its own, with an inaccessible one on either side.
struct Guarded<T> {
    map: *mut u8,
    map_len: usize,
    slice: *mut [T],
    owned: PhantomData<T>,
}

impl<T: Pod> Guarded<T> {
    /// A copy that can be written.
    fn new(values: &[T], at: At) -> Self {
        let bytes: &[u8] = bytemuck::cast_slice(values);
        // SAFETY: has no preconditions.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
        let inner = bytes.len().next_multiple_of(page).max(page);
        let map_len = inner + 2 * page;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new mapping at an address that the system chooses touches no memory in use.
        let map = unsafe { libc::mmap(null_mut(), map_len, libc::PROT_NONE, flags, -1, 0) };
        assert!(map != libc::MAP_FAILED);
        let map: *mut u8 = map.cast();
        // SAFETY: the pages from the second to the last but one are part of the mapping, which
        // nothing refers to yet.
        let done = unsafe {
            libc::mprotect(map.wrapping_add(page).cast(), inner, libc::PROT_READ | libc::PROT_WRITE)
        };
        assert_eq!(done, 0);
        let offset = page + if at == At::End { inner - bytes.len() } else { 0 };
        let start = map.wrapping_add(offset);
        // SAFETY: `bytes.len()` bytes from `start` lie within the accessible pages, and no other
        // memory overlaps a new mapping.
        unsafe { start.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        let slice = slice_from_raw_parts_mut(start.cast(), values.len());
        Self { map, map_len, slice, owned: PhantomData }
    }

    /// A copy that cannot be written.
    fn operand(values: &[T], at: At) -> Self {
        let guarded = Self::new(values, at);
        // SAFETY: has no preconditions.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
        let (first, inner) = (guarded.map.wrapping_add(page), guarded.map_len - 2 * page);
        // SAFETY: these pages are the mapping's own. Nothing refers to them yet, and an operand is
        // not handed out for writing.
        let done = unsafe { libc::mprotect(first.cast(), inner, libc::PROT_READ) };
        assert_eq!(done, 0);
        guarded
    }
}

impl<T> Deref for Guarded<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: `new` put initialized values there, aligned: `start` is a multiple of the page
        // size, or as many bytes before one as the values take, which is a multiple of their
        // alignment. Shared for as long as `self` is.
        unsafe { &*self.slice }
    }
}

impl<T> DerefMut for Guarded<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`, and exclusive for as long as `self` is.
        unsafe { &mut *self.slice }
    }
}

impl<T> Drop for Guarded<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own, and references into it have ended with their
        // borrows.
        unsafe { libc::munmap(self.map.cast(), self.map_len) };
    }
}

/// Each way to lay out operands and results; every set.
fn everywhere(mut test: impl FnMut(Isa, At)) {
    for isa in Isa::available() {
        for at in [At::Start, At::End] {
            test(isa, at);
        }
    }
}

/// The system itself is asked to read and write beyond the slices: it answers EFAULT where a
/// program would crash.
#[test]
fn pages_around_a_slice_are_inaccessible() {
    let mut pipe = [0; 2];
    // SAFETY: `pipe` has room for two descriptors.
    assert_eq!(unsafe { libc::pipe(pipe.as_mut_ptr()) }, 0);
    // SAFETY: the system checks the address and reads at most one byte.
    let reads = |address: *const u8| unsafe { libc::write(pipe[1], address.cast(), 1) } == 1;
    let end = Guarded::operand(&[1u8; 100], At::End);
    let start = Guarded::operand(&[1u8; 100], At::Start);
    assert!(reads(end.as_ptr()) && reads(start.as_ptr()) && reads(end.as_ptr().wrapping_add(99)));
    assert!(!reads(end.as_ptr().wrapping_add(100)), "the byte after a slice can be read");
    assert!(!reads(start.as_ptr().wrapping_sub(1)), "the byte before a slice can be read");
    // SAFETY: the system checks the address; were the page writable, one byte that the pipe holds
    // would be written to it while nothing borrows the slice.
    let written = unsafe { libc::read(pipe[0], end.as_ptr().cast_mut().cast(), 1) };
    assert_eq!(written, -1, "an operand can be written");
    for end in pipe {
        // SAFETY: the descriptors are open, and used by nothing after this.
        unsafe { libc::close(end) };
    }
}

#[test]
fn matmul() {
    let mut random = Random(1);
    for format in Format::ALL {
        for (rows, cols) in [(1, 1), (16, 4), (5, 33), (31, 36), (33, 31), (83, 68), (149, 97)] {
            let mut dense = Weights::random(format, rows, cols, &mut random);
            let mut all = vec![];
            if format.may_be_sparse() {
                // Without its last block, and as an index says that there are more.
                let sparse = dense.split_off(|panel, group| (panel + group) % 3 != 1);
                let mut lying = dense.split_off(|panel, _| panel == 0);
                let index =
                    format.sparse_planes(rows, cols, lying.matrix().blocks()).unwrap().index;
                lying.bytes_mut()[index..].fill(0xff);
                all.extend([sparse, lying]);
            }
            all.push(dense);
            for w in all {
                for (m, planes) in
                    (1..=19).chain([33]).map(|m| (m, 1)).chain([(1, 2), (9, 2), (33, 2)])
                {
                    let x = match planes {
                        1 => Rows::random(m, cols, &mut random),
                        _ => Rows::quantize_planes(Isa::SCALAR, &random.floats(m * cols), cols),
                    };
                    let mut want = vec![0.0; m * rows];
                    Isa::SCALAR.matmul(
                        &w.matrix(),
                        &x.view(),
                        0..w.matrix().panels(),
                        &mut want,
                        rows,
                    );
                    everywhere(|isa, at| {
                        let bytes = Guarded::operand(w.bytes(), at);
                        let matrix = w.matrix_in(&bytes);
                        let codes = Guarded::operand(&x.codes, at);
                        let (sums, scales) =
                            (Guarded::operand(&x.sums, at), Guarded::operand(&x.scales, at));
                        let x = Activations::new(&codes, &sums, &scales, cols).in_planes(planes);
                        let mut out = Guarded::new(&vec![0.0; m * rows], at);
                        isa.matmul(&matrix, &x, 0..matrix.panels(), &mut out, rows);
                        let what = if w.sparse { "sparse " } else { "" };
                        assert_eq!(
                            bits(&out),
                            bits(&want),
                            "{isa:?} {at:?} {what}{format:?} {rows}x{cols} by {m}"
                        );
                    });
                }
            }
        }
    }
}

#[test]
fn quantize() {
    let mut random = Random(2);
    for cols in (1..70).chain([127, 288]) {
        for rows in [1, 2] {
            let x = random.floats(rows * cols);
            let want = Rows::quantize(Isa::SCALAR, &x, cols);
            everywhere(|isa, at| {
                let garbage = Rows::garbage(rows, cols);
                let mut codes = Guarded::new(&garbage.codes, at);
                let (mut sums, mut scales) =
                    (Guarded::new(&garbage.sums, at), Guarded::new(&garbage.scales, at));
                let mut to = ActivationsMut::new(&mut codes, &mut sums, &mut scales, cols);
                for row in 0..rows {
                    isa.quantize(&Guarded::operand(&x[row * cols..][..cols], at), &mut to, row);
                }
                assert_eq!(codes[..], want.codes, "{isa:?} {at:?} {cols}");
                assert_eq!(sums[..], want.sums, "{isa:?} {at:?} {cols}");
                assert_eq!(scales[..], want.scales, "{isa:?} {at:?} {cols}");
            });
        }
    }
}

#[test]
fn elementwise() {
    let mut random = Random(3);
    for n in (1..70).chain([127, 288]) {
        let (x, y, z) = (random.floats(n), random.floats(n), random.floats(2 * n));
        let run = |isa: Isa, at| {
            let operands = [&x, &y].map(|v| Guarded::operand(v, at));
            let mut norm = Guarded::new(&vec![0.0; n], at);
            isa.rms_norm(&operands[0], &operands[1], 1e-5, &mut norm);
            let mut sum = Guarded::new(&x, at);
            isa.add(&mut sum, &operands[1]);
            let mut gate = Guarded::new(&x, at);
            isa.silu_mul(&mut gate, &operands[1]);
            let mut rotated = Guarded::new(&z, at);
            isa.rope(&mut rotated, &operands[0], &operands[1]);
            let mut spread = Guarded::new(&z[..n / 2 * 4], at);
            if n >= 2 {
                isa.transform(&mut spread);
            }
            let mut product = Guarded::new(&x, at);
            isa.mul(&mut product, &operands[1]);
            let mut layer = Guarded::new(&vec![0.0; n], at);
            isa.layer_norm(&operands[0], &operands[1], &operands[1], 1e-5, &mut layer);
            let activated = Activation::ALL.map(|activation| {
                let mut x = Guarded::new(&x, at);
                isa.activate(activation, &mut x);
                bits(&x)
            });
            ([norm, sum, gate, rotated, spread, product, layer].map(|v| bits(&v)), activated)
        };
        let want = run(Isa::SCALAR, At::Start);
        everywhere(|isa, at| assert_eq!(run(isa, at), want, "{isa:?} {at:?} {n}"));
    }
}

/// Earlier positions, with a bias by distance.
fn biased(len: usize, table: &[f32]) -> Mask<'_> {
    Mask::causal(len).with_bias(Bias { table, first: len - 1 })
}

#[test]
fn attend() {
    let mut random = Random(4);
    let shapes = [(1, 1), (17, 5), (48, 33), (80, 64), (130, 20), (65, 256)];
    for ((context, head_dim), values) in
        shapes.into_iter().flat_map(|shape| VALUES.map(|values| (shape, values)))
    {
        let cache = Cache::random(context, head_dim, values, &mut random);
        for (heads, rows, gap) in [(1, 1, 0), (2, 1, 0), (3, 5, 7), (1, 16, 0), (8, 3, 1)] {
            let stride = heads * head_dim + gap;
            let q = random.floats(rows * stride - gap);
            for len in [1, cache.shape.positions.saturating_sub(rows - 1)] {
                if len == 0 || len + rows - 1 > cache.shape.positions {
                    continue;
                }
                let table = random.floats(heads * 41);
                let mut want = q.clone();
                Isa::SCALAR.attend(
                    &cache.head(),
                    biased(len, &table),
                    0.3,
                    &mut want,
                    heads,
                    stride,
                );
                everywhere(|isa, at| {
                    let table = Guarded::operand(&table, at);
                    let (codes, scales) =
                        (Guarded::operand(&cache.codes, at), Guarded::operand(&cache.scales, at));
                    let head = Head::new(cache.shape, &codes, &scales);
                    let mut got = Guarded::new(&q, at);
                    isa.attend(&head, biased(len, &table), 0.3, &mut got, heads, stride);
                    assert_eq!(
                        bits(&got),
                        bits(&want),
                        "{isa:?} {at:?} {:?} {heads} {rows} {len}",
                        cache.shape
                    );
                });
            }
        }
    }
}
