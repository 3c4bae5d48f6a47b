//! Which tensors and records the tables and rounded blocks of a checkpoint become.

use std::f64::consts::TAU;
use std::sync::Arc;

use kinglet::Format;
use kinglet_model::layout::{ModelRecord, NONE, StackRecord, input};
use kinglet_model::lowering::{Lower, Part, Unstorable, lower, norm_code, pooling_code};
use kinglet_model::write::{Kind, Outline};
use kinglet_model::{Inputs, Mask, NormKind, Operation, Parts, Picture, Site};

use crate::blocks::spreads;
use crate::rounding::pack;
use crate::rounding::rounded::{Rounded, RoundedBlock, RoundedLinear};
use crate::{Options, QuantizeError, taken};
use kinglet_import::checkpoint::{Checkpoint, Input, Linear, Stack, TensorRef, Values, end_width};
use kinglet_reference::{NormWeights, read_norm};

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
            out: end_width(stack) as u32,
            context: stack.context as u32,
            ..StackRecord::EMPTY
        };
        match &stack.input {
            Input::Tokens { embedding, scale, types } => {
                let head = self.checkpoint.architecture().output.head.as_ref();
                let format = self.options.embeddings;
                let inputs = match embedding.tensor() {
                    Some(of) if head.and_then(Linear::alone) == Some(of) => self.inputs(of, format),
                    _ => Inputs::Rounded,
                };
                record.embedding = self.values("embedding", embedding, format, inputs)?;
                record.embedding_scale = *scale;
                record.types = self.plain("types", types.as_ref())?;
            }
            Input::Features { linear, class, picture } => {
                record.input = input::FEATURES;
                record.embedding = self.product("input", linear, TABLES, |_| Inputs::Rounded)?;
                record.input_bias = self.bias("input bias", linear)?;
                if let Some(class) = class {
                    let class = self.checkpoint.values(class)?;
                    record.class = self.vector("class", &class)?;
                }
                if let Some(picture) = picture {
                    self.picture(&mut record, picture)?;
                }
            }
            Input::Queries(queries) => {
                record.input = input::QUERIES;
                record.embedding = self.plain("queries", Some(queries))?;
            }
            Input::States => record.input = input::STATES,
        }
        record.positions = self.plain("positions", stack.positions.as_ref())?;
        self.outline.stacks.push(record);
        Ok(())
    }

    fn picture(
        &mut self,
        record: &mut StackRecord,
        of: &Picture<Values>,
    ) -> Result<(), QuantizeError> {
        record.input = input::PIXELS;
        let size = |n: usize| {
            let what = format!("pictures with {n} rows, columns or channels");
            u16::try_from(n)
                .map_err(|_| QuantizeError::Unsupported { what, instead: "at most 65535".into() })
        };
        (record.picture_height, record.picture_width) = (size(of.height)?, size(of.width)?);
        (record.patch, record.channels) = (size(of.patch)?, size(of.channels)?);
        let pixel = self.checkpoint.values(&of.pixel)?;
        record.pixel = self.vector("pixel", &pixel)?;
        Ok(())
    }

    /// Adds the next block of the last stack begun.
    pub(super) fn block(&mut self, block: &RoundedBlock) -> Result<(), QuantizeError> {
        let index = self.outline.blocks.len();
        let record = lower(block, &mut Tensors { build: self, block, number: index })?;
        self.outline.blocks.push(record);
        if let Some(stack) = self.outline.stacks.last_mut() {
            stack.blocks += 1;
        }
        Ok(())
    }

    /// The norm after a stack of the checkpoint.
    pub(super) fn norm(&self, stack: &Stack) -> Result<Option<NormWeights>, QuantizeError> {
        Ok(read_norm(self.checkpoint, &stack.norm)?)
    }

    /// Ends the last stack begun, with the norm after it.
    pub(super) fn end(&mut self, norm: Option<&NormWeights>) -> Result<(), QuantizeError> {
        let Some(of) = norm else { return Ok(()) };
        let weight = self.vector("norm", &of.weight)?;
        let bias = match (&of.bias, of.kind) {
            (Some(bias), _) => self.vector("norm bias", bias)?,
            (None, NormKind::Layer) => self.vector("norm bias", &vec![0.0; of.weight.len()])?,
            (None, NormKind::Rms) => NONE,
        };
        if let Some(stack) = self.outline.stacks.last_mut() {
            (stack.norm_kind, stack.norm, stack.norm_bias, stack.norm_eps) =
                (norm_code(of.kind), weight, bias, of.eps);
        }
        Ok(())
    }

    /// Adds what follows the last stack.
    pub(super) fn finish(mut self) -> Result<(Outline, Vec<Source>), QuantizeError> {
        self.prefix = String::new();
        let architecture = self.checkpoint.architecture();
        let output = &architecture.output;
        let mut model = self.outline.model;
        model.pooling = pooling_code(output.pooling);
        model.normalize = u8::from(output.normalize);
        model.start = architecture.start.unwrap_or(NONE);
        let format = self.options.head;
        if let Some((dense, activation)) = &output.dense {
            model.dense = self.product("dense", dense, format, |build| build.of(dense, format))?;
            model.dense_bias = self.bias("dense bias", dense)?;
            model.dense_activation = activation.code();
        }
        if let Some(head) = &output.head {
            model.head = match self.outline.stacks.last() {
                Some(stack) if architecture.tied() => stack.embedding,
                _ => self.product("head", head, format, |build| build.of(head, format))?,
            };
            model.head_bias = self.bias("head bias", head)?;
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
        self.outline.inputs(index, inputs);
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

    /// What the inputs of a product of one tensor go through.
    fn of(&self, linear: &Linear, format: Format) -> Inputs {
        linear.alone().map_or(Inputs::Rounded, |of| self.inputs(of, format))
    }

    /// A product of one tensor, which follows or precedes all blocks.
    fn product(
        &mut self,
        name: &str,
        of: &Linear,
        format: Format,
        inputs: impl FnOnce(&Self) -> Inputs,
    ) -> Result<u32, QuantizeError> {
        let inputs = inputs(self);
        let tensor = of.alone().ok_or_else(|| QuantizeError::Unsupported {
            what: format!("the {name} of several tensors"),
            instead: "one".into(),
        })?;
        self.table(name, tensor, format, inputs)
    }

    /// Its bias.
    fn bias(&mut self, name: &str, of: &Linear) -> Result<u32, QuantizeError> {
        let bias = of.parts().first().and_then(|part| part.bias.as_ref());
        bias.map_or(Ok(NONE), |bias| {
            let vector = self.checkpoint.read(bias)?;
            self.vector(name, &vector)
        })
    }

    /// A table whose rows are as they are, if there is one.
    fn plain(&mut self, name: &str, of: Option<&Values>) -> Result<u32, QuantizeError> {
        of.map_or(Ok(NONE), |of| self.values(name, of, TABLES, Inputs::Rounded))
    }

    /// A table of the checkpoint, or one that was computed.
    fn values(
        &mut self,
        name: &str,
        of: &Values,
        format: Format,
        inputs: Inputs,
    ) -> Result<u32, QuantizeError> {
        match of {
            Values::Tensor(tensor) => self.table(name, tensor, format, inputs),
            Values::Computed(numbers, cols) => {
                let source = Source::Rows(numbers.to_vec(), *cols, format);
                self.add(name, Kind::Matrix(format), of.rows(), *cols, source)
            }
        }
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

    fn vector(&mut self, name: &str, vector: &[f32]) -> Result<u32, QuantizeError> {
        self.add(name, Kind::F32, 1, vector.len(), Source::Vector(vector.to_vec()))
    }
}

/// The tensors of one block on their way into an outline.
struct Tensors<'b, 'c> {
    build: &'b mut Build<'c>,
    block: &'b RoundedBlock,
    /// Its number.
    number: usize,
}

impl Lower<Rounded> for Tensors<'_, '_> {
    type Error = QuantizeError;

    fn linear(&mut self, part: Part, of: &RoundedLinear) -> Result<(u32, u32), QuantizeError> {
        let (site, bias) = match part {
            Part::Input => (Site::Input, Part::InputBias),
            Part::States => (Site::States, Part::StatesBias),
            _ => (Site::Output, Part::OutputBias),
        };
        let source = Source::Product { block: self.number, site };
        let (name, rows) = (tensor_name(self.block, part), of.rows.len());
        let index = self.build.add(&name, pack::kind(of), rows, of.cols, source)?;
        self.build.outline.inputs(index, of.inputs);
        let bias = match &of.bias {
            Some(vector) => self.vector(bias, vector)?,
            None => NONE,
        };
        Ok((index, bias))
    }

    fn vector(&mut self, part: Part, of: &Vec<f32>) -> Result<u32, QuantizeError> {
        self.build.vector(&tensor_name(self.block, part), of)
    }

    fn zeros(&mut self, part: Part, like: &Vec<f32>) -> Result<u32, QuantizeError> {
        self.build.vector(&tensor_name(self.block, part), &vec![0.0; like.len()])
    }

    /// As phases; equal ones are stored once.
    fn frequencies(&mut self, of: &Vec<f64>) -> Result<u32, QuantizeError> {
        if of.is_empty() {
            return Ok(NONE);
        }
        let turns = |radians: f64| (radians / TAU * 4_294_967_296.0).round() as u64 as u32;
        let phases: Vec<u32> = of.iter().map(|&f| turns(f)).collect();
        let same = |source: &Source| matches!(source, Source::Phases(old) if *old == phases);
        if let Some(index) = self.build.sources.iter().position(same) {
            return Ok(index as u32);
        }
        let (name, count) = (tensor_name(self.block, Part::Frequencies), phases.len());
        self.build.add(&name, Kind::U32, 1, count, Source::Phases(phases))
    }

    /// In powers of two, as the runtime computes the softmax; equal ones are stored once.
    fn relative(&mut self, of: &Arc<Vec<f32>>) -> Result<u32, QuantizeError> {
        let scaled: Vec<f32> = of.iter().map(|x| x * std::f32::consts::LOG2_E).collect();
        let same = |source: &Source| matches!(source, Source::Vector(old) if *old == scaled);
        match self.build.sources.iter().position(same) {
            Some(index) => Ok(index as u32),
            None => self.vector(Part::Relative, &scaled),
        }
    }

    fn cols(&self, of: &RoundedLinear) -> usize {
        of.cols
    }
}

impl From<Unstorable> for QuantizeError {
    fn from(what: Unstorable) -> Self {
        let (what, instead) = match what {
            Unstorable::Heads(count) => (format!("{count} attention heads"), "at most 65535"),
            Unstorable::CrossKeys => (
                "a norm or rotation of the keys that a block looks at across".to_owned(),
                "leave them out",
            ),
        };
        Self::Unsupported { what, instead: instead.into() }
    }
}

/// What a tensor of a block is called.
pub fn tensor_name(block: &RoundedBlock, part: Part) -> String {
    let (kind, [first, last]) = names(&block.operation);
    let part = match part {
        Part::Norm => "norm",
        Part::NormBias => "norm bias",
        Part::StreamNorm => "stream norm",
        Part::StreamNormBias => "stream norm bias",
        Part::Input => first,
        Part::InputBias => &format!("{first} bias"),
        Part::States => "key value",
        Part::StatesBias => "key value bias",
        Part::Output => last,
        Part::OutputBias => &format!("{last} bias"),
        Part::QueryNorm => return format!("layer {} attention query norm", block.layer),
        Part::KeyNorm => return format!("layer {} attention key norm", block.layer),
        Part::Frequencies => return "rope".to_owned(),
        Part::Relative => return "bias by distance".to_owned(),
    };
    format!("layer {} {kind} {part}", block.layer)
}

/// What a block is called in the names of its tensors, and its products of the stream and back to
/// it.
pub(crate) fn names<T: Parts>(operation: &Operation<T>) -> (&'static str, [&'static str; 2]) {
    match operation {
        Operation::Attention(heads) if heads.mask == Mask::Cross => {
            ("cross attention", ["query", "output"])
        }
        Operation::Attention(_) => ("attention", ["query key value", "output"]),
        Operation::FeedForward { gated: true, .. } => ("feed-forward", ["gate up", "down"]),
        Operation::FeedForward { gated: false, .. } => ("feed-forward", ["up", "down"]),
        Operation::Projection => ("projection", ["", "output"]),
    }
}
