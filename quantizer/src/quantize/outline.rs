//! Which tensors and records rounded blocks become.

use std::f64::consts::TAU;

use kinglet::Format;
use kinglet::format::layout::{BlockRecord, ModelRecord, NONE, block};

use super::rounded::{RoundedBlock, RoundedLinear};
use super::{QuantizeError, pack};
use crate::checkpoint::{Activation, Architecture, Rope};
use crate::file::{Kind, Outline};
use crate::reference::{Heads, Middle, NormWeights};

/// Where a tensor's numbers come from.
#[derive(Clone, Debug)]
pub(super) enum Source {
    /// The embedding.
    Embedding,
    /// The head.
    Head,
    /// The first product of a block, or the second.
    Product {
        /// The block.
        block: usize,
        /// Which of its products.
        output: bool,
    },
    /// These numbers.
    Vector(Vec<f32>),
    /// Phases a position in 2^-32 turns.
    Phases(Vec<u32>),
}

/// An outline in the making.
pub(super) struct Build {
    outline: Outline,
    sources: Vec<Source>,
}

impl Build {
    /// A model without blocks.
    pub(super) fn new(architecture: &Architecture, embeddings: Format) -> Result<Self, QuantizeError> {
        let model = ModelRecord {
            kind: 0,
            width: architecture.last().width as u32,
            vocab: architecture.vocab() as u32,
            context: architecture.last().context as u32,
            blocks: 0,
            tensors: 0,
            embedding: NONE,
            head: NONE,
            norm: NONE,
            norm_eps: architecture.last().norm.as_ref().map_or(0.0, |norm| norm.eps),
            reserved: [0; 24],
        };
        let mut build = Self { outline: Outline::new(model), sources: vec![] };
        let (rows, cols) = (architecture.vocab(), architecture.last().width);
        build.outline.model.embedding =
            build.add("embedding", Kind::Matrix(embeddings), rows, cols, Source::Embedding)?;
        Ok(build)
    }

    /// Adds the next block.
    pub(super) fn block(&mut self, block: &RoundedBlock) -> Result<(), QuantizeError> {
        let index = self.outline.blocks.len();
        let record = match &block.middle {
            Middle::Attention(heads) => self.attention(index, block, heads)?,
            Middle::FeedForward(activation) => self.feed_forward(index, block, *activation)?,
        };
        self.outline.blocks.push(record);
        Ok(())
    }

    /// Adds norm and head; no format for a head that is the embedding.
    pub(super) fn finish(
        mut self,
        norm: &[f32],
        head: Option<Format>,
    ) -> Result<(Outline, Vec<Source>), QuantizeError> {
        let norm = self.vector("norm", norm)?;
        let model = self.outline.model;
        let head = match head {
            None => model.embedding,
            Some(format) => {
                self.add("head", Kind::Matrix(format), model.vocab as usize, model.width as usize, Source::Head)?
            }
        };
        (self.outline.model.norm, self.outline.model.head) = (norm, head);
        Ok((self.outline, self.sources))
    }

    fn add(&mut self, name: &str, kind: Kind, rows: usize, cols: usize, source: Source) -> Result<u32, QuantizeError> {
        let index = self.outline.tensor(name, kind, rows, cols)?;
        self.sources.push(source);
        Ok(index)
    }

    fn product(&mut self, name: &str, of: &RoundedLinear, block: usize, output: bool) -> Result<u32, QuantizeError> {
        let source = Source::Product { block, output };
        self.add(name, pack::kind(of), of.rows.len(), of.cols, source)
    }

    fn vector(&mut self, name: &str, vector: &[f32]) -> Result<u32, QuantizeError> {
        self.add(name, Kind::F32, 1, vector.len(), Source::Vector(vector.to_vec()))
    }

    fn maybe(&mut self, name: &str, vector: Option<&Vec<f32>>) -> Result<u32, QuantizeError> {
        vector.map_or(Ok(NONE), |vector| self.vector(name, vector))
    }

    /// The rotary table of a block; equal ones are stored once.
    fn rope(&mut self, rope: &Rope) -> Result<u32, QuantizeError> {
        if rope.inv_freq.is_empty() {
            return Ok(NONE);
        }
        let turns = |radians: f64| (radians / TAU * 4_294_967_296.0).round() as u64 as u32;
        let phases: Vec<u32> = rope.inv_freq.iter().map(|&f| turns(f)).collect();
        let same = |source: &Source| matches!(source, Source::Phases(old) if *old == phases);
        match self.sources.iter().position(same) {
            Some(index) => Ok(index as u32),
            None => self.add("rope", Kind::U32, 1, phases.len(), Source::Phases(phases)),
        }
    }

    fn attention(&mut self, index: usize, b: &RoundedBlock, heads: &Heads) -> Result<BlockRecord, QuantizeError> {
        let name = |part: &str| format!("layer {} attention {part}", b.layer);
        let eps = |norm: &Option<NormWeights>| norm.as_ref().map_or(0.0, |n| n.eps);
        let mut head_norm =
            |part: &str, norm: &Option<NormWeights>| self.maybe(&name(part), norm.as_ref().map(|n| &n.weight));
        let query_norm = head_norm("query norm", &heads.query_norm)?;
        let key_norm = head_norm("key norm", &heads.key_norm)?;
        let count = |n: usize| {
            let what = format!("{n} attention heads");
            u16::try_from(n).map_err(|_| QuantizeError::Unsupported { what, instead: "at most 65535".into() })
        };
        Ok(BlockRecord {
            kind: block::ATTENTION,
            layer: b.layer as u32,
            norm: self.vector(&name("norm"), &b.norm.weight)?,
            norm_eps: b.norm.eps,
            input: self.product(&name("query key value"), &b.input, index, false)?,
            input_bias: self.maybe(&name("query key value bias"), b.input.bias.as_ref())?,
            output: self.product(&name("output"), &b.output, index, true)?,
            output_bias: self.maybe(&name("output bias"), b.output.bias.as_ref())?,
            heads: count(heads.heads)?,
            kv_heads: count(heads.kv_heads)?,
            head_dim: heads.dim as u32,
            score_scale: heads.scale,
            query_norm,
            key_norm,
            head_norm_eps: eps(&heads.query_norm).max(eps(&heads.key_norm)),
            rope: heads.rope.as_ref().map_or(Ok(NONE), |rope| self.rope(rope))?,
            rope_magnitude: heads.rope.as_ref().map_or(0.0, |rope| rope.magnitude),
            ..EMPTY
        })
    }

    fn feed_forward(
        &mut self,
        index: usize,
        b: &RoundedBlock,
        activation: Activation,
    ) -> Result<BlockRecord, QuantizeError> {
        if activation != Activation::Silu {
            let what = format!("the activation {activation:?} of layer {}", b.layer);
            return Err(QuantizeError::Unsupported { what, instead: "it has silu".into() });
        }
        let name = |part: &str| format!("layer {} feed-forward {part}", b.layer);
        Ok(BlockRecord {
            kind: block::FEED_FORWARD,
            layer: b.layer as u32,
            norm: self.vector(&name("norm"), &b.norm.weight)?,
            norm_eps: b.norm.eps,
            input: self.product(&name("gate up"), &b.input, index, false)?,
            input_bias: self.maybe(&name("gate up bias"), b.input.bias.as_ref())?,
            output: self.product(&name("down"), &b.output, index, true)?,
            output_bias: self.maybe(&name("down bias"), b.output.bias.as_ref())?,
            inner: b.output.cols as u32,
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
