//! The interface: the stacks between encoder and decoder that learn, forward and backward.
//!
//! Of each stack the streams before its blocks are kept between the two directions;
//! [`tape`] computes the rest again.

use kinglet::{Format, Model, OpenError};
use kinglet_model::layout::{BlockRecord, StackRecord};
use kinglet_model::{Input, Residual};

use super::AdaptError;
use super::streams::{add_positions, forward, normed};
use kinglet_quantize::rounding::{self, RoundedLinear, dequantize};
use kinglet_reference::tape::{self, BlockGradient, Learns};
use kinglet_reference::{BlockWeights, LinearWeights, NormWeights, Sequences, Site, ops};

/// A block of the interface.
#[derive(Clone, Debug)]
pub(super) struct Part {
    /// As the file has it; empty where it is new.
    pub(super) old: BlockRecord,
    pub(super) weights: BlockWeights,
    /// Of its products, by [`Site`].
    pub(super) formats: [Format; 3],
}

/// A stack of the interface.
#[derive(Clone, Debug)]
pub(super) struct Stage {
    /// As the file has it, or shall have it.
    pub(super) record: StackRecord,
    /// The rows that it begins with; nothing if it goes on with the states of the stack before.
    pub(super) queries: Option<LinearWeights>,
    /// Added to the rows, and not learned.
    pub(super) positions: Option<Vec<f32>>,
    pub(super) parts: Vec<Part>,
    pub(super) norm: Option<NormWeights>,
}

/// All that is learned.
#[derive(Clone, Debug)]
pub(super) struct Interface {
    pub(super) stages: Vec<Stage>,
    /// The norms of the decoder's attention across, with the numbers of their blocks in the file;
    /// empty where they stay.
    pub(super) norms: Vec<(u32, NormWeights)>,
}

/// A stack on the way forward.
pub(super) struct Passed {
    pub(super) lengths: Vec<usize>,
    /// Before each block, and after the last.
    streams: Vec<Vec<f32>>,
}

impl Stage {
    fn read(model: &Model<'_>, index: u32) -> Result<Self, AdaptError> {
        let stack = model.stack(index)?;
        let part = |index| -> Result<Part, OpenError> {
            let block = model.block(index)?;
            let weights = dequantize::block(&block);
            let mut formats = [Format::Int8; 3];
            block.products().for_each(|(site, of)| formats[site as usize] = of.matrix.format());
            Ok(Part { old: model.record_of_block(index)?, weights, formats })
        };
        let queries = match &stack.input {
            Input::Queries(queries) => {
                let (weight, cols) = (dequantize::matrix(&queries.matrix), queries.matrix.cols());
                Some(LinearWeights { weight, bias: None, cols, inputs: None })
            }
            _ => None,
        };
        let parts = (stack.blocks.0..stack.blocks.1).map(part).collect::<Result<Vec<_>, _>>()?;
        if queries.is_none() && parts.iter().any(|part| part.weights.states.is_some()) {
            return Err(AdaptError::Interface { what: "looks across without queries of its own" });
        }
        Ok(Self {
            record: model.record_of_stack(index)?,
            queries,
            positions: stack.positions.map(|table| dequantize::matrix(&table.matrix)),
            parts,
            norm: stack.norm.as_ref().map(dequantize::norm),
        })
    }

    fn width(&self) -> usize {
        self.record.width as usize
    }

    /// Goes from the states of the stack before to its own.
    pub(super) fn forward(&self, states: &[f32], rows: &[usize]) -> (Passed, Vec<f32>) {
        let (mut stream, lengths) = match &self.queries {
            None => (states.to_vec(), rows.to_vec()),
            Some(queries) => (queries.weight.repeat(rows.len()), vec![queries.rows(); rows.len()]),
        };
        add_positions(self.positions.as_deref(), self.width(), &lengths, &mut stream);
        let blocks = self.parts.iter().map(|part| &part.weights);
        let sequences = self.sequences(&lengths, states, rows);
        let streams = forward(blocks, sequences, stream);
        let out = normed(self.norm.as_ref(), &streams[streams.len() - 1]);
        (Passed { lengths, streams }, out)
    }

    fn sequences<'s>(
        &self,
        lengths: &'s [usize],
        states: &'s [f32],
        rows: &'s [usize],
    ) -> Sequences<'s> {
        match self.queries {
            None => Sequences::alone(lengths),
            Some(_) => Sequences { lengths, states, states_lengths: rows },
        }
    }

    /// Takes the gradient of its states back to those of the stack before, and returns that of what
    /// it learns in the order of [`Interface::parameters`].
    pub(super) fn backward(
        &self,
        passed: &Passed,
        states: &[f32],
        rows: &[usize],
        gradient: &mut Vec<f32>,
    ) -> Vec<Vec<f32>> {
        let mut found = vec![];
        if let Some(norm) = &self.norm {
            let (of_norm, to) = tape::norm(norm, &passed.streams[self.parts.len()], gradient);
            *gradient = to;
            found.push([of_norm.weight, of_norm.bias].into());
        }
        let sequences = self.sequences(&passed.lengths, states, rows);
        let mut to_states = vec![0.0; if self.queries.is_some() { states.len() } else { 0 }];
        for (part, stream) in self.parts.iter().zip(&passed.streams).rev() {
            let of = tape::block(
                &part.weights,
                sequences,
                stream,
                gradient,
                &mut to_states,
                Learns::All,
            );
            found.push(listed(of));
        }
        if let Some(queries) = &self.queries {
            let mut sum = vec![0.0; queries.weight.len()];
            gradient.chunks_exact(sum.len()).for_each(|of_pair| ops::add(&mut sum, of_pair));
            found.push(vec![sum]);
            *gradient = to_states;
        }
        found.into_iter().rev().flatten().filter(|numbers: &Vec<f32>| !numbers.is_empty()).collect()
    }

    /// Its products rounded, queries first.
    pub(super) fn rounded(&self) -> Result<Rounded, AdaptError> {
        let round =
            |of: &LinearWeights, format| Ok::<_, AdaptError>(rounding::linear(of, format, None)?.0);
        let queries =
            self.queries.as_ref().map(|queries| round(queries, Format::Int8)).transpose()?;
        let mut parts = vec![];
        for part in &self.parts {
            let product = |site| {
                part.weights
                    .product(site)
                    .map(|of| round(of, part.formats[site as usize]))
                    .transpose()
            };
            let [input, memory, output] = Site::OF_BLOCK.map(product);
            parts.push([input?, memory?, output?]);
        }
        Ok(Rounded { queries, parts })
    }
}

/// The products of a stage, rounded.
pub(super) struct Rounded {
    pub(super) queries: Option<RoundedLinear>,
    pub(super) parts: Vec<[Option<RoundedLinear>; 3]>,
}

impl Interface {
    /// That of a file; without any where its decoder follows the encoder.
    pub(super) fn read(model: &Model<'_>) -> Result<Self, AdaptError> {
        let stages = (1..model.stacks().saturating_sub(1)).map(|index| Stage::read(model, index));
        Ok(Self { stages: stages.collect::<Result<_, _>>()?, norms: vec![] })
    }

    /// All that is learned, in a fixed order.
    pub(super) fn parameters(&mut self) -> Vec<&mut Vec<f32>> {
        let mut all = vec![];
        for stage in &mut self.stages {
            all.extend(stage.queries.iter_mut().map(|queries| &mut queries.weight));
            for part in &mut stage.parts {
                let BlockWeights { norm, residual, input, states, output, .. } = &mut part.weights;
                let stream_norm = match residual {
                    Residual::Post(norm) => Some(norm),
                    Residual::Pre | Residual::Replace => None,
                };
                for norm in norm.iter_mut().chain(stream_norm) {
                    all.extend([Some(&mut norm.weight), norm.bias.as_mut()].into_iter().flatten());
                }
                for product in input.iter_mut().chain(states).chain([output]) {
                    all.extend(
                        [Some(&mut product.weight), product.bias.as_mut()].into_iter().flatten(),
                    );
                }
            }
            if let Some(norm) = &mut stage.norm {
                all.extend([Some(&mut norm.weight), norm.bias.as_mut()].into_iter().flatten());
            }
        }
        for (_, norm) in &mut self.norms {
            all.extend([Some(&mut norm.weight), norm.bias.as_mut()].into_iter().flatten());
        }
        all
    }

    /// The same, its products rounded as they will be written.
    pub(super) fn rounded(&self) -> Result<Self, AdaptError> {
        let mut rounded = self.clone();
        for (stage, to) in self.stages.iter().zip(&mut rounded.stages) {
            let Rounded { queries, parts } = stage.rounded()?;
            if let (Some(of), Some(to)) = (queries, &mut to.queries) {
                to.weight = of.weights().weight;
            }
            for (of, to) in parts.into_iter().zip(&mut to.parts) {
                for (site, of) in Site::OF_BLOCK.into_iter().zip(of) {
                    if let (Some(of), Some(to)) = (of, to.weights.product_mut(site)) {
                        *to = of.weights();
                    }
                }
            }
        }
        Ok(rounded)
    }
}

/// A block's gradients in the order of [`Interface::parameters`].
fn listed(of: BlockGradient) -> Vec<Vec<f32>> {
    let BlockGradient { norm, stream_norm, input, states, output } = of;
    let norms = [norm, stream_norm].into_iter().flat_map(|norm| [norm.weight, norm.bias]);
    let products =
        [input, states, output].into_iter().flat_map(|product| [product.weight, product.bias]);
    norms.chain(products).collect()
}
