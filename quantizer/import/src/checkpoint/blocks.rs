//! The quantized blocks of GGUF, one function for each.
//!
//! ```text
//! of 32:  [d] [m] [high bits: 4] [nibbles: 16]      number i in the low nibble of byte i, i + 16 in the high one
//! of 256: [d] [m] [8 scales and minima of 6 bits: 12] [high bits: 32] [nibbles: 128]
//! Q6_K:   [nibbles: 128] [high bit pairs: 64] [16 scales: i8] [d]
//! ```
//!
//! A number is `d * code`, `d * code + m`, or `(d * scale) * code - (m * minimum)`,
//! each operation rounded to f32 in this order: the bits are those of the
//! reference implementation. `d` and `m` are f16. Which parts a block has and how
//! long it is follows from its type, so nothing here can be out of range.

use half::f16;

/// The levels of IQ4_NL.
const LEVELS: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// Converts as many blocks as both sides hold.
pub(super) fn each<const BYTES: usize, const NUMBERS: usize>(
    bytes: &[u8],
    out: &mut [f32],
    convert: fn(&[u8; BYTES], &mut [f32; NUMBERS]),
) {
    for (block, out) in bytes.as_chunks().0.iter().zip(out.as_chunks_mut().0) {
        convert(block, out);
    }
}

fn half(low: u8, high: u8) -> f32 {
    f16::from_le_bytes([low, high]).to_f32()
}

/// Both codes of each byte: number `i` and number `i + 16`.
fn nibbles(codes: &[u8], out: &mut [f32; 32], number: impl Fn(usize, u8) -> f32) {
    let (first, second) = out.split_at_mut(16);
    for (i, ((byte, first), second)) in codes.iter().zip(first).zip(second).enumerate() {
        *first = number(i, byte & 15);
        *second = number(i + 16, byte >> 4);
    }
}

pub(super) fn q4_0(block: &[u8; 18], out: &mut [f32; 32]) {
    let [low, high, codes @ ..] = block;
    let d = half(*low, *high);
    nibbles(codes, out, |_, code| d * (f32::from(code) - 8.0));
}

pub(super) fn q4_1(block: &[u8; 20], out: &mut [f32; 32]) {
    let [low, high, min_low, min_high, codes @ ..] = block;
    let (d, m) = (half(*low, *high), half(*min_low, *min_high));
    nibbles(codes, out, |_, code| d * f32::from(code) + m);
}

/// The fifth bit of number `i`, in its place.
fn fifth(bits: u32, i: usize) -> u8 {
    ((bits >> i & 1) << 4) as u8
}

pub(super) fn q5_0(block: &[u8; 22], out: &mut [f32; 32]) {
    let [low, high, b0, b1, b2, b3, codes @ ..] = block;
    let (d, bits) = (half(*low, *high), u32::from_le_bytes([*b0, *b1, *b2, *b3]));
    nibbles(codes, out, |i, code| d * (f32::from(code | fifth(bits, i)) - 16.0));
}

pub(super) fn q5_1(block: &[u8; 24], out: &mut [f32; 32]) {
    let [low, high, min_low, min_high, b0, b1, b2, b3, codes @ ..] = block;
    let (d, m) = (half(*low, *high), half(*min_low, *min_high));
    let bits = u32::from_le_bytes([*b0, *b1, *b2, *b3]);
    nibbles(codes, out, |i, code| d * f32::from(code | fifth(bits, i)) + m);
}

pub(super) fn q8_0(block: &[u8; 34], out: &mut [f32; 32]) {
    let [low, high, codes @ ..] = block;
    let d = half(*low, *high);
    for (out, code) in out.iter_mut().zip(codes) {
        *out = d * f32::from(*code as i8);
    }
}

pub(super) fn iq4_nl(block: &[u8; 18], out: &mut [f32; 32]) {
    let [low, high, codes @ ..] = block;
    let d = half(*low, *high);
    // A nibble is below 16, whatever the file says.
    nibbles(codes, out, |_, code| d * f32::from(LEVELS[usize::from(code & 15)]));
}

/// Scale and minimum of each 32 numbers: the first four in six low bits of a byte
/// each; the other four in nibbles, with their upper bits in what is left above.
fn scales(packed: &[u8; 12]) -> [(u8, u8); 8] {
    let [s0, s1, s2, s3, m0, m1, m2, m3, x0, x1, x2, x3] = *packed;
    let low = |s: u8, m: u8| (s & 63, m & 63);
    let high = |s: u8, m: u8, x: u8| (x & 15 | s >> 2 & 48, x >> 4 | m >> 2 & 48);
    [
        low(s0, m0),
        low(s1, m1),
        low(s2, m2),
        low(s3, m3),
        high(s0, m0, x0),
        high(s1, m1, x1),
        high(s2, m2, x2),
        high(s3, m3, x3),
    ]
}

/// Q4_K and Q5_K: 32 bytes hold the low nibbles of one 32 numbers and the high
/// ones of the next; `fifth` is the bit above that of number `i` in the `part`th 32.
fn scaled_nibbles(
    head: &[u8; 16],
    codes: &[u8],
    out: &mut [f32; 256],
    fifth: impl Fn(usize, usize) -> u8,
) {
    let [low, high, min_low, min_high, packed @ ..] = head;
    let (d, m) = (half(*low, *high), half(*min_low, *min_high));
    let parts = out.as_chunks_mut::<32>().0.iter_mut().zip(scales(packed)).enumerate();
    for (part, (out, (scale, minimum))) in parts {
        let (d, m) = (d * f32::from(scale), m * f32::from(minimum));
        let codes = codes.iter().skip(part / 2 * 32);
        for (i, (out, byte)) in out.iter_mut().zip(codes).enumerate() {
            let nibble = if part % 2 == 0 { byte & 15 } else { byte >> 4 };
            *out = d * f32::from(nibble | fifth(part, i)) - m;
        }
    }
}

pub(super) fn q4_k(block: &[u8; 144], out: &mut [f32; 256]) {
    let (head, codes) = split(block);
    scaled_nibbles(head, codes, out, |_, _| 0);
}

pub(super) fn q5_k(block: &[u8; 176], out: &mut [f32; 256]) {
    let (head, rest) = split(block);
    let (bits, codes): (&[u8; 32], _) = split(rest);
    scaled_nibbles(head, codes, out, |part, i| (bits[i % 32] >> part & 1) << 4);
}

pub(super) fn q6_k(block: &[u8; 210], out: &mut [f32; 256]) {
    let (codes, rest): (&[u8; 128], _) = split(block);
    let (pairs, rest): (&[u8; 64], _) = split(rest);
    let (scales, rest): (&[u8; 16], _) = split(rest);
    let (&[low, high], _) = split(rest);
    let d = half(low, high);
    for (i, out) in out.iter_mut().enumerate() {
        // Each half of the block by itself: 64 bytes of nibbles, low ones first, and 32 of pairs.
        let (half, at) = (i / 128, i % 128);
        let nibble = codes[half * 64 + at % 64] >> (at / 64 * 4) & 15;
        let pair = pairs[half * 32 + at % 32] >> (at / 32 * 2) & 3;
        let code = f32::from(nibble | pair << 4) - 32.0;
        *out = d * f32::from(scales[i / 16] as i8) * code;
    }
}

/// The first bytes of a block's part, which is longer, and the others.
fn split<const FIRST: usize>(bytes: &[u8]) -> (&[u8; FIRST], &[u8]) {
    match bytes.split_first_chunk() {
        Some(parts) => parts,
        None => unreachable!("the lengths of blocks are constants"),
    }
}
