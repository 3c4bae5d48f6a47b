//! Reads checkpoints and tokenizers: Hugging Face directories, GGUF files and CTranslate2 models.
//!
//! | module | what it does |
//! |---|---|
//! | [`checkpoint`] | finds the family of a checkpoint, checks its settings, and describes it as stacks of blocks whose tensors have names |
//! | [`tokenizer`] | turns a tokenizer's files into the section of a `.kinglet` file |
//! | [`vocabulary`] | finds the tokens that a text needs |
//! | [`regular`] | reads regular files and no others |
//!
//! Invariants: a setting that the runtime would not follow exactly is refused, with its name; no
//! file can make a reader panic, loop or ask for absurd memory.

#![forbid(unsafe_code)]
#![warn(missing_docs)]
#![warn(clippy::missing_errors_doc)]

pub mod checkpoint;
pub mod regular;
mod text;
pub mod tokenizer;
pub mod vocabulary;

pub use text::encode;
