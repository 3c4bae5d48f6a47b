//! Which tensors and records the tables and rounded blocks of a checkpoint become.

use std::f64::consts::TAU;

use kinglet::Format;
use kinglet::format::layout::{
    BlockRecord, ModelRecord, NONE, StackRecord, activation, block, input, inputs, join, norm,
    pooling, sight,
};

use super::blocks::spreads;
use super::rounded::{RoundedBlock, RoundedLinear};
use super::{Options, QuantizeError, pack, taken};
use crate::checkpoint::{
    Activation, Checkpoint, Input, Join, Linear, NormKind, Pooling, Positions, Rope, Sight, Stack,
    TensorRef,
};
use crate::reference::{Heads, Inputs, Middle, NormWeights, Site};
use kinglet_model::write::{Kind, Outline};

/// Where a tensor's numbers come from.
#[derive(Clone, Debug)]
pub(super) enum Source {
    /// A table of the checkpoint, in this format; its rows are transformed if they are those of a
    /// product with such inputs.
    Table(TensorRef, Format, Inputs),
    /// Rows of so many numbers, in this format.
    Rows(Vec<f32>, usize, Format),
    /// The first product of a block, or the second.
    Product {
        /// The block.
        block: usize,
        /// Which of its products.
        site: Site,
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

/// Positions and types of tokens are read by rows and added to others: eight bits are enough, and
/// four would be seen.
const TABLES: Format = Format::Int8;

impl<'c> Build<'c> {
    /// A model without stacks.
    pub(super) fn new(checkpoint: &'c Checkpoint, options: &'c Options) -> Self {
        Self {
            checkpoint,
            options,
            outline: Outline::new(ModelRecord::EMPTY),
            sources: vec![],
            prefix: String::new(),
        }
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
                let head =
                    self.checkpoint.architecture().output.head.as_ref().map(|head| &head.weight);
                let inputs = if head == Some(embed) {
                    self.inputs(embed, self.options.embeddings)
                } else {
                    Inputs::Rounded
                };
                record.embedding =
                    self.table("embedding", embed, self.options.embeddings, inputs)?;
                record.embedding_scale = *scale;
                record.types = types.as_ref().map_or(Ok(NONE), |types| {
                    self.table("types", types, TABLES, Inputs::Rounded)
                })?;
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
                    u16::try_from(n).map_err(|_| QuantizeError::Unsupported {
                        what,
                        instead: "at most 65535".into(),
                    })
                };
                (record.picture_height, record.picture_width) =
                    (size(picture.height)?, size(picture.width)?);
                (record.patch, record.channels) = (size(picture.patch)?, size(picture.channels)?);
                record.pixel =
                    self.vector("pixel", &[&picture.scale[..], &picture.offset].concat())?;
            }
            Input::Queries(queries) => {
                record.input = input::QUERIES;
                record.embedding = self.table("queries", queries, TABLES, Inputs::Rounded)?;
            }
            Input::States => record.input = input::STATES,
        }
        record.positions = match &stack.positions {
            None => NONE,
            Some(Positions::Learned(table)) => {
                self.table("positions", table, TABLES, Inputs::Rounded)?
            }
            Some(Positions::Table(rows)) => {
                let source = Source::Rows(rows.to_vec(), stack.width, TABLES);
                self.add(
                    "positions",
                    Kind::Matrix(TABLES),
                    rows.len() / stack.width,
                    stack.width,
                    source,
                )?
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
        record.embedding = self.table("input", &linear.weight, TABLES, Inputs::Rounded)?;
        record.input_bias = self.read("input bias", linear.bias.as_ref())?;
        record.class = self.read("class", class)?;
        Ok(())
    }

    /// Adds the next block of the last stack begun.
    pub(super) fn block(&mut self, block: &RoundedBlock) -> Result<(), QuantizeError> {
        let index = self.outline.blocks.len();
        let mut record = self.common(index, block)?;
        match &block.middle {
            Middle::Attention(heads) => self.attention(&mut record, index, block, heads)?,
            Middle::FeedForward { activation, gated } => {
                let plain = if *gated { 0 } else { activation::PLAIN };
                (record.kind, record.variant) = (block::FEED_FORWARD, code(*activation) | plain);
                record.inner = block.output.cols as u32;
            }
            Middle::Projection => record.kind = block::PROJECTION,
        }
        self.outline.blocks.push(record);
        if let Some(stack) = self.outline.stacks.last_mut() {
            stack.blocks += 1;
        }
        Ok(())
    }

    /// The norm behind a stack of the checkpoint.
    pub(super) fn norm(&self, stack: &Stack) -> Result<Option<NormWeights>, QuantizeError> {
        Ok(NormWeights::maybe(self.checkpoint, &stack.norm)?)
    }

    /// Ends the last stack begun, with the norm behind it.
    pub(super) fn end(&mut self, norm: Option<&NormWeights>) -> Result<(), QuantizeError> {
        let Some(of) = norm else { return Ok(()) };
        let (weight, bias) = (self.vector("norm", &of.weight)?, self.norm_bias("norm bias", of)?);
        if let Some(stack) = self.outline.stacks.last_mut() {
            (stack.norm_kind, stack.norm, stack.norm_bias, stack.norm_eps) =
                (kind(of.kind), weight, bias, of.eps);
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
            model.dense = self.table(
                "dense",
                &dense.weight,
                self.options.head,
                self.inputs(&dense.weight, self.options.head),
            )?;
            model.dense_bias = self.read("dense bias", dense.bias.as_ref())?;
            model.dense_activation = code(*activation);
        }
        if let Some(head) = &output.head {
            model.head = match self.outline.stacks.last() {
                Some(stack) if architecture.tied() => stack.embedding,
                _ => self.table(
                    "head",
                    &head.weight,
                    self.options.head,
                    self.inputs(&head.weight, self.options.head),
                )?,
            };
            model.head_bias = self.read("head bias", head.bias.as_ref())?;
        }
        self.outline.model = model;
        Ok((self.outline, self.sources))
    }

    /// A table of the checkpoint; the same one is stored once.
    fn table(
        &mut self,
        name: &str,
        of: &TensorRef,
        format: Format,
        inputs: Inputs,
    ) -> Result<u32, QuantizeError> {
        let same = |source: &Source| matches!(source, Source::Table(a, b, c) if (a, *b, *c) == (of, format, inputs));
        if let Some(index) = self.sources.iter().position(same) {
            return Ok(index as u32);
        }
        let source = Source::Table(of.clone(), format, inputs);
        let index = self.add(name, Kind::Matrix(format), of.rows(), of.cols(), source)?;
        self.outline.inputs(index, inputs.code());
        Ok(index)
    }

    /// What the inputs of a product with this matrix of this format go through.
    fn inputs(&self, of: &TensorRef, format: Format) -> Inputs {
        if taken::of_table(self.checkpoint, of, format, self.options).is_some() {
            return Inputs::Planes;
        }
        if self.options.transform && spreads(of.cols()) {
            Inputs::Transformed
        } else {
            Inputs::Rounded
        }
    }

    /// A vector of the checkpoint.
    fn read(&mut self, name: &str, of: Option<&TensorRef>) -> Result<u32, QuantizeError> {
        of.map_or(Ok(NONE), |of| {
            let vector = self.checkpoint.read(of)?;
            self.vector(name, &vector)
        })
    }

    fn add(
        &mut self,
        name: &str,
        kind: Kind,
        rows: usize,
        cols: usize,
        source: Source,
    ) -> Result<u32, QuantizeError> {
        let index = self.outline.tensor(&format!("{}{name}", self.prefix), kind, rows, cols)?;
        self.sources.push(source);
        Ok(index)
    }

    fn product(
        &mut self,
        name: &str,
        of: &RoundedLinear,
        block: usize,
        site: Site,
    ) -> Result<u32, QuantizeError> {
        let source = Source::Product { block, site };
        let index = self.add(name, pack::kind(of), of.rows.len(), of.cols, source)?;
        self.outline.inputs(index, of.inputs.code());
        Ok(index)
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

    /// What all kinds of blocks have.
    fn common(&mut self, index: usize, b: &RoundedBlock) -> Result<BlockRecord, QuantizeError> {
        let (kind, [first, last]) = names(&b.middle);
        let name = |part: &str| format!("layer {} {kind} {part}", b.layer);
        let mut record = BlockRecord { layer: b.layer as u32, ..BlockRecord::EMPTY };
        if let Some(norm) = &b.norm {
            (record.norm_kind, record.norm_eps) = (self::kind(norm.kind), norm.eps);
            record.norm = self.vector(&name("norm"), &norm.weight)?;
            record.norm_bias = self.norm_bias(&name("norm bias"), norm)?;
        }
        record.join = match b.join {
            Join::Pre => join::PRE,
            Join::Post => join::POST,
            Join::Replace => join::REPLACE,
        };
        if let Some(norm) = &b.stream_norm {
            record.stream_norm = self.vector(&name("stream norm"), &norm.weight)?;
            record.stream_norm_bias = self.norm_bias(&name("stream norm bias"), norm)?;
        }
        if let Some(input) = &b.input {
            record.input = self.product(&name(first), input, index, Site::Input)?;
            record.input_bias = self.maybe(&name(&format!("{first} bias")), input.bias.as_ref())?;
        }
        if let Some(memory) = &b.memory {
            record.memory = self.product(&name("key value"), memory, index, Site::Memory)?;
            record.memory_bias = self.maybe(&name("key value bias"), memory.bias.as_ref())?;
        }
        record.output = self.product(&name(last), &b.output, index, Site::Output)?;
        record.output_bias = self.maybe(&name(&format!("{last} bias")), b.output.bias.as_ref())?;
        Ok(record)
    }

    fn norm_bias(&mut self, name: &str, norm: &NormWeights) -> Result<u32, QuantizeError> {
        norm.stored_bias().map_or(Ok(NONE), |bias| self.vector(name, &bias))
    }

    fn attention(
        &mut self,
        record: &mut BlockRecord,
        index: usize,
        b: &RoundedBlock,
        heads: &Heads,
    ) -> Result<(), QuantizeError> {
        let name = |part: &str| format!("layer {} attention {part}", b.layer);
        let eps = |norm: &Option<NormWeights>| norm.as_ref().map_or(0.0, |n| n.eps);
        let count = |n: usize| {
            let what = format!("{n} attention heads");
            u16::try_from(n)
                .map_err(|_| QuantizeError::Unsupported { what, instead: "at most 65535".into() })
        };
        (record.kind, record.variant) = match heads.sight {
            Sight::Earlier => (block::ATTENTION, sight::EARLIER),
            Sight::All => (block::ATTENTION, sight::ALL),
            Sight::Cross => (block::ATTENTION, sight::CROSS),
        };
        (record.heads, record.kv_heads) = (count(heads.heads)?, count(heads.kv_heads)?);
        (record.head_dim, record.score_scale) = (heads.dim as u32, heads.scale);
        record.query_norm =
            self.maybe(&name("query norm"), heads.query_norm.as_ref().map(|n| &n.weight))?;
        record.key_norm =
            self.maybe(&name("key norm"), heads.key_norm.as_ref().map(|n| &n.weight))?;
        if heads.transforms {
            record.heads_inputs = inputs::TRANSFORMED.into();
        }
        record.head_norm_eps = eps(&heads.query_norm).max(eps(&heads.key_norm));
        if heads.sight == Sight::Cross && (heads.key_norm.is_some() || heads.rope.is_some()) {
            let what = format!("a norm or rotation of the keys that block {index} looks at across");
            return Err(QuantizeError::Unsupported { what, instead: "leave them out".into() });
        }
        if let Some(rope) = &heads.rope {
            (record.rope, record.rope_magnitude) = (self.rope(rope)?, rope.magnitude);
        }
        if let Some(relative) = &heads.relative {
            // In powers of two, as the runtime computes the softmax.
            let scaled: Vec<f32> = relative.iter().map(|x| x * std::f32::consts::LOG2_E).collect();
            let same = |source: &Source| matches!(source, Source::Vector(old) if *old == scaled);
            record.relative = match self.sources.iter().position(same) {
                Some(index) => index as u32,
                None => self.vector("bias by distance", &scaled)?,
            };
        }
        Ok(())
    }
}

/// What a block is called in the names of its tensors, and its products of the stream and back to
/// it.
pub(crate) fn names(middle: &Middle) -> (&'static str, [&'static str; 2]) {
    match middle {
        Middle::Attention(heads) if heads.sight == Sight::Cross => {
            ("cross attention", ["query", "output"])
        }
        Middle::Attention(_) => ("attention", ["query key value", "output"]),
        Middle::FeedForward { gated: true, .. } => ("feed-forward", ["gate up", "down"]),
        Middle::FeedForward { gated: false, .. } => ("feed-forward", ["up", "down"]),
        Middle::Projection => ("projection", ["", "output"]),
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
