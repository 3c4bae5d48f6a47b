//! Checkpoints: what is accepted, what is refused and how, and what mutated
//! files do. All on small checkpoints written by the tests.

mod accepted;
mod files;
mod mutated;
mod settings;
mod support;
