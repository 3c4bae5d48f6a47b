//! Which tensors and records the tables and rounded blocks of a checkpoint become.

use std::f64::consts::TAU;

use kinglet::Format;
use kinglet::format::layout::{BlockRecord, ModelRecord, NONE, StackRecord, activation, block, input, norm, pooling};

use super::rounded::{RoundedBlock, RoundedLinear};
use super::{Options, QuantizeError, pack};
use crate::checkpoint::{Activation, Checkpoint, Input, Linear, NormKind, Pooling, Positions, Rope, Stack, TensorRef};
use crate::file::{Kind, Outline};
use crate::reference::{Heads, Middle, NormWeights};

/// Where a tensor's numbers come from.
#[derive(Clone, Debug)]
pub(super) enum Source {
    /// A table of the checkpoint, in this format.
    Table(TensorRef, Format),
    /// Rows of so many numbers, in this format.
    Rows(Vec<f32>, usize, Format),
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
pub(super) struct Build<'c> {
    checkpoint: &'c Checkpoint,
    options: &'c Options,
    outline: Outline,
    sources: Vec<Source>,
    /// In front of names: which stack it is, if there are several.
    prefix: String,
}

/// Positions and types of tokens are read by rows and added to others: eight bits are enough, and four would be seen.
const TABLES: Format = Format::Int8;

impl<'c> Build<'c> {
    /// A model without stacks.
    pub(super) fn new(checkpoint: &'c Checkpoint, options: &'c Options) -> Self {
        Self { checkpoint, options, outline: Outline::new(ModelRecord::EMPTY), sources: vec![], prefix: String::new() }
    }

    /// Begins the next stack.
    pub(super) fn stack(&mut self, stack: &Stack) -> Result<(), QuantizeError> {
        let number = self.outline.stacks.len();
        if self.checkpoint.architecture().stacks.len() > 1 {
            self.prefix = format!("stack {number} ");
        }
        let mut record = StackRecord {
            width: stack.width as u32,
            out: stack.end_width() as u32,
            context: stack.context as u32,
            ..StackRecord::EMPTY
        };
        match &stack.input {
            Input::Tokens { embed, scale, types } => {
                record.embedding = self.table("embedding", embed, self.options.embeddings)?;
                record.embedding_scale = *scale;
                record.types = types.as_ref().map_or(Ok(NONE), |types| self.table("types", types, TABLES))?;
            }
            Input::Features { linear, class } => {
                record.input = input::FEATURES;
                self.features(&mut record, linear, class.as_ref())?;
            }
            Input::Pixels { linear, class, picture } => {
                record.input = input::PIXELS;
                self.features(&mut record, linear, class.as_ref())?;
                let size = |n: usize| {
                    let what = format!("pictures with {n} rows, columns or channels");
                    u16::try_from(n).map_err(|_| QuantizeError::Unsupported { what, instead: "at most 65535".into() })
                };
                (record.picture_height, record.picture_width) = (size(picture.height)?, size(picture.width)?);
                (record.patch, record.channels) = (size(picture.patch)?, size(picture.channels)?);
                record.pixel = self.vector("pixel", &[&picture.scale[..], &picture.offset].concat())?;
            }
            Input::Queries(queries) => {
                record.input = input::QUERIES;
                record.embedding = self.table("queries", queries, TABLES)?;
            }
            Input::States => record.input = input::STATES,
        }
        record.positions = match &stack.positions {
            None => NONE,
            Some(Positions::Learned(table)) => self.table("positions", table, TABLES)?,
            Some(Positions::Table(rows)) => {
                let source = Source::Rows(rows.to_vec(), stack.width, TABLES);
                self.add("positions", Kind::Matrix(TABLES), rows.len() / stack.width, stack.width, source)?
            }
        };
        self.outline.stacks.push(record);
        Ok(())
    }

    fn features(
        &mut self,
        record: &mut StackRecord,
        linear: &Linear,
        class: Option<&TensorRef>,
    ) -> Result<(), QuantizeError> {
        record.embedding = self.table("input", &linear.weight, TABLES)?;
        record.input_bias = self.read("input bias", linear.bias.as_ref())?;
        record.class = self.read("class", class)?;
        Ok(())
    }

    /// Adds the next block of the last stack begun.
    pub(super) fn block(&mut self, block: &RoundedBlock) -> Result<(), QuantizeError> {
        let index = self.outline.blocks.len();
        let record = match &block.middle {
            Middle::Attention(heads) => self.attention(index, block, heads)?,
            Middle::FeedForward(activation) => self.feed_forward(index, block, *activation)?,
        };
        self.outline.blocks.push(record);
        if let Some(stack) = self.outline.stacks.last_mut() {
            stack.blocks += 1;
        }
        Ok(())
    }

    /// Ends the last stack begun, with the norm behind it.
    pub(super) fn end(&mut self, norm: Option<&NormWeights>) -> Result<(), QuantizeError> {
        let Some(of) = norm else { return Ok(()) };
        let (weight, bias) = (self.vector("norm", &of.weight)?, NONE);
        if let Some(stack) = self.outline.stacks.last_mut() {
            (stack.norm_kind, stack.norm, stack.norm_bias, stack.norm_eps) =
                (kind(NormKind::Rms), weight, bias, of.eps);
        }
        Ok(())
    }

    /// Adds what follows the last stack.
    pub(super) fn finish(mut self) -> Result<(Outline, Vec<Source>), QuantizeError> {
        self.prefix = String::new();
        let architecture = self.checkpoint.architecture();
        let output = &architecture.output;
        let mut model = self.outline.model;
        model.pooling = match output.pooling {
            Pooling::None => pooling::NONE,
            Pooling::First => pooling::FIRST,
            Pooling::Mean => pooling::MEAN,
            Pooling::Max => pooling::MAX,
        };
        model.normalize = u8::from(output.normalize);
        model.start = architecture.start.unwrap_or(NONE);
        if let Some((dense, activation)) = &output.dense {
            model.dense = self.table("dense", &dense.weight, self.options.head)?;
            model.dense_bias = self.read("dense bias", dense.bias.as_ref())?;
            model.dense_activation = code(*activation);
        }
        if let Some(head) = &output.head {
            model.head = match self.outline.stacks.last() {
                Some(stack) if architecture.tied() => stack.embedding,
                _ => self.table("head", &head.weight, self.options.head)?,
            };
            model.head_bias = self.read("head bias", head.bias.as_ref())?;
        }
        self.outline.model = model;
        Ok((self.outline, self.sources))
    }

    /// A table of the checkpoint; the same one is stored once.
    fn table(&mut self, name: &str, of: &TensorRef, format: Format) -> Result<u32, QuantizeError> {
        let same = |source: &Source| matches!(source, Source::Table(old, as_old) if old == of && *as_old == format);
        match self.sources.iter().position(same) {
            Some(index) => Ok(index as u32),
            None => self.add(name, Kind::Matrix(format), of.rows(), of.cols(), Source::Table(of.clone(), format)),
        }
    }

    /// A vector of the checkpoint.
    fn read(&mut self, name: &str, of: Option<&TensorRef>) -> Result<u32, QuantizeError> {
        of.map_or(Ok(NONE), |of| {
            let vector = self.checkpoint.read(of)?;
            self.vector(name, &vector)
        })
    }

    fn add(&mut self, name: &str, kind: Kind, rows: usize, cols: usize, source: Source) -> Result<u32, QuantizeError> {
        let index = self.outline.tensor(&format!("{}{name}", self.prefix), kind, rows, cols)?;
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
            ..BlockRecord::EMPTY
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
            ..BlockRecord::EMPTY
        })
    }
}

fn kind(of: NormKind) -> u8 {
    match of {
        NormKind::Rms => norm::RMS,
        NormKind::Layer => norm::LAYER,
    }
}

fn code(of: Activation) -> u8 {
    match of {
        Activation::Silu => activation::SILU,
        Activation::Gelu => activation::GELU,
        Activation::GeluTanh => activation::GELU_TANH,
        Activation::Relu => activation::RELU,
        Activation::Tanh => activation::TANH,
        Activation::Identity => activation::IDENTITY,
    }
}
