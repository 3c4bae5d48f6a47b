//! How tokens are drawn, the same for all commands that write.

use std::time::SystemTime;

use kinglet::{Sampler, Sampling};

/// Tokens that the repetition penalty looks back on.
pub(crate) const RECENT: usize = 64;

#[derive(clap::Args)]
pub(crate) struct Choice {
    /// Sample from the K most probable tokens only; 0 means all
    #[arg(long, value_name = "K", default_value_t = 0)]
    top_k: usize,
    /// Sample from the most probable tokens whose probabilities add up to P
    #[arg(long, value_name = "P", default_value_t = 0.95)]
    top_p: f32,
    /// Sample from tokens at least P times as probable as the most probable one
    #[arg(long, value_name = "P", default_value_t = 0.0)]
    min_p: f32,
    /// Penalize tokens among the last 64; 1 means no penalty
    #[arg(long, value_name = "R", default_value_t = 1.0)]
    repetition_penalty: f32,
    /// Random seed; the same seed gives the same text on every machine. By default taken from the
    /// clock
    #[arg(long)]
    seed: Option<u64>,
}

impl Choice {
    pub(crate) fn sampler(&self, temperature: f32) -> Sampler {
        let Self { top_k, top_p, min_p, repetition_penalty, seed } = *self;
        let sampling = Sampling { temperature, top_k, top_p, min_p, repetition_penalty };
        let clock = || SystemTime::UNIX_EPOCH.elapsed().map_or(0, |t| t.as_nanos() as u64);
        Sampler::new(sampling, seed.unwrap_or_else(clock))
    }
}
