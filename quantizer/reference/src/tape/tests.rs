//! Gradients beside differences of a loss.

use std::sync::Arc;

use super::*;
use crate::testing::{self, numbers};
use crate::{Inputs, LinearWeights, NormWeights};
use kinglet_import::checkpoint::{NormKind, Rope};

fn linear_of(rows: usize, cols: usize, seed: u32) -> LinearWeights {
    let weight = numbers(rows * cols, seed).iter().map(|w| w * 0.5).collect();
    LinearWeights { weight, bias: Some(numbers(rows, seed + 1)), cols, inputs: None }
}

fn norm_of(kind: NormKind, n: usize, seed: u32) -> NormWeights {
    let weight = numbers(n, seed).iter().map(|w| 1.0 + w / 2.0).collect();
    NormWeights {
        kind,
        weight,
        bias: (kind == NormKind::Layer).then(|| numbers(n, seed + 9)),
        eps: 1e-5,
    }
}

/// What the loss is: some fixed weighting of the outputs.
fn loss(of: &BlockWeights, sequences: Sequences<'_>, stream: &[f32], weighting: &[f32]) -> f64 {
    let out = of.advance(sequences, stream);
    assert_eq!(out.len(), weighting.len());
    out.iter().zip(weighting).map(|(o, w)| f64::from(*w) * f64::from(*o)).sum()
}

const WIDTH: usize = 12;
const LENGTHS: [usize; 2] = [5, 3];
const MEMORY: usize = 10;
const MEMORY_LENGTHS: [usize; 2] = [2, 6];

/// The sequences of a block, with those that it looks at across.
fn sequences(across: bool, states: &[f32]) -> Sequences<'_> {
    match across {
        true => Sequences { lengths: &LENGTHS, states, states_lengths: &MEMORY_LENGTHS },
        false => Sequences::alone(&LENGTHS),
    }
}

/// Compares all gradients of a block with differences of the loss.
fn check(name: &str, mut of: BlockWeights) {
    let (mut stream, mut states) = (numbers(8 * WIDTH, 11), numbers(8 * MEMORY, 13));
    let weighting = numbers(8 * of.output.rows(), 12);
    let across = of.states.is_some();
    let gradients = |learns| {
        let (mut to_stream, mut to_states) = (weighting.clone(), vec![0.0; states.len()]);
        let sequences = sequences(across, &states);
        let found = block(&of, sequences, &stream, &mut to_stream, &mut to_states, learns);
        (found, to_stream, to_states)
    };
    let (found, to_stream, to_states) = gradients(Learns::All);
    let (none, frozen, frozen_states) = gradients(Learns::Norms);
    assert!(
        frozen == to_stream && frozen_states == to_states && none.output.weight.is_empty(),
        "{name}"
    );
    let step = 1e-2;
    let near = |what: &str, i: usize, found: f32, up: f64, down: f64| {
        let want = (up - down) / (2.0 * f64::from(step));
        let far = (f64::from(found) - want).abs();
        assert!(far < 2e-2 * (0.2 + want.abs()), "{name}: {what} {i}: {found}, not {want}");
    };
    macro_rules! check {
        ($($what:literal: $field:expr, $found:expr, $every:literal;)*) => {$(
            for i in (0..$found.len()).step_by($every) {
                let old = $field[i];
                $field[i] = old + step;
                let up = loss(&of, sequences(across, &states), &stream, &weighting);
                $field[i] = old - step;
                let down = loss(&of, sequences(across, &states), &stream, &weighting);
                $field[i] = old;
                near($what, i, $found[i], up, down);
            }
        )*};
    }
    if across {
        check! { "states": states, to_states, 3; }
    }
    check! {
        "stream": stream, to_stream, 5;
        "norm": of.norm.as_mut().unwrap().weight, found.norm.weight, 1;
        "norm bias": of.norm.as_mut().unwrap().bias.as_mut().unwrap(), found.norm.bias, 1;
        "stream norm": stream_norm(&mut of).weight, found.stream_norm.weight, 1;
        "stream norm bias":
            stream_norm(&mut of).bias.as_mut().unwrap(), found.stream_norm.bias, 1;
        "input": of.input.as_mut().unwrap().weight, found.input.weight, 7;
        "input bias": of.input.as_mut().unwrap().bias.as_mut().unwrap(), found.input.bias, 3;
        "of states": of.states.as_mut().unwrap().weight, found.states.weight, 7;
        "bias of states":
            of.states.as_mut().unwrap().bias.as_mut().unwrap(), found.states.bias, 3;
        "output": of.output.weight, found.output.weight, 7;
        "output bias": of.output.bias.as_mut().unwrap(), found.output.bias, 3;
    }
}

fn stream_norm(of: &mut BlockWeights) -> &mut NormWeights {
    match &mut of.residual {
        Residual::Post(norm) => norm,
        _ => panic!("the stream has no norm"),
    }
}

fn heads(mask: Mask) -> Heads {
    let (query_norm, key_norm, rope, relative) = (None, None, None, None);
    Heads {
        heads: 4,
        kv_heads: 2,
        head_dim: 4,
        score_scale: 0.5,
        query_norm,
        key_norm,
        rope,
        mask,
        relative,
        head_inputs: Inputs::Rounded,
    }
}

#[test]
fn gradients_of_attention_are_those_of_differences() {
    let block = |heads: Heads| {
        let norm = norm_of(NormKind::Rms, WIDTH, 7).weight;
        testing::block(
            norm,
            linear_of(32, WIDTH, 3),
            Operation::Attention(heads),
            linear_of(WIDTH, 16, 4),
        )
    };
    let rope = Some(Rope { frequencies: vec![1.0, 0.1], magnitude: 1.1 });
    let [query_norm, key_norm] = [7, 8].map(|seed| Some(norm_of(NormKind::Rms, 4, seed)));
    check("causal, turned", block(Heads { query_norm, key_norm, rope, ..heads(Mask::Causal) }));
    check("a window", block(heads(Mask::Window(3))));
    let relative = Some(Arc::new(numbers(4 * 5, 9)));
    let norm = Some(norm_of(NormKind::Layer, WIDTH, 5));
    let all = block(Heads { relative: relative.clone(), ..heads(Mask::Full) });
    check("to all, by distance", BlockWeights { norm: norm.clone(), ..all.clone() });
    let residual = Residual::Post(norm_of(NormKind::Layer, WIDTH, 6));
    check("after a norm", BlockWeights { norm: norm.clone(), residual, ..all });
    let query_norm = Some(norm_of(NormKind::Rms, 4, 3));
    let across = BlockWeights {
        norm,
        input: Some(linear_of(16, WIDTH, 3)),
        states: Some(linear_of(16, MEMORY, 8)),
        ..block(Heads { relative, query_norm, ..heads(Mask::Cross) })
    };
    check("across", across);
}

#[test]
fn gradients_of_feed_forwards_and_projections_are_those_of_differences() {
    use Activation::{Gelu, GeluTanh, Identity, QuickGelu, Silu, Tanh};
    for (activation, gated) in [
        (Silu, true),
        (GeluTanh, true),
        (Gelu, false),
        (QuickGelu, true),
        (Tanh, false),
        (Identity, false),
    ] {
        let operation = Operation::FeedForward { activation, gated };
        let rows = if gated { 20 } else { 10 };
        let norm = norm_of(NormKind::Rms, WIDTH, 7).weight;
        let block =
            testing::block(norm, linear_of(rows, WIDTH, 5), operation, linear_of(WIDTH, 10, 6));
        check(&format!("{activation:?} {gated}"), block.clone());
        let output = linear_of(14, 10, 6);
        let replaces = BlockWeights { norm: None, residual: Residual::Replace, output, ..block };
        check(&format!("{activation:?} {gated}, replacing"), replaces.clone());
        let (input, operation, output) = (None, Operation::Projection, linear_of(9, WIDTH, 2));
        let norm = Some(norm_of(NormKind::Layer, WIDTH, 4));
        check("a projection", BlockWeights { input, operation, output, norm, ..replaces });
    }
}
