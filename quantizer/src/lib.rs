//! From checkpoints to `.kinglet` files: import, quantization, evaluation. The command `kinglet` is
//! a thin layer over this.
//!
//! | module | what it does |
//! |---|---|
//! | [`checkpoint`] | reads a Hugging Face directory or a GGUF file, and describes it as a stack of blocks |
//! | [`mod@reference`] | runs it in f32 |
//! | [`calibrate`] | chooses the passages of a text that rounding and pruning look at |
//! | [`quantize`] | rounds it and writes the file |
//! | [`sensitivity`] | what a changed block does to the predictions |
//! | [`prune`] | takes heads and channels out, and lets the rest make up for them |
//! | [`mod@continued`] | what the f32 model says |
//! | [`verdict`] | whether a file is any good, in a sentence |
//! | [`size`] | bits a weight |
//! | [`fit`] | moves a rounded model's codes, scales and norms towards the f32 model |
//! | [`cut`] | makes an embedding model of a model's first blocks |
//! | [`mod@adapt`] | teaches an encoder's and a decoder's interface to fit them together |
//! | [`tokenizer`] | imports tokenizers |
//! | [`vocabulary`] | finds the tokens that a text needs |
//! | [`mod@evaluate`] | says what quantization cost |
//! | [`report`] | shows it, on one page |
//! | [`media`] | turns picture and sound files into what a model is given |

#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod adapt;
pub mod calibrate;
pub mod checkpoint;
pub mod continued;
pub mod cut;
mod dequantize;
pub mod evaluate;
pub mod fit;
pub mod media;
mod memory;
#[cfg(test)]
mod models;
pub mod prune;
pub mod quantize;
mod random;
pub mod reference;
pub mod report;
pub mod sensitivity;
pub mod size;
#[cfg(test)]
mod testing;
mod text;
pub mod tokenizer;
pub mod verdict;
pub mod vocabulary;

pub use memory::Memory;
pub use text::encode;
