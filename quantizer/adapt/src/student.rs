//! What is trained: the interface, forward and backward, with the frozen decoder after it.
//!
//! Pairs go through together, their rows one after the other. Of each stack the streams before its
//! blocks are kept between the two directions; `fit::tape` computes the rest again.

use kinglet::{Format, Model, OpenError};
use kinglet_model::Input;
use kinglet_model::layout::{BlockRecord, StackRecord};
use rayon::prelude::*;

use super::AdaptError;
use kinglet_quantize::rounding::{self, RoundedLinear, dequantize};
use kinglet_reference::tape::{self, BlockGradient, Learns};
use kinglet_reference::{
    ApplyNorm, BlockWeights, Forward, Inputs, LinearWeights, NormWeights, Sequences, Site, ops,
};

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

/// The last stack, frozen.
pub(super) struct Decoder {
    width: usize,
    /// Nothing where it is the head's.
    embedding: Option<Vec<f32>>,
    /// Whether its rows were transformed.
    transformed: bool,
    scale: f32,
    /// Added to each token's row.
    typed: Option<Vec<f32>>,
    positions: Option<Vec<f32>>,
    /// The number of its first block in the file.
    first: u32,
    blocks: Vec<BlockWeights>,
    norm: Option<NormWeights>,
    head: LinearWeights,
}

/// Pairs that go through together.
#[derive(Debug, Default)]
pub(super) struct Lesson {
    /// The encoder's states, and how many rows each pair has.
    pub(super) states: Vec<f32>,
    pub(super) rows: Vec<usize>,
    /// What the decoder is given, and how many tokens of each pair.
    pub(super) tokens: Vec<u32>,
    pub(super) lengths: Vec<usize>,
    /// What should follow each of them.
    pub(super) labels: Vec<u32>,
}

/// What came out for some pairs.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Found {
    /// The sum of the tokens' cross-entropies.
    pub(super) loss: f64,
    pub(super) tokens: usize,
}

/// A stack on the way forward.
struct Passed {
    lengths: Vec<usize>,
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
    fn forward(&self, states: &[f32], rows: &[usize]) -> (Passed, Vec<f32>) {
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
    fn backward(
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
                    kinglet_model::Residual::Post(norm) => Some(norm),
                    kinglet_model::Residual::Pre | kinglet_model::Residual::Replace => None,
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

impl Decoder {
    pub(super) fn read(model: &Model<'_>) -> Result<Self, AdaptError> {
        let stack = model.last()?;
        let output = model.output()?;
        let (Input::Tokens { embedding, scale, types }, Some(head)) = (&stack.input, &output.head)
        else {
            return Err(AdaptError::NoDecoder);
        };
        if output.dense.is_some() {
            return Err(AdaptError::Interface {
                what: "leads to a decoder with a layer before its head",
            });
        }
        let tied = model.is_tied();
        let typed = types.as_ref().map(|types| {
            let mut row = vec![0.0; types.matrix.cols()];
            types.matrix.dequantize_row(0, &mut row);
            row
        });
        let blocks = (stack.blocks.0..stack.blocks.1)
            .map(|index| Ok(dequantize::block(&model.block(index)?)));
        Ok(Self {
            width: embedding.matrix.cols(),
            embedding: if tied { None } else { Some(dequantize::matrix(&embedding.matrix)) },
            transformed: embedding.inputs == Inputs::Transformed,
            scale: *scale,
            typed,
            positions: stack.positions.map(|table| dequantize::matrix(&table.matrix)),
            first: stack.blocks.0,
            blocks: blocks.collect::<Result<_, OpenError>>()?,
            norm: stack.norm.as_ref().map(dequantize::norm),
            head: dequantize::linear(head),
        })
    }

    /// Width of what its attention across looks at; 0 where it has none.
    pub(super) fn memory(&self) -> usize {
        self.blocks.iter().find_map(|block| Some(block.states.as_ref()?.cols)).unwrap_or(0)
    }

    /// The norms of its attention across.
    pub(super) fn norms(&self) -> Vec<(u32, NormWeights)> {
        let across = |block: &BlockWeights| block.is_cross();
        let numbered = (self.first..).zip(&self.blocks).filter(|(_, block)| across(block));
        numbered.filter_map(|(number, block)| Some((number, block.norm.clone()?))).collect()
    }

    /// Takes over norms that were learned.
    fn follow(&mut self, norms: &[(u32, NormWeights)]) {
        for (number, norm) in norms {
            self.blocks[(number - self.first) as usize].norm = Some(norm.clone());
        }
    }

    fn embed(&self, lesson: &Lesson) -> Vec<f32> {
        let width = self.width;
        let table = self.embedding.as_ref().unwrap_or(&self.head.weight);
        let mut stream = vec![];
        for &token in &lesson.tokens {
            let start = stream.len();
            let row = &table[token as usize * width..][..width];
            let row = if self.transformed { ops::transformed(row, width) } else { row.to_vec() };
            stream.extend(row.iter().map(|x| x * self.scale));
            if let Some(typed) = &self.typed {
                ops::add(&mut stream[start..], typed);
            }
        }
        add_positions(self.positions.as_deref(), width, &lesson.lengths, &mut stream);
        stream
    }
}

/// Runs some pairs and adds up their cross-entropy; with `learns` also returns the gradient of the
/// mean over tokens, in the order of [`Interface::parameters`].
pub(super) fn run(
    interface: &Interface,
    decoder: &mut Decoder,
    lesson: &Lesson,
    learns: bool,
) -> (Found, Vec<Vec<f32>>) {
    decoder.follow(&interface.norms);
    let mut entered = vec![(lesson.states.clone(), lesson.rows.clone())];
    let mut passed = vec![];
    for stage in &interface.stages {
        let (states, rows) = &entered[entered.len() - 1];
        let (of, out) = stage.forward(states, rows);
        entered.push((out, of.lengths.clone()));
        passed.push(of);
    }
    let (states, states_lengths) = &entered[entered.len() - 1];
    let sequences = Sequences { lengths: &lesson.lengths, states, states_lengths };
    let streams = forward(decoder.blocks.iter(), sequences, decoder.embed(lesson));
    let last = &streams[streams.len() - 1];
    let mut logits = decoder.head.apply(&normed(decoder.norm.as_ref(), last));
    let found =
        Found { loss: cross_entropy(&mut logits, &lesson.labels), tokens: lesson.labels.len() };
    if !learns {
        return (found, vec![]);
    }
    let tokens = lesson.labels.len() as f32;
    logits.iter_mut().for_each(|g| *g /= tokens);
    let mut gradient = decoder.head.back(&logits);
    if let Some(norm) = &decoder.norm {
        (_, gradient) = tape::norm(norm, last, &gradient);
    }
    let mut to_states = vec![0.0; states.len()];
    let mut of_norms = vec![];
    let numbers = decoder.first..decoder.first + decoder.blocks.len() as u32;
    for ((number, block), stream) in numbers.zip(&decoder.blocks).zip(&streams).rev() {
        let of =
            tape::block(block, sequences, stream, &mut gradient, &mut to_states, Learns::Norms);
        if interface.norms.iter().any(|(learned, _)| *learned == number) {
            of_norms.push([of.norm.weight, of.norm.bias]);
        }
    }
    let of_norms = of_norms.into_iter().rev().flatten().filter(|numbers| !numbers.is_empty());
    let mut all = vec![of_norms.collect::<Vec<_>>()];
    for ((stage, passed), (states, rows)) in
        interface.stages.iter().zip(&passed).zip(&entered).rev()
    {
        all.push(stage.backward(passed, states, rows, &mut to_states));
    }
    (found, all.into_iter().rev().flatten().collect())
}

/// The streams before each block, and after the last.
fn forward<'b>(
    blocks: impl Iterator<Item = &'b BlockWeights>,
    sequences: Sequences<'_>,
    stream: Vec<f32>,
) -> Vec<Vec<f32>> {
    let mut streams = vec![stream];
    for block in blocks {
        streams.push(block.advance(sequences, &streams[streams.len() - 1]));
    }
    streams
}

fn normed(norm: Option<&NormWeights>, stream: &[f32]) -> Vec<f32> {
    norm.map_or_else(|| stream.to_vec(), |norm| norm.apply(stream))
}

fn add_positions(table: Option<&[f32]>, width: usize, lengths: &[usize], stream: &mut [f32]) {
    let Some(table) = table else { return };
    let mut rest = stream;
    for length in lengths {
        let (own, others) = rest.split_at_mut(length * width);
        ops::add(own, table);
        rest = others;
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

/// The sum of the cross-entropies of some tokens; logits become its gradient.
fn cross_entropy(logits: &mut [f32], labels: &[u32]) -> f64 {
    let vocab = logits.len() / labels.len().max(1);
    let rows = logits.par_chunks_exact_mut(vocab).zip(labels).map(|(logits, &label)| {
        ops::softmax(logits);
        let of_label = &mut logits[label as usize];
        let loss = -f64::from(of_label.max(f32::MIN_POSITIVE)).ln();
        *of_label -= 1.0;
        loss
    });
    rows.collect::<Vec<f64>>().iter().sum()
}

#[cfg(test)]
mod tests {
    use kinglet_model::layout::NONE;

    use super::super::{Fresh, Shape, initialization};
    use super::*;
    use kinglet_import::checkpoint::{Activation, NormKind, Residual};
    use kinglet_model::{Mask, Operation};
    use kinglet_reference::random::Random;

    use kinglet_reference::Heads;
    use kinglet_reference::testing::numbers;

    const ENCODER: usize = 10;
    const MEMORY: usize = 8;
    const WIDTH: usize = 12;
    const VOCAB: usize = 7;

    fn linear(rows: usize, cols: usize, seed: u32) -> LinearWeights {
        let weight = numbers(rows * cols, seed).iter().map(|w| w * 0.5).collect();
        LinearWeights { weight, bias: Some(numbers(rows, seed + 1)), cols, inputs: None }
    }

    fn norm(width: usize) -> NormWeights {
        let weight = numbers(width, 40).iter().map(|w| 1.0 + w / 2.0).collect();
        NormWeights { kind: NormKind::Layer, weight, bias: Some(numbers(width, 41)), eps: 1e-5 }
    }

    fn decoder() -> Decoder {
        let block = |mask, input: usize, states, seed| {
            let (query_norm, key_norm, rope, relative) = (None, None, None, None);
            let heads = Heads {
                heads: 2,
                kv_heads: 2,
                head_dim: 4,
                score_scale: 0.5,
                query_norm,
                key_norm,
                rope,
                mask,
                relative,
                head_inputs: Inputs::Rounded,
            };
            BlockWeights {
                layer: 0,
                norm: Some(norm(WIDTH)),
                residual: Residual::Pre,
                input: Some(linear(input, WIDTH, seed)),
                states,
                operation: Operation::Attention(heads),
                output: linear(WIDTH, 8, seed + 2),
            }
        };
        let across = |seed| block(Mask::Cross, 8, Some(linear(16, MEMORY, seed + 4)), seed);
        let feed_forward = BlockWeights {
            operation: Operation::FeedForward { activation: Activation::GeluTanh, gated: false },
            ..block(Mask::Full, 8, None, 70)
        };
        Decoder {
            width: WIDTH,
            embedding: None,
            transformed: false,
            scale: 2.0,
            typed: None,
            positions: Some(numbers(5 * WIDTH, 50)),
            first: 4,
            blocks: vec![block(Mask::Causal, 24, None, 51), across(60), feed_forward, across(80)],
            norm: Some(norm(WIDTH)),
            head: linear(VOCAB, WIDTH, 90),
        }
    }

    #[test]
    fn gradients_of_all_interfaces_are_those_of_differences() {
        let lesson = Lesson {
            states: numbers(7 * ENCODER, 1),
            rows: vec![3, 4],
            tokens: vec![0, 3, 5, 0, 6],
            lengths: vec![3, 2],
            labels: vec![3, 5, 1, 6, 1],
        };
        let mut decoder = decoder();
        for (shape, queries, width) in [
            (Shape::Linear, None, None),
            (Shape::TwoLayer, None, Some(9)),
            (Shape::Resampler, Some(3), None),
            (Shape::Resampler, Some(2), Some(16)),
        ] {
            let fresh = Fresh { shape, queries, width };
            let mut interface =
                initialization::interface(&fresh, ENCODER, MEMORY, 4, &mut Random(3)).unwrap();
            assert_eq!(interface.stages[0].record.embedding, NONE);
            // Rounding would be steps.
            for part in interface.stages.iter_mut().flat_map(|stage| &mut stage.parts) {
                for site in Site::OF_BLOCK {
                    part.weights
                        .product_mut(site)
                        .into_iter()
                        .for_each(|product| product.inputs = None);
                }
            }
            interface.norms = decoder.norms();
            assert_eq!(interface.norms.len(), 2);
            let (found, gradient) = run(&interface, &mut decoder, &lesson, true);
            assert_eq!(found.tokens, 5);
            let lengths: Vec<usize> =
                interface.parameters().iter().map(|numbers| numbers.len()).collect();
            assert!(lengths.iter().copied().eq(gradient.iter().map(Vec::len)), "{shape:?}");
            for (vector, gradient) in gradient.iter().enumerate() {
                for at in (0..gradient.len()).step_by(1 + gradient.len() / 7) {
                    const STEP: f32 = 1e-2;
                    let mut moved = |by: f32| {
                        let mut interface = interface.clone();
                        interface.parameters()[vector][at] += by;
                        run(&interface, &mut decoder, &lesson, false).0.loss / 5.0
                    };
                    let want = (moved(STEP) - moved(-STEP)) / (2.0 * f64::from(STEP));
                    let far = (f64::from(gradient[at]) - want).abs();
                    assert!(
                        far < 2e-2 * (0.05 + want.abs()),
                        "{shape:?} {vector} {at}: {}, not {want}",
                        gradient[at]
                    );
                }
            }
        }
    }
}
