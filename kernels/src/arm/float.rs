//! The f32 work of both sets: the reference's operations in its order, a few numbers at a time. A
//! floating-point unit takes as many instructions for one number as the compiler spends around it.
//!
//! The file is longer than 500 lines because it is assembly, a line for each instruction.

use core::arch::asm;
use core::ops::Range;

use crate::layout::GROUP;
use crate::scalar::{self, LANES};

/// [`scalar::quantize`], groups of 32 values in assembly.
// Longer than sixty lines: one block of assembly, and what it is given.
#[inline(never)]
pub(super) fn quantize(x: &[f32], codes: &mut [i8], sums: &mut [i16]) -> f32 {
    let peak = magnitude(x);
    // Not so where there is NaN or an infinity, nothing but zeros, or the reciprocal may be
    // infinite. Otherwise the magnitude of no product is above 127 by more than rounding.
    if !(scalar::softmax::LEAST..=f32::MAX).contains(&peak) {
        return scalar::quantize(x, codes, sums);
    }
    let inv = 127.0 / peak;
    let (groups, rest) = x.as_chunks::<GROUP>();
    let (whole, padded) = codes.split_at_mut(groups.len() * GROUP);
    let (to, last) = sums.split_at_mut(groups.len());
    if !groups.is_empty() {
        // SAFETY: reads `groups`, eight values at a time, and writes as many codes to `whole`, and
        // a sum a group to `to`, which have that many.
        unsafe {
            asm!(
                "vmov s8, s9, {sum}, {a}",
                "2:",
                // Bytes that are summed have 128 added.
                "sub {sum}, {zero}, #128 * 32",
                "3:",
                ".rept 2",
                "vldm {x}!, {{s0-s3}}",
                ".irp i, 0, 1, 2, 3",
                "vmul.f32 s\\i, s\\i, s8",
                ".endr",
                ".irp i, 0, 1, 2, 3",
                "vadd.f32 s\\i, s\\i, s9",
                ".endr",
                "vmov {a}, {b}, s0, s1",
                "vmov {c}, {d}, s2, s3",
                // A code is the low byte of the sum.
                "pkhbt {a}, {a}, {c}, lsl #16",
                "pkhbt {b}, {b}, {d}, lsl #16",
                "uxtb16 {a}, {a}",
                "uxtb16 {b}, {b}",
                "orr {a}, {a}, {b}, lsl #8",
                "str {a}, [{codes}], #4",
                "eor {a}, {a}, #0x80808080",
                "usada8 {sum}, {a}, {zero}, {sum}",
                ".endr",
                "subs {count}, {count}, #1",
                "tst {count}, #3",
                "bne 3b",
                "strh {sum}, [{sums}], #2",
                "cmp {count}, #0",
                "bne 2b",
                x = inout(reg) groups.as_ptr() => _,
                codes = inout(reg) whole.as_mut_ptr() => _,
                sums = inout(reg) to.as_mut_ptr() => _,
                count = inout(reg) groups.len() * (GROUP / 8) => _,
                zero = in(reg) 0,
                sum = inout(reg) inv.to_bits() => _,
                a = inout(reg) scalar::math::ROUND.to_bits() => _, b = out(reg) _, c = out(reg) _, d = out(reg) _,
                out("s0") _, out("s1") _, out("s2") _, out("s3") _, out("s8") _, out("s9") _,
                options(nostack),
            );
        }
    }
    let (filled, padding) = padded.split_at_mut(rest.len());
    let mut sum = 0;
    for (code, v) in filled.iter_mut().zip(rest) {
        *code = scalar::round_to_int(v * inv) as i8;
        sum += i16::from(*code);
    }
    padding.fill(0);
    last.fill(0);
    if let [last, ..] = last {
        *last = sum;
    }
    peak / 127.0
}

/// The largest magnitude of some numbers, or NaN if there is one.
#[inline(always)]
fn magnitude(x: &[f32]) -> f32 {
    let (fours, rest) = x.as_chunks::<4>();
    // Bits without the sign, shifted up: they are in the order of magnitudes, and above all others
    // for NaN.
    let mut peak = rest.iter().fold(0, |peak, v| peak.max(v.to_bits() << 1));
    if !fours.is_empty() {
        // SAFETY: reads all of `fours`.
        unsafe {
            asm!(
                "2:",
                "ldm {x}!, {{r0-r3}}",
                ".irp r, r0, r1, r2, r3",
                "cmp {peak}, \\r, lsl #1",
                "it lo",
                "lsllo {peak}, \\r, #1",
                ".endr",
                "subs {count}, {count}, #1",
                "bne 2b",
                x = inout(reg) fours.as_ptr() => _,
                count = inout(reg) fours.len() => _,
                peak = inout(reg) peak,
                out("r0") _, out("r1") _, out("r2") _, out("r3") _,
                options(readonly, nostack),
            );
        }
    }
    f32::from_bits(peak >> 1)
}

/// The square root, for which `core` knows no instruction.
#[inline(always)]
pub(crate) fn sqrt(x: f32) -> f32 {
    let root: u32;
    // SAFETY: an instruction of the floating-point unit, registers only.
    unsafe {
        asm!(
            "vmov s0, {x}",
            "vsqrt.f32 s0, s0",
            "vmov {x}, s0",
            x = inout(reg) x.to_bits() => root,
            out("s0") _,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    f32::from_bits(root)
}

/// [`scalar::rms_norm`], 16 numbers at a time.
#[inline(never)]
pub(super) fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    match x.as_chunks::<LANES>() {
        ([], _) | (_, [_, ..]) => scalar::rms_norm(x, weight, eps, out),
        (lanes, []) => {
            let inv = 1.0 / scalar::sqrt(sum::<true>(lanes) / x.len() as f32 + eps);
            products::<false>(bytemuck::cast_slice(weight), x, inv, out);
        }
    }
}

/// Writes `number * (scale * factor)` for eight numbers at a time, which are i32 or f32. Returns
/// how many there are of those.
#[inline(always)]
pub(super) fn products<const INTEGERS: bool>(
    numbers: &[u32],
    scales: &[f32],
    factor: f32,
    out: &mut [f32],
) -> usize {
    fit!(numbers.len() >= scales.len() && out.len() == scales.len());
    let eights = scales.len() / 8;
    if eights > 0 {
        // SAFETY: reads `numbers` and `scales` and writes `out`, eight numbers at a time, of which
        // each has `eights`.
        unsafe {
            asm!(
                "vmov s16, {factor}",
                "2:",
                "vldm {numbers}!, {{s0-s7}}",
                "vldm {scales}!, {{s8-s15}}",
                ".if {integers}",
                ".irp i, 0, 1, 2, 3, 4, 5, 6, 7",
                "vcvt.f32.s32 s\\i, s\\i",
                ".endr",
                ".endif",
                ".irp i, 8, 9, 10, 11, 12, 13, 14, 15",
                "vmul.f32 s\\i, s\\i, s16",
                ".endr",
                "vmul.f32 s0, s0, s8",
                "vmul.f32 s1, s1, s9",
                "vmul.f32 s2, s2, s10",
                "vmul.f32 s3, s3, s11",
                "vmul.f32 s4, s4, s12",
                "vmul.f32 s5, s5, s13",
                "vmul.f32 s6, s6, s14",
                "vmul.f32 s7, s7, s15",
                "vstm {out}!, {{s0-s7}}",
                "subs {eights}, {eights}, #1",
                "bne 2b",
                factor = in(reg) factor.to_bits(),
                integers = const INTEGERS as u32,
                numbers = inout(reg) numbers.as_ptr() => _,
                scales = inout(reg) scales.as_ptr() => _,
                out = inout(reg) out.as_mut_ptr() => _,
                eights = inout(reg) eights => _,
                out("s0") _, out("s1") _, out("s2") _, out("s3") _, out("s4") _, out("s5") _,
                out("s6") _, out("s7") _,
                out("s8") _, out("s9") _, out("s10") _, out("s11") _, out("s12") _, out("s13") _,
                out("s14") _, out("s15") _,
                out("s16") _,
                options(nostack),
            );
        }
    }
    8 * eights
}

/// What [`scalar::exp`] and the sigmoid are made of.
static SIGMOID: [f32; 10] = {
    let [c4, c3, c2, c1, c0] = scalar::math::POWER;
    let (low, round) = (scalar::math::LOWEST, scalar::math::ROUND_BIASED);
    [core::f32::consts::LOG2_E, 127.0, low, round, c4, c3, c2, c1, c0, 1.0]
};

/// [`scalar::silu_mul`], four numbers at a time.
// Longer than sixty lines: one block of assembly, and what it is given.
#[inline(never)]
pub(super) fn silu_mul(gate: &mut [f32], up: &[f32]) {
    fit!(gate.len() == up.len());
    let (fours, rest) = gate.as_chunks_mut::<4>();
    let (up, last) = up.as_chunks::<4>();
    if !fours.is_empty() {
        // SAFETY: reads and writes `fours`, and reads `up`, which is as long, and ten constants.
        unsafe {
            asm!(
                "vldm {constants}, {{s16-s25}}",
                "2:",
                "vldm {gate}, {{s0-s3}}",
                "vnmul.f32 s4, s0, s16",
                "vnmul.f32 s5, s1, s16",
                "vnmul.f32 s6, s2, s16",
                "vnmul.f32 s7, s3, s16",
                ".irp i, 4, 5, 6, 7",
                // Whatever is not below 127, and then whatever is not above -126.
                "vcmp.f32 s\\i, s17",
                "vmrs APSR_nzcv, fpscr",
                "it pl",
                "vmovpl.f32 s\\i, s17",
                "vcmp.f32 s\\i, s18",
                "vmrs APSR_nzcv, fpscr",
                "it le",
                "vmovle.f32 s\\i, s18",
                ".endr",
                "vadd.f32 s8, s4, s19",
                "vadd.f32 s9, s5, s19",
                "vadd.f32 s10, s6, s19",
                "vadd.f32 s11, s7, s19",
                "vmov {a}, {b}, s8, s9",
                "vmov {c}, {d}, s10, s11",
                ".irp i, 8, 9, 10, 11",
                "vsub.f32 s\\i, s\\i, s19",
                ".endr",
                "vsub.f32 s4, s4, s8",
                "vsub.f32 s5, s5, s9",
                "vsub.f32 s6, s6, s10",
                "vsub.f32 s7, s7, s11",
                "vmul.f32 s8, s4, s20",
                "vmul.f32 s9, s5, s20",
                "vmul.f32 s10, s6, s20",
                "vmul.f32 s11, s7, s20",
                ".irp c, s21, s22, s23",
                "vadd.f32 s8, s8, \\c",
                "vadd.f32 s9, s9, \\c",
                "vadd.f32 s10, s10, \\c",
                "vadd.f32 s11, s11, \\c",
                "vmul.f32 s8, s8, s4",
                "vmul.f32 s9, s9, s5",
                "vmul.f32 s10, s10, s6",
                "vmul.f32 s11, s11, s7",
                ".endr",
                "lsls {a}, {a}, #23",
                "lsls {b}, {b}, #23",
                "lsls {c}, {c}, #23",
                "lsls {d}, {d}, #23",
                "vmov s4, s5, {a}, {b}",
                "vmov s6, s7, {c}, {d}",
                ".irp i, 8, 9, 10, 11",
                "vadd.f32 s\\i, s\\i, s24",
                ".endr",
                "vmul.f32 s4, s4, s8",
                "vmul.f32 s5, s5, s9",
                "vmul.f32 s6, s6, s10",
                "vmul.f32 s7, s7, s11",
                ".irp i, 4, 5, 6, 7",
                "vadd.f32 s\\i, s\\i, s25",
                ".endr",
                "vldm {up}!, {{s8-s11}}",
                "vdiv.f32 s0, s0, s4",
                "vdiv.f32 s1, s1, s5",
                "vdiv.f32 s2, s2, s6",
                "vdiv.f32 s3, s3, s7",
                "vmul.f32 s0, s0, s8",
                "vmul.f32 s1, s1, s9",
                "vmul.f32 s2, s2, s10",
                "vmul.f32 s3, s3, s11",
                "vstm {gate}!, {{s0-s3}}",
                "subs {count}, {count}, #1",
                "bne 2b",
                constants = in(reg) SIGMOID.as_ptr(),
                gate = inout(reg) fours.as_mut_ptr() => _,
                up = inout(reg) up.as_ptr() => _,
                count = inout(reg) fours.len() => _,
                a = out(reg) _, b = out(reg) _, c = out(reg) _, d = out(reg) _,
                out("s0") _, out("s1") _, out("s2") _, out("s3") _, out("s4") _, out("s5") _,
                out("s6") _, out("s7") _,
                out("s8") _, out("s9") _, out("s10") _, out("s11") _,
                out("s16") _, out("s17") _, out("s18") _, out("s19") _, out("s20") _, out("s21") _,
                out("s22") _, out("s23") _,
                out("s24") _, out("s25") _,
                options(nostack),
            );
        }
    }
    scalar::silu_mul(rest, last);
}

/// The sum, or the sum of squares, in 16 lanes.
// Longer than sixty lines: one block of assembly, and what it is given.
#[inline(always)]
pub(super) fn sum<const SQUARES: bool>(x: &[[f32; LANES]]) -> f32 {
    fit!(!x.is_empty());
    let sum: u32;
    // SAFETY: reads all of `x`.
    unsafe {
        asm!(
            "vldm {x}!, {{s0-s15}}",
            ".if {squares}",
            ".irp i, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15",
            "vmul.f32 s\\i, s\\i, s\\i",
            ".endr",
            ".endif",
            "b 3f",
            "2:",
            "vldm {x}!, {{s16-s31}}",
            ".if {squares}",
            ".irp i, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31",
            "vmul.f32 s\\i, s\\i, s\\i",
            ".endr",
            ".endif",
            "vadd.f32 s0, s0, s16",
            "vadd.f32 s1, s1, s17",
            "vadd.f32 s2, s2, s18",
            "vadd.f32 s3, s3, s19",
            "vadd.f32 s4, s4, s20",
            "vadd.f32 s5, s5, s21",
            "vadd.f32 s6, s6, s22",
            "vadd.f32 s7, s7, s23",
            "vadd.f32 s8, s8, s24",
            "vadd.f32 s9, s9, s25",
            "vadd.f32 s10, s10, s26",
            "vadd.f32 s11, s11, s27",
            "vadd.f32 s12, s12, s28",
            "vadd.f32 s13, s13, s29",
            "vadd.f32 s14, s14, s30",
            "vadd.f32 s15, s15, s31",
            "3:",
            "subs {n}, {n}, #1",
            "bne 2b",
            "vadd.f32 s0, s0, s8",
            "vadd.f32 s1, s1, s9",
            "vadd.f32 s2, s2, s10",
            "vadd.f32 s3, s3, s11",
            "vadd.f32 s4, s4, s12",
            "vadd.f32 s5, s5, s13",
            "vadd.f32 s6, s6, s14",
            "vadd.f32 s7, s7, s15",
            "vadd.f32 s0, s0, s4",
            "vadd.f32 s1, s1, s5",
            "vadd.f32 s2, s2, s6",
            "vadd.f32 s3, s3, s7",
            "vadd.f32 s0, s0, s2",
            "vadd.f32 s1, s1, s3",
            "vadd.f32 s0, s0, s1",
            "vmov {sum}, s0",
            x = inout(reg) x.as_ptr() => _,
            n = inout(reg) x.len() => _,
            sum = out(reg) sum,
            squares = const SQUARES as u32,
            out("s0") _, out("s1") _, out("s2") _, out("s3") _, out("s4") _, out("s5") _,
            out("s6") _, out("s7") _,
            out("s8") _, out("s9") _, out("s10") _, out("s11") _, out("s12") _, out("s13") _,
            out("s14") _, out("s15") _,
            out("s16") _, out("s17") _, out("s18") _, out("s19") _, out("s20") _, out("s21") _,
            out("s22") _, out("s23") _,
            out("s24") _, out("s25") _, out("s26") _, out("s27") _, out("s28") _, out("s29") _,
            out("s30") _, out("s31") _,
            options(readonly, nostack),
        );
    }
    f32::from_bits(sum)
}

/// [`scalar::transform`]: four values a time, and the first two distances in registers.
// Longer than sixty lines: one block of assembly, and what it is given.
#[inline(never)]
pub(super) fn transform(x: &mut [f32]) {
    let factor = scalar::root(x.len().trailing_zeros());
    let x = x.as_chunks_mut::<4>().0.as_flattened_mut();
    if x.is_empty() {
        return;
    }
    let (mut rest, mut step) = (x.len() / 4, 4);
    let Range { start, end } = x.as_mut_ptr_range();
    // SAFETY: reads and writes `x`, four values at a time; its length is a multiple of 4.
    unsafe {
        asm!(
            "vmov s8, {factor}",
            "2:",
            "vldm {x}, {{s0-s3}}",
            ".irp i, 0, 1, 2, 3",
            "vmul.f32 s\\i, s\\i, s8",
            ".endr",
            "vadd.f32 s4, s0, s1",
            "vsub.f32 s5, s0, s1",
            "vadd.f32 s6, s2, s3",
            "vsub.f32 s7, s2, s3",
            "vadd.f32 s0, s4, s6",
            "vadd.f32 s1, s5, s7",
            "vsub.f32 s2, s4, s6",
            "vsub.f32 s3, s5, s7",
            "vstm {x}!, {{s0-s3}}",
            "cmp {x}, {end}",
            "bne 2b",
            factor = in(reg) factor.to_bits(),
            x = inout(reg) start => _,
            end = in(reg) end,
            out("s0") _, out("s1") _, out("s2") _, out("s3") _, out("s4") _, out("s5") _,
            out("s6") _, out("s7") _,
            out("s8") _,
            options(nostack),
        );
    }
    while rest.is_multiple_of(2) {
        // SAFETY: blocks of `2 * step` values fill `x`, as a power of two from 4 times 2 divides
        // its length. Of each the block reads and writes both halves, four values at a time.
        unsafe {
            asm!(
                "2:",
                "add {b}, {a}, {step}",
                "mov {middle}, {b}",
                "3:",
                "vldm {a}, {{s0-s3}}",
                "vldm {b}, {{s4-s7}}",
                "vadd.f32 s8, s0, s4",
                "vadd.f32 s9, s1, s5",
                "vadd.f32 s10, s2, s6",
                "vadd.f32 s11, s3, s7",
                "vsub.f32 s0, s0, s4",
                "vsub.f32 s1, s1, s5",
                "vsub.f32 s2, s2, s6",
                "vsub.f32 s3, s3, s7",
                "vstm {a}!, {{s8-s11}}",
                "vstm {b}!, {{s0-s3}}",
                "cmp {a}, {middle}",
                "bne 3b",
                "mov {a}, {b}",
                "cmp {a}, {end}",
                "bne 2b",
                a = inout(reg) start => _,
                b = out(reg) _,
                middle = out(reg) _,
                step = in(reg) 4 * step,
                end = in(reg) end,
                out("s0") _, out("s1") _, out("s2") _, out("s3") _, out("s4") _, out("s5") _,
                out("s6") _, out("s7") _,
                out("s8") _, out("s9") _, out("s10") _, out("s11") _,
                options(nostack),
            );
        }
        (step, rest) = (2 * step, rest / 2);
    }
    while rest.is_multiple_of(3) {
        // SAFETY: the block reads and writes blocks of `3 * step` values, thirds of `step`, which is
        // a multiple of 4; they fill `x`, whose length the loop divided by. It names the registers
        // that it changes, and leaves the stack as it was.
        unsafe {
            asm!(
                "vmov s16, {part}",
                "2:",
                "add {b}, {a}, {step}",
                "add {c}, {b}, {step}",
                "mov {middle}, {b}",
                "3:",
                "vldm {a}, {{s0-s3}}",
                "vldm {b}, {{s4-s7}}",
                "vldm {c}, {{s8-s11}}",
                "vadd.f32 s12, s0, s4",
                "vadd.f32 s13, s1, s5",
                "vadd.f32 s14, s2, s6",
                "vadd.f32 s15, s3, s7",
                "vadd.f32 s12, s12, s8",
                "vadd.f32 s13, s13, s9",
                "vadd.f32 s14, s14, s10",
                "vadd.f32 s15, s15, s11",
                ".irp i, 12, 13, 14, 15",
                "vmul.f32 s\\i, s\\i, s16",
                ".endr",
                ".irp base, 0, 4, 8",
                "vsub.f32 s\\base, s\\base, s12",
                ".endr",
                ".irp base, 1, 5, 9",
                "vsub.f32 s\\base, s\\base, s13",
                ".endr",
                ".irp base, 2, 6, 10",
                "vsub.f32 s\\base, s\\base, s14",
                ".endr",
                ".irp base, 3, 7, 11",
                "vsub.f32 s\\base, s\\base, s15",
                ".endr",
                "vstm {a}!, {{s0-s3}}",
                "vstm {b}!, {{s4-s7}}",
                "vstm {c}!, {{s8-s11}}",
                "cmp {a}, {middle}",
                "bne 3b",
                "mov {a}, {c}",
                "cmp {a}, {end}",
                "bne 2b",
                part = in(reg) (2.0f32 / 3.0).to_bits(),
                a = inout(reg) start => _,
                b = out(reg) _,
                c = out(reg) _,
                middle = out(reg) _,
                step = in(reg) 4 * step,
                end = in(reg) end,
                out("s0") _, out("s1") _, out("s2") _, out("s3") _, out("s4") _, out("s5") _,
                out("s6") _, out("s7") _,
                out("s8") _, out("s9") _, out("s10") _, out("s11") _, out("s12") _, out("s13") _,
                out("s14") _,
                out("s15") _, out("s16") _,
                options(nostack),
            );
        }
        (step, rest) = (3 * step, rest / 3);
    }
}
