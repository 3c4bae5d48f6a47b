//! What changing one block does to the predictions, and what blocks are like.
//!
//! A probe runs the f32 model once on some samples and keeps the stream before each block; a
//! changed block then costs the blocks after it only. Damage is the mean Kullback-Leibler
//! divergence of the changed model's predictions from the f32 model's, in nats; of models that
//! predict no tokens, the squared error of their outputs as a part of their own square.
//!
//! Beside it stand two figures that need no output: the plasticity of a block f, the mean of
//! `|f(x) - f(y)| / |x - y|` over pairs of inputs (Odonnat et al., arXiv 2602.06883), for its
//! inputs in place and for what its stack begins with; and its influence, 1 minus the mean cosine
//! of the stream before and after it (ShortGPT: Men et al., arXiv 2403.03853).

use kinglet_reference::tape::loss;
use kinglet_reference::{
    Batch, BlockWeights, Forward, LinearWeights, Reference, ReferenceError, Sample,
};

/// A model with its streams on some samples.
#[derive(Debug)]
pub struct Probe<'r, 'c> {
    reference: &'r Reference<'c>,
    /// Before each block, and after the last.
    batches: Vec<Batch>,
    /// The f32 model's outputs.
    target: Vec<f32>,
    /// Blocks that are left out.
    dropped: Vec<bool>,
    head: Option<LinearWeights>,
}

/// What a block is like.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Profile {
    /// Plasticity on its own inputs.
    pub plasticity: f64,
    /// Plasticity on what its stack begins with: token embeddings, mostly.
    pub on_embeddings: f64,
    /// Influence.
    pub influence: f64,
}

impl<'r, 'c> Probe<'r, 'c> {
    /// Runs the model.
    ///
    /// # Errors
    /// What is wrong with samples or weights.
    pub fn new(reference: &'r Reference<'c>, samples: &[Sample]) -> Result<Self, ReferenceError> {
        let mut batch = reference.begin(samples)?;
        batch.enter(0);
        let mut probe = Self {
            reference,
            batches: vec![batch],
            target: vec![],
            dropped: vec![false; reference.architecture().count()],
            head: reference.head_weights()?,
        };
        probe.run(0)?;
        probe.target = probe.outputs(&probe.batches[probe.dropped.len()])?;
        Ok(probe)
    }

    /// Streams from a block on.
    fn run(&mut self, from: usize) -> Result<(), ReferenceError> {
        self.batches.truncate(from + 1);
        for block in from..self.dropped.len() {
            let mut batch = self.batches[block].clone();
            self.advance(&mut batch, block)?;
            self.batches.push(batch);
        }
        Ok(())
    }

    /// Takes a batch through a block that was not left out, and to the next.
    fn advance(&self, batch: &mut Batch, block: usize) -> Result<(), ReferenceError> {
        if !self.dropped[block] {
            let weights = self.reference.block(block)?;
            through(batch, &weights);
        }
        batch.enter(block + 1);
        Ok(())
    }

    /// The model.
    pub fn reference(&self) -> &'r Reference<'c> {
        self.reference
    }

    /// What there is before a block.
    pub fn batch(&self, block: usize) -> &Batch {
        &self.batches[block]
    }

    /// Whether a block was left out.
    pub fn is_dropped(&self, block: usize) -> bool {
        self.dropped[block]
    }

    /// Whether a block can be left out: not if it makes another stream.
    pub fn can_be_dropped(&self, block: usize) -> bool {
        let block = self.reference.architecture().block(block);
        block.is_some_and(|block| !block.replaces())
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
        let mut batch = self.batches[block].clone();
        if let Some(with) = with {
            through(&mut batch, with);
        }
        batch.enter(block + 1);
        for next in block + 1..self.dropped.len() {
            self.advance(&mut batch, next)?;
        }
        let mut outputs = self.outputs(&batch)?;
        let architecture = self.reference.architecture();
        if architecture.is_language_model() {
            let positions = outputs.len() / architecture.outputs();
            return Ok(
                loss(&mut outputs, &self.target, architecture.outputs()) / positions.max(1) as f64
            );
        }
        let square = |x: f32| f64::from(x) * f64::from(x);
        let missing: f64 = outputs.iter().zip(&self.target).map(|(a, b)| square(a - b)).sum();
        let whole: f64 = self.target.iter().map(|&x| square(x)).sum();
        Ok(if whole > 0.0 { missing / whole } else { missing })
    }

    /// The outputs of a batch after all blocks.
    fn outputs(&self, batch: &Batch) -> Result<Vec<f32>, ReferenceError> {
        let mut outputs = vec![];
        let head = self.head.as_ref().map(|head| head.weight.as_slice());
        self.reference
            .head_with(head, batch, &mut (), |_, _, row| outputs.extend_from_slice(row))?;
        Ok(outputs)
    }

    /// What a block is like.
    ///
    /// # Errors
    /// What is wrong with the weights.
    pub fn profile(&self, block: usize) -> Result<Profile, ReferenceError> {
        let weights = self.reference.block(block)?;
        let own = &self.batches[block];
        let architecture = self.reference.architecture();
        let embeddings = &self.batches[architecture.numbers(architecture.stack_of(block)).start];
        let plasticity = |batch: &Batch| {
            let branch: Vec<f32> = batch
                .parts(usize::MAX)
                .flat_map(|part| weights.branch(part.sequences, part.stream))
                .collect();
            self::plasticity(batch, &branch)
        };
        let mut after = own.clone();
        through(&mut after, &weights);
        let same_width = embeddings.width() == own.width();
        Ok(Profile {
            plasticity: plasticity(own),
            on_embeddings: plasticity(if same_width { embeddings } else { own }),
            influence: influence(own, &after),
        })
    }
}

/// Takes a batch through a block.
fn through(batch: &mut Batch, block: &BlockWeights) {
    batch.step(usize::MAX, |part| block.advance(part.sequences, part.stream));
}

/// Mean ratio over pairs of neighbouring sequences, as far as both go.
fn plasticity(batch: &Batch, outputs: &[f32]) -> f64 {
    let rows: usize = batch.lengths().iter().sum();
    let (inputs, widths) = (batch.stream(), [batch.width(), outputs.len() / rows.max(1)]);
    let (mut start, mut ratios) = (0, vec![]);
    for pair in batch.lengths().windows(2) {
        let (next, length) = (start + pair[0], pair[0].min(pair[1]));
        let distance = |of: &[f32], width: usize| {
            let both = of[start * width..][..length * width]
                .iter()
                .zip(&of[next * width..][..length * width]);
            both.map(|(x, y)| f64::from(x - y).powi(2)).sum::<f64>().sqrt()
        };
        let apart = distance(inputs, widths[0]);
        if apart > 0.0 {
            ratios.push(distance(outputs, widths[1]) / apart);
        }
        start = next;
    }
    mean(&ratios)
}

/// Nothing can be said of streams of different widths.
fn influence(before: &Batch, after: &Batch) -> f64 {
    if before.width() != after.width() {
        return 0.0;
    }
    let rows = before.stream().chunks(before.width()).zip(after.stream().chunks(after.width()));
    let cosines = rows.map(|(x, y)| {
        let dot = |a: &[f32], b: &[f32]| {
            a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>()
        };
        let norms = (dot(x, x) * dot(y, y)).sqrt();
        if norms > 0.0 { dot(x, y) / norms } else { 1.0 }
    });
    1.0 - mean(&cosines.collect::<Vec<_>>())
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}
