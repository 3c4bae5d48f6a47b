//! The tokenizer against the `tokenizers` crate: the same ids, the same text back, and no harm from
//! hostile files.
//!
//! Tokenizers: small ones in `fixtures/tokenizers` (made by `cargo test -p kinglet-quantizer --test
//! tokenizer -- --ignored regenerate`), variants of them made here, `fixtures/storyteller`, and
//! stories260K and MiniLM where the shared models lie beside the repository (or at
//! `KINGLET_SHARED`).

mod decode;
mod generate;
mod hostile_files;
mod identical;
mod refused;
mod support;
mod texts;
mod variants;
mod word_piece;
