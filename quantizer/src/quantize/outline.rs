//! Which tensors and records a checkpoint becomes.

use std::f64::consts::TAU;

use kinglet::format::layout::{BlockRecord, ModelRecord, NONE, block};

use super::{Options, QuantizeError};
use crate::checkpoint::{Activation, Architecture, Attention, Block, FeedForward, Linear, Rope, TensorRef};
use crate::file::{Kind, Outline};

/// Where a tensor's numbers come from.
#[derive(Clone, Debug)]
pub(super) enum Source {
    /// Rows of these matrices, one below the other.
    Rows(Vec<TensorRef>),
    /// These vectors, one behind the other; where there is none, so many zeros.
    Vectors(Vec<Result<TensorRef, usize>>),
    /// Phases a position in 2^-32 turns.
    Phases(Vec<u32>),
}

/// The outline of the file, and a source for each of its tensors.
pub(super) fn outline(
    architecture: &Architecture,
    options: &Options,
) -> Result<(Outline, Vec<(Kind, Source)>), QuantizeError> {
    let model = ModelRecord {
        kind: 0,
        width: architecture.width as u32,
        vocab: architecture.vocab as u32,
        context: architecture.context as u32,
        blocks: 0,
        tensors: 0,
        embedding: NONE,
        head: NONE,
        norm: NONE,
        norm_eps: architecture.final_norm.eps,
        reserved: [0; 24],
    };
    let mut build = Build { outline: Outline::new(model), sources: vec![], options };
    let embedding = build.matrix("embedding", Kind::Matrix(options.embeddings), &[&architecture.embed])?;
    for block in &architecture.blocks {
        let record = match block {
            Block::Attention(attention) => build.attention(attention)?,
            Block::FeedForward(feed_forward) => build.feed_forward(feed_forward)?,
        };
        build.outline.blocks.push(record);
    }
    let norm = build.vector("norm", &architecture.final_norm.weight)?;
    let head = if architecture.tied() {
        embedding
    } else {
        build.matrix("head", Kind::Matrix(options.head), &[&architecture.head])?
    };
    let model = &mut build.outline.model;
    (model.embedding, model.norm, model.head) = (embedding, norm, head);
    Ok((build.outline, build.sources))
}

struct Build<'o> {
    outline: Outline,
    sources: Vec<(Kind, Source)>,
    options: &'o Options,
}

impl Build<'_> {
    fn add(&mut self, name: &str, kind: Kind, rows: usize, cols: usize, source: Source) -> Result<u32, QuantizeError> {
        let index = self.outline.tensor(name, kind, rows, cols)?;
        self.sources.push((kind, source));
        Ok(index)
    }

    fn matrix(&mut self, name: &str, kind: Kind, parts: &[&TensorRef]) -> Result<u32, QuantizeError> {
        let rows = parts.iter().map(|p| p.rows()).sum();
        let cols = parts.first().map_or(0, |p| p.cols());
        self.add(name, kind, rows, cols, Source::Rows(parts.iter().map(|&p| p.clone()).collect()))
    }

    fn linear(&mut self, name: &str, parts: &[&Linear]) -> Result<u32, QuantizeError> {
        let weights: Vec<_> = parts.iter().map(|p| &p.weight).collect();
        self.matrix(name, Kind::Matrix(self.options.weights), &weights)
    }

    fn vector(&mut self, name: &str, vector: &TensorRef) -> Result<u32, QuantizeError> {
        self.add(name, Kind::F32, 1, vector.len(), Source::Vectors(vec![Ok(vector.clone())]))
    }

    /// The biases of stacked matrices: none, or one for every row.
    fn bias(&mut self, name: &str, parts: &[&Linear]) -> Result<u32, QuantizeError> {
        if parts.iter().all(|part| part.bias.is_none()) {
            return Ok(NONE);
        }
        let rows = parts.iter().map(|p| p.rows()).sum();
        let vectors = parts.iter().map(|p| p.bias.clone().ok_or(p.rows())).collect();
        self.add(name, Kind::F32, 1, rows, Source::Vectors(vectors))
    }

    /// The rotary table of a block; equal ones are stored once.
    fn rope(&mut self, rope: &Rope) -> Result<u32, QuantizeError> {
        if rope.inv_freq.is_empty() {
            return Ok(NONE);
        }
        let turns = |radians: f64| (radians / TAU * 4_294_967_296.0).round() as u64 as u32;
        let phases: Vec<u32> = rope.inv_freq.iter().map(|&f| turns(f)).collect();
        let same = |(_, source): &(Kind, Source)| matches!(source, Source::Phases(old) if *old == phases);
        match self.sources.iter().position(same) {
            Some(index) => Ok(index as u32),
            None => self.add("rope", Kind::U32, 1, phases.len(), Source::Phases(phases)),
        }
    }

    fn attention(&mut self, a: &Attention) -> Result<BlockRecord, QuantizeError> {
        let name = |part: &str| format!("layer {} attention {part}", a.layer);
        let input = [&a.query, &a.key, &a.value];
        let norm_eps = |norm: &Option<crate::checkpoint::Norm>| norm.as_ref().map_or(0.0, |n| n.eps);
        let head_norm_eps = norm_eps(&a.query_norm).max(norm_eps(&a.key_norm));
        let mut head_norm = |part: &str, norm: &Option<crate::checkpoint::Norm>| match norm {
            Some(norm) => self.vector(&name(part), &norm.weight),
            None => Ok(NONE),
        };
        let (query_norm, key_norm) = (head_norm("query norm", &a.query_norm)?, head_norm("key norm", &a.key_norm)?);
        let heads = |n: usize| {
            let what = format!("{n} attention heads");
            u16::try_from(n).map_err(|_| QuantizeError::Unsupported { what, instead: "at most 65535".into() })
        };
        Ok(BlockRecord {
            kind: block::ATTENTION,
            layer: a.layer as u32,
            norm: self.vector(&name("norm"), &a.norm.weight)?,
            norm_eps: a.norm.eps,
            input: self.linear(&name("query key value"), &input)?,
            input_bias: self.bias(&name("query key value bias"), &input)?,
            output: self.linear(&name("output"), &[&a.output])?,
            output_bias: self.bias(&name("output bias"), &[&a.output])?,
            heads: heads(a.heads)?,
            kv_heads: heads(a.kv_heads)?,
            head_dim: a.head_dim as u32,
            score_scale: a.scale,
            query_norm,
            key_norm,
            head_norm_eps,
            rope: self.rope(&a.rope)?,
            rope_magnitude: a.rope.magnitude,
            ..EMPTY
        })
    }

    fn feed_forward(&mut self, f: &FeedForward) -> Result<BlockRecord, QuantizeError> {
        if f.activation != Activation::Silu {
            let what = format!("the activation {:?} of layer {}", f.activation, f.layer);
            return Err(QuantizeError::Unsupported { what, instead: "it has silu".into() });
        }
        let name = |part: &str| format!("layer {} feed-forward {part}", f.layer);
        let input = [&f.gate, &f.up];
        Ok(BlockRecord {
            kind: block::FEED_FORWARD,
            layer: f.layer as u32,
            norm: self.vector(&name("norm"), &f.norm.weight)?,
            norm_eps: f.norm.eps,
            input: self.linear(&name("gate up"), &input)?,
            input_bias: self.bias(&name("gate up bias"), &input)?,
            output: self.linear(&name("down"), &[&f.down])?,
            output_bias: self.bias(&name("down bias"), &[&f.down])?,
            inner: f.gate.rows() as u32,
            ..EMPTY
        })
    }
}

/// A record that uses nothing.
const EMPTY: BlockRecord = BlockRecord {
    kind: 0,
    norm_kind: 0,
    join: 0,
    variant: 0,
    layer: 0,
    norm: NONE,
    norm_eps: 0.0,
    input: NONE,
    input_bias: NONE,
    output: NONE,
    output_bias: NONE,
    heads: 0,
    kv_heads: 0,
    head_dim: 0,
    score_scale: 0.0,
    query_norm: NONE,
    key_norm: NONE,
    head_norm_eps: 0.0,
    rope: NONE,
    rope_magnitude: 0.0,
    inner: 0,
    reserved: [0; 60],
};
