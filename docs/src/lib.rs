//! The code of the documents, compiled: the README's firmware example is a module of this crate,
//! which `tests/firmware.rs` runs and which is built for boards; the examples of the crates'
//! READMEs are doctests.

#![no_std]
#![forbid(unsafe_code)]

/// The example of the README.
#[allow(missing_docs, reason = "an example says what it needs to")]
pub mod firmware {
    include!(concat!(env!("OUT_DIR"), "/firmware.rs"));
}

#[cfg(doctest)]
mod readmes {
    #[doc = include_str!("../../kernels/README.md")]
    struct Kernels;
    #[doc = include_str!("../../model/README.md")]
    struct Model;
    #[doc = include_str!("../../tokenizer/README.md")]
    struct Tokenizer;
    #[doc = include_str!("../../runtime/README.md")]
    struct Runtime;
    #[doc = include_str!("../../quantizer/README.md")]
    struct Quantizer;
}
