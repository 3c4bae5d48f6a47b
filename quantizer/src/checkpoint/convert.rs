//! Bytes of a tensor to f32.
//!
//! Little-endian, as the format has it on every machine. Whether a number is
//! finite is checked here, where each passes once.

use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};
use half::{bf16, f16};
use safetensors::Dtype;

/// The types of numbers that are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Element {
    F32,
    F16,
    Bf16,
}

impl Element {
    /// None for a type that is not read.
    pub(super) fn of(dtype: Dtype) -> Option<Self> {
        match dtype {
            Dtype::F32 => Some(Self::F32),
            Dtype::F16 => Some(Self::F16),
            Dtype::BF16 => Some(Self::Bf16),
            _ => None,
        }
    }

    /// Bytes of one number.
    pub(super) fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    /// Converts as many numbers as both sides hold.
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
