//! DSP (Cortex-M4, M7, M33): a row's quad is one word, `smlad` multiplies two pairs of halfwords
//! and adds both.
//!
//! Weights are expanded to halfwords as they are read: int8 by `sxtb16`, uniform nibbles by a mask
//! and a shifted operand, nibbles of a codebook by a table of all 256 bytes. Activations are
//! expanded once for all rows of some panels, in the order in which the weights' halfwords come:
//! see [`Scratch`]. Uniform nibbles are unsigned as they are; the zero point of 8 is corrected for
//! once a group with the sum of its activations.
//!
//! Each loop is one block of assembly: it needs 14 registers, and the compiler has 12 to give. The
//! other two, r6 and r7, are saved on the stack.
//!
//! The file is longer than 500 lines because the blocks share macros and [`Scratch`], and because
//! each file with a check that may fail puts its path into the flash.

use core::arch::asm;
use core::mem::MaybeUninit;
use core::ops::Range;
use core::slice;

#[cfg(target_abi = "eabihf")]
use super::float;
use crate::activations::{Activations, Row};
use crate::cache::{CHUNK, Head};
use crate::gemm::{Product, Sums};
use crate::layout::{GROUP, GROUP_BYTES, INT4_ZERO, Matrix, PANEL, QUAD};
use crate::scalar::{self, Weights};

crate::vector::token! {
    /// Proof of the DSP extension.
    Dsp, true
}

/// The operations.
mod on {
    use super::*;

    use super::super::multiply;

    crate::vector::operations!(Dsp, "dsp", panels: 1, rows: (multiply), queries: 1);
}

impl Product for Dsp {
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

/// Panels computed together: they share expanded activations.
pub(super) const PANELS: usize = 4;

/// Words of expanded activations: 640 inner values of one row of int8, 512 of int4.
const SCRATCH: usize = 320;

/// Expanded activations, two halfwords a word. In the order of reading:
///
/// ```text
/// int8, one row    (x0, x2) (x1, x3)                 a quad
/// int8, two rows   (x0, x2) (x1, x3) (y0, y2) (y1, y3)
/// uniform          4 times -8 * sum of the group, then for each tile, of quads x and y,
///                  (x0, x2) (y0, y2) (x1, x3) (y1, y3)
/// codebook         (x0, y0) (x1, y1) (x2, y2) (x3, y3)
/// ```
#[repr(align(64))]
struct Scratch([MaybeUninit<u32>; SCRATCH]);

impl Scratch {
    #[inline(always)]
    fn new() -> Self {
        Self([MaybeUninit::uninit(); SCRATCH])
    }

    /// Writes `words` at each multiple of `N`, as many as there are items. They are items of slices
    /// and ranges, whose length `core` knows exactly; this function is private so that no other
    /// iterator comes here.
    #[inline(always)]
    fn fill<const N: usize, T>(
        &mut self,
        items: impl ExactSizeIterator<Item = T>,
        words: impl Fn(T) -> [u32; N],
    ) -> &[u32] {
        let len = items.len() * N;
        let (to, _) = self.0[..len].as_chunks_mut::<N>();
        for (to, item) in to.iter_mut().zip(items) {
            *to = words(item).map(MaybeUninit::new);
        }
        // SAFETY: the loop wrote each of these words: `to` has as many chunks as `items` announced,
        // and iterators of slices and ranges give as many items as they announce.
        unsafe { core::slice::from_raw_parts(self.0.as_ptr().cast(), len) }
    }

    /// Quads of a row for [`int8_panel`].
    #[inline(never)]
    fn int8(&mut self, codes: &[i8]) -> &[u32] {
        self.fill(codes.as_chunks().0.iter(), widen)
    }

    /// Groups of a row for [`uniform_panel`].
    #[inline(never)]
    fn uniform(&mut self, row: &Row<'_>, groups: Range<usize>) -> &[u32] {
        self.fill(groups, |g| {
            let mut words = [(-INT4_ZERO * i32::from(row.sums[g])) as u32; 20];
            let (to, _) = words[4..].as_chunks_mut::<4>();
            for (to, [x, y]) in to.iter_mut().zip(group(row, g).as_chunks::<QUAD>().0.as_chunks().0)
            {
                let ([a, b], [c, d]) = (widen(x), widen(y));
                *to = [a, c, b, d];
            }
            words
        })
    }

    /// Groups of a row for [`codebook_panel`].
    #[inline(never)]
    fn codebook(&mut self, row: &Row<'_>, groups: Range<usize>) -> &[u32] {
        self.fill(groups, |g| {
            let mut words = [0; 16];
            let (to, _) = words.as_chunks_mut::<4>();
            for (to, [x, y]) in to.iter_mut().zip(group(row, g).as_chunks::<QUAD>().0.as_chunks().0)
            {
                let ([a, b], [c, d]) = (widen(x), widen(y));
                let ([e, f], [g, h]) = (zip(a, c), zip(b, d));
                *to = [e, g, f, h];
            }
            words
        })
    }
}

/// A row's codes of group `g`.
#[inline(always)]
fn group<'a>(row: &Row<'a>, g: usize) -> &'a [i8; GROUP] {
    &row.codes.as_chunks().0[g]
}

/// Bytes 0 and 2, and bytes 1 and 3, widened.
#[inline(always)]
fn widen(quad: &[i8; QUAD]) -> [u32; 2] {
    let quad = u32::from_le_bytes(quad.map(|v| v as u8));
    let (even, odd);
    // SAFETY: an instruction of the DSP extension, registers only.
    unsafe {
        asm!("sxtb16 {}, {}", lateout(reg) even, in(reg) quad, options(pure, nomem, nostack, preserves_flags));
    }
    // SAFETY: an instruction of the DSP extension, registers only.
    unsafe {
        asm!("sxtb16 {}, {}, ror #8", lateout(reg) odd, in(reg) quad, options(pure, nomem, nostack, preserves_flags));
    }
    [even, odd]
}

/// The low halfwords of two words, and the high ones.
#[inline(always)]
fn zip(a: u32, b: u32) -> [u32; 2] {
    [a & 0xffff | b << 16, a >> 16 | b & 0xffff_0000]
}

/// Adds the products of a word with a quad to an accumulator.
macro_rules! int8_word {
    ($w:literal, $acc:literal, $even:literal, $odd:literal) => {
        concat!(
            "sxtb16 r10, ",
            $w,
            "\n",
            "sxtb16 ",
            $w,
            ", ",
            $w,
            ", ror #8\n",
            "smlad ",
            $acc,
            ", r10, ",
            $even,
            ", ",
            $acc,
            "\n",
            "smlad ",
            $acc,
            ", ",
            $w,
            ", ",
            $odd,
            ", ",
            $acc,
        )
    };
}

/// Adds the products of four tiles, for four of their rows, with their quads to r0 to r3; r11 walks
/// the tiles, r12 the activations.
macro_rules! int8_four_quads {
    () => {
        concat!(
            ".irp q, 0, 128\n",
            "ldm r12!, {{r4-r7}}\n",
            "ldrd r8, r9, [r11, #\\q]\n",
            int8_word!("r8", "r0", "r4", "r5"),
            "\n",
            int8_word!("r9", "r1", "r4", "r5"),
            "\n",
            "ldrd r8, r9, [r11, #\\q + 8]\n",
            int8_word!("r8", "r2", "r4", "r5"),
            "\n",
            int8_word!("r9", "r3", "r4", "r5"),
            "\n",
            "ldrd r8, r9, [r11, #\\q + 64]\n",
            int8_word!("r8", "r0", "r6", "r7"),
            "\n",
            int8_word!("r9", "r1", "r6", "r7"),
            "\n",
            "ldrd r8, r9, [r11, #\\q + 72]\n",
            int8_word!("r8", "r2", "r6", "r7"),
            "\n",
            int8_word!("r9", "r3", "r6", "r7"),
            "\n",
            ".endr\n",
            "add r11, r11, #256",
        )
    };
}

/// The same for two quads, one of each row of activations.
macro_rules! int8_pair_word {
    ($w:literal, $a:literal, $b:literal) => {
        concat!(
            int8_word!($w, $a, "r4", "r5"),
            "\n",
            "smlad ",
            $b,
            ", r10, r6, ",
            $b,
            "\n",
            "smlad ",
            $b,
            ", ",
            $w,
            ", r7, ",
            $b,
        )
    };
}

/// Two rows of a tile times a quad of two rows of activations.
macro_rules! int8_pair_quad {
    ($offset:literal) => {
        concat!(
            "ldm r12!, {{r4-r7}}\n",
            "ldrd r8, r9, [r11, #",
            $offset,
            "]\n",
            int8_pair_word!("r8", "r0", "r1"),
            "\n",
            int8_pair_word!("r9", "r2", "r3"),
        )
    };
}

/// Adds the products of the nibbles of a word with a tile's activations to an accumulator.
macro_rules! uniform_word {
    ($w:literal, $acc:literal) => {
        concat!(
            "and r10, lr, ",
            $w,
            "\n",
            "smlad ",
            $acc,
            ", r10, r4, ",
            $acc,
            "\n",
            "and r10, lr, ",
            $w,
            ", lsr #4\n",
            "smlad ",
            $acc,
            ", r10, r5, ",
            $acc,
            "\n",
            "and r10, lr, ",
            $w,
            ", lsr #8\n",
            "smlad ",
            $acc,
            ", r10, r6, ",
            $acc,
            "\n",
            "and ",
            $w,
            ", lr, ",
            $w,
            ", lsr #12\n",
            "smlad ",
            $acc,
            ", ",
            $w,
            ", r7, ",
            $acc,
        )
    };
}

/// The end of a loop over rows of a panel. On the stack lie pointers to their sums and to their
/// first tile, what stays the same, at the fifth word how many times to go, and r6 and r7.
macro_rules! next_rows {
    ($store:literal, $step:literal) => {
        concat!(
            "ldrd r4, r5, [sp]\n",
            $store,
            "\n",
            "add r5, r5, #",
            $step,
            "\n",
            "strd r4, r5, [sp]\n",
            "ldr r5, [sp, #16]\n",
            "subs r5, r5, #1\n",
            "str r5, [sp, #16]\n",
            "bne 2b\n",
            "add sp, sp, #20\n",
            "pop {{r6, r7}}",
        )
    };
}

/// The ends of a loop over groups and, around it, four rows of a panel at a time. On the stack lie
/// pointers to their sums, to their codes, to the activations, to the sub-scales, how many times to
/// go, the end of the activations, and r6 and r7.
macro_rules! next_group_or_rows {
    ($shift:literal) => {
        concat!(
            "ldr r4, [sp, #20]\n",
            "cmp r12, r4\n",
            "bne 3b\n",
            "ldrd r4, r5, [sp]\n",
            // Sub-scales have 16 bytes a group; the shift makes as many of those of the codes.
            "sub r6, r11, r5\n",
            "add r4, r4, #16\n",
            "add r5, r5, #16\n",
            "strd r4, r5, [sp]\n",
            "ldrd r4, r5, [sp, #12]\n",
            "sub r4, r4, r6, lsr #",
            $shift,
            "\n",
            "add r4, r4, #4\n",
            "subs r5, r5, #1\n",
            "strd r4, r5, [sp, #12]\n",
            "bne 2b\n",
            "add sp, sp, #24\n",
            "pop {{r6, r7}}",
        )
    };
}

/// Adds the dot products of four rows with a group, times their sub-scales, to the rows' sums; the
/// stack is that of [`next_group_or_rows`].
macro_rules! add_scaled_group {
    () => {
        concat!(
            "ldr r4, [sp]\n",
            "ldr r5, [sp, #12]\n",
            "ldm r4, {{r7-r10}}\n",
            "ldrsb r6, [r5, #1]\n",
            "mla r8, r1, r6, r8\n",
            "ldrsb r6, [r5, #2]\n",
            "mla r9, r2, r6, r9\n",
            "ldrsb r6, [r5, #3]\n",
            "mla r10, r3, r6, r10\n",
            "ldrsb r6, [r5], #16\n",
            "mla r7, r0, r6, r7\n",
            "str r5, [sp, #12]\n",
            "stm r4, {{r7-r10}}",
        )
    };
}

/// Tiles as words: `ldrd` wants them aligned.
///
/// # Panics
/// When a cache is not aligned to words; matrices are.
#[inline(never)]
fn tiles(codes: &[u8]) -> &[[u32; PANEL]] {
    bytemuck::cast_slice(codes)
}

/// The sums of panels that lie one after the other.
#[inline(never)]
pub(super) fn int8(codes: &[u8], x: &[i8], sums: &mut [[i32; PANEL]]) {
    const BLOCK: usize = SCRATCH / 2;
    let mut scratch = Scratch::new();
    let panels = tiles(codes).chunks_exact(x.len() / QUAD);
    fit!(panels.len() == sums.len());
    sums.fill([0; PANEL]);
    for (i, x) in x.as_chunks::<QUAD>().0.chunks(BLOCK).enumerate() {
        let words = scratch.int8(x.as_flattened());
        for (tiles, sums) in panels.clone().zip(&mut *sums) {
            int8_panel(&tiles[i * BLOCK..][..x.len()], words, sums);
        }
    }
}

/// Adds the products of a panel's tiles with expanded quads.
#[inline(never)]
fn int8_panel(tiles: &[[u32; PANEL]], words: &[u32], sums: &mut [i32; PANEL]) {
    fit!(words.len() == 2 * tiles.len());
    // SAFETY: for four rows at a time the block reads 16 bytes of each of the tiles and two words
    // of `words` a tile. It adds to `sums`, and leaves the stack as it was.
    unsafe {
        asm!(
            "push {{r0-r4, r6, r7}}",
            "2:",
            "ldm sp, {{r4, r11, r12, lr}}",
            "ldm r4, {{r0-r3}}",
            "subs lr, lr, #4",
            "blt 4f",
            "3:",
            int8_four_quads!(),
            "subs lr, lr, #4",
            "bge 3b",
            "4:",
            "adds lr, lr, #4",
            "beq 6f",
            "5:",
            "ldm r12!, {{r4, r5}}",
            "ldrd r8, r9, [r11]",
            int8_word!("r8", "r0", "r4", "r5"),
            int8_word!("r9", "r1", "r4", "r5"),
            "ldrd r8, r9, [r11, #8]",
            int8_word!("r8", "r2", "r4", "r5"),
            int8_word!("r9", "r3", "r4", "r5"),
            "add r11, r11, #64",
            "subs lr, lr, #1",
            "bne 5b",
            "6:",
            next_rows!("stm r4!, {{r0-r3}}", "16"),
            inout("r0") sums.as_mut_ptr() => _,
            inout("r1") tiles.as_ptr() => _,
            inout("r2") words.as_ptr() => _,
            inout("r3") tiles.len() => _,
            inout("r4") 4 => _,
            out("r5") _, out("r8") _, out("r9") _, out("r10") _, out("r11") _, out("r12") _,
            out("lr") _,
        );
    }
}

/// [`int8_panel`] group by group, each times its sub-scales.
// Longer than sixty lines: one block of assembly, and what it is given.
#[inline(never)]
fn grouped_panel(
    tiles: &[[u32; PANEL]],
    subs: &[[i8; PANEL]],
    words: &[u32],
    sums: &mut [i32; PANEL],
) {
    const QUADS: usize = GROUP / QUAD;
    fit!(!words.is_empty() && words.len() == 2 * tiles.len() && tiles.len() == QUADS * subs.len());
    // SAFETY: for four rows at a time and each group the block reads 16 words of `words`, which are
    // as many, and these rows' 16 bytes of the eight tiles of the group and 4 bytes of `subs`. It
    // adds to `sums`, and leaves the stack as it was.
    unsafe {
        asm!(
            "push {{r0-r7}}",
            "2:",
            "ldm sp, {{r4, r11, r12}}",
            "3:",
            "movs r0, #0",
            "movs r1, #0",
            "movs r2, #0",
            "movs r3, #0",
            "4:",
            int8_four_quads!(),
            // A group's activations take 64 aligned bytes.
            "tst r12, #63",
            "bne 4b",
            add_scaled_group!(),
            next_group_or_rows!("5"),
            inout("r0") sums.as_mut_ptr() => _,
            inout("r1") tiles.as_ptr() => _,
            inout("r2") words.as_ptr() => _,
            inout("r3") subs.as_ptr() => _,
            inout("r4") 4 => _,
            inout("r5") words.as_ptr_range().end => _,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _, out("r12") _,
        );
    }
}

/// [`int8`] for two rows of activations: what is expanded serves both.
// Longer than sixty lines: one block of assembly, and what it is given.
#[inline(never)]
pub(super) fn int8_pair(
    codes: &[u8],
    [x, y]: [&[i8]; 2],
    [first, second]: [&mut [[i32; PANEL]]; 2],
) {
    const BLOCK: usize = SCRATCH / 4;
    let mut scratch = Scratch::new();
    let (x, y) = (x.as_chunks().0, y.as_chunks().0);
    let panels = tiles(codes).chunks_exact(x.len());
    first.fill([0; PANEL]);
    second.fill([0; PANEL]);
    for (i, (x, y)) in x.chunks(BLOCK).zip(y.chunks(BLOCK)).enumerate() {
        let words = scratch.fill(x.iter().zip(y), |(x, y)| {
            let ([a, b], [c, d]) = (widen(x), widen(y));
            [a, b, c, d]
        });
        for ((tiles, first), second) in panels.clone().zip(&mut *first).zip(&mut *second) {
            let tiles = &tiles[i * BLOCK..][..words.len() / 4];
            let mut both = [0; 2 * PANEL];
            // SAFETY: as in `int8`, for two rows of the panel at a time: 8 bytes of each tile, and
            // four words a tile. It writes `both`.
            unsafe {
                asm!(
                    "push {{r0-r4, r6, r7}}",
                    "2:",
                    "ldm sp, {{r4, r11, r12, lr}}",
                    "movs r0, #0",
                    "movs r1, #0",
                    "movs r2, #0",
                    "movs r3, #0",
                    "tst lr, #1",
                    "beq 3f",
                    int8_pair_quad!("0"),
                    "add r11, r11, #64",
                    "3:",
                    "lsrs lr, lr, #1",
                    "beq 5f",
                    "4:",
                    int8_pair_quad!("0"),
                    int8_pair_quad!("64"),
                    "add r11, r11, #128",
                    "subs lr, lr, #1",
                    "bne 4b",
                    "5:",
                    next_rows!("stm r4!, {{r0-r3}}", "8"),
                    inout("r0") both.as_mut_ptr() => _,
                    inout("r1") tiles.as_ptr() => _,
                    inout("r2") words.as_ptr() => _,
                    inout("r3") tiles.len() => _,
                    inout("r4") 8 => _,
                    out("r5") _, out("r8") _, out("r9") _, out("r10") _, out("r11") _, out("r12") _,
                    out("lr") _,
                );
            }
            for (([a, b], first), second) in both.as_chunks().0.iter().zip(first).zip(second) {
                *first = first.wrapping_add(*a);
                *second = second.wrapping_add(*b);
            }
        }
    }
}

/// Adds the products of groups of uniform nibbles with expanded ones.
#[inline(never)]
fn uniform_panel(
    codes: &[[u8; GROUP_BYTES]],
    subs: &[[i8; PANEL]],
    words: &[u32],
    sums: &mut [i32; PANEL],
) {
    fit!(!words.is_empty() && words.len() == 20 * codes.len() && subs.len() == codes.len());
    // SAFETY: for four rows at a time and each group the block reads 20 words of `words`, which are
    // as many, and these rows' 16 bytes of the four tiles of `codes` and 4 bytes of `subs`. It adds
    // to `sums`, and leaves the stack as it was.
    unsafe {
        asm!(
            "push {{r0-r7}}",
            "2:",
            "ldm sp, {{r4, r11, r12}}",
            "3:",
            "ldm r12!, {{r0-r3}}",
            ".irp v, 0, 64, 128, 192",
            "ldm r12!, {{r4-r7}}",
            "ldrd r8, r9, [r11, #\\v]",
            uniform_word!("r8", "r0"),
            uniform_word!("r9", "r1"),
            "ldrd r8, r9, [r11, #\\v + 8]",
            uniform_word!("r8", "r2"),
            uniform_word!("r9", "r3"),
            ".endr",
            "add r11, r11, #256",
            "ldr r4, [sp]",
            "ldr r5, [sp, #12]",
            "ldm r4, {{r7-r10}}",
            "ldr r6, [r5], #16",
            "str r5, [sp, #12]",
            // A dot product of a group fits 16 bits: 32 * 8 * 127 is 32,512.
            "sxtb16 r5, r6",
            "sxtb16 r6, r6, ror #8",
            "smlabb r7, r0, r5, r7",
            "smlabb r8, r1, r6, r8",
            "smlabt r9, r2, r5, r9",
            "smlabt r10, r3, r6, r10",
            "stm r4, {{r7-r10}}",
            next_group_or_rows!("4"),
            inout("r0") sums.as_mut_ptr() => _,
            inout("r1") codes.as_ptr() => _,
            inout("r2") words.as_ptr() => _,
            inout("r3") subs.as_ptr() => _,
            inout("r4") 4 => _,
            inout("r5") words.as_ptr_range().end => _,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _, out("r12") _,
            inout("lr") 0x000f_000f => _,
        );
    }
}

/// What [`table`] makes.
pub(super) type Table = [u32; 256];

/// The levels of a byte's low and high nibble, for every byte.
#[inline(never)]
pub(super) fn table(levels: &[i8; 16]) -> Table {
    let mut table = [0; 256];
    for (row, &high) in table.as_chunks_mut::<16>().0.iter_mut().zip(levels) {
        for (to, &low) in row.iter_mut().zip(levels) {
            *to = low as u16 as u32 | (high as u32) << 16;
        }
    }
    table
}

/// [`uniform_panel`] for nibbles of a codebook.
// Longer than sixty lines: one block of assembly, and what it is given.
#[inline(never)]
fn codebook_panel(
    codes: &[[u8; GROUP_BYTES]],
    subs: &[[i8; PANEL]],
    table: &Table,
    words: &[u32],
    sums: &mut [i32; PANEL],
) {
    fit!(!words.is_empty() && words.len() == 16 * codes.len() && subs.len() == codes.len());
    // SAFETY: as in `uniform`, with 16 words of `words` a group; and a byte indexes the 256 words
    // of `table`.
    unsafe {
        asm!(
            "push {{r0-r7}}",
            "2:",
            "ldm sp, {{r4, r11, r12}}",
            "3:",
            "movs r0, #0",
            "movs r1, #0",
            "movs r2, #0",
            "movs r3, #0",
            "4:",
            "ldm r12!, {{r4-r7}}",
            ".irp r, 0, 1, 2, 3",
            "ldrb r8, [r11, #4 * \\r]",
            "ldrb r9, [r11, #4 * \\r + 1]",
            "ldrb r10, [r11, #4 * \\r + 2]",
            "ldr r8, [lr, r8, lsl #2]",
            "ldr r9, [lr, r9, lsl #2]",
            "ldr r10, [lr, r10, lsl #2]",
            "smlad r\\r, r8, r4, r\\r",
            "ldrb r8, [r11, #4 * \\r + 3]",
            "smlad r\\r, r9, r5, r\\r",
            "ldr r8, [lr, r8, lsl #2]",
            "smlad r\\r, r10, r6, r\\r",
            "smlad r\\r, r8, r7, r\\r",
            ".endr",
            "add r11, r11, #64",
            // A group's activations take 64 aligned bytes.
            "tst r12, #63",
            "bne 4b",
            add_scaled_group!(),
            next_group_or_rows!("4"),
            inout("r0") sums.as_mut_ptr() => _,
            inout("r1") codes.as_ptr() => _,
            inout("r2") words.as_ptr() => _,
            inout("r3") subs.as_ptr() => _,
            inout("r4") 4 => _,
            inout("r5") words.as_ptr_range().end => _,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _, out("r12") _,
            in("lr") table.as_ptr(),
        );
    }
}

/// Groups whose activations are expanded at once: a divisor of what a word of an index speaks of.
const BLOCK: usize = SCRATCH / 20;

/// The sums of panels from `p` on, whose weights come in groups: those of every matrix but a dense
/// one of int8. The panels share expanded activations.
#[inline(never)]
pub(super) fn groups(
    w: &Matrix<'_>,
    p: usize,
    table: Option<&Table>,
    row: &Row<'_>,
    sums: &mut [[i32; PANEL]],
) {
    #[cfg(feature = "families")]
    if w.is_sparse() {
        return sparse(w, p, table, row, sums);
    }
    let mut scratch = Scratch::new();
    sums.as_flattened_mut().fill(0);
    for (i, x) in row.codes.as_chunks::<GROUP>().0.chunks(BLOCK).enumerate() {
        let start = i * BLOCK;
        let words = expand(w, table, row, start..start + x.len(), &mut scratch);
        for (i, sums) in sums.iter_mut().enumerate() {
            let Some((codes, subs)) = w.stored(w.first_block(p + i) + start, x.len()) else {
                break;
            };
            add_groups(w, table, codes, subs, words, sums);
        }
    }
}

/// Expanded activations of some groups.
fn expand<'s>(
    w: &Matrix<'_>,
    table: Option<&Table>,
    row: &Row<'_>,
    groups: Range<usize>,
    scratch: &'s mut Scratch,
) -> &'s [u32] {
    match table {
        _ if w.format().is_int8() => {
            scratch.int8(&row.codes[groups.start * GROUP..groups.end * GROUP])
        }
        None => scratch.uniform(row, groups),
        Some(_) => scratch.codebook(row, groups),
    }
}

/// Adds the products of groups that lie one after the other.
fn add_groups(
    w: &Matrix<'_>,
    table: Option<&Table>,
    codes: &[u8],
    subs: &[[i8; PANEL]],
    words: &[u32],
    sums: &mut [i32; PANEL],
) {
    match table {
        _ if w.format().is_int8() && subs.is_empty() => int8_panel(tiles(codes), words, sums),
        _ if w.format().is_int8() => grouped_panel(tiles(codes), subs, words, sums),
        None => uniform_panel(codes.as_chunks().0, subs, words, sums),
        Some(table) => codebook_panel(codes.as_chunks().0, subs, table, words, sums),
    }
}

/// [`groups`] of a sparse matrix: activations of groups that are not there are expanded, too;
/// groups that follow one another are one product.
#[cfg(feature = "families")]
#[inline(never)]
fn sparse(
    w: &Matrix<'_>,
    p: usize,
    table: Option<&Table>,
    row: &Row<'_>,
    sums: &mut [[i32; PANEL]],
) {
    let each = if w.format().is_int8() || table.is_some() { GROUP / 2 } else { 20 };
    let mut scratch = Scratch::new();
    let mut first = [0; PANELS];
    for (i, first) in first.iter_mut().enumerate() {
        *first = w.first_block(p + i);
    }
    sums.as_flattened_mut().fill(0);
    for (i, x) in row.codes.as_chunks::<GROUP>().0.chunks(BLOCK).enumerate() {
        let start = i * BLOCK;
        let words = expand(w, table, row, start..start + x.len(), &mut scratch);
        for (i, (sums, first)) in sums.iter_mut().zip(&mut first).enumerate() {
            let mut bits = w.there(p + i, start, x.len());
            let mut at = 0;
            while bits != 0 {
                // No bit but those of 16 groups, at the most, so no shift goes too far.
                at += bits.trailing_zeros() as usize;
                bits >>= bits.trailing_zeros();
                let n = bits.trailing_ones() as usize;
                bits >>= n;
                // Fewer only where the index is not sound.
                let n = n.min(w.blocks() - *first);
                let Some((codes, subs)) = w.stored(*first, n) else { break };
                let Some(words) = words.get(at * each..(at + n) * each) else { break };
                *first += n;
                at += n;
                if n > 0 {
                    add_groups(w, table, codes, subs, words, sums);
                }
            }
        }
    }
}

/// What [`scalar::exp2_below`] is made of.
#[cfg(target_abi = "eabihf")]
static EXPONENTIAL: [f32; 7] = {
    let [c4, c3, c2, c1, c0] = scalar::math::POWER;
    [scalar::math::LOWEST, scalar::math::ROUND_BIASED, c4, c3, c2, c1, c0]
};

/// [`scalar::softmax`], four numbers at a time; sums of planes are left alone, as no product here
/// reads them.
// Longer than sixty lines: one block of assembly, and what it is given.
#[cfg(target_abi = "eabihf")]
#[inline(never)]
fn softmax(scores: &[f32; CHUNK], value_scales: &[f32], to: &mut Weights) {
    let n = value_scales.len();
    fit!(0 < n && n <= CHUNK);
    let mut weights = [MaybeUninit::<f32>::uninit(); CHUNK];
    let top = largest(&scores[..n.next_multiple_of(4)]);
    // SAFETY: reads all of `scores` up to the next multiple of 4 of the positions, writes as many
    // of `weights`, reads seven constants.
    unsafe {
        asm!(
            "vmov s16, {a}",
            "vldm {constants}, {{s17-s23}}",
            "2:",
            "vldm {scores}!, {{s0-s3}}",
            ".irp i, 0, 1, 2, 3",
            "vsub.f32 s\\i, s\\i, s16",
            "vcmp.f32 s\\i, s17",
            "vmrs APSR_nzcv, fpscr",
            "it le",
            "vmovle.f32 s\\i, s17",
            ".endr",
            "vadd.f32 s4, s0, s18",
            "vadd.f32 s5, s1, s18",
            "vadd.f32 s6, s2, s18",
            "vadd.f32 s7, s3, s18",
            "vmov {a}, {b}, s4, s5",
            "vmov {c}, {d}, s6, s7",
            ".irp i, 4, 5, 6, 7",
            "vsub.f32 s\\i, s\\i, s18",
            ".endr",
            "vsub.f32 s0, s0, s4",
            "vsub.f32 s1, s1, s5",
            "vsub.f32 s2, s2, s6",
            "vsub.f32 s3, s3, s7",
            "vmul.f32 s4, s0, s19",
            "vmul.f32 s5, s1, s19",
            "vmul.f32 s6, s2, s19",
            "vmul.f32 s7, s3, s19",
            ".irp c, s20, s21, s22",
            "vadd.f32 s4, s4, \\c",
            "vadd.f32 s5, s5, \\c",
            "vadd.f32 s6, s6, \\c",
            "vadd.f32 s7, s7, \\c",
            "vmul.f32 s4, s4, s0",
            "vmul.f32 s5, s5, s1",
            "vmul.f32 s6, s6, s2",
            "vmul.f32 s7, s7, s3",
            ".endr",
            ".irp i, 4, 5, 6, 7",
            "vadd.f32 s\\i, s\\i, s23",
            ".endr",
            "lsls {a}, {a}, #23",
            "lsls {b}, {b}, #23",
            "lsls {c}, {c}, #23",
            "lsls {d}, {d}, #23",
            "vmov s0, s1, {a}, {b}",
            "vmov s2, s3, {c}, {d}",
            "vmul.f32 s0, s0, s4",
            "vmul.f32 s1, s1, s5",
            "vmul.f32 s2, s2, s6",
            "vmul.f32 s3, s3, s7",
            "vstm {weights}!, {{s0-s3}}",
            "subs {count}, {count}, #4",
            "bgt 2b",
            constants = in(reg) EXPONENTIAL.as_ptr(),
            scores = inout(reg) scores.as_ptr() => _,
            weights = inout(reg) weights.as_mut_ptr() => _,
            count = inout(reg) n => _,
            a = inout(reg) top.to_bits() => _, b = out(reg) _, c = out(reg) _, d = out(reg) _,
            out("s0") _, out("s1") _, out("s2") _, out("s3") _, out("s4") _, out("s5") _,
            out("s6") _, out("s7") _,
            out("s16") _, out("s17") _, out("s18") _, out("s19") _, out("s20") _, out("s21") _,
            out("s22") _, out("s23") _,
            options(nostack),
        );
    }
    weights[n.next_multiple_of(4)..].fill(MaybeUninit::new(0.0));
    // SAFETY: those up to the next multiple of 4 were just written by the block above, and the
    // others by `fill`.
    let weights: &mut [f32; CHUNK] = unsafe { &mut *weights.as_mut_ptr().cast() };
    let sum = float::sum::<false>(weights.as_chunks().0);
    let peak = scale_weights(&mut weights[..n], value_scales);
    let (inv, unit) = scalar::units(peak);
    to.max = top;
    to.sum = sum;
    to.unit = unit;
    // SAFETY: the block reads all of `weights`, four at a time, those after the last position
    // being zero, and writes as many bytes of both planes.
    unsafe {
        asm!(
            "vmov s8, s9, {a}, {b}",
            "2:",
            "vldm {weights}!, {{s0-s3}}",
            ".irp i, 0, 1, 2, 3",
            "vmul.f32 s\\i, s\\i, s8",
            ".endr",
            ".irp i, 0, 1, 2, 3",
            "vadd.f32 s\\i, s\\i, s9",
            ".endr",
            "vmov {a}, {b}, s0, s1",
            "vmov {c}, {d}, s2, s3",
            // A code is the low halfword of the sum.
            "pkhbt {a}, {a}, {c}, lsl #16",
            "pkhbt {b}, {b}, {d}, lsl #16",
            "and {c}, {a}, #0x007f007f",
            "and {d}, {b}, #0x007f007f",
            "and {a}, {mask}, {a}, lsr #7",
            "and {b}, {mask}, {b}, lsr #7",
            "orr {c}, {c}, {d}, lsl #8",
            "orr {a}, {a}, {b}, lsl #8",
            "str {c}, [{planes}, #{plane}]",
            "str {a}, [{planes}], #4",
            "subs {count}, {count}, #4",
            "bgt 2b",
            weights = inout(reg) weights.as_ptr() => _,
            plane = const CHUNK,
            planes = inout(reg) to.planes.as_mut_ptr() => _,
            count = inout(reg) weights.len() => _,
            mask = in(reg) 0x007f_007f,
            a = inout(reg) inv.to_bits() => _, b = inout(reg) scalar::math::ROUND.to_bits() => _, c = out(reg) _, d = out(reg) _,
            out("s0") _, out("s1") _, out("s2") _, out("s3") _, out("s8") _, out("s9") _,
            options(nostack),
        );
    }
}

/// The largest of some numbers, as many as a multiple of 4 and not none; NaN is none.
#[cfg(target_abi = "eabihf")]
#[inline(always)]
fn largest(x: &[f32]) -> f32 {
    fit!(!x.is_empty() && x.len().is_multiple_of(4));
    let top: u32;
    // SAFETY: reads all of `x`, four numbers at a time.
    unsafe {
        asm!(
            "vmov s4, {top}",
            "2:",
            "vldm {x}!, {{s0-s3}}",
            ".irp i, 0, 1, 2, 3",
            "vcmp.f32 s\\i, s4",
            "vmrs APSR_nzcv, fpscr",
            "it gt",
            "vmovgt.f32 s4, s\\i",
            ".endr",
            "subs {count}, {count}, #4",
            "bne 2b",
            "vmov {top}, s4",
            x = inout(reg) x.as_ptr() => _,
            count = inout(reg) x.len() => _,
            top = inout(reg) f32::NEG_INFINITY.to_bits() => top,
            out("s0") _, out("s1") _, out("s2") _, out("s3") _, out("s4") _,
            options(readonly, nostack),
        );
    }
    f32::from_bits(top)
}

/// Multiplies weights by scales, and returns the largest. None is negative, so their bits are in
/// their order.
#[cfg(target_abi = "eabihf")]
#[inline(always)]
fn scale_weights(weights: &mut [f32], scales: &[f32]) -> f32 {
    fit!(weights.len() == scales.len());
    let (eights, rest) = weights.as_chunks_mut::<8>();
    let (scales, last) = scales.as_chunks::<8>();
    let mut peak = 0u32;
    if !eights.is_empty() {
        // SAFETY: reads `scales`, and reads and writes `eights`, which is as long.
        unsafe {
            asm!(
                "2:",
                "vldm {w}, {{s0-s7}}",
                "vldm {scales}!, {{s8-s15}}",
                "vmul.f32 s0, s0, s8",
                "vmul.f32 s1, s1, s9",
                "vmul.f32 s2, s2, s10",
                "vmul.f32 s3, s3, s11",
                "vmul.f32 s4, s4, s12",
                "vmul.f32 s5, s5, s13",
                "vmul.f32 s6, s6, s14",
                "vmul.f32 s7, s7, s15",
                "vstm {w}!, {{s0-s7}}",
                "vmov {a}, {b}, s0, s1",
                "vmov {c}, {d}, s2, s3",
                ".irp r, {a}, {b}, {c}, {d}",
                "cmp \\r, {peak}",
                "it gt",
                "movgt {peak}, \\r",
                ".endr",
                "vmov {a}, {b}, s4, s5",
                "vmov {c}, {d}, s6, s7",
                ".irp r, {a}, {b}, {c}, {d}",
                "cmp \\r, {peak}",
                "it gt",
                "movgt {peak}, \\r",
                ".endr",
                "subs {count}, {count}, #1",
                "bne 2b",
                w = inout(reg) eights.as_mut_ptr() => _,
                scales = inout(reg) scales.as_ptr() => _,
                count = inout(reg) eights.len() => _,
                peak = inout(reg) peak,
                a = out(reg) _, b = out(reg) _, c = out(reg) _, d = out(reg) _,
                out("s0") _, out("s1") _, out("s2") _, out("s3") _, out("s4") _, out("s5") _,
                out("s6") _, out("s7") _,
                out("s8") _, out("s9") _, out("s10") _, out("s11") _, out("s12") _, out("s13") _,
                out("s14") _, out("s15") _,
                options(nostack),
            );
        }
    }
    let mut peak = f32::from_bits(peak);
    for (w, &scale) in rest.iter_mut().zip(last) {
        *w *= scale;
        peak = scalar::max(peak, *w);
    }
    peak
}
