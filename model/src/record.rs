//! Fixed-size little-endian records: one definition gives the reader, the writer and the size.
//!
//! Records lie at multiples of four bytes and their fields at multiples of their size, so a reader
//! takes whole words; on a core without unaligned loads that is half of the code.

/// A number or array that a record can hold.
pub(crate) trait Field: Sized {
    /// Bytes.
    const SIZE: usize;
    /// From the words of a record, at a byte.
    fn get(words: &[u32], at: usize) -> Self;
    /// Into exactly [`Field::SIZE`] bytes.
    fn put(&self, bytes: &mut [u8]);
}

/// The word that byte `at` lies in, little-endian, shifted so that the byte is the lowest.
#[inline(always)]
fn word(words: &[u32], at: usize) -> u32 {
    words.get(at / 4).map_or(0, |&word| u32::from_le(word) >> (at % 4 * 8))
}

macro_rules! numbers {
    ($($t:ty: |$words:ident, $at:ident| $get:expr),*) => {$(
        impl Field for $t {
            const SIZE: usize = size_of::<$t>();
            #[inline(always)]
            fn get($words: &[u32], $at: usize) -> Self {
                $get
            }
            fn put(&self, bytes: &mut [u8]) {
                bytes.copy_from_slice(&self.to_le_bytes());
            }
        }
    )*};
}

numbers!(
    u8: |words, at| word(words, at) as u8,
    u16: |words, at| word(words, at) as u16,
    u32: |words, at| word(words, at),
    u64: |words, at| u64::from(word(words, at)) | u64::from(word(words, at + 4)) << 32,
    f32: |words, at| f32::from_bits(word(words, at))
);

impl<const N: usize> Field for [u8; N] {
    const SIZE: usize = N;
    fn get(words: &[u32], at: usize) -> Self {
        core::array::from_fn(|i| word(words, at + i) as u8)
    }
    fn put(&self, bytes: &mut [u8]) {
        bytes.copy_from_slice(self);
    }
}

/// Bytes that must be zero, as a number that is zero if they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Zeros<const N: usize>(u32);

impl<const N: usize> Zeros<N> {
    /// All of them zero.
    pub const ZERO: Self = Self(0);

    /// Whether they are.
    pub fn are(self) -> bool {
        self.0 == 0
    }
}

impl<const N: usize> Field for Zeros<N> {
    const SIZE: usize = N;
    #[inline(always)]
    fn get(words: &[u32], at: usize) -> Self {
        const { assert!(N.is_multiple_of(4)) };
        Self((0..N / 4).fold(0, |all, i| all | word(words, at + 4 * i)))
    }
    /// A number that is not zero is the first word's.
    fn put(&self, bytes: &mut [u8]) {
        bytes.fill(0);
        if let Some(first) = bytes.first_chunk_mut() {
            *first = self.0.to_le_bytes();
        }
    }
}

/// Defines a record: its fields lie one after the other, without padding.
macro_rules! record {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $ty:ty,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq)]
        pub struct $name {
            $($(#[$field_doc])* pub $field: $ty,)*
        }

        impl $name {
            /// Bytes of the record.
            pub const SIZE: usize = 0 $(+ <$ty as $crate::record::Field>::SIZE)*;

            /// Reads the record from the first [`Self::SIZE`] bytes; `None` when there are fewer,
            /// or they do not start at a multiple of 4.
            pub fn read(bytes: &[u8]) -> Option<Self> {
                let words: &[u32] = bytemuck::try_cast_slice(bytes.get(..Self::SIZE)?).ok()?;
                let words = words.first_chunk::<{ Self::SIZE / 4 }>()?;
                let mut at = 0;
                $(
                    let $field = <$ty as $crate::record::Field>::get(words, at);
                    at += <$ty as $crate::record::Field>::SIZE;
                )*
                let _ = at;
                Some(Self { $($field,)* })
            }

            /// The record's bytes.
            pub fn write(&self) -> [u8; Self::SIZE] {
                let mut bytes = [0; Self::SIZE];
                let rest = &mut bytes[..];
                $(let (head, rest) = rest.split_at_mut(<$ty as $crate::record::Field>::SIZE);
                $crate::record::Field::put(&self.$field, head);)*
                let _ = rest;
                bytes
            }
        }
    };
}

pub(crate) use record;
