//! What changing one block does to the predictions, and what blocks are like.
//!
//! A probe runs the f32 model once on some sequences and keeps the stream before each block; a changed block then costs the blocks
//! behind it only. Damage is the mean Kullback-Leibler divergence of the changed model's predictions from the f32 model's, in nats.
//!
//! Beside it stand two figures that need no output: the plasticity of a block f, the mean of `|f(x) - f(y)| / |x - y|` over pairs of inputs
//! (Odonnat et al., arXiv 2602.06883), for its inputs in place and for token embeddings; and its influence, 1 minus the mean cosine of the
//! stream before and behind it (ShortGPT: Men et al., arXiv 2403.03853).

use crate::fit::loss;
use crate::reference::{BlockWeights, LinearWeights, NormWeights, Reference, ReferenceError, ops};

/// A model with its streams on some sequences.
#[derive(Debug)]
pub struct Probe<'r, 'c> {
    reference: &'r Reference<'c>,
    lengths: Vec<usize>,
    /// Before each block, and behind the last.
    streams: Vec<Vec<f32>>,
    /// The f32 model's logits.
    target: Vec<f32>,
    /// Blocks that are left out.
    dropped: Vec<bool>,
    norm: NormWeights,
    head: LinearWeights,
}

/// What a block is like.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Profile {
    /// Plasticity on its own inputs.
    pub plasticity: f64,
    /// Plasticity on token embeddings.
    pub on_embeddings: f64,
    /// Influence.
    pub influence: f64,
}

impl<'r, 'c> Probe<'r, 'c> {
    /// Runs the model.
    ///
    /// # Errors
    /// What is wrong with tokens or weights.
    pub fn new(reference: &'r Reference<'c>, sequences: &[&[u32]]) -> Result<Self, ReferenceError> {
        let batch = reference.embed(sequences)?;
        let blocks = reference.architecture().count();
        let mut probe = Self {
            reference,
            lengths: batch.lengths().to_vec(),
            streams: vec![batch.stream().to_vec()],
            target: vec![],
            dropped: vec![false; blocks],
            norm: reference.final_norm()?,
            head: reference.head_weights()?,
        };
        probe.run(0)?;
        probe.target = probe.head.apply(&probe.norm.apply(&probe.streams[blocks]));
        Ok(probe)
    }

    /// Streams from a block on.
    fn run(&mut self, from: usize) -> Result<(), ReferenceError> {
        self.streams.truncate(from + 1);
        for block in from..self.dropped.len() {
            let mut stream = self.streams[block].clone();
            if !self.dropped[block] {
                ops::add(&mut stream, &self.reference.block(block)?.branch(&self.lengths, &self.streams[block]));
            }
            self.streams.push(stream);
        }
        Ok(())
    }

    /// The model.
    pub fn reference(&self) -> &'r Reference<'c> {
        self.reference
    }

    /// Lengths of the sequences.
    pub fn lengths(&self) -> &[usize] {
        &self.lengths
    }

    /// The stream before a block.
    pub fn stream(&self, block: usize) -> &[f32] {
        &self.streams[block]
    }

    /// Whether a block was left out.
    pub fn is_dropped(&self, block: usize) -> bool {
        self.dropped[block]
    }

    /// Leaves a block out from now on.
    ///
    /// # Errors
    /// What is wrong with the weights.
    pub fn drop_block(&mut self, block: usize) -> Result<(), ReferenceError> {
        self.dropped[block] = true;
        self.run(block)
    }

    /// The damage of another block in the place of one; of none, if it is left out.
    ///
    /// # Errors
    /// What is wrong with the weights.
    pub fn damage(&self, block: usize, with: Option<&BlockWeights>) -> Result<f64, ReferenceError> {
        let mut stream = self.streams[block].clone();
        if let Some(with) = with {
            ops::add(&mut stream, &with.branch(&self.lengths, &self.streams[block]));
        }
        for next in block + 1..self.dropped.len() {
            if !self.dropped[next] {
                let branch = self.reference.block(next)?.branch(&self.lengths, &stream);
                ops::add(&mut stream, &branch);
            }
        }
        Ok(self.divergence(&stream))
    }

    /// The damage of a last stream.
    fn divergence(&self, stream: &[f32]) -> f64 {
        let mut logits = self.head.apply(&self.norm.apply(stream));
        let sum = loss(&mut logits, &self.target, self.head.rows());
        sum / (stream.len() / self.norm.weight.len()).max(1) as f64
    }

    /// What a block is like.
    ///
    /// # Errors
    /// What is wrong with the weights.
    pub fn profile(&self, block: usize) -> Result<Profile, ReferenceError> {
        let weights = self.reference.block(block)?;
        let own = &self.streams[block];
        let branch = weights.branch(&self.lengths, own);
        let behind: Vec<f32> = own.iter().zip(&branch).map(|(x, y)| x + y).collect();
        let embeddings = &self.streams[0];
        Ok(Profile {
            plasticity: self.plasticity(own, &branch),
            on_embeddings: self.plasticity(embeddings, &weights.branch(&self.lengths, embeddings)),
            influence: self.influence(own, &behind),
        })
    }

    /// Mean ratio over pairs of neighbouring sequences, as far as both go.
    fn plasticity(&self, inputs: &[f32], outputs: &[f32]) -> f64 {
        let width = self.norm.weight.len();
        let (mut start, mut ratios) = (0, vec![]);
        for pair in self.lengths.windows(2) {
            let next = start + pair[0] * width;
            let length = pair[0].min(pair[1]) * width;
            let distance = |of: &[f32]| {
                let both = of[start..start + length].iter().zip(&of[next..next + length]);
                both.map(|(x, y)| f64::from(x - y).powi(2)).sum::<f64>().sqrt()
            };
            let apart = distance(inputs);
            if apart > 0.0 {
                ratios.push(distance(outputs) / apart);
            }
            start = next;
        }
        mean(&ratios)
    }

    fn influence(&self, before: &[f32], behind: &[f32]) -> f64 {
        let width = self.norm.weight.len();
        let cosines = before.chunks(width).zip(behind.chunks(width)).map(|(x, y)| {
            let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
            let norms = (dot(x, x) * dot(y, y)).sqrt();
            if norms > 0.0 { dot(x, y) / norms } else { 1.0 }
        });
        1.0 - mean(&cosines.collect::<Vec<_>>())
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}
