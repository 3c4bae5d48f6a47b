//! Helium integers (Cortex-M55, M85): a gather of words at a stride of 64 bytes collects 16 inner
//! values of a row, or a group of 32 nibbles, for `vmladava`, which multiplies 16 bytes and adds
//! all products to a core register.
//!
//! The addresses of the gather are a vector that steps by itself: a row is an offset from it, so no
//! instruction computes an address. Nibbles of a codebook are looked up as whole bytes, in one
//! table of low and one of high nibbles.
//!
//! Each loop is one block of assembly: vector registers cannot be operands. Some blocks change the
//! predicate register, which `asm!` cannot name as clobbered. That is sound because nothing keeps a
//! value in it: the procedure call standard does not preserve it over calls, and the compiler uses it
//! only within loops that it vectorizes itself, which contain no assembly. The functions here have
//! no such loop around a block.
//!
//! The file is longer than 500 lines because the blocks share macros and tables, and because each
//! file with a check that may fail puts its path into the flash.

use core::arch::asm;
use core::mem::MaybeUninit;
use core::ops::Range;
use core::slice;

#[cfg(target_abi = "eabihf")]
use super::float;
use crate::activations::{Activations, Row};
use crate::cache::{CHUNK, Head};
use crate::gemm::{Product, Sums};
use crate::layout::{Format, GROUP, GROUP_BYTES, Matrix, PANEL, QUAD, TILE, WORD};
use crate::scalar::{self, Weights};

crate::vector::token! {
    /// Proof of Helium.
    Helium, true
}

/// The operations.
mod on {
    use super::*;

    use super::super::multiply;

    crate::vector::operations!(Helium, "mve", panels: 1, rows: (multiply), queries: 1);
}

impl Product for Helium {
    #[inline(always)]
    fn int8<const P: usize, const M: usize>(
        self,
        codes: [&[u8]; P],
        rows: [Row<'_>; M],
    ) -> Sums<P, M> {
        let mut sums = [[[0; PANEL]; M]; P];
        for (codes, sums) in codes.iter().zip(&mut sums) {
            let (pairs, last) = sums.as_chunks_mut::<2>();
            for ([first, second], rows) in pairs.iter_mut().zip(rows.as_chunks::<2>().0) {
                int8_pair(codes, rows.map(|row| row.codes), [first, second].map(slice::from_mut));
            }
            for (sums, row) in last.iter_mut().zip(&rows[M - M % 2..]) {
                int8(codes, row.codes, slice::from_mut(sums));
            }
        }
        sums
    }

    #[inline(always)]
    fn int4<const P: usize, const M: usize>(
        self,
        _: [&[u8]; P],
        _: [&[[i8; PANEL]]; P],
        _: Option<&[i8; 16]>,
        _: [Row<'_>; M],
    ) -> Sums<P, M> {
        unreachable!("matrices are multiplied by `groups`")
    }

    #[inline(always)]
    fn transform(self, x: &mut [f32]) {
        #[cfg(target_abi = "eabihf")]
        float::transform(x);
        #[cfg(not(target_abi = "eabihf"))]
        scalar::transform(x);
    }

    #[cfg(target_abi = "eabihf")]
    #[inline(always)]
    fn quantize(self, x: &[f32], codes: &mut [i8], sums: &mut [i16]) -> f32 {
        float::quantize(x, codes, sums)
    }

    #[cfg(target_abi = "eabihf")]
    #[inline(always)]
    fn rms_norm(self, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
        float::rms_norm(x, weight, eps, out);
    }

    #[cfg(target_abi = "eabihf")]
    #[inline(always)]
    fn silu_mul(self, gate: &mut [f32], up: &[f32]) {
        float::silu_mul(gate, up);
    }

    #[cfg(target_abi = "eabihf")]
    #[inline(always)]
    fn softmax(self, scores: &[f32; CHUNK], value_scales: &[f32], to: &mut Weights) {
        match value_scales {
            [] => *to = Weights::EMPTY,
            _ => softmax(scores, value_scales, to),
        }
    }
}

/// Panels computed together: they share what is done around a loop.
pub(super) const PANELS: usize = 4;

/// The end of a loop over rows of panels. On the stack lie a pointer to the activations, their
/// number of quads, pointers to the rows' first tile and to their sums, from there to the next
/// rows' first tile, and to those after, and r6 and r7. In r9 is how many times to go.
macro_rules! next_rows {
    () => {
        concat!(
            "ldrd r3, r1, [sp, #8]\n",
            "stm r1!, {{r0, r2, r4, r6, r8, r10, r12, lr}}\n",
            "ldrd r0, r2, [sp, #16]\n",
            "add r3, r3, r0\n",
            "strd r3, r1, [sp, #8]\n",
            "strd r2, r0, [sp, #16]\n",
            "subs r9, r9, #1\n",
            "bne 2b\n",
            "add sp, sp, #24\n",
            "pop {{r6, r7}}",
        )
    };
}

/// The start of that loop: the vector of addresses, and sums of zero.
macro_rules! first_rows {
    () => {
        concat!(
            "push {{r0-r7}}\n",
            "2:\n",
            "ldm sp, {{r1, r3, r5}}\n",
            "movs r0, #0\n",
            "vidup.u32 q0, r0, #1\n",
            "vshl.i32 q0, q0, #6\n",
            "vadd.i32 q0, q0, r5\n",
            "movs r0, #0\n",
            "movs r2, #0\n",
            "movs r4, #0\n",
            "movs r6, #0\n",
            "mov r8, r0\n",
            "mov r10, r0\n",
            "mov r12, r0\n",
            "mov lr, r0",
        )
    };
}

/// Four quads of eight rows.
macro_rules! int8_quads {
    () => {
        concat!(
            "vldrb.u8 q1, [r1], #16\n",
            "vldrw.u32 q2, [q0, #256]!\n",
            "vmladava.s8 r0, q1, q2\n",
            "vldrw.u32 q3, [q0, #4]\n",
            "vmladava.s8 r2, q1, q3\n",
            "vldrw.u32 q2, [q0, #8]\n",
            "vmladava.s8 r4, q1, q2\n",
            "vldrw.u32 q3, [q0, #12]\n",
            "vmladava.s8 r6, q1, q3\n",
            "vldrw.u32 q2, [q0, #16]\n",
            "vmladava.s8 r8, q1, q2\n",
            "vldrw.u32 q3, [q0, #20]\n",
            "vmladava.s8 r10, q1, q3\n",
            "vldrw.u32 q2, [q0, #24]\n",
            "vmladava.s8 r12, q1, q2\n",
            "vldrw.u32 q3, [q0, #28]\n",
            "vmladava.s8 lr, q1, q3",
        )
    };
}

/// Tiles as words: a gather wants them aligned.
///
/// # Panics
/// When a cache is not aligned to words; matrices are.
#[inline(always)]
fn tiles(codes: &[u8]) -> &[[u32; PANEL]] {
    bytemuck::cast_slice(codes)
}

/// Where a gather that steps first starts.
#[inline(always)]
fn before(codes: *const [u32; PANEL]) -> *const u32 {
    codes.cast::<u32>().wrapping_byte_sub(4 * TILE)
}

/// The sums of panels that lie one after the other.
// Longer than sixty lines: one block of assembly, and what it is given.
#[inline(never)]
pub(super) fn int8(codes: &[u8], x: &[i8], sums: &mut [[i32; PANEL]]) {
    let tiles = tiles(codes);
    let quads = x.len() / QUAD;
    fit!(x.len() == quads * QUAD && tiles.len() == quads * sums.len());
    if sums.is_empty() {
        return;
    }
    // SAFETY: for eight rows at a time the block reads one word a row of each tile, and `x`, which
    // is as long: whole vectors while there are four tiles, then under a predicate of those that
    // are left. It writes `sums`, and leaves the stack as it was.
    unsafe {
        asm!(
            first_rows!(),
            "subs r3, r3, #16",
            "blt 4f",
            "3:",
            int8_quads!(),
            int8_quads!(),
            int8_quads!(),
            int8_quads!(),
            "subs r3, r3, #16",
            "bge 3b",
            "4:",
            "adds r3, r3, #12",
            "blt 5f",
            "7:",
            int8_quads!(),
            "subs r3, r3, #4",
            "bge 7b",
            "5:",
            "adds r3, r3, #4",
            "beq 6f",
            "vctp.32 r3",
            "vpsttt",
            "vldrbt.u8 q1, [r1]",
            "vldrwt.u32 q2, [q0, #256]!",
            "vldrwt.u32 q3, [q0, #4]",
            "vmladava.s8 r0, q1, q2",
            "vmladava.s8 r2, q1, q3",
            "vpstttt",
            "vldrwt.u32 q2, [q0, #8]",
            "vldrwt.u32 q3, [q0, #12]",
            "vldrwt.u32 q4, [q0, #16]",
            "vldrwt.u32 q5, [q0, #20]",
            "vmladava.s8 r4, q1, q2",
            "vmladava.s8 r6, q1, q3",
            "vmladava.s8 r8, q1, q4",
            "vmladava.s8 r10, q1, q5",
            "vpstt",
            "vldrwt.u32 q2, [q0, #24]",
            "vldrwt.u32 q3, [q0, #28]",
            "vmladava.s8 r12, q1, q2",
            "vmladava.s8 lr, q1, q3",
            "6:",
            next_rows!(),
            inout("r0") x.as_ptr() => _,
            inout("r1") quads => _,
            inout("r2") before(tiles.as_ptr()) => _,
            inout("r3") sums.as_mut_ptr() => _,
            inout("r9") 2 * sums.len() => _,
            inout("r4") TILE / 2 => _,
            inout("r5") quads * TILE - TILE / 2 => _,
            out("r8") _, out("r10") _, out("r12") _, out("lr") _,
            out("q0") _, out("q1") _, out("q2") _, out("q3") _, out("q4") _, out("q5") _,
        );
    }
}

/// [`int8`] for two rows of activations: what is gathered serves both.
// Longer than sixty lines: one block of assembly, and what it is given.
#[inline(never)]
pub(super) fn int8_pair(
    codes: &[u8],
    [x, y]: [&[i8]; 2],
    [first, second]: [&mut [[i32; PANEL]]; 2],
) {
    fit!(x.len() == y.len() && x.len().is_multiple_of(QUAD));
    for ((tiles, first), second) in tiles(codes).chunks_exact(x.len() / QUAD).zip(first).zip(second)
    {
        let mut both = [0; 2 * PANEL];
        // SAFETY: as in `int8`, for one panel and four rows at a time, and `y`, which is as long as
        // `x`. It writes `both`.
        unsafe {
            asm!(
                first_rows!(),
                "subs r3, r3, #4",
                "blt 4f",
                "3:",
                "vldrb.u8 q1, [r1], #16",
                "vldrb.u8 q2, [r11], #16",
                "vldrw.u32 q3, [q0, #256]!",
                "vmladava.s8 r0, q1, q3",
                "vmladava.s8 r2, q2, q3",
                "vldrw.u32 q4, [q0, #4]",
                "vmladava.s8 r4, q1, q4",
                "vmladava.s8 r6, q2, q4",
                "vldrw.u32 q3, [q0, #8]",
                "vmladava.s8 r8, q1, q3",
                "vmladava.s8 r10, q2, q3",
                "vldrw.u32 q4, [q0, #12]",
                "vmladava.s8 r12, q1, q4",
                "vmladava.s8 lr, q2, q4",
                "subs r3, r3, #4",
                "bge 3b",
                "4:",
                "adds r3, r3, #4",
                "beq 6f",
                "vctp.32 r3",
                "vpsttt",
                "vldrbt.u8 q1, [r1]",
                "vldrbt.u8 q2, [r11]",
                "vldrwt.u32 q3, [q0, #256]!",
                "vmladava.s8 r0, q1, q3",
                "vmladava.s8 r2, q2, q3",
                "vpsttt",
                "vldrwt.u32 q3, [q0, #4]",
                "vldrwt.u32 q4, [q0, #8]",
                "vldrwt.u32 q5, [q0, #12]",
                "vmladava.s8 r4, q1, q3",
                "vmladava.s8 r6, q2, q3",
                "vmladava.s8 r8, q1, q4",
                "vmladava.s8 r10, q2, q4",
                "vmladava.s8 r12, q1, q5",
                "vmladava.s8 lr, q2, q5",
                "6:",
                "ldr r3, [sp]",
                "sub r3, r1, r3",
                "sub r11, r11, r3",
                next_rows!(),
                inout("r0") x.as_ptr() => _,
                inout("r1") tiles.len() => _,
                inout("r2") before(tiles.as_ptr()) => _,
                inout("r3") both.as_mut_ptr() => _,
                inout("r9") 4 => _,
                inout("r11") y.as_ptr() => _,
                inout("r4") TILE / 4 => _,
                inout("r5") TILE / 4 => _,
                out("r8") _, out("r10") _, out("r12") _, out("lr") _,
                out("q0") _, out("q1") _, out("q2") _, out("q3") _, out("q4") _, out("q5") _,
            );
        }
        for (([a, b], first), second) in both.as_chunks().0.iter().zip(first).zip(second) {
            (*first, *second) = (*a, *b);
        }
    }
}

/// What [`table`] makes.
pub(super) type Table = [[i8; 256]; 2];

/// The levels of a byte's low nibble, then of its high nibble, for every byte.
pub(super) fn table(levels: &[i8; 16]) -> Table {
    let mut tables = [[0; 256]; 2];
    let [low, high] = &mut tables;
    for ((low, high), &level) in
        low.as_chunks_mut().0.iter_mut().zip(high.as_chunks_mut::<16>().0).zip(levels)
    {
        *low = *levels;
        high.fill(level);
    }
    tables
}

/// Groups whose activations are copied together.
const BLOCK: usize = 16;

/// Activations of some groups, as words.
type Words = [MaybeUninit<[u32; GROUP / 4]>; BLOCK];

/// The groups from `start` as words, which `vld2` wants aligned: where they lie, or a copy of the
/// first of them. Returns a pointer, and how many groups there are.
#[inline(always)]
fn words(row: &Row<'_>, start: usize, copy: &mut Words) -> (*const i8, usize) {
    let groups = &row.codes.as_chunks::<GROUP>().0[start..];
    if groups.as_ptr().cast::<u32>().is_aligned() {
        return (groups.as_ptr().cast(), groups.len());
    }
    copy_groups(groups, copy);
    (copy.as_ptr().cast(), BLOCK.min(groups.len()))
}

#[cold]
#[inline(never)]
fn copy_groups(groups: &[[i8; GROUP]], to: &mut Words) {
    for (to, &group) in to.iter_mut().zip(groups) {
        to.write(bytemuck::cast(group));
    }
}

/// The dot product of a row's group of uniform nibbles.
macro_rules! uniform_row {
    ($address:literal, $dot:literal) => {
        concat!(
            "vldrw.u32 q4, ",
            $address,
            "\n",
            "vand q5, q4, q1\n",
            "vshr.u8 q4, q4, #4\n",
            "vmladav.s8 ",
            $dot,
            ", q5, q2\n",
            "vmladava.s8 ",
            $dot,
            ", q4, q3",
        )
    };
}

/// The dot product of a row's group of nibbles of a codebook.
macro_rules! codebook_row {
    ($address:literal, $dot:literal) => {
        concat!(
            "vldrw.u32 q1, ",
            $address,
            "\n",
            "vldrb.u8 q4, [r10, q1]\n",
            "vldrb.u8 q5, [r12, q1]\n",
            "vmladav.s8 ",
            $dot,
            ", q4, q2\n",
            "vmladava.s8 ",
            $dot,
            ", q5, q3",
        )
    };
}

/// Four dot products in a vector.
macro_rules! collect {
    () => {
        "vmov q4[2], q4[0], r0, r4\nvmov q4[3], q4[1], r2, r8"
    };
}

/// Eight rows of a group of uniform nibbles, with eight times the sum of its activations
/// subtracted.
macro_rules! uniform_rows {
    () => {
        concat!(
            uniform_row!("[q0, #256]!", "r0"),
            "\n",
            uniform_row!("[q0, #4]", "r2"),
            "\n",
            uniform_row!("[q0, #8]", "r4"),
            "\n",
            uniform_row!("[q0, #12]", "r8"),
            "\n",
            collect!(),
            "\n",
            "lsl r9, r9, 3\n",
            "vldrb.s32 q5, [r5], #4\n",
            "vsub.i32 q4, q4, r9\n",
            "vmul.i32 q4, q4, q5\n",
            "vadd.i32 q6, q6, q4\n",
            uniform_row!("[q0, #16]", "r0"),
            "\n",
            uniform_row!("[q0, #20]", "r2"),
            "\n",
            uniform_row!("[q0, #24]", "r4"),
            "\n",
            uniform_row!("[q0, #28]", "r8"),
            "\n",
            collect!(),
            "\n",
            "vldrb.s32 q5, [r5], #12\n",
            "vsub.i32 q4, q4, r9\n",
            "vmul.i32 q4, q4, q5\n",
            "vadd.i32 q7, q7, q4",
        )
    };
}

/// Eight rows of a group of nibbles of a codebook.
macro_rules! codebook_rows {
    () => {
        concat!(
            codebook_row!("[q0, #256]!", "r0"),
            "\n",
            codebook_row!("[q0, #4]", "r2"),
            "\n",
            codebook_row!("[q0, #8]", "r4"),
            "\n",
            codebook_row!("[q0, #12]", "r8"),
            "\n",
            collect!(),
            "\n",
            "vldrb.s32 q5, [r5], #4\n",
            "vmul.i32 q4, q4, q5\n",
            "vadd.i32 q6, q6, q4\n",
            codebook_row!("[q0, #16]", "r0"),
            "\n",
            codebook_row!("[q0, #20]", "r2"),
            "\n",
            codebook_row!("[q0, #24]", "r4"),
            "\n",
            codebook_row!("[q0, #28]", "r8"),
            "\n",
            collect!(),
            "\n",
            "vldrb.s32 q5, [r5], #12\n",
            "vmul.i32 q4, q4, q5\n",
            "vadd.i32 q7, q7, q4",
        )
    };
}

/// [`int8`] for uniform nibbles.
#[inline(never)]
fn uniform(codes: &[u8], subs: &[[i8; PANEL]], row: &Row<'_>, sums: &mut [[i32; PANEL]]) {
    let mut copy: Words = [MaybeUninit::uninit(); BLOCK];
    let groups = row.codes.len() / GROUP;
    let codes = codes.as_chunks::<GROUP_BYTES>().0;
    sums.fill([0; PANEL]);
    let mut start = 0;
    while start < groups {
        let (x, count) = words(row, start, &mut copy);
        let offsets = &row.sums[start..][..count];
        for ((codes, subs), sums) in
            codes.chunks_exact(groups).zip(subs.chunks_exact(groups)).zip(&mut *sums)
        {
            let (codes, subs) = (&codes[start..][..count], &subs[start..][..count]);
            for (r, sums) in sums.as_chunks_mut::<8>().0.iter_mut().enumerate() {
                // SAFETY: for each of `count` groups the block reads the eight aligned words of
                // `x`, a sum of `offsets`, and of `codes` and `subs` what belongs to the rows `8 *
                // r..8 * r + 8`. It reads and writes `sums`.
                unsafe {
                    asm!(
                        "vidup.u32 q0, r0, #1",
                        "vshl.i32 q0, q0, #6",
                        "vadd.i32 q0, q0, r9",
                        "vmov.i8 q1, #15",
                        "vldrw.u32 q6, [r11]",
                        "vldrw.u32 q7, [r11, #16]",
                        "dls lr, lr",
                        "2:",
                        "vld20.32 {{q2, q3}}, [r1]",
                        "vld21.32 {{q2, q3}}, [r1]!",
                        "ldrsh r9, [r3], #2",
                        uniform_rows!(),
                        "le lr, 2b",
                        "vstrw.32 q6, [r11]",
                        "vstrw.32 q7, [r11, #16]",
                        inout("r0") 0 => _,
                        inout("r1") x => _,
                        inout("r3") offsets.as_ptr() => _,
                        inout("r9") before(codes.as_ptr().cast()).wrapping_add(8 * r) => _,
                        inout("r5") subs.as_ptr().cast::<i8>().wrapping_add(8 * r) => _,
                        in("r11") sums.as_mut_ptr(),
                        inout("lr") count => _,
                        out("r2") _, out("r4") _, out("r8") _,
                        out("q0") _, out("q1") _, out("q2") _, out("q3") _,
                        out("q4") _, out("q5") _, out("q6") _, out("q7") _,
                        options(nostack),
                    );
                }
            }
        }
        start += count;
    }
}

/// [`uniform`] for nibbles of a codebook.
#[inline(never)]
fn codebook(
    codes: &[u8],
    subs: &[[i8; PANEL]],
    tables: &Table,
    row: &Row<'_>,
    sums: &mut [[i32; PANEL]],
) {
    let mut copy: Words = [MaybeUninit::uninit(); BLOCK];
    let groups = row.codes.len() / GROUP;
    let codes = codes.as_chunks::<GROUP_BYTES>().0;
    sums.fill([0; PANEL]);
    let mut start = 0;
    while start < groups {
        let (x, count) = words(row, start, &mut copy);
        for ((codes, subs), sums) in
            codes.chunks_exact(groups).zip(subs.chunks_exact(groups)).zip(&mut *sums)
        {
            let (codes, subs) = (&codes[start..][..count], &subs[start..][..count]);
            for (r, sums) in sums.as_chunks_mut::<8>().0.iter_mut().enumerate() {
                // SAFETY: as in `uniform`; and a byte indexes the 256 of each of `tables`.
                unsafe {
                    asm!(
                        "vidup.u32 q0, r0, #1",
                        "vshl.i32 q0, q0, #6",
                        "vadd.i32 q0, q0, r9",
                        "vldrw.u32 q6, [r11]",
                        "vldrw.u32 q7, [r11, #16]",
                        "dls lr, lr",
                        "2:",
                        "vld20.32 {{q2, q3}}, [r1]",
                        "vld21.32 {{q2, q3}}, [r1]!",
                        codebook_rows!(),
                        "le lr, 2b",
                        "vstrw.32 q6, [r11]",
                        "vstrw.32 q7, [r11, #16]",
                        inout("r0") 0 => _,
                        inout("r1") x => _,
                        inout("r9") before(codes.as_ptr().cast()).wrapping_add(8 * r) => _,
                        inout("r5") subs.as_ptr().cast::<i8>().wrapping_add(8 * r) => _,
                        in("r10") &tables[0],
                        in("r11") sums.as_mut_ptr(),
                        in("r12") &tables[1],
                        inout("lr") count => _,
                        out("r2") _, out("r4") _, out("r8") _,
                        out("q0") _, out("q1") _, out("q2") _, out("q3") _,
                        out("q4") _, out("q5") _, out("q6") _, out("q7") _,
                        options(nostack),
                    );
                }
            }
        }
        start += count;
    }
}

/// The sums of panels from `p` on, whose weights come in groups: those of every matrix but a dense
/// one of int8.
pub(super) fn groups(
    w: &Matrix<'_>,
    p: usize,
    tables: Option<&Table>,
    row: &Row<'_>,
    sums: &mut [[i32; PANEL]],
) {
    if w.format() == Format::Int8Grouped {
        return grouped(w, p, row, sums);
    }
    if w.is_sparse() {
        return sparse(w, p, tables, row, sums);
    }
    let Some((codes, subs)) = w.stored(w.first_block(p), sums.len() * w.groups()) else { return };
    match tables {
        None => uniform(codes, subs, row, sums),
        Some(tables) => codebook(codes, subs, tables, row, sums),
    }
}

/// The sums of panels of grouped int8: each group is an int8 product of its own, times its
/// sub-scales.
#[inline(never)]
fn grouped(w: &Matrix<'_>, p: usize, row: &Row<'_>, sums: &mut [[i32; PANEL]]) {
    sums.as_flattened_mut().fill(0);
    for (i, sums) in sums.iter_mut().enumerate() {
        let mut block = w.first_block(p + i);
        for (g, x) in row.codes.as_chunks::<GROUP>().0.iter().enumerate() {
            if w.there(p + i, g, 1) == 0 {
                continue;
            }
            // Fewer only where the index is not sound.
            let Some((codes, [subs])) = w.stored(block, 1) else { break };
            block += 1;
            let mut dots = [[0; PANEL]];
            int8(codes, x, &mut dots);
            add_scaled(sums, &dots[0], subs);
        }
    }
}

/// `sums += dots * subs`, wrapping.
#[inline(never)]
fn add_scaled(sums: &mut [i32; PANEL], dots: &[i32; PANEL], subs: &[i8; PANEL]) {
    for ((sum, dot), &sub) in sums.iter_mut().zip(dots).zip(subs) {
        *sum = sum.wrapping_add(dot.wrapping_mul(i32::from(sub)));
    }
}

/// The sums of panels of a sparse matrix. The loops are those above, and go to the next group that
/// is there by the zeros in front of the highest bit that is left: group 0 is the highest.
// Longer than sixty lines: one block of assembly, and what it is given.
#[inline(never)]
fn sparse(
    w: &Matrix<'_>,
    p: usize,
    tables: Option<&Table>,
    row: &Row<'_>,
    sums: &mut [[i32; PANEL]],
) {
    let mut copy: Words = [MaybeUninit::uninit(); BLOCK];
    let groups = row.codes.len() / GROUP;
    sums.as_flattened_mut().fill(0);
    for (i, sums) in sums.iter_mut().enumerate() {
        let mut first = w.first_block(p + i);
        let mut start = 0;
        while start < groups {
            let (x, count) = words(row, start, &mut copy);
            let offsets = &row.sums[start..][..count.min(WORD)];
            let mut bits = w.there(p + i, start, offsets.len());
            // Never where the index is sound.
            while bits.count_ones() as usize > w.blocks() - first {
                bits ^= 1 << 31 >> bits.leading_zeros();
            }
            let count = bits.count_ones() as usize;
            let Some((codes, subs)) = w.stored(first, count) else { break };
            first += count;
            start += offsets.len();
            let bits = bits.reverse_bits();
            if bits == 0 {
                continue;
            }
            let codes = before(tiles(codes).as_ptr());
            if w.format() == Format::Int8 {
                // SAFETY: for each of `bits`, the highest being group `start`, the block reads 32
                // bytes of `x`, of which there are as many groups as `there` was asked about, and
                // eight tiles of `codes`, which has a block for each bit: for eight rows at a time.
                // It adds to `sums`, and leaves the stack as it was.
                unsafe {
                    asm!(
                        "push {{r4-r7}}",
                        "movs r7, #2",
                        "2:",
                        "ldrd r1, r5, [sp]",
                        "movs r0, #0",
                        "vidup.u32 q0, r0, #1",
                        "vshl.i32 q0, q0, #6",
                        "vadd.i32 q0, q0, r9",
                        "ldm r11, {{r0, r2, r4, r6, r8, r10, r12, lr}}",
                        "3:",
                        "clz r3, r5",
                        "add r1, r1, r3, lsl #5",
                        "add r3, r3, #1",
                        "lsls r5, r5, r3",
                        int8_quads!(),
                        int8_quads!(),
                        "bne 3b",
                        "stm r11!, {{r0, r2, r4, r6, r8, r10, r12, lr}}",
                        "add r9, r9, #32",
                        "subs r7, r7, #1",
                        "bne 2b",
                        "pop {{r4-r7}}",
                        inout("r4") x => _,
                        inout("r5") bits => _,
                        inout("r9") codes => _,
                        inout("r11") sums.as_mut_ptr() => _,
                        out("r0") _, out("r1") _, out("r2") _, out("r3") _, out("r8") _,
                        out("r10") _, out("r12") _, out("lr") _,
                        out("q0") _, out("q1") _, out("q2") _, out("q3") _,
                    );
                }
                continue;
            }
            for (r, sums) in sums.as_chunks_mut::<8>().0.iter_mut().enumerate() {
                let codes = codes.wrapping_add(8 * r);
                let subs = subs.as_ptr().cast::<i8>().wrapping_add(8 * r);
                match tables {
                    // SAFETY: the block reads codes, sub-scales and `x` of the rows `8 * r..8 * r + 8`,
                    // as far as the lengths compared at the start of the function; `x` is aligned,
                    // `subs` has 16 for each block, and `offsets` a sum for each group. It writes
                    // eight sums, names the registers that it changes, and leaves the stack as it was.
                    None => unsafe {
                        asm!(
                            "vidup.u32 q0, r0, #1",
                            "vshl.i32 q0, q0, #6",
                            "vadd.i32 q0, q0, r9",
                            "vmov.i8 q1, #15",
                            "vldrw.u32 q6, [r11]",
                            "vldrw.u32 q7, [r11, #16]",
                            "2:",
                            "clz r12, r10",
                            "add r1, r1, r12, lsl #5",
                            "add r3, r3, r12, lsl #1",
                            "add r12, r12, #1",
                            "lsls r10, r10, r12",
                            "vld20.32 {{q2, q3}}, [r1]",
                            "vld21.32 {{q2, q3}}, [r1]!",
                            "ldrsh r9, [r3], #2",
                            uniform_rows!(),
                            "bne 2b",
                            "vstrw.32 q6, [r11]",
                            "vstrw.32 q7, [r11, #16]",
                            inout("r0") 0 => _,
                            inout("r1") x => _,
                            inout("r3") offsets.as_ptr() => _,
                            inout("r9") codes => _,
                            inout("r5") subs => _,
                            inout("r10") bits => _,
                            in("r11") sums.as_mut_ptr(),
                            out("r2") _, out("r4") _, out("r8") _, out("r12") _,
                            out("q0") _, out("q1") _, out("q2") _, out("q3") _,
                            out("q4") _, out("q5") _, out("q6") _, out("q7") _,
                            options(nostack),
                        );
                    },
                    // SAFETY: the block reads codes, sub-scales and `x` of the rows `8 * r..8 * r + 8`,
                    // as far as the lengths compared at the start of the function, and of each of
                    // `tables` one of 256 entries, which a byte indexes. It writes eight sums, names
                    // the registers that it changes, and leaves the stack as it was.
                    Some(tables) => unsafe {
                        asm!(
                            "vidup.u32 q0, r0, #1",
                            "vshl.i32 q0, q0, #6",
                            "vadd.i32 q0, q0, r9",
                            "vldrw.u32 q6, [r11]",
                            "vldrw.u32 q7, [r11, #16]",
                            "2:",
                            "clz r9, r3",
                            "add r1, r1, r9, lsl #5",
                            "add r9, r9, #1",
                            "lsls r3, r3, r9",
                            "vld20.32 {{q2, q3}}, [r1]",
                            "vld21.32 {{q2, q3}}, [r1]!",
                            codebook_rows!(),
                            "bne 2b",
                            "vstrw.32 q6, [r11]",
                            "vstrw.32 q7, [r11, #16]",
                            inout("r0") 0 => _,
                            inout("r1") x => _,
                            inout("r3") bits => _,
                            inout("r9") codes => _,
                            inout("r5") subs => _,
                            in("r10") &tables[0],
                            in("r11") sums.as_mut_ptr(),
                            in("r12") &tables[1],
                            out("r2") _, out("r4") _, out("r8") _,
                            out("q0") _, out("q1") _, out("q2") _, out("q3") _,
                            out("q4") _, out("q5") _, out("q6") _, out("q7") _,
                            options(nostack),
                        );
                    },
                }
            }
        }
    }
}

/// [`scalar::softmax`], four numbers at a time; sums of planes are left alone, as no product here
/// reads them.
///
/// Vectors of f32 flush subnormal numbers to zero. Powers of two are none, and what else may be
/// subnormal is lost beside larger numbers in the reference, too: differences of scores, and
/// weights and scales when the largest weight is above [`scalar::softmax::LEAST`].
// Longer than sixty lines: one block of assembly, and what it is given.
#[cfg(target_abi = "eabihf")]
#[inline(never)]
fn softmax(scores: &[f32; CHUNK], value_scales: &[f32], to: &mut Weights) {
    let n = value_scales.len();
    fit!(0 < n && n <= CHUNK);
    let mut weights = [MaybeUninit::<f32>::uninit(); CHUNK];
    let mut top = f32::NEG_INFINITY.to_bits();
    let vectors = n.div_ceil(4);
    let [c4, c3, c2, c1, c0] = scalar::math::POWER.map(f32::to_bits);
    let constants = [c3, c2, c1, c0, (CHUNK / 4 - vectors) as u32];
    // SAFETY: reads all of `scores` up to the next multiple of 4 of the positions; writes all of
    // `weights`; reads five constants. Floating-point vectors exist wherever this set's do with a
    // hardware float ABI.
    unsafe {
        asm!(
            ".arch_extension mve.fp",
            "mov r4, r0",
            "dls lr, r3",
            "2:",
            "vldrw.u32 q0, [r4], #16",
            "vmaxnmv.f32 r2, q0",
            "le lr, 2b",
            "vdup.32 q7, r12",
            "dls lr, r3",
            "ldm r5, {{r3, r4, r10, r11}}",
            "3:",
            "vldrw.u32 q0, [r0], #16",
            "vsub.f32 q0, q0, r2",
            "vmaxnm.f32 q0, q0, q7",
            "vadd.f32 q1, q0, r8",
            "vsub.f32 q2, q1, r8",
            "vshl.i32 q1, q1, #23",
            "vsub.f32 q0, q0, q2",
            "vmul.f32 q2, q0, r9",
            "vadd.f32 q2, q2, r3",
            "vmul.f32 q2, q2, q0",
            "vadd.f32 q2, q2, r4",
            "vmul.f32 q2, q2, q0",
            "vadd.f32 q2, q2, r10",
            "vmul.f32 q2, q2, q0",
            "vadd.f32 q2, q2, r11",
            "vmul.f32 q2, q2, q1",
            "vstrw.32 q2, [r1], #16",
            "le lr, 3b",
            "ldr r3, [r5, #16]",
            "vmov.i32 q0, #0",
            "wls lr, r3, 5f",
            "4:",
            "vstrw.32 q0, [r1], #16",
            "le lr, 4b",
            "5:",
            inout("r0") scores.as_ptr() => _,
            inout("r1") weights.as_mut_ptr() => _,
            inout("r2") top,
            inout("r3") vectors => _,
            out("r4") _,
            in("r5") constants.as_ptr(),
            in("r8") scalar::math::ROUND_BIASED.to_bits(),
            in("r9") c4,
            out("r10") _, out("r11") _,
            in("r12") scalar::math::LOWEST.to_bits(),
            out("lr") _,
            out("q0") _, out("q1") _, out("q2") _, out("q7") _,
            options(nostack),
        );
    }
    let sum: u32;
    let mut peak = 0u32;
    // SAFETY: reads and writes `weights`, under a predicate of its first `n`, and reads
    // `value_scales`, which are `n`.
    unsafe {
        asm!(
            ".arch_extension mve.fp",
            "vldrw.u32 q0, [r0]",
            "vldrw.u32 q1, [r0, #16]",
            "vldrw.u32 q2, [r0, #32]",
            "vldrw.u32 q3, [r0, #48]",
            ".irp o, 64, 128, 192",
            "vldrw.u32 q4, [r0, #\\o]",
            "vadd.f32 q0, q0, q4",
            "vldrw.u32 q4, [r0, #\\o + 16]",
            "vadd.f32 q1, q1, q4",
            "vldrw.u32 q4, [r0, #\\o + 32]",
            "vadd.f32 q2, q2, q4",
            "vldrw.u32 q4, [r0, #\\o + 48]",
            "vadd.f32 q3, q3, q4",
            ".endr",
            "vadd.f32 q0, q0, q2",
            "vadd.f32 q1, q1, q3",
            "vadd.f32 q0, q0, q1",
            "vadd.f32 s0, s0, s2",
            "vadd.f32 s1, s1, s3",
            "vadd.f32 s0, s0, s1",
            "vmov r4, s0",
            "dlstp.32 lr, r3",
            "2:",
            "vldrw.u32 q0, [r0]",
            "vldrw.u32 q1, [r1], #16",
            "vmul.f32 q0, q0, q1",
            "vmaxnmv.f32 r2, q0",
            "vstrw.32 q0, [r0], #16",
            "letp lr, 2b",
            inout("r0") weights.as_mut_ptr() => _,
            inout("r1") value_scales.as_ptr() => _,
            inout("r2") peak,
            in("r3") n,
            out("r4") sum,
            out("lr") _,
            out("q0") _, out("q1") _, out("q2") _, out("q3") _, out("q4") _,
            options(nostack),
        );
    }
    let (inv, unit) = scalar::units(f32::from_bits(peak));
    to.max = f32::from_bits(top);
    to.sum = f32::from_bits(sum);
    to.unit = unit;
    // SAFETY: the block reads all of `weights`, those after the last position being zero, and
    // writes as many bytes of both planes.
    unsafe {
        asm!(
            ".arch_extension mve.fp",
            "vmov.i32 q1, #127",
            "dls lr, r3",
            "2:",
            "vldrw.u32 q0, [r0], #16",
            "vmul.f32 q0, q0, r8",
            "vadd.f32 q0, q0, r9",
            "vand q2, q0, q1",
            "vstrb.32 q2, [r1, #{plane}]",
            "vshr.u32 q0, q0, #7",
            "vand q0, q0, q1",
            "vstrb.32 q0, [r1], #4",
            "le lr, 2b",
            plane = const CHUNK,
            inout("r0") weights.as_ptr() => _,
            inout("r1") to.planes.as_mut_ptr() => _,
            in("r3") CHUNK / 4,
            in("r8") inv.to_bits(),
            in("r9") scalar::math::ROUND.to_bits(),
            out("lr") _,
            out("q0") _, out("q1") _, out("q2") _,
            options(nostack),
        );
    }
}
