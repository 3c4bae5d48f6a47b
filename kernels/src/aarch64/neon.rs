//! NEON without the dot product (Cortex-A53, A72): 16 bytes are four inner values of four rows.
//!
//! Products of bytes are 16 bits wide. |w| <= 128 and |x| <= 127, so two of them fit (32,512)
//! before `sadalp` adds neighbours into 32 bits; of the uniform nibbles 0..=15 a group's eight fit
//! (15,240), and so does the group's dot product itself once its zero point of 8 is corrected for
//! (32 * 8 * 127 = 32,512): its sums meet in 16 bits, where what wraps on the way comes back. Int8
//! lanes hold half of a row's quad, and meet in the end.
//!
//! The loops go by index, with constant bounds inside: they unroll, and the sums stay in registers.
//!
//! The file is longer than 500 lines because its three formats share the same steps on registers.

use core::arch::aarch64::*;
use core::arch::asm;
use core::ops::Range;

use crate::activations::{Activations, Row};
use crate::cache::Head;
use crate::gemm::{self, Product, Sums};
use crate::layout::{GROUP, GROUP_BYTES, INT4_ZERO, Matrix, PANEL, QUAD, TILE};
use crate::scalar;

crate::vector::token! {
    /// Proof of NEON.
    Neon, crate::vector::has!(is_aarch64_feature_detected, ["neon"])
}

/// The operations, to be called only where NEON exists.
mod on {
    use super::*;

    crate::vector::operations!(Neon, "neon", panels: 1, rows: 2, queries: 1);
}

crate::vector::products!(Neon);

/// Sums of a panel's 16 rows, four a register.
pub(super) type Acc = [int32x4_t; 4];

/// The four registers of a tile; register `i` holds rows `4 i..4 i + 4`.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn load_tile(tile: &[u8; TILE]) -> [uint8x16_t; 4] {
    // SAFETY: `tile` has 64 bytes.
    let uint8x16x4_t(a, b, c, d) = unsafe { vld1q_u8_x4(tile.as_ptr()) };
    [a, b, c, d]
}

/// Two registers of a tile: rows `8 half..8 half + 8`.
#[inline]
#[target_feature(enable = "neon")]
fn load_half(tile: &[u8; TILE], half: usize) -> [uint8x16_t; 2] {
    let bytes: &[u8; TILE / 2] = &tile.as_chunks().0[half];
    // SAFETY: half of a tile has 32 bytes.
    let uint8x16x2_t(a, b) = unsafe { vld1q_u8_x2(bytes.as_ptr()) };
    [a, b]
}

/// The signed codes of low and high nibbles: 0..=15, or what they index.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn nibbles(bytes: uint8x16_t, levels: Option<int8x16_t>) -> [int8x16_t; 2] {
    let (low, high) = (vandq_u8(bytes, vdupq_n_u8(15)), vshrq_n_u8::<4>(bytes));
    match levels {
        None => [vreinterpretq_s8_u8(low), vreinterpretq_s8_u8(high)],
        Some(levels) => [vqtbl1q_s8(levels, low), vqtbl1q_s8(levels, high)],
    }
}

/// The levels of a codebook in a register.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn load_levels(levels: &[i8; 16]) -> int8x16_t {
    // SAFETY: `levels` has 16 bytes.
    unsafe { vld1q_s8(levels.as_ptr()) }
}

/// Sub-scales of 16 rows in 16 bits.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn load_subs(subs: &[i8; PANEL]) -> [int16x8_t; 2] {
    // SAFETY: `subs` has 16 bytes.
    let bytes = unsafe { vld1q_s8(subs.as_ptr()) };
    [vmovl_s8(vget_low_s8(bytes)), vmovl_high_s8(bytes)]
}

/// Sub-scales in 32 bits.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn widen_subs(subs: [int16x8_t; 2]) -> Acc {
    let [a, b] = subs;
    [vmovl_s16(vget_low_s16(a)), vmovl_high_s16(a), vmovl_s16(vget_low_s16(b)), vmovl_high_s16(b)]
}

#[inline]
#[target_feature(enable = "neon")]
pub(super) fn to_array(acc: Acc) -> [i32; PANEL] {
    let mut out = [0; PANEL];
    for (out, acc) in out.as_chunks_mut::<4>().0.iter_mut().zip(acc) {
        // SAFETY: `out` has 16 bytes.
        unsafe { vst1q_s32(out.as_mut_ptr(), acc) };
    }
    out
}

/// Sums as they are returned.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn to_sums<const P: usize, const M: usize>(acc: [[Acc; M]; P]) -> Sums<P, M> {
    let mut sums = [[[0; PANEL]; M]; P];
    for p in 0..P {
        for m in 0..M {
            sums[p][m] = to_array(acc[p][m]);
        }
    }
    sums
}

/// `acc + dots * subs` of a group, where the dot products of its uniform nibbles fit into 16 bits.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn scale_narrow(acc: &mut Acc, dots: [int16x8_t; 2], subs: [int16x8_t; 2]) {
    for i in 0..2 {
        acc[2 * i] = vmlal_s16(acc[2 * i], vget_low_s16(dots[i]), vget_low_s16(subs[i]));
        acc[2 * i + 1] = vmlal_high_s16(acc[2 * i + 1], dots[i], subs[i]);
    }
}

/// `acc + dots * subs` of a group of a codebook's levels.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn scale_wide(acc: &mut Acc, dots: Acc, subs: Acc) {
    for i in 0..4 {
        acc[i] = vmlaq_s32(acc[i], dots[i], subs[i]);
    }
}

/// Four quads of activations, each in all lanes of a register.
#[inline]
#[target_feature(enable = "neon")]
fn broadcast(x: &[i8; 4 * QUAD]) -> [int8x16_t; 4] {
    // SAFETY: `x` has 16 bytes; `ld4r` needs no alignment.
    let int32x4x4_t(a, b, c, d) = unsafe { vld4q_dup_s32(x.as_ptr().cast()) };
    [
        vreinterpretq_s8_s32(a),
        vreinterpretq_s8_s32(b),
        vreinterpretq_s8_s32(c),
        vreinterpretq_s8_s32(d),
    ]
}

/// Four quads of each row of activations: one row's in registers, of several where they lie, for
/// lack of registers.
#[derive(Clone, Copy)]
struct Quads<'a, const M: usize> {
    held: [int8x16_t; 4],
    lying: [&'a [i8; 4 * QUAD]; M],
}

impl<'a, const M: usize> Quads<'a, M> {
    #[inline]
    #[target_feature(enable = "neon")]
    fn new(x: [&'a [i8; 4 * QUAD]; M]) -> Self {
        let held = if M == 1 { broadcast(x[0]) } else { [vdupq_n_s8(0); 4] };
        Self { held, lying: x }
    }

    /// Quads `Q` and `Q + 1` of row `m`.
    #[inline]
    #[target_feature(enable = "neon")]
    fn two<const Q: usize>(&self, m: usize) -> [int8x16_t; 2] {
        if M == 1 {
            return [self.held[Q], self.held[Q + 1]];
        }
        let x: &[i8; 2 * QUAD] = &self.lying[m].as_chunks().0[Q / 2];
        // SAFETY: `x` has 8 bytes; `ld2r` needs no alignment.
        let int32x4x2_t(a, b) = unsafe { vld2q_dup_s32(x.as_ptr().cast()) };
        [vreinterpretq_s8_s32(a), vreinterpretq_s8_s32(b)]
    }
}

/// Defines functions of one instruction each. The intrinsics will not do: LLVM takes them for
/// extensions, products, shuffles and sums, and where a nibble cannot be negative or a register is
/// used twice it does not find the instruction again.
macro_rules! instructions {
    ($($(#[$doc:meta])* $name:ident($($arg:ident: $ty:ty),*) $text:literal;)*) => {$(
        $(#[$doc])*
        #[inline]
        #[target_feature(enable = "neon")]
        fn $name($($arg: $ty),*) -> int16x8_t {
            let out;
            // SAFETY: registers only.
            unsafe {
                asm!(
                    $text,
                    out = lateout(vreg) out,
                    $($arg = in(vreg) $arg,)*
                    options(pure, nomem, nostack, preserves_flags)
                );
            }
            out
        }
    )*};
}

instructions! {
    /// Products of the lower halves.
    mul_low(w: int8x16_t, x: int8x16_t) "smull {out:v}.8h, {w:v}.8b, {x:v}.8b";
    /// Products of the upper halves.
    mul_high(w: int8x16_t, x: int8x16_t) "smull2 {out:v}.8h, {w:v}.16b, {x:v}.16b";
    /// Neighbouring lanes added, wrapping.
    add_pairs(a: int16x8_t, b: int16x8_t) "addp {out:v}.8h, {a:v}.8h, {b:v}.8h";
}

/// Defines functions of one instruction that adds to its first operand.
macro_rules! accumulations {
    ($($(#[$doc:meta])* $name:ident($acc:ty $(, $arg:ident: $ty:ty)*) $text:literal;)*) => {$(
        $(#[$doc])*
        #[inline]
        #[target_feature(enable = "neon")]
        fn $name(acc: &mut $acc, $($arg: $ty),*) {
            // SAFETY: registers only.
            unsafe {
                asm!(
                    $text,
                    acc = inout(vreg) *acc,
                    $($arg = in(vreg) $arg,)*
                    options(pure, nomem, nostack, preserves_flags)
                );
            }
        }
    )*};
}

accumulations! {
    /// Adds products of the lower halves.
    add_low(int16x8_t, w: int8x16_t, x: int8x16_t) "smlal {acc:v}.8h, {w:v}.8b, {x:v}.8b";
    /// Adds products of the upper halves.
    add_high(int16x8_t, w: int8x16_t, x: int8x16_t) "smlal2 {acc:v}.8h, {w:v}.16b, {x:v}.16b";
    /// Adds sums of neighbouring lanes.
    add_wide(int32x4_t, pairs: int16x8_t) "sadalp {acc:v}.4s, {pairs:v}.8h";
}

/// 16-bit sums of the halves of the quads of eight rows, of two registers: rows 0 and 1, 2 and 3,
/// and so on.
type Pairs = [int16x8_t; 4];

#[inline]
#[target_feature(enable = "neon")]
fn multiply(w: [int8x16_t; 2], x: int8x16_t) -> Pairs {
    [mul_low(w[0], x), mul_high(w[0], x), mul_low(w[1], x), mul_high(w[1], x)]
}

#[inline]
#[target_feature(enable = "neon")]
fn multiply_add(pairs: &mut Pairs, w: [int8x16_t; 2], x: int8x16_t) {
    let [a, b, c, d] = pairs;
    add_low(a, w[0], x);
    add_high(b, w[0], x);
    add_low(c, w[1], x);
    add_high(d, w[1], x);
}

/// The same in 32 bits.
type Halves = [int32x4_t; 4];

/// Adds two quads of eight rows: `first` times `x` and `second` times `y`. One piece, because LLVM
/// would mix several until the registers do not suffice; four sums between an instruction and the
/// next on the same one hide its latency on in-order cores.
#[inline]
#[target_feature(enable = "neon")]
fn add_quads(
    acc: &mut Halves,
    first: [int8x16_t; 2],
    x: int8x16_t,
    second: [int8x16_t; 2],
    y: int8x16_t,
) {
    let [a, b, c, d] = acc;
    // SAFETY: registers only.
    unsafe {
        asm!(
            "smull {p:v}.8h, {w0:v}.8b, {x:v}.8b",
            "smull2 {q:v}.8h, {w0:v}.16b, {x:v}.16b",
            "smull {r:v}.8h, {w1:v}.8b, {x:v}.8b",
            "smull2 {s:v}.8h, {w1:v}.16b, {x:v}.16b",
            "smlal {p:v}.8h, {w2:v}.8b, {y:v}.8b",
            "smlal2 {q:v}.8h, {w2:v}.16b, {y:v}.16b",
            "smlal {r:v}.8h, {w3:v}.8b, {y:v}.8b",
            "smlal2 {s:v}.8h, {w3:v}.16b, {y:v}.16b",
            "sadalp {a:v}.4s, {p:v}.8h",
            "sadalp {b:v}.4s, {q:v}.8h",
            "sadalp {c:v}.4s, {r:v}.8h",
            "sadalp {d:v}.4s, {s:v}.8h",
            a = inout(vreg) *a,
            b = inout(vreg) *b,
            c = inout(vreg) *c,
            d = inout(vreg) *d,
            p = out(vreg) _,
            q = out(vreg) _,
            r = out(vreg) _,
            s = out(vreg) _,
            w0 = in(vreg) first[0],
            w1 = in(vreg) first[1],
            w2 = in(vreg) second[0],
            w3 = in(vreg) second[1],
            x = in(vreg) x,
            y = in(vreg) y,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
}

/// Sums of eight rows.
#[inline]
#[target_feature(enable = "neon")]
fn join(acc: Halves) -> [int32x4_t; 2] {
    [vpaddq_s32(acc[0], acc[1]), vpaddq_s32(acc[2], acc[3])]
}

#[inline]
#[target_feature(enable = "neon")]
fn signed(w: [uint8x16_t; 2]) -> [int8x16_t; 2] {
    [vreinterpretq_s8_u8(w[0]), vreinterpretq_s8_u8(w[1])]
}

/// `tiles`, to be read only when `sum` is there. No instruction: without it LLVM loads and unpacks
/// a whole group before it multiplies, and spills most of it. What is passed is the sum of the last
/// step but one, so that loads still run a step ahead.
#[inline]
#[target_feature(enable = "neon")]
#[allow(clippy::pointers_in_nomem_asm_block, reason = "nothing is read or written")]
fn after(tiles: &[[u8; TILE]; 4], sum: int16x8_t) -> &[[u8; TILE]; 4] {
    let mut start: *const _ = tiles;
    // SAFETY: no instruction at all; the pointer stays what it is.
    unsafe {
        asm!(
            "/* {start} {sum:v} */",
            start = inout(reg) start,
            sum = in(vreg) sum,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    // SAFETY: this is `tiles`.
    unsafe { &*start }
}

/// Half `HALF` of the rows of the tiles of quads `Q` and `Q + 1` times these of the four quads in
/// `x`.
#[inline]
#[target_feature(enable = "neon")]
fn two_quads<const Q: usize, const HALF: usize, const M: usize>(
    acc: &mut [[Halves; 2]; M],
    tiles: &[[u8; TILE]; 4],
    x: &[[int8x16_t; 4]; M],
) {
    let [first, second] =
        [signed(load_half(&tiles[Q], HALF)), signed(load_half(&tiles[Q + 1], HALF))];
    for m in 0..M {
        let (acc, x, y) = (&mut acc[m][HALF], x[m][Q], x[m][Q + 1]);
        if M == 1 {
            add_quads(acc, first, x, second, y);
        } else {
            // Several rows leave no registers for what one piece wants at once.
            let mut pairs = multiply(first, x);
            multiply_add(&mut pairs, second, y);
            for i in 0..4 {
                add_wide(&mut acc[i], pairs[i]);
            }
        }
    }
}

#[inline]
#[target_feature(enable = "neon")]
fn int8<const P: usize, const M: usize>(codes: [&[u8]; P], rows: [Row<'_>; M]) -> Sums<P, M> {
    let n = codes[0].len() / TILE;
    let mut sums = [[[0; PANEL]; M]; P];
    let quads = rows.map(|row| &row.codes.as_chunks::<{ 4 * QUAD }>().0[..n / 4]);
    for p in 0..P {
        let fours = &codes[p].as_chunks::<{ 4 * TILE }>().0[..n / 4];
        let mut acc = [[[vdupq_n_s32(0); 4]; 2]; M];
        let mut x = [[vdupq_n_s8(0); 4]; M];
        for f in 0..n / 4 {
            for m in 0..M {
                x[m] = broadcast(&quads[m][f]);
            }
            let tiles = &fours[f].as_chunks().0.as_chunks().0[0];
            two_quads::<0, 0, M>(&mut acc, tiles, &x);
            two_quads::<0, 1, M>(&mut acc, tiles, &x);
            two_quads::<2, 0, M>(&mut acc, tiles, &x);
            two_quads::<2, 1, M>(&mut acc, tiles, &x);
        }
        for q in n / 4 * 4..n {
            let tile = &codes[p].as_chunks().0[q];
            for m in 0..M {
                let x = rows[m].codes.as_chunks::<QUAD>().0[q];
                let x = vreinterpretq_s8_s32(vdupq_n_s32(i32::from_le_bytes(x.map(|v| v as u8))));
                for half in 0..2 {
                    let w = signed(load_half(tile, half));
                    add_quads(&mut acc[m][half], w, x, w, vdupq_n_s8(0));
                }
            }
        }
        for m in 0..M {
            let ([a, b], [c, d]) = (join(acc[m][0]), join(acc[m][1]));
            sums[p][m] = to_array([a, b, c, d]);
        }
    }
    sums
}

/// The low nibbles of two registers, and the high ones.
#[inline]
#[target_feature(enable = "neon")]
fn unpack(bytes: [uint8x16_t; 2], levels: Option<int8x16_t>) -> [[int8x16_t; 2]; 2] {
    let ([a, b], [c, d]) = (nibbles(bytes[0], levels), nibbles(bytes[1], levels));
    [[a, c], [b, d]]
}

/// Half `HALF` of the rows of tile `V` of a group times quads `Q` and `Q + 1` of the four in `x`.
#[inline]
#[target_feature(enable = "neon")]
fn uniform<const V: usize, const Q: usize, const HALF: usize, const M: usize>(
    pairs: &mut [[Pairs; 2]; M],
    tiles: &[[u8; TILE]; 4],
    x: Quads<'_, M>,
) {
    let [low, high] = unpack(load_half(&tiles[V], HALF), None);
    for m in 0..M {
        let [x, y] = x.two::<Q>(m);
        if V == 0 {
            pairs[m][HALF] = multiply(low, x);
        } else {
            multiply_add(&mut pairs[m][HALF], low, x);
        }
        multiply_add(&mut pairs[m][HALF], high, y);
    }
}

#[inline]
#[target_feature(enable = "neon")]
fn int4<const P: usize, const M: usize>(
    codes: [&[u8]; P],
    subs: [&[[i8; PANEL]]; P],
    rows: [Row<'_>; M],
) -> Sums<P, M> {
    let n = codes[0].len() / GROUP_BYTES;
    let quads = rows.map(|row| &row.codes.as_chunks::<GROUP>().0[..n]);
    let sums = rows.map(|row| &row.sums[..n]);
    let mut acc = [[[vdupq_n_s32(0); 4]; M]; P];
    for p in 0..P {
        let groups = &codes[p].as_chunks::<GROUP_BYTES>().0[..n];
        let subs = &subs[p][..n];
        for g in 0..n {
            let tiles = &groups[g].as_chunks().0.as_chunks().0[0];
            let mut pairs = [[[vdupq_n_s16(0); 4]; 2]; M];
            let x = Quads::new(quads.map(|quads| &quads[g].as_chunks().0[0]));
            uniform::<0, 0, 0, M>(&mut pairs, tiles, x);
            uniform::<0, 0, 1, M>(&mut pairs, tiles, x);
            let tiles = after(tiles, pairs[M - 1][0][0]);
            uniform::<1, 2, 0, M>(&mut pairs, tiles, x);
            let tiles = after(tiles, pairs[M - 1][1][0]);
            uniform::<1, 2, 1, M>(&mut pairs, tiles, x);
            let x = Quads::new(quads.map(|quads| &quads[g].as_chunks().0[1]));
            let tiles = after(tiles, pairs[M - 1][0][0]);
            uniform::<2, 0, 0, M>(&mut pairs, tiles, x);
            let tiles = after(tiles, pairs[M - 1][1][0]);
            uniform::<2, 0, 1, M>(&mut pairs, tiles, x);
            let tiles = after(tiles, pairs[M - 1][0][0]);
            uniform::<3, 2, 0, M>(&mut pairs, tiles, x);
            let tiles = after(tiles, pairs[M - 1][1][0]);
            uniform::<3, 2, 1, M>(&mut pairs, tiles, x);
            let subs = load_subs(&subs[g]);
            for m in 0..M {
                let zero = vdupq_n_s16(INT4_ZERO as i16 * sums[m][g]);
                let [[a, b, c, d], [e, f, g, h]] = pairs[m];
                let low = add_pairs(add_pairs(a, b), add_pairs(c, d));
                let high = add_pairs(add_pairs(e, f), add_pairs(g, h));
                scale_narrow(&mut acc[p][m], [vsubq_s16(low, zero), vsubq_s16(high, zero)], subs);
            }
        }
    }
    to_sums(acc)
}

/// Half `HALF` of the rows of tile `V` of a group times quads `Q` and `Q + 1` of the four in `x`.
#[inline]
#[target_feature(enable = "neon")]
fn indexed<const V: usize, const Q: usize, const HALF: usize>(
    sums: &mut [Halves; 2],
    tiles: &[[u8; TILE]; 4],
    levels: int8x16_t,
    x: [int8x16_t; 4],
) {
    let [low, high] = unpack(load_half(&tiles[V], HALF), Some(levels));
    add_quads(&mut sums[HALF], low, x[Q], high, x[Q + 1]);
}

/// One row of activations at a time: several have so many sums that moving them costs as much as
/// unpacking again.
#[inline]
#[target_feature(enable = "neon")]
fn codebook<const P: usize, const M: usize>(
    codes: [&[u8]; P],
    subs: [&[[i8; PANEL]]; P],
    levels: &[i8; 16],
    rows: [Row<'_>; M],
) -> Sums<P, M> {
    let levels = load_levels(levels);
    let n = codes[0].len() / GROUP_BYTES;
    let mut out = [[[0; PANEL]; M]; P];
    for p in 0..P {
        let groups = &codes[p].as_chunks::<GROUP_BYTES>().0[..n];
        let subs = &subs[p][..n];
        for m in 0..M {
            let x = &rows[m].codes.as_chunks::<GROUP>().0[..n];
            let mut acc = [vdupq_n_s32(0); 4];
            for g in 0..n {
                let tiles = &groups[g].as_chunks().0.as_chunks().0[0];
                let [first, second] = x[g].as_chunks().0 else { unreachable!() };
                let mut sums = [[vdupq_n_s32(0); 4]; 2];
                let x = broadcast(first);
                indexed::<0, 0, 0>(&mut sums, tiles, levels, x);
                indexed::<0, 0, 1>(&mut sums, tiles, levels, x);
                let tiles = after(tiles, vreinterpretq_s16_s32(sums[0][0]));
                indexed::<1, 2, 0>(&mut sums, tiles, levels, x);
                let tiles = after(tiles, vreinterpretq_s16_s32(sums[1][0]));
                indexed::<1, 2, 1>(&mut sums, tiles, levels, x);
                let x = broadcast(second);
                let tiles = after(tiles, vreinterpretq_s16_s32(sums[0][0]));
                indexed::<2, 0, 0>(&mut sums, tiles, levels, x);
                let tiles = after(tiles, vreinterpretq_s16_s32(sums[1][0]));
                indexed::<2, 0, 1>(&mut sums, tiles, levels, x);
                let tiles = after(tiles, vreinterpretq_s16_s32(sums[0][0]));
                indexed::<3, 2, 0>(&mut sums, tiles, levels, x);
                let tiles = after(tiles, vreinterpretq_s16_s32(sums[1][0]));
                indexed::<3, 2, 1>(&mut sums, tiles, levels, x);
                let ([a, b], [c, d]) = (join(sums[0]), join(sums[1]));
                scale_wide(&mut acc, [a, b, c, d], widen_subs(load_subs(&subs[g])));
            }
            out[p][m] = to_array(acc);
        }
    }
    out
}
