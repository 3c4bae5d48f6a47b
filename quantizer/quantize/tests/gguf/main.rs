//! GGUF files: made by the reference implementation (`fixtures/gguf`), bent by hand, and damaged.

mod hostile;
mod refused;
mod support;
mod taken;
mod tokenizer;
mod twins;
mod types;
