//! What is trained: the interface, forward and backward, with the frozen decoder after it.
//!
//! Pairs go through together, their rows one after the other.

use rayon::prelude::*;

use super::decoder::Decoder;
use super::interface::Interface;
use super::streams::{forward, normed};
use kinglet_reference::tape::{self, Learns};
use kinglet_reference::{Sequences, ops};

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
    let streams =
        forward(decoder.blocks.iter(), sequences, decoder.embed(&lesson.tokens, &lesson.lengths));
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
    use kinglet_model::{Mask, Operation};

    use super::super::{Fresh, Shape, initialization};
    use super::*;
    use kinglet_import::checkpoint::{Activation, NormKind, Residual};
    use kinglet_reference::random::Random;
    use kinglet_reference::testing::numbers;
    use kinglet_reference::{BlockWeights, Heads, Inputs, LinearWeights, NormWeights, Site};

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
