//! Helium integers (Cortex-M55, M85): a gather of words at a stride of 64 bytes collects 16 inner values of a row, or a group of 32
//! nibbles, for `vmladava`, which multiplies 16 bytes and adds all products to a core register.
//!
//! The addresses of the gather are a vector that steps by itself: a row is an offset from it, so no instruction computes an
//! address. Nibbles of a codebook are looked up as whole bytes, in one table of low and one of high nibbles.
//!
//! Each loop is one block of assembly: vector registers cannot be operands.

use core::arch::asm;
use core::mem::MaybeUninit;
use core::ops::Range;

use crate::activations::Activations;
use crate::cache::Head;
use crate::layout::{GROUP, GROUP_BYTES, INT4_ZERO, Matrix, PANEL, QUAD, TILE};
use crate::product::{self, Product, Row, Sums, group};
use crate::scalar;

crate::vector::token! {
    /// Proof of Helium.
    Helium, true
}

/// The operations.
mod on {
    use super::*;

    crate::vector::operations!(Helium, "mve", panels: 4, rows: 2, queries: 1);
}

impl Product for Helium {
    #[inline(always)]
    fn int8<const P: usize, const M: usize>(self, codes: [&[u8]; P], rows: [Row<'_>; M]) -> Sums<P, M> {
        let mut sums = [[[0; PANEL]; M]; P];
        for (codes, sums) in codes.iter().zip(&mut sums) {
            let tiles = bytemuck::cast_slice(codes);
            let (pairs, one) = sums.as_chunks_mut();
            for (sums, rows) in pairs.iter_mut().zip(rows.as_chunks::<2>().0) {
                int8_pair(tiles, rows.map(|row| row.codes), sums);
            }
            if let [sums] = one {
                int8(tiles, rows[M - 1].codes, sums);
            }
        }
        sums
    }

    #[inline(always)]
    fn int4<const P: usize, const M: usize>(
        self,
        codes: [&[u8]; P],
        subs: [&[[i8; PANEL]]; P],
        levels: Option<&[i8; 16]>,
        rows: [Row<'_>; M],
    ) -> Sums<P, M> {
        let mut sums = [[[0; PANEL]; M]; P];
        let flat = sums.as_flattened_mut();
        let tables = levels.map(tables);
        for (m, row) in rows.iter().enumerate() {
            match &tables {
                None => uniform(&codes, &subs, row, &mut flat[m..], M),
                Some(tables) => codebook(&codes, &subs, tables, row, &mut flat[m..], M),
            }
        }
        sums
    }
}

/// The sums of 16 rows.
#[inline(never)]
fn int8(tiles: &[[u32; PANEL]], x: &[i8], sums: &mut [i32; PANEL]) {
    assert!(x.len() == tiles.len() * QUAD);
    for (r, sums) in sums.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        // SAFETY: the block reads one word of each row `8 * r..8 * r + 8` of each tile, and `x`, which is as long: whole
        // vectors while there are four tiles, then under a predicate of those that are left. It leaves the stack as it was.
        unsafe {
            asm!(
                "push {{r6, r7}}",
                "vidup.u32 q0, r0, #1",
                "vshl.i32 q0, q0, #6",
                "vadd.i32 q0, q0, r5",
                "mov r0, r2",
                "mov r4, r2",
                "mov r6, r2",
                "mov r8, r2",
                "mov r10, r2",
                "mov r12, r2",
                "mov lr, r2",
                "subs r3, r3, #4",
                "blt 3f",
                "2:",
                "vldrb.u8 q1, [r1], #16",
                "vldrw.u32 q2, [q0, #256]!",
                "vmladava.s8 r0, q1, q2",
                "vldrw.u32 q3, [q0, #4]",
                "vmladava.s8 r2, q1, q3",
                "vldrw.u32 q2, [q0, #8]",
                "vmladava.s8 r4, q1, q2",
                "vldrw.u32 q3, [q0, #12]",
                "vmladava.s8 r6, q1, q3",
                "vldrw.u32 q2, [q0, #16]",
                "vmladava.s8 r8, q1, q2",
                "vldrw.u32 q3, [q0, #20]",
                "vmladava.s8 r10, q1, q3",
                "vldrw.u32 q2, [q0, #24]",
                "vmladava.s8 r12, q1, q2",
                "vldrw.u32 q3, [q0, #28]",
                "vmladava.s8 lr, q1, q3",
                "subs r3, r3, #4",
                "bge 2b",
                "3:",
                "adds r3, r3, #4",
                "beq 4f",
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
                "4:",
                "mov r5, r6",
                "pop {{r6, r7}}",
                inout("r0") 0 => sums[0],
                inout("r2") 0 => sums[1],
                out("r4") sums[2],
                inout("r5") tiles.as_ptr().cast::<u32>().wrapping_add(8 * r).wrapping_byte_sub(4 * TILE) => sums[3],
                out("r8") sums[4],
                out("r10") sums[5],
                out("r12") sums[6],
                out("lr") sums[7],
                inout("r1") x.as_ptr() => _,
                inout("r3") tiles.len() => _,
                out("q0") _, out("q1") _, out("q2") _, out("q3") _, out("q4") _, out("q5") _,
            );
        }
    }
}

/// [`int8`] for two rows of activations: what is gathered serves both.
#[inline(never)]
fn int8_pair(tiles: &[[u32; PANEL]], [x, y]: [&[i8]; 2], sums: &mut [[i32; PANEL]; 2]) {
    assert!(x.len() == tiles.len() * QUAD && y.len() == x.len());
    let [a, b] = sums;
    let sums = a.as_chunks_mut::<4>().0.iter_mut().zip(b.as_chunks_mut::<4>().0);
    for (r, (a, b)) in sums.enumerate() {
        // SAFETY: as in `int8`, with the rows `4 * r..4 * r + 4` of each tile, and `y`, which is as long as `x`.
        unsafe {
            asm!(
                "push {{r6, r7}}",
                "vidup.u32 q0, r0, #1",
                "vshl.i32 q0, q0, #6",
                "vadd.i32 q0, q0, r5",
                "mov r0, r2",
                "mov r4, r2",
                "mov r6, r2",
                "mov r8, r2",
                "mov r10, r2",
                "mov r12, r2",
                "mov lr, r2",
                "subs r3, r3, #4",
                "blt 3f",
                "2:",
                "vldrb.u8 q1, [r1], #16",
                "vldrb.u8 q2, [r9], #16",
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
                "bge 2b",
                "3:",
                "adds r3, r3, #4",
                "beq 4f",
                "vctp.32 r3",
                "vpsttt",
                "vldrbt.u8 q1, [r1]",
                "vldrbt.u8 q2, [r9]",
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
                "4:",
                "mov r5, r6",
                "pop {{r6, r7}}",
                inout("r0") 0 => a[0],
                inout("r2") 0 => b[0],
                out("r4") a[1],
                inout("r5") tiles.as_ptr().cast::<u32>().wrapping_add(4 * r).wrapping_byte_sub(4 * TILE) => b[1],
                out("r8") a[2],
                out("r10") b[2],
                out("r12") a[3],
                out("lr") b[3],
                inout("r1") x.as_ptr() => _,
                inout("r9") y.as_ptr() => _,
                inout("r3") tiles.len() => _,
                out("q0") _, out("q1") _, out("q2") _, out("q3") _, out("q4") _, out("q5") _,
            );
        }
    }
}

/// The levels of a byte's low nibble, then of its high nibble, for every byte.
fn tables(levels: &[i8; 16]) -> [[i8; 256]; 2] {
    let mut tables = [[0; 256]; 2];
    let [low, high] = &mut tables;
    for ((low, high), &level) in low.as_chunks_mut().0.iter_mut().zip(high.as_chunks_mut::<16>().0).zip(levels) {
        *low = *levels;
        high.fill(level);
    }
    tables
}

/// Groups whose activations are put in order together.
const BLOCK: usize = 16;

/// Activations of some groups, of each first those that meet low nibbles, then those that meet high ones.
type Ordered = [MaybeUninit<[[u32; 4]; 2]>; BLOCK];

/// Puts the groups from `start` in order. Returns a pointer to the words, and how many groups there are.
#[inline(always)]
fn order(row: &Row<'_>, start: usize, to: &mut Ordered) -> (*const u32, usize) {
    let count = BLOCK.min(row.codes.len() / GROUP - start);
    for (g, to) in to[..count].iter_mut().enumerate() {
        let quads = group(row, start + g).as_chunks::<QUAD>().0;
        let quad = |i: usize| u32::from_le_bytes(quads[i].map(|v| v as u8));
        to.write([0, 1].map(|half| [0, 2, 4, 6].map(|i| quad(i + half))));
    }
    (to.as_ptr().cast(), count)
}

/// The dot product of a row's group of uniform nibbles.
macro_rules! uniform_row {
    ($address:literal, $dot:literal) => {
        concat!(
            "vldrw.u32 q4, ", $address, "\n",
            "vand q5, q4, q1\n",
            "vshr.u8 q4, q4, #4\n",
            "vmladav.s8 ", $dot, ", q5, q2\n",
            "vmladava.s8 ", $dot, ", q4, q3",
        )
    };
}

/// The dot product of a row's group of nibbles of a codebook.
macro_rules! codebook_row {
    ($address:literal, $dot:literal) => {
        concat!(
            "vldrw.u32 q1, ", $address, "\n",
            "vldrb.u8 q4, [r10, q1]\n",
            "vldrb.u8 q5, [r12, q1]\n",
            "vmladav.s8 ", $dot, ", q4, q2\n",
            "vmladava.s8 ", $dot, ", q5, q3",
        )
    };
}

/// Four dot products in a vector.
macro_rules! collect {
    () => {
        "vmov q4[2], q4[0], r0, r4\nvmov q4[3], q4[1], r2, r8"
    };
}

/// Adds to the sums of panel `p`, which is number `p * stride` of `sums`.
#[inline(never)]
fn uniform(codes: &[&[u8]], subs: &[&[[i8; PANEL]]], row: &Row<'_>, sums: &mut [[i32; PANEL]], stride: usize) {
    let mut ordered: Ordered = [MaybeUninit::uninit(); BLOCK];
    for start in (0..row.codes.len() / GROUP).step_by(BLOCK) {
        let (x, count) = order(row, start, &mut ordered);
        let offsets = &row.sums[start..][..count];
        for ((codes, subs), sums) in codes.iter().zip(subs).zip(sums.iter_mut().step_by(stride)) {
            let codes = &codes.as_chunks::<GROUP_BYTES>().0[start..][..count];
            let subs = &subs[start..][..count];
            for (r, sums) in sums.as_chunks_mut::<8>().0.iter_mut().enumerate() {
                // SAFETY: for each of `count` groups the block reads the eight words of `x` that `order` wrote, a sum of `offsets`, and
                // of `codes` and `subs` what belongs to the rows `8 * r..8 * r + 8`. It reads and writes `sums`.
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
                        "vldrw.u32 q2, [r1], #16",
                        "vldrw.u32 q3, [r1], #16",
                        "ldrsh r9, [r3], #2",
                        uniform_row!("[q0, #256]!", "r0"),
                        uniform_row!("[q0, #4]", "r2"),
                        uniform_row!("[q0, #8]", "r4"),
                        uniform_row!("[q0, #12]", "r8"),
                        collect!(),
                        "lsl r9, r9, {shift}",
                        "vldrb.s32 q5, [r5], #4",
                        "vsub.i32 q4, q4, r9",
                        "vmul.i32 q4, q4, q5",
                        "vadd.i32 q6, q6, q4",
                        uniform_row!("[q0, #16]", "r0"),
                        uniform_row!("[q0, #20]", "r2"),
                        uniform_row!("[q0, #24]", "r4"),
                        uniform_row!("[q0, #28]", "r8"),
                        collect!(),
                        "vldrb.s32 q5, [r5], #12",
                        "vsub.i32 q4, q4, r9",
                        "vmul.i32 q4, q4, q5",
                        "vadd.i32 q7, q7, q4",
                        "le lr, 2b",
                        "vstrw.32 q6, [r11]",
                        "vstrw.32 q7, [r11, #16]",
                        shift = const INT4_ZERO.ilog2(),
                        inout("r0") 0 => _,
                        inout("r1") x => _,
                        inout("r3") offsets.as_ptr() => _,
                        inout("r9") codes.as_ptr().cast::<u32>().wrapping_add(8 * r).wrapping_byte_sub(4 * TILE) => _,
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
    }
}

/// [`uniform`] for nibbles of a codebook.
#[inline(never)]
fn codebook(
    codes: &[&[u8]],
    subs: &[&[[i8; PANEL]]],
    tables: &[[i8; 256]; 2],
    row: &Row<'_>,
    sums: &mut [[i32; PANEL]],
    stride: usize,
) {
    let mut ordered: Ordered = [MaybeUninit::uninit(); BLOCK];
    for start in (0..row.codes.len() / GROUP).step_by(BLOCK) {
        let (x, count) = order(row, start, &mut ordered);
        for ((codes, subs), sums) in codes.iter().zip(subs).zip(sums.iter_mut().step_by(stride)) {
            let codes = &codes.as_chunks::<GROUP_BYTES>().0[start..][..count];
            let subs = &subs[start..][..count];
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
                        "vldrw.u32 q2, [r1], #16",
                        "vldrw.u32 q3, [r1], #16",
                        codebook_row!("[q0, #256]!", "r0"),
                        codebook_row!("[q0, #4]", "r2"),
                        codebook_row!("[q0, #8]", "r4"),
                        codebook_row!("[q0, #12]", "r8"),
                        collect!(),
                        "vldrb.s32 q5, [r5], #4",
                        "vmul.i32 q4, q4, q5",
                        "vadd.i32 q6, q6, q4",
                        codebook_row!("[q0, #16]", "r0"),
                        codebook_row!("[q0, #20]", "r2"),
                        codebook_row!("[q0, #24]", "r4"),
                        codebook_row!("[q0, #28]", "r8"),
                        collect!(),
                        "vldrb.s32 q5, [r5], #12",
                        "vmul.i32 q4, q4, q5",
                        "vadd.i32 q7, q7, q4",
                        "le lr, 2b",
                        "vstrw.32 q6, [r11]",
                        "vstrw.32 q7, [r11, #16]",
                        inout("r0") 0 => _,
                        inout("r1") x => _,
                        inout("r9") codes.as_ptr().cast::<u32>().wrapping_add(8 * r).wrapping_byte_sub(4 * TILE) => _,
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
    }
}
