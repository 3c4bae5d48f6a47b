//! Fixed-size little-endian records: one definition gives the reader, the writer and the size.

/// A number or array that a record can hold.
pub(crate) trait Field: Sized {
    /// Bytes.
    const SIZE: usize;
    /// From exactly [`Field::SIZE`] bytes.
    fn get(bytes: &[u8]) -> Self;
    /// Into exactly [`Field::SIZE`] bytes.
    fn put(&self, bytes: &mut [u8]);
}

macro_rules! numbers {
    ($($t:ty),*) => {$(
        impl Field for $t {
            const SIZE: usize = size_of::<$t>();
            fn get(bytes: &[u8]) -> Self {
                bytes.first_chunk().map_or(<$t>::default(), |b| <$t>::from_le_bytes(*b))
            }
            fn put(&self, bytes: &mut [u8]) {
                bytes.copy_from_slice(&self.to_le_bytes());
            }
        }
    )*};
}

numbers!(u8, u16, u32, u64, f32);

impl<const N: usize> Field for [u8; N] {
    const SIZE: usize = N;
    fn get(bytes: &[u8]) -> Self {
        bytes.first_chunk().copied().unwrap_or([0; N])
    }
    fn put(&self, bytes: &mut [u8]) {
        bytes.copy_from_slice(self);
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
            pub const SIZE: usize = 0 $(+ <$ty as $crate::format::record::Field>::SIZE)*;

            /// Reads the record from the first [`Self::SIZE`] bytes; `None` when there are fewer.
            pub fn read(bytes: &[u8]) -> Option<Self> {
                let mut rest = bytes.get(..Self::SIZE)?;
                $(let $field;
                ($field, rest) = {
                    let (head, tail) = rest.split_at_checked(<$ty as $crate::format::record::Field>::SIZE)?;
                    (<$ty as $crate::format::record::Field>::get(head), tail)
                };)*
                let _ = rest;
                Some(Self { $($field,)* })
            }

            /// The record's bytes.
            pub fn write(&self) -> [u8; Self::SIZE] {
                let mut bytes = [0; Self::SIZE];
                let rest = &mut bytes[..];
                $(let (head, rest) = rest.split_at_mut(<$ty as $crate::format::record::Field>::SIZE);
                $crate::format::record::Field::put(&self.$field, head);)*
                let _ = rest;
                bytes
            }
        }
    };
}

pub(crate) use record;
