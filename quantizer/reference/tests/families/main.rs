//! Importers of families other than Llama's: tiny random checkpoints against `transformers`, and
//! real ones, in f32.

mod golden;
mod real;
mod refused;
#[allow(unreachable_pub, reason = "shared between the files of this test")]
mod support;
