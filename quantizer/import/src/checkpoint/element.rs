//! How numbers lie in files, and their conversion to f32.
//!
//! Little-endian, as both formats have it on every machine. Numbers lie in
//! blocks: of one number for plain types, of 32 or 256 for the quantized ones of
//! GGUF, which [`super::blocks`] knows. Whether a number is finite is checked
//! here, where each passes once.

use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};
use half::{bf16, f16};

use super::blocks;

/// The types of numbers that are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Element {
    F32,
    F16,
    Bf16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q4K,
    Q5K,
    Q6K,
    Iq4Nl,
}

impl Element {
    /// Numbers of a block; no row ends within one.
    pub(super) fn numbers(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::Bf16 => 1,
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 | Self::Iq4Nl => 32,
            Self::Q4K | Self::Q5K | Self::Q6K => 256,
        }
    }

    /// Bytes of a block.
    pub(super) fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::Q4_0 | Self::Iq4Nl => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q8_0 => 34,
            Self::Q4K => 144,
            Self::Q5K => 176,
            Self::Q6K => 210,
        }
    }

    /// Converts as many blocks as both sides hold.
    pub(super) fn convert(self, bytes: &[u8], out: &mut [f32]) {
        match self {
            Self::F32 => {
                for (out, bytes) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
                    *out = f32::from_le_bytes(*bytes);
                }
            }
            Self::F16 => through_bits(bytes, out, |bits, out| {
                bits.reinterpret_cast::<f16>().convert_to_f32_slice(out);
            }),
            Self::Bf16 => through_bits(bytes, out, |bits, out| {
                bits.reinterpret_cast::<bf16>().convert_to_f32_slice(out);
            }),
            Self::Q4_0 => blocks::each(bytes, out, blocks::q4_0),
            Self::Q4_1 => blocks::each(bytes, out, blocks::q4_1),
            Self::Q5_0 => blocks::each(bytes, out, blocks::q5_0),
            Self::Q5_1 => blocks::each(bytes, out, blocks::q5_1),
            Self::Q8_0 => blocks::each(bytes, out, blocks::q8_0),
            Self::Q4K => blocks::each(bytes, out, blocks::q4_k),
            Self::Q5K => blocks::each(bytes, out, blocks::q5_k),
            Self::Q6K => blocks::each(bytes, out, blocks::q6_k),
            Self::Iq4Nl => blocks::each(bytes, out, blocks::iq4_nl),
        }
    }
}

/// Hands over 16-bit numbers in native order, a stack buffer at a time.
fn through_bits(bytes: &[u8], out: &mut [f32], convert: impl Fn(&[u16], &mut [f32])) {
    const AT_ONCE: usize = 512;
    let mut bits = [0; AT_ONCE];
    for (out, bytes) in out.chunks_mut(AT_ONCE).zip(bytes.chunks(2 * AT_ONCE)) {
        let pairs = bytes.as_chunks::<2>().0;
        let count = pairs.len().min(out.len());
        for (bits, pair) in bits.iter_mut().zip(pairs) {
            *bits = u16::from_le_bytes(*pair);
        }
        convert(&bits[..count], &mut out[..count]);
    }
}

/// The first number that is infinite or not a number.
pub(super) fn first_not_finite(numbers: &[f32]) -> Option<(usize, f32)> {
    // In blocks without an early exit, which the compiler turns into wide comparisons.
    const AT_ONCE: usize = 1024;
    numbers.chunks(AT_ONCE).enumerate().find_map(|(i, block)| {
        if block.iter().fold(true, |all, x| all & x.is_finite()) {
            return None;
        }
        let at = block.iter().position(|x| !x.is_finite())?;
        Some((i * AT_ONCE + at, *block.get(at)?))
    })
}
