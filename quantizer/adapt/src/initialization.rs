//! Interfaces that have learned nothing yet: random numbers of a seed, whose variance keeps that of
//! what passes through.

use kinglet::Format;
use kinglet_model::layout::{BlockRecord, StackRecord, input, norm};

use super::interface::{Interface, Part, Stage};
use super::{AdaptError, Fresh, Shape};
use kinglet_import::checkpoint::{Activation, Mask, NormKind, Residual};
use kinglet_reference::random::Random;
use kinglet_reference::{BlockWeights, Heads, Inputs, LinearWeights, NormWeights, Operation};

/// Of a resampler: attention across and feed-forward, so many times.
const LAYERS: usize = 2;
/// The feed-forward of a resampler is so many times as wide as its stream.
const WIDER: usize = 2;
/// The widest interface.
const WIDEST: usize = 1 << 16;
const EPS: f32 = 1e-5;

/// An interface from states of one width to those of another; `context` is the most rows of a
/// source.
pub(super) fn interface(
    fresh: &Fresh,
    from: usize,
    to: usize,
    context: u32,
    random: &mut Random,
) -> Result<Interface, AdaptError> {
    if fresh.width.is_some_and(|width| width == 0 || width > WIDEST) {
        return Err(refused("--width has to be from 1 to 65536"));
    }
    let mut make = Make { random, layer: 0 };
    let record = StackRecord {
        input: input::STATES,
        width: from as u32,
        out: to as u32,
        context,
        ..StackRecord::EMPTY
    };
    let stage = match fresh.shape {
        Shape::Linear | Shape::TwoLayer if fresh.queries.is_some() => {
            return Err(refused("only a resampler has --queries"));
        }
        Shape::Linear if fresh.width.is_some() => {
            return Err(refused("a linear interface has no --width of its own"));
        }
        Shape::Linear => stage(record, None, vec![make.projection(from, to)], None),
        Shape::TwoLayer => {
            let hidden = fresh.width.unwrap_or(from.max(to));
            let mut part = make.feed_forward(from, hidden, to);
            (part.weights.residual, part.weights.norm) = (Residual::Replace, None);
            stage(record, None, vec![part], None)
        }
        Shape::Resampler => resampler(fresh, record, &mut make)?,
    };
    Ok(Interface { stages: vec![stage], norms: vec![] })
}

fn refused(what: &str) -> AdaptError {
    AdaptError::Fresh { what: what.to_owned() }
}

/// Queries that look at the states, layer by layer, and a projection where the widths differ. The
/// record is that of the stack without queries.
fn resampler(fresh: &Fresh, record: StackRecord, make: &mut Make<'_>) -> Result<Stage, AdaptError> {
    let (from, to) = (record.width as usize, record.out as usize);
    let (width, count) = (fresh.width.unwrap_or(to), fresh.queries.unwrap_or(32));
    if count == 0 || count > WIDEST {
        return Err(refused("--queries has to be from 1 to 65536"));
    }
    let most = (width / 4).clamp(1, 64);
    let dim = (1..=most).rev().find(|dim| width % dim == 0).unwrap_or(1);
    if width / dim > usize::from(u16::MAX) || (dim < 4 && width > 16) {
        return Err(refused(
            "the --width of a resampler has to be divisible into heads, as multiples of 16 are",
        ));
    }
    let weight = (0..count * width).map(|_| make.random.uniform()).collect();
    let queries = LinearWeights { weight, bias: None, cols: width, inputs: None };
    let mut parts = vec![];
    for layer in 0..LAYERS {
        make.layer = layer;
        parts.push(make.across(from, width, dim));
        parts.push(make.feed_forward(width, WIDER * width, width));
    }
    if width != to {
        make.layer = LAYERS;
        parts.push(make.projection(width, to));
    }
    let (width, context) = (width as u32, count as u32);
    let record = StackRecord { input: input::QUERIES, width, context, ..record };
    Ok(stage(record, Some(queries), parts, Some(layer_norm(to))))
}

/// A stack of these parts, whose record says the rest.
fn stage(
    record: StackRecord,
    queries: Option<LinearWeights>,
    parts: Vec<Part>,
    norm: Option<NormWeights>,
) -> Stage {
    let (norm_kind, norm_eps) = if norm.is_some() { (norm::LAYER, EPS) } else { (norm::RMS, 0.0) };
    let record = StackRecord { blocks: parts.len() as u32, norm_kind, norm_eps, ..record };
    Stage { record, queries, positions: None, parts, norm }
}

fn layer_norm(width: usize) -> NormWeights {
    NormWeights {
        kind: NormKind::Layer,
        weight: vec![1.0; width],
        bias: Some(vec![0.0; width]),
        eps: EPS,
    }
}

/// Blocks in the making.
struct Make<'r> {
    random: &'r mut Random,
    layer: usize,
}

impl Make<'_> {
    fn linear(&mut self, from: usize, to: usize) -> LinearWeights {
        // Evenly from -x to x has a variance of x^2 / 3.
        let most = (3.0 / from as f32).sqrt();
        let weight = (0..from * to).map(|_| most * self.random.uniform()).collect();
        LinearWeights {
            weight,
            bias: Some(vec![0.0; to]),
            cols: from,
            inputs: Some(Inputs::Rounded),
        }
    }

    fn part(weights: BlockWeights) -> Part {
        Part { old: BlockRecord::EMPTY, weights, formats: [Format::Int8; 3] }
    }

    fn projection(&mut self, from: usize, to: usize) -> Part {
        let layer = self.layer;
        Self::part(BlockWeights {
            layer,
            norm: None,
            residual: Residual::Replace,
            input: None,
            states: None,
            operation: Operation::Projection,
            output: self.linear(from, to),
        })
    }

    fn feed_forward(&mut self, from: usize, inner: usize, to: usize) -> Part {
        let layer = self.layer;
        Self::part(BlockWeights {
            layer,
            norm: Some(layer_norm(from)),
            residual: Residual::Pre,
            input: Some(self.linear(from, inner)),
            states: None,
            operation: Operation::FeedForward { activation: Activation::Gelu, gated: false },
            output: self.linear(inner, to),
        })
    }

    fn across(&mut self, from: usize, width: usize, dim: usize) -> Part {
        let heads = Heads {
            heads: width / dim,
            kv_heads: width / dim,
            head_dim: dim,
            score_scale: 1.0 / (dim as f32).sqrt(),
            mask: Mask::Cross,
            query_norm: None,
            key_norm: None,
            rope: None,
            relative: None,
            head_inputs: Inputs::Rounded,
        };
        let layer = self.layer;
        Self::part(BlockWeights {
            layer,
            norm: Some(layer_norm(width)),
            residual: Residual::Pre,
            input: Some(self.linear(width, width)),
            states: Some(self.linear(from, 2 * width)),
            operation: Operation::Attention(heads),
            output: self.linear(width, width),
        })
    }
}
