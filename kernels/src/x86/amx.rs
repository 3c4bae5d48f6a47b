//! AMX int8 for prompts: one `tdpbssd` multiplies 16 rows of activations by the 16 rows of a panel
//! over 64 inner values. All other work, and fewer than [`LEAST`] rows, is [`super::avx512`]'s.
//!
//! Sixteen int8 tiles of a panel are one operand exactly as they lie. Int4 weights are expanded
//! once for all rows of a prompt: `sub_scale * level` has 16 bits and becomes two operands, `256 *
//! high + low`, so that nothing is converted between products. Four tile registers hold sums, of 32
//! rows with two panels (int8) or with both halves of one (int4); the other four are operands.
//!
//! The inner dimension is cut at [`DEPTH`], so that expanded weights have a fixed size on the stack
//! (96 KiB with all else); between the cuts sums wait, as bits, where the results go.
//!
//! Tile instructions are not stable in Rust: the few that are needed are assembly. Linux hands out
//! the tile registers on request.
//!
//! The file is longer than 500 lines because tiles, their operands and what expands into them have
//! one set of private types.

use core::arch::asm;
use core::arch::x86_64::*;
use core::ops::Range;

use super::avx512;
use crate::activations::Activations;
use crate::cache::Head;
use crate::layout::{Format, GROUP, GROUP_BYTES, Matrix, PANEL, QUAD, TILE};

crate::vector::token! {
    /// Proof of AMX int8, of the operating system's permission, and of what [`super::avx512`]
    /// needs. Miri has no `asm!`.
    Amx, !cfg!(miri) && avx512::Avx512::new().is_some() && granted()
}

/// The operations, to be called only where the token exists.
mod on {
    use super::*;

    #[cfg(feature = "families")]
    pub(super) use avx512::on::{activate, layer_norm, mul};
    pub(super) use avx512::on::{
        add, attend, quantize, rms_norm, rope, silu_mul, softmax, transform,
    };

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    pub(super) fn matmul(
        w: &Matrix<'_>,
        x: &Activations<'_>,
        panels: Range<usize>,
        out: &mut [f32],
        stride: usize,
    ) {
        if x.rows() < LEAST || w.is_sparse() {
            avx512::on::matmul(w, x, panels, out, stride);
        } else {
            super::matmul(w, x, panels, out, stride);
        }
    }
}

/// Fewer rows of activations are faster without tiles, which cost the same for one row as for
/// sixteen.
const LEAST: usize = 6;
/// Rows of a tile register.
const ROWS: usize = 16;
/// Inner values of a tile register.
const INNER: usize = 64;
/// Bytes of a tile register.
const REGISTER: usize = ROWS * INNER;
/// Inner values between two cuts.
const DEPTH: usize = 2048;
/// Registers of weights between two cuts.
const STEPS: usize = DEPTH / INNER;

/// Whether processor and operating system have AMX int8, and let this process use it.
fn granted() -> bool {
    #[cfg(all(feature = "std", target_os = "linux", not(miri)))]
    {
        const AMX_TILE_AND_INT8: u32 = 3 << 24;
        const TILE_STATE: u64 = 3 << 17;
        const ARCH_REQ_XCOMP_PERM: u64 = 0x1023;
        const XFEATURE_XTILEDATA: u64 = 18;
        if __cpuid(0).eax < 7 || __cpuid_count(7, 0).edx & AMX_TILE_AND_INT8 != AMX_TILE_AND_INT8 {
            return false;
        }
        let (low, high): (u32, u32);
        // SAFETY: AVX-512 was found, so the operating system has switched `xgetbv` on; it reads
        // register XCR0 and nothing else.
        unsafe {
            asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high, options(nomem, nostack))
        };
        if (u64::from(high) << 32 | u64::from(low)) & TILE_STATE != TILE_STATE {
            return false;
        }
        let mut result = 158u64; // arch_prctl
        // SAFETY: this request reads and writes no memory of ours; a system call clobbers rcx and
        // r11.
        unsafe {
            asm!("syscall", inout("rax") result, in("rdi") ARCH_REQ_XCOMP_PERM, in("rsi") XFEATURE_XTILEDATA,
                 out("rcx") _, out("r11") _, options(nostack));
        }
        result == 0
    }
    #[cfg(not(all(feature = "std", target_os = "linux", not(miri))))]
    false
}

/// The shapes of the tile registers, as `ldtilecfg` reads them.
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    bytes_a_row: [u16; 16],
    rows: [u8; 16],
}

/// While it lives, the tile registers of this thread have shapes.
///
/// Tiles need the permission that `Amx::new` asked the system for, which no target feature stands
/// for. Only `int8` and `groups` make a value; both are private and run from `on::matmul` alone,
/// which the method of a token [`Amx`] calls.
struct Tiles {
    rows: [usize; 2],
}

impl Tiles {
    /// For two blocks of `rows` rows of activations; none has more than 16, and the second may have
    /// none, when its registers get one row whose sums nobody reads.
    #[target_feature(enable = "avx512f")]
    fn new(rows: [usize; 2]) -> Self {
        let mut tiles = Self { rows };
        tiles.load();
        tiles
    }

    #[target_feature(enable = "avx512f")]
    fn shape(&mut self, rows: [usize; 2]) {
        if self.rows != rows {
            self.rows = rows;
            self.load();
        }
    }

    #[target_feature(enable = "avx512f")]
    fn load(&mut self) {
        let (first, second) =
            (self.rows[0].clamp(1, ROWS) as u8, self.rows[1].clamp(1, ROWS) as u8);
        let mut config = Config {
            palette: 1,
            start_row: 0,
            reserved: [0; 14],
            bytes_a_row: [0; 16],
            rows: [0; 16],
        };
        config.bytes_a_row[..8].fill(INNER as u16);
        // Sums 0 to 3; activations 4 and 5; weights 6 and 7.
        config.rows[..8].copy_from_slice(&[
            first, first, second, second, first, second, ROWS as u8, ROWS as u8,
        ]);
        // SAFETY: `config` is 64 bytes of a valid configuration of palette 1. Tiles may be used:
        // whoever makes a `Tiles` runs on behalf of a token, as the type says.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const config, options(nostack, readonly)) };
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: tiles may be used, since this value could be made (see the type). Nothing holds
        // values in them outside of the assembly of `multiply`.
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
    }
}

/// What fills a tile register of weights.
type Register = [u8; REGISTER];

/// Operands of [`multiply`]: two of activations, two of weights. Of activations, rows are `stride`
/// bytes apart.
struct Operands<'a> {
    rows: [&'a [i8]; 2],
    stride: usize,
    weights: [&'a [Register]; 2],
    tail: Option<Tail<'a>>,
}

/// What is left behind the last whole registers, padded with zeros.
struct Tail<'a> {
    rows: [&'a [[i8; INNER]]; 2],
    weights: [&'a Register; 2],
}

/// Sums of two blocks of rows with two operands of weights: `[operand][block][row]`.
#[repr(C, align(64))]
struct Sums([[[[i32; PANEL]; ROWS]; 2]; 2]);

/// Adds up the products of both blocks of rows with both weights, over all registers and the tail.
// Longer than sixty lines: one block of assembly, and what it is given.
#[target_feature(enable = "avx512f")]
fn multiply(tiles: &Tiles, x: &Operands<'_>, to: &mut Sums) {
    let steps = x.weights[0].len();
    fit!(x.weights[1].len() == steps);
    for (rows, codes) in tiles.rows.iter().zip(x.rows) {
        fit!(codes.len() >= (rows.max(&1) - 1) * x.stride + steps * INNER);
    }
    let mut tail = [core::ptr::null(); 4];
    if let Some(Tail { rows, weights }) = &x.tail {
        fit!(tiles.rows.iter().zip(rows).all(|(&n, rows)| rows.len() >= n.max(1)));
        tail = [
            rows[0].as_ptr().cast(),
            rows[1].as_ptr().cast(),
            weights[0].as_ptr(),
            weights[1].as_ptr(),
        ];
    }
    // SAFETY: `tiles` gave the registers their shapes. Step i reads 64 bytes at `64 i` of each row,
    // which end inside the rows by the second assertion, and 1,024 bytes at `1024 i` of both
    // weights, which have `steps` times as many. The tail reads 64 bytes of each of the rows, of
    // which there are enough by the third assertion, and one register of each weight. Sums are
    // stored to the four parts of `to`, at most 1,024 bytes each.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "test {steps}, {steps}",
            "jz 3f",
            "2:",
            "tileloadd tmm4, [{a0} + {stride}]",
            "tileloadd tmm6, [{b0} + {inner}]",
            "tileloadd tmm7, [{b1} + {inner}]",
            "tdpbssd tmm0, tmm4, tmm6",
            "tileloadd tmm5, [{a1} + {stride}]",
            "tdpbssd tmm1, tmm4, tmm7",
            "tdpbssd tmm2, tmm5, tmm6",
            "tdpbssd tmm3, tmm5, tmm7",
            "add {a0}, 64",
            "add {a1}, 64",
            "add {b0}, 1024",
            "add {b1}, 1024",
            "dec {steps}",
            "jnz 2b",
            "3:",
            "mov {a0}, [{tail}]",
            "test {a0}, {a0}",
            "jz 4f",
            "mov {a1}, [{tail} + 8]",
            "mov {b0}, [{tail} + 16]",
            "mov {b1}, [{tail} + 24]",
            "tileloadd tmm4, [{a0} + {inner}]",
            "tileloadd tmm5, [{a1} + {inner}]",
            "tileloadd tmm6, [{b0} + {inner}]",
            "tileloadd tmm7, [{b1} + {inner}]",
            "tdpbssd tmm0, tmm4, tmm6",
            "tdpbssd tmm1, tmm4, tmm7",
            "tdpbssd tmm2, tmm5, tmm6",
            "tdpbssd tmm3, tmm5, tmm7",
            "4:",
            "tilestored [{to} + {inner}], tmm0",
            "tilestored [{to} + {inner} + 1024], tmm2",
            "tilestored [{to} + {inner} + 2048], tmm1",
            "tilestored [{to} + {inner} + 3072], tmm3",
            a0 = inout(reg) x.rows[0].as_ptr() => _,
            a1 = inout(reg) x.rows[1].as_ptr() => _,
            b0 = inout(reg) x.weights[0].as_ptr() => _,
            b1 = inout(reg) x.weights[1].as_ptr() => _,
            stride = in(reg) x.stride,
            inner = in(reg) INNER,
            steps = inout(reg) steps => _,
            tail = in(reg) tail.as_ptr(),
            to = in(reg) to.0.as_mut_ptr(),
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}

/// Where results go: row `m`, panel `p` at `out[m * stride + p * 16..]`.
struct Out<'o> {
    out: &'o mut [f32],
    stride: usize,
}

/// Some rows, cut into pairs of blocks.
struct Rows<'x> {
    x: Activations<'x>,
    /// Inner values after the last whole register of weights.
    tails: &'x [[i8; INNER]],
}

/// Rows at a time: as many tails as there is memory for.
const MOST_ROWS: usize = 512;

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn matmul(
    w: &Matrix<'_>,
    x: &Activations<'_>,
    panels: Range<usize>,
    out: &mut [f32],
    stride: usize,
) {
    let mut tails = [[0i8; INNER]; MOST_ROWS];
    for first in (0..x.rows()).step_by(MOST_ROWS) {
        let x = x.slice(first, MOST_ROWS.min(x.rows() - first));
        for m in 0..x.rows() {
            let rest = &x.codes(m)[w.padded_cols() / INNER * INNER..];
            tails[m][..rest.len()].copy_from_slice(rest);
        }
        let rows = Rows { x, tails: &tails };
        let mut out = Out { out: &mut out[first * stride..], stride };
        match w.format() {
            Format::Int8 => int8(w, &rows, panels.clone(), &mut out),
            _ => groups(w, &rows, panels.clone(), &mut out),
        }
    }
}

impl Rows<'_> {
    /// Multiplies the pair of blocks from row `m` with `weights`, from inner value `start`. Returns
    /// how many rows there are.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    fn times(
        &self,
        m: usize,
        start: usize,
        weights: [&[Register]; 2],
        tail: Option<[&Register; 2]>,
        tiles: &mut Tiles,
        sums: &mut Sums,
    ) -> usize {
        let left = self.x.rows() - m;
        let blocks = [ROWS.min(left), ROWS.min(left.saturating_sub(ROWS))];
        let second = if blocks[1] > 0 { m + ROWS } else { m };
        tiles.shape(blocks);
        let operands = Operands {
            rows: [&self.x.codes_from(m)[start..], &self.x.codes_from(second)[start..]],
            stride: self.x.stride(),
            weights,
            tail: tail
                .map(|weights| Tail { rows: [&self.tails[m..], &self.tails[second..]], weights }),
        };
        multiply(tiles, &operands, sums);
        blocks[0] + blocks[1]
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load(x: &[i32; PANEL]) -> __m512i {
    // SAFETY: `x` has 64 bytes.
    unsafe { _mm512_loadu_si512(x.as_ptr().cast()) }
}

/// The first `width` values of a row's panel.
struct Place<'o> {
    out: &'o mut [f32],
    mask: __mmask16,
}

impl Out<'_> {
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn place(&mut self, row: usize, panel: usize, width: usize) -> Place<'_> {
        Place {
            out: &mut self.out[row * self.stride + panel * PANEL..][..width],
            mask: (1u32 << width).wrapping_sub(1) as u16,
        }
    }
}

impl Place<'_> {
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn load(&self) -> __m512i {
        // SAFETY: the mask has as many ones as `out` has values.
        unsafe { _mm512_maskz_loadu_epi32(self.mask, self.out.as_ptr().cast()) }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn store(&mut self, x: __m512i) {
        // SAFETY: the mask has as many ones as `out` has values.
        unsafe { _mm512_mask_storeu_epi32(self.out.as_mut_ptr().cast(), self.mask, x) };
    }
}

/// `(sum as f32) * (row_scale * token_scale)`, as bits.
#[inline]
#[target_feature(enable = "avx512f")]
fn scale(sum: __m512i, row_scales: __m512, token_scale: f32) -> __m512i {
    let scales = _mm512_mul_ps(row_scales, _mm512_set1_ps(token_scale));
    _mm512_castps_si512(_mm512_mul_ps(_mm512_cvtepi32_ps(sum), scales))
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load_scales(x: &[f32; PANEL]) -> __m512 {
    // SAFETY: `x` has 64 bytes.
    unsafe { _mm512_loadu_ps(x.as_ptr()) }
}

/// Two panels at a time, whose codes are operands as they are.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn int8(w: &Matrix<'_>, rows: &Rows<'_>, panels: Range<usize>, out: &mut Out<'_>) {
    let (mut tiles, mut sums) = (Tiles::new([ROWS; 2]), Sums([[[[0; PANEL]; ROWS]; 2]; 2]));
    for p in panels.clone().step_by(2) {
        let two = [p, if p + 1 < panels.end { p + 1 } else { p }];
        let ([a, rest_a], [b, rest_b]) =
            (split(w.panel_codes(two[0])), split(w.panel_codes(two[1])));
        let mut tails = [[0; REGISTER]; 2];
        tails[0][..rest_a.len()].copy_from_slice(rest_a);
        tails[1][..rest_b.len()].copy_from_slice(rest_b);
        let tail = if rest_a.is_empty() { None } else { Some([&tails[0], &tails[1]]) };
        for first in (0..rows.x.rows()).step_by(2 * ROWS) {
            let n = rows.times(
                first,
                0,
                [a.as_chunks().0, b.as_chunks().0],
                tail,
                &mut tiles,
                &mut sums,
            );
            for i in 0..two[1] + 1 - p {
                let (scales, width) =
                    (load_scales(w.panel_row_scales(two[i])), PANEL.min(w.rows() - two[i] * PANEL));
                for m in 0..n {
                    let sum = load(&sums.0[i].as_flattened()[m]);
                    out.place(first + m, two[i] - panels.start, width).store(scale(
                        sum,
                        scales,
                        rows.x.scale(first + m),
                    ));
                }
            }
        }
    }
}

/// One panel at a time, expanded.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn groups(w: &Matrix<'_>, rows: &Rows<'_>, panels: Range<usize>, out: &mut Out<'_>) {
    const CUT: usize = DEPTH / GROUP;
    let (mut tiles, mut sums) = (Tiles::new([ROWS; 2]), Sums([[[[0; PANEL]; ROWS]; 2]; 2]));
    let mut expanded = [[[0; REGISTER]; STEPS]; 2];
    let (levels, groups) = (w.levels(), w.padded_cols() / GROUP);
    for p in panels.clone() {
        let (codes, group) = (w.panel_codes(p), w.format().block_bytes());
        let (scales, width) = (load_scales(w.panel_row_scales(p)), PANEL.min(w.rows() - p * PANEL));
        for start in (0..groups).step_by(CUT) {
            let end = groups.min(start + CUT);
            let (codes, subs) =
                (&codes[start * group..end * group], &w.panel_sub_scales(p)[start..end]);
            match w.format().is_int8() {
                true => expand_bytes(codes.as_chunks().0, subs, &mut expanded),
                false => expand(codes.as_chunks().0, subs, &levels, &mut expanded),
            }
            let steps = (end - start) / 2;
            let [high, low] = &expanded;
            let tail =
                if (end - start) % 2 == 1 { Some([&high[steps], &low[steps]]) } else { None };
            for first in (0..rows.x.rows()).step_by(2 * ROWS) {
                let weights = [&high[..steps], &low[..steps]];
                let n = rows.times(first, start * GROUP, weights, tail, &mut tiles, &mut sums);
                let [high, low] = &sums.0;
                for m in 0..n {
                    let mut to = out.place(first + m, p - panels.start, width);
                    let high = _mm512_slli_epi32::<8>(load(&high.as_flattened()[m]));
                    let mut sum = _mm512_add_epi32(high, load(&low.as_flattened()[m]));
                    if start > 0 {
                        sum = _mm512_add_epi32(sum, to.load());
                    }
                    if end == groups {
                        sum = scale(sum, scales, rows.x.scale(first + m));
                    }
                    to.store(sum);
                }
            }
        }
    }
}

/// Whole registers, and what is left.
fn split(codes: &[u8]) -> [&[u8]; 2] {
    let (whole, rest) = codes.split_at(codes.len() / REGISTER * REGISTER);
    [whole, rest]
}

/// `sub_scale * code` of groups, as [`expand`].
#[target_feature(enable = "avx512f,avx512bw")]
fn expand_bytes(
    codes: &[[u8; GROUP * PANEL]],
    subs: &[[i8; PANEL]],
    to: &mut [[Register; STEPS]; 2],
) {
    let [high, low] = to;
    let high = high.as_flattened_mut().as_chunks_mut::<TILE>().0;
    let low = low.as_flattened_mut().as_chunks_mut::<TILE>().0;
    for g in 0..codes.len() {
        let sub = load_sub(&subs[g]);
        let tiles = codes[g].as_chunks::<TILE>().0;
        for q in 0..GROUP / QUAD {
            let at = g * (GROUP / QUAD) + q;
            // SAFETY: a tile has 64 bytes.
            let codes = unsafe { _mm512_loadu_si512(tiles[q].as_ptr().cast()) };
            multiply_bytes(codes, sub, &mut high[at], &mut low[at]);
        }
    }
    pad(codes.len(), high, low);
}

/// A group's sub-scales, each in both halfwords of a lane.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn load_sub(subs: &[i8; PANEL]) -> __m512i {
    // SAFETY: a group's sub-scales are 16 bytes.
    let sub = _mm512_cvtepi8_epi32(unsafe { _mm_loadu_si128(subs.as_ptr().cast()) });
    _mm512_mask_blend_epi16(0xaaaa_aaaa, sub, _mm512_slli_epi32::<16>(sub))
}

/// Signed bytes times halfwords, as `256 * high + low`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn multiply_bytes(codes: __m512i, sub: __m512i, high: &mut [u8; TILE], low: &mut [u8; TILE]) {
    let (low_byte, half) = (_mm512_set1_epi16(0x00ff), _mm512_set1_epi16(128));
    let even = _mm512_mullo_epi16(_mm512_srai_epi16::<8>(_mm512_slli_epi16::<8>(codes)), sub);
    let odd = _mm512_mullo_epi16(_mm512_srai_epi16::<8>(codes), sub);
    let lows = blend(low_byte, even, _mm512_slli_epi16::<8>(odd));
    let (even, odd) = (_mm512_add_epi16(even, half), _mm512_add_epi16(odd, half));
    let highs = blend(low_byte, _mm512_srli_epi16::<8>(even), odd);
    // SAFETY: `low` has 64 bytes.
    unsafe { _mm512_storeu_si512(low.as_mut_ptr().cast(), lows) };
    // SAFETY: `high` has 64 bytes.
    unsafe { _mm512_storeu_si512(high.as_mut_ptr().cast(), highs) };
}

/// Zeros after an odd number of groups.
#[inline]
fn pad(groups: usize, high: &mut [[u8; TILE]], low: &mut [[u8; TILE]]) {
    if groups % 2 == 1 {
        let (from, to) = (groups * (GROUP / QUAD), (groups + 1) * (GROUP / QUAD));
        high[from..to].fill([0; TILE]);
        low[from..to].fill([0; TILE]);
    }
}

/// `sub_scale * level` of groups, in 16 bits, as registers of high and of low bytes: `256 * high +
/// low`, both signed.
#[target_feature(enable = "avx512f,avx512bw")]
fn expand(
    codes: &[[u8; GROUP_BYTES]],
    subs: &[[i8; PANEL]],
    levels: &[i8; 16],
    to: &mut [[Register; STEPS]; 2],
) {
    // SAFETY: `levels` has 16 bytes.
    let levels = _mm512_broadcast_i32x4(unsafe { _mm_loadu_si128(levels.as_ptr().cast()) });
    let nibble = _mm512_set1_epi8(15);
    let [high, low] = to;
    let high = high.as_flattened_mut().as_chunks_mut::<TILE>().0;
    let low = low.as_flattened_mut().as_chunks_mut::<TILE>().0;
    for g in 0..codes.len() {
        let sub = load_sub(&subs[g]);
        let tiles = codes[g].as_chunks::<TILE>().0;
        for q in 0..GROUP / QUAD {
            let at = g * (GROUP / QUAD) + q;
            // SAFETY: a tile has 64 bytes.
            let bytes = unsafe { _mm512_loadu_si512(tiles[q / 2].as_ptr().cast()) };
            let index = if q % 2 == 0 { bytes } else { _mm512_srli_epi16::<4>(bytes) };
            let level = _mm512_shuffle_epi8(levels, _mm512_and_si512(index, nibble));
            multiply_bytes(level, sub, &mut high[at], &mut low[at]);
        }
    }
    pad(codes.len(), high, low);
}

/// Bits of `a` where `mask` has ones, otherwise of `b`.
#[inline]
#[target_feature(enable = "avx512f")]
fn blend(mask: __m512i, a: __m512i, b: __m512i) -> __m512i {
    _mm512_ternarylogic_epi32::<0xca>(mask, a, b)
}
