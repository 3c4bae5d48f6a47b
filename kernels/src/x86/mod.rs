//! x86-64: one file an instruction set. Each token can only be made where its instructions exist.

mod avx2;

pub(crate) use avx2::Avx2;
