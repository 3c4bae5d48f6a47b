//! Samples on their way through the chain of stacks.
//!
//! All inputs are checked and looked up when a batch is made, those of later stacks too: what
//! happens where one stack hands over to the next needs nothing but the batch.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use super::weights::{ApplyNorm, read_norm};
use super::{LinearWeights, NormWeights, ReferenceError, ops};
use kinglet_import::checkpoint::{
    Architecture, Checkpoint, CheckpointError, Input, Picture, Stack, Values,
};

/// What a model is given.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// What the first stack reads.
    pub source: Source,
    /// What later stacks read that have tokens; nothing for models of one stack.
    pub target: Vec<u32>,
}

/// What the first stack reads.
#[derive(Debug, Clone, PartialEq)]
pub enum Source {
    /// Tokens.
    Tokens {
        /// Which.
        tokens: Vec<u32>,
        /// The type of each; without any, all are of the first.
        types: Vec<u32>,
    },
    /// Rows of numbers, one after the other.
    Features(Vec<f32>),
    /// A picture: red, green and blue bytes, row by row.
    Pixels(Vec<u8>),
}

impl Source {
    /// The tokens, where it is tokens.
    pub fn tokens(&self) -> &[u32] {
        match self {
            Self::Tokens { tokens, .. } => tokens,
            Self::Features(_) | Self::Pixels(_) => &[],
        }
    }
}

impl From<Vec<u32>> for Sample {
    fn from(tokens: Vec<u32>) -> Self {
        Self { source: Source::Tokens { tokens, types: vec![] }, target: vec![] }
    }
}

impl Sample {
    /// Rows that the stacks make of it, in all, about: what it costs to run.
    pub fn size(&self, architecture: &Architecture) -> usize {
        let own = match (&self.source, &architecture.first().input) {
            (Source::Tokens { tokens, .. }, _) => tokens.len(),
            (Source::Features(numbers), Input::Features { linear, .. }) => {
                numbers.len() / linear.cols()
            }
            (Source::Pixels(_), Input::Features { picture: Some(picture), .. }) => {
                picture.patches()
            }
            _ => 0,
        };
        own + self.target.len()
    }
}

/// Rows of sequences, one after the other.
#[derive(Debug, Clone, PartialEq)]
struct States {
    width: usize,
    lengths: Vec<usize>,
    numbers: Vec<f32>,
}

/// What a later stack begins with.
#[derive(Debug, PartialEq)]
struct Entry {
    /// The number of its first block.
    start: usize,
    /// The norm after the stack before.
    norm: Option<NormWeights>,
    /// Its rows; nothing for those of the stack before.
    rows: Option<States>,
    /// What is added then.
    positions: Option<Vec<f32>>,
}

/// The residual streams of some samples, a row for each token, and what they attend to.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    own: States,
    states: Option<Arc<States>>,
    later: Arc<Vec<Entry>>,
    /// How many of those have begun.
    entered: usize,
}

/// The sequences of some samples, and what they attend to.
#[derive(Debug, Clone, Copy)]
pub struct Sequences<'b> {
    /// Rows of each sequence.
    pub lengths: &'b [usize],
    /// The states of the stack before, as rows.
    pub states: &'b [f32],
    /// Rows of each sequence there.
    pub states_lengths: &'b [usize],
}

impl<'b> Sequences<'b> {
    /// Sequences that attend to themselves.
    pub fn alone(lengths: &'b [usize]) -> Self {
        Self { lengths, states: &[], states_lengths: &[] }
    }
}

/// Some whole sequences of a batch, none of them empty.
pub struct Part<'b> {
    /// Lengths of the sequences, and the states that they look at.
    pub sequences: Sequences<'b>,
    /// Their stream, a row for each position.
    pub stream: &'b [f32],
}

impl Batch {
    /// Checks samples and looks them up.
    pub(super) fn embed(
        checkpoint: &Checkpoint,
        samples: &[Cow<'_, Sample>],
    ) -> Result<Self, ReferenceError> {
        let architecture = checkpoint.architecture();
        let mut later = vec![];
        for (number, stack) in architecture.stacks.iter().enumerate().skip(1) {
            let reader = Reader { checkpoint, stack };
            let rows = match &stack.input {
                Input::Tokens { embedding, .. } => {
                    let target = |sample: &Cow<'_, Sample>| sample.target.clone();
                    Some(reader.all(samples, |at, sample| {
                        reader.tokens(at, embedding, &target(sample), &[])
                    })?)
                }
                Input::Queries(queries) => {
                    let rows = checkpoint.values(queries)?;
                    Some(reader.all(samples, |_, _| Ok(rows.clone()))?)
                }
                Input::States => None,
                Input::Features { .. } => return Err(ReferenceError::Chain),
            };
            later.push(Entry {
                start: architecture.numbers(number).start,
                norm: read_norm(checkpoint, &architecture.stacks[number - 1].norm)?,
                // Positions are those of the rows, and known for them already.
                positions: if rows.is_none() { reader.positions()? } else { None },
                rows,
            });
        }
        let reader = Reader { checkpoint, stack: architecture.first() };
        let own = reader.all(samples, |at, sample| reader.source(at, &sample.source))?;
        Ok(Self { own, states: None, later: Arc::new(later), entered: 0 })
    }

    /// Rows of these sequences, in a model of one stack.
    #[cfg(any(test, feature = "testing"))]
    pub fn of(width: usize, lengths: &[usize], numbers: Vec<f32>) -> Self {
        let own = States { width, lengths: lengths.to_vec(), numbers };
        Self { own, states: None, later: Arc::new(vec![]), entered: 0 }
    }

    /// Hands over to the stack of a block, unless that was done.
    pub fn enter(&mut self, block: usize) {
        while let Some(entry) = self.later.get(self.entered).filter(|entry| entry.start <= block) {
            if let Some(norm) = &entry.norm {
                self.own.numbers = norm.apply(&self.own.numbers);
            }
            match &entry.rows {
                Some(rows) => {
                    self.states = Some(Arc::new(std::mem::replace(&mut self.own, rows.clone())))
                }
                None => {
                    if let Some(positions) = &entry.positions {
                        add_positions(&mut self.own, positions);
                    }
                }
            }
            self.entered += 1;
        }
    }

    /// The batch after all blocks.
    pub(super) fn finished(&self) -> Cow<'_, Self> {
        let mut batch = Cow::Borrowed(self);
        if self.entered < self.later.len() {
            batch.to_mut().enter(usize::MAX);
        }
        batch
    }

    /// Rows of each of the sequences in the stack at hand.
    pub fn lengths(&self) -> &[usize] {
        &self.own.lengths
    }

    /// Numbers in a row.
    pub fn width(&self) -> usize {
        self.own.width
    }

    /// The residual stream of the stack at hand, a row for each token.
    pub fn stream(&self) -> &[f32] {
        &self.own.numbers
    }

    /// Sequence and position of each row.
    pub(super) fn positions(&self) -> impl Iterator<Item = (usize, usize)> {
        let numbered = self.own.lengths.iter().enumerate();
        numbered
            .flat_map(|(sequence, &length)| (0..length).map(move |position| (sequence, position)))
    }

    /// Divides the batch into parts of whole sequences, each with as many as are needed to reach
    /// `tokens`.
    fn groups(&self, tokens: usize) -> Vec<Range<usize>> {
        let (mut groups, mut first, mut gathered) = (vec![], 0, 0);
        for (at, length) in self.own.lengths.iter().enumerate() {
            gathered += length;
            if gathered >= tokens {
                groups.push(first..at + 1);
                (first, gathered) = (at + 1, 0);
            }
        }
        if gathered > 0 {
            groups.push(first..self.own.lengths.len());
        }
        groups
    }

    /// Its parts, of about so many tokens each.
    pub fn parts(&self, tokens: usize) -> impl Iterator<Item = Part<'_>> {
        let (mut start, mut memory_start) = (0, 0);
        self.groups(tokens).into_iter().map(move |group| {
            let lengths = &self.own.lengths[group.clone()];
            let size = lengths.iter().sum::<usize>() * self.own.width;
            let stream = &self.own.numbers[start..start + size];
            start += size;
            let Some(memory) = &self.states else {
                return Part { sequences: Sequences::alone(lengths), stream };
            };
            let states_lengths = &memory.lengths[group];
            let size = states_lengths.iter().sum::<usize>() * memory.width;
            let states = &memory.numbers[memory_start..memory_start + size];
            memory_start += size;
            Part { sequences: Sequences { lengths, states, states_lengths }, stream }
        })
    }

    /// Replaces the stream of each part by another with as many rows.
    pub fn step(&mut self, tokens: usize, mut with: impl FnMut(Part<'_>) -> Vec<f32>) {
        let rows: usize = self.own.lengths.iter().sum();
        let mut new = Vec::with_capacity(self.own.numbers.len());
        for part in self.parts(tokens) {
            new.append(&mut with(part));
        }
        self.own.width = new.len().checked_div(rows).unwrap_or(self.own.width);
        self.own.numbers = new;
    }
}

/// Adds the rows of a table to those of each sequence.
fn add_positions(states: &mut States, table: &[f32]) {
    let mut rows = states.numbers.as_mut_slice();
    for &length in &states.lengths {
        let (own, others) = rows.split_at_mut(length * states.width);
        ops::add(own, table);
        rows = others;
    }
}

/// Looks up what a stack begins with.
struct Reader<'c> {
    checkpoint: &'c Checkpoint,
    stack: &'c Stack,
}

impl<'s> Reader<'s> {
    /// The rows of all samples, with their positions.
    fn all(
        &self,
        samples: &[Cow<'_, Sample>],
        mut rows: impl FnMut(usize, &Cow<'_, Sample>) -> Result<Vec<f32>, ReferenceError>,
    ) -> Result<States, ReferenceError> {
        let mut states = States { width: self.stack.width, lengths: vec![], numbers: vec![] };
        for (sequence, sample) in samples.iter().enumerate() {
            let mut own = rows(sequence, sample)?;
            let length = own.len() / self.stack.width;
            self.fits(sequence, length)?;
            states.lengths.push(length);
            states.numbers.append(&mut own);
        }
        if let Some(positions) = self.positions()? {
            add_positions(&mut states, &positions);
        }
        Ok(states)
    }

    fn fits(&self, sequence: usize, length: usize) -> Result<(), ReferenceError> {
        let context = self.stack.context;
        if length > context {
            Err(ReferenceError::Length { sequence, length, context })
        } else {
            Ok(())
        }
    }

    fn positions(&self) -> Result<Option<Vec<f32>>, CheckpointError> {
        let positions = self.stack.positions.as_ref();
        positions.map(|table| self.checkpoint.values(table)).transpose()
    }

    fn source(&self, sequence: usize, source: &Source) -> Result<Vec<f32>, ReferenceError> {
        let wrong = |reads| Err(ReferenceError::Source { sequence, reads });
        match (&self.stack.input, source) {
            (Input::Tokens { embedding, .. }, Source::Tokens { tokens, types }) => {
                self.tokens(sequence, embedding, tokens, types)
            }
            (Input::Tokens { .. }, _) => wrong("tokens"),
            (Input::Features { linear, class, picture: None }, Source::Features(numbers)) => {
                if numbers.len() % linear.cols() != 0 {
                    return Err(ReferenceError::Size {
                        sequence,
                        found: numbers.len(),
                        of: linear.cols(),
                    });
                }
                self.features(linear, class.as_ref(), numbers)
            }
            (Input::Features { picture: None, .. }, _) => wrong("rows of numbers"),
            (Input::Features { linear, class, picture: Some(picture) }, Source::Pixels(bytes)) => {
                if bytes.len() != picture.bytes() {
                    return Err(ReferenceError::Size {
                        sequence,
                        found: bytes.len(),
                        of: picture.bytes(),
                    });
                }
                self.features(
                    linear,
                    class.as_ref(),
                    &patches(picture, &self.checkpoint.values(&picture.pixel)?, bytes),
                )
            }
            (Input::Features { .. }, _) => wrong("a picture"),
            (Input::Queries(_) | Input::States, _) => Err(ReferenceError::Chain),
        }
    }

    fn tokens(
        &self,
        sequence: usize,
        embed: &'s Values,
        tokens: &[u32],
        types: &[u32],
    ) -> Result<Vec<f32>, ReferenceError> {
        let Input::Tokens { scale, types: of_types, .. } = &self.stack.input else {
            return Err(ReferenceError::Chain);
        };
        // Before anything is read.
        self.fits(sequence, tokens.len())?;
        let mut stream = vec![0.0; tokens.len() * self.stack.width];
        let mut row = vec![0.0; self.stack.width];
        for (position, (stream, &token)) in
            stream.chunks_mut(self.stack.width).zip(tokens).enumerate()
        {
            let find = |id: u32, table: &'s Values| {
                let (vocab, at) = (table.rows(), usize::try_from(id).unwrap_or(usize::MAX));
                let table = table.tensor().filter(|_| at < vocab);
                let wrong = ReferenceError::Token { sequence, position, token: id, vocab };
                table.map(|table| (table, at..at + 1)).ok_or(wrong)
            };
            let (table, at) = find(token, embed)?;
            self.checkpoint.read_rows(table, at, stream)?;
            stream.iter_mut().for_each(|number| *number *= scale);
            if let Some(table) = of_types {
                let (table, at) = find(types.get(position).copied().unwrap_or(0), table)?;
                self.checkpoint.read_rows(table, at, &mut row)?;
                ops::add(stream, &row);
            }
        }
        Ok(stream)
    }

    fn features(
        &self,
        linear: &kinglet_import::checkpoint::Linear,
        class: Option<&Values>,
        numbers: &[f32],
    ) -> Result<Vec<f32>, ReferenceError> {
        let mut rows = class.map_or(Ok(vec![]), |class| self.checkpoint.values(class))?;
        rows.append(&mut LinearWeights::read(self.checkpoint, linear)?.apply(numbers));
        Ok(rows)
    }
}

/// The numbers of each patch, row by row; in a patch in the order (y, x, channel).
fn patches<V>(picture: &Picture<V>, pixel: &[f32], bytes: &[u8]) -> Vec<f32> {
    let Picture { height, width, patch, channels, .. } = picture;
    let (scale, offset) = pixel.split_at(*channels);
    let mut numbers = Vec::with_capacity(bytes.len());
    for (top, left) in (0..*height)
        .step_by(*patch)
        .flat_map(|top| (0..*width).step_by(*patch).map(move |x| (top, x)))
    {
        for y in top..top + patch {
            let row = &bytes[(y * width + left) * channels..][..patch * channels];
            let channels = scale.iter().zip(offset).cycle();
            numbers.extend(
                row.iter()
                    .zip(channels)
                    .map(|(&byte, (scale, offset))| f32::from(byte) * scale + offset),
            );
        }
    }
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_are_cut_into_patches() {
        let picture =
            Picture { height: 2, width: 4, patch: 2, channels: 2, pixel: [1.0, 2.0, 0.0, 0.5] };
        let bytes: Vec<u8> = (0..16).collect();
        let found = patches(&picture, &picture.pixel, &bytes);
        assert_eq!(found[..8], [0.0, 2.5, 2.0, 6.5, 8.0, 18.5, 10.0, 22.5]);
        assert_eq!(found[8..], [4.0, 10.5, 6.0, 14.5, 12.0, 26.5, 14.0, 30.5]);
    }
}
