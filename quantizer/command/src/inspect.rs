//! `kinglet inspect`.

use std::path::PathBuf;

use anyhow::{Context, Result};
use indicatif::ProgressBar;
use kinglet::{Model, Options, Plan, ValueFormat};
use kinglet_evaluate::size::Matrices;
use kinglet_model::{Input, Inputs, Mask, Operation, Pooling, Residual, Values};
use serde::Serialize;

use crate::activations;
use crate::model::{Source, bar, bytes, bytes_per_token};
use crate::output::in_line;

/// Show the contents of a file, and the exact memory that it needs
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The .kinglet file, or a built-in model: storyteller (without a file), pronouncer, namer
    file: Option<PathBuf>,
    /// Positions of prompt and answer together; by default the model's context
    #[arg(long, value_name = "N")]
    context: Option<usize>,
    /// Tokens of a prompt that are processed together
    #[arg(long, value_name = "N", default_value_t = 16)]
    prefill: usize,
    /// Positions of the source, for models with an encoder; by default the encoder's context
    #[arg(long, value_name = "N")]
    source: Option<usize>,
    /// Targets decoded side by side, such as the beams of a search
    #[arg(long, value_name = "N", default_value_t = 1)]
    targets: usize,
    /// Plan for values in the cache in four bits (keys in eight)
    #[arg(long)]
    int4_values: bool,
    /// Also verify all checksums, which reads the whole file
    #[arg(long)]
    verify: bool,
    /// Instead show entropy, effective rank and curvature of the hidden states of a text, of each
    /// line of a file, or of a picture
    ///
    /// With Z the matrix of the states of all tokens, the entropy is that of the eigenvalues of
    /// Z Z^T divided by its trace; it is also shown as a fraction of its maximum. The curvature is
    /// the mean angle between successive differences of states. For several lines, means are shown,
    /// and whether the entropies are bimodal (Sarle's coefficient above 5/9). In post-norm models,
    /// the states are those before the norm.
    #[arg(long, value_name = "TEXT | FILE")]
    activations: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// All that is shown.
#[derive(Serialize)]
struct Report {
    file_bytes: u64,
    stacks: Vec<String>,
    output: String,
    tokenizer: bool,
    metadata: Vec<(String, String)>,
    blocks: Vec<BlockRow>,
    tensors: Vec<TensorRow>,
    /// Of all matrices, and bits of a weight in them.
    weights: u64,
    weight_bytes: u64,
    bits_of_all: f64,
    /// Bits of a weight in the blocks' matrices: what `quantize --bits` means.
    bits_per_weight: f64,
    bytes_read_per_token: u64,
    golden: Vec<GoldenRow>,
    plan: PlanRow,
}

#[derive(Serialize)]
struct BlockRow {
    index: u32,
    layer: usize,
    kind: &'static str,
    shape: String,
}

#[derive(Serialize)]
struct TensorRow {
    name: String,
    format: &'static str,
    rows: usize,
    cols: usize,
    bytes: u64,
    bits_per_weight: f64,
    /// What the inputs of its product go through.
    inputs: Option<&'static str>,
    /// Of a sparse matrix, the part of its blocks of 16 by 32 that is stored.
    blocks: Option<f64>,
    crc32: String,
}

#[derive(Serialize)]
struct GoldenRow {
    prompt: usize,
    answer: usize,
    hash: String,
}

/// Bytes of each region of the arena.
#[derive(Serialize)]
struct PlanRow {
    context: usize,
    prefill: usize,
    source: usize,
    targets: usize,
    scratch: usize,
    self_cache: usize,
    cross_cache: usize,
    total: usize,
}

impl Args {
    fn options(&self, model: &Model<'_>) -> Result<Options> {
        let of = Options::of(model)?;
        let (context, source) =
            (self.context.unwrap_or(of.context), self.source.unwrap_or(of.source));
        let values = if self.int4_values { ValueFormat::Int4 } else { ValueFormat::Int8 };
        Ok(Options {
            context,
            prefill: self.prefill.min(context),
            source,
            targets: self.targets,
            values,
            ..of
        })
    }

    pub(crate) fn run(self) -> Result<()> {
        let source = Source::open(self.file.as_deref())?;
        let model = source.model(self.file.as_deref())?;
        if let Some(input) = &self.activations {
            return activations::show(&model, input, self.json);
        }
        if self.verify {
            let progress: ProgressBar =
                bar(model.bytes().len() as u64, "bytes").with_message("verifying");
            let result = model.verify(|done| progress.set_position(done));
            progress.finish_and_clear();
            result.context("the file is damaged")?;
        }
        let report = report(&model, self.options(&model)?)?;
        if self.json {
            say!("{}", serde_json::to_string_pretty(&report)?);
        } else {
            put!("{}", report.text());
            if self.verify {
                say!("all checksums match");
            }
        }
        Ok(())
    }
}

fn report(model: &Model<'_>, options: Options) -> Result<Report> {
    let plan = Plan::new(model, options)?;
    let tensors = (0..model.tensors()).map(|i| tensor(model, i)).collect::<Result<Vec<_>>>()?;
    let (blocks, all) = (Matrices::of_blocks(model)?, Matrices::of_file(model)?);
    Ok(Report {
        file_bytes: model.bytes().len() as u64,
        stacks: (0..model.stacks()).map(|i| stack(model, i)).collect::<Result<_>>()?,
        output: output(model)?,
        tokenizer: model.tokenizer().is_some(),
        metadata: model.metadata().map(|(k, v)| (k.to_owned(), v.to_owned())).collect(),
        blocks: (0..model.blocks()).map(|i| block(model, i)).collect::<Result<_>>()?,
        weights: all.weights,
        weight_bytes: all.bytes,
        bits_of_all: all.bits(),
        bits_per_weight: blocks.bits(),
        bytes_read_per_token: bytes_per_token(model)?,
        golden: model
            .golden()
            .map(|g| GoldenRow {
                prompt: g.prompt.len(),
                answer: g.answer.len(),
                hash: format!("{:016x}", g.hash),
            })
            .collect(),
        plan: PlanRow {
            context: options.context,
            prefill: options.prefill,
            source: options.source,
            targets: options.targets,
            scratch: plan.scratch(),
            self_cache: plan.self_cache(),
            cross_cache: plan.cross_cache(),
            total: plan.bytes(),
        },
        tensors,
    })
}

fn tensor(model: &Model<'_>, index: u32) -> Result<TensorRow> {
    let tensor = model.tensor(index)?;
    let format = match tensor.values {
        Values::F32(_) => "f32",
        Values::U32(_) => "u32",
        Values::Matrix(m) => match m.format() {
            kinglet::Format::Int8 => "int8-row",
            kinglet::Format::Int8Grouped => "int8",
            kinglet::Format::Int4 => "int4-uniform",
            kinglet::Format::Int4Codebook => "int4",
            kinglet::Format::Int4Offset => "int4-offset",
        },
    };
    let blocks = match tensor.values {
        Values::Matrix(m) if m.is_sparse() => {
            Some(m.blocks() as f64 / (m.panels() * m.groups()) as f64)
        }
        _ => None,
    };
    let inputs = match tensor.inputs {
        Inputs::Rounded => None,
        Inputs::Transformed => Some("transformed"),
        Inputs::Planes => Some("in two planes"),
    };
    let record = tensor.record;
    let (rows, cols) = (record.rows as usize, record.cols as usize);
    let bits_per_weight = record.bytes as f64 * 8.0 / (rows as f64 * cols as f64);
    let name = model.tensor_name(&record).to_owned();
    Ok(TensorRow {
        name,
        format,
        rows,
        cols,
        bytes: record.bytes,
        bits_per_weight,
        inputs,
        blocks,
        crc32: format!("{:08x}", record.crc),
    })
}

fn stack(model: &Model<'_>, index: u32) -> Result<String> {
    let stack = model.stack(index)?;
    let class = |class: bool| if class { ", a class token" } else { "" };
    let input = match &stack.input {
        Input::Tokens { embedding, types, .. } => {
            let types =
                types.map_or(String::new(), |types| format!(" of {} types", types.matrix.rows()));
            format!("{} tokens{types}", embedding.matrix.rows())
        }
        Input::Features { picture: Some(p), class: c, .. } => format!(
            "pictures of {} x {} x {}, patches of {}{}",
            p.height,
            p.width,
            p.channels,
            p.patch,
            class(c.is_some())
        ),
        Input::Features { linear, class: c, .. } => {
            format!("rows of {} features{}", linear.matrix.cols(), class(c.is_some()))
        }
        Input::Queries(queries) => format!("{} queries", queries.matrix.rows()),
        Input::States => "the states before".to_owned(),
    };
    let positions = if stack.positions.is_some() { ", positions added" } else { "" };
    let (first, end) = stack.blocks;
    let blocks = if first == end {
        "no blocks".to_owned()
    } else {
        format!("blocks {first} to {}", end - 1)
    };
    Ok(format!("{input}, width {}, context {}{positions}, {blocks}", stack.width, stack.context))
}

fn output(model: &Model<'_>) -> Result<String> {
    let output = model.output()?;
    let mut text = match output.pooling {
        Pooling::First => "the first state".to_owned(),
        Pooling::Mean => "the mean of all states".to_owned(),
        Pooling::Max => "the largest of all states".to_owned(),
        Pooling::None => "each state".to_owned(),
    };
    if let Some((dense, activation)) = &output.dense {
        text += &format!(", a layer of {} ({})", dense.matrix.rows(), activation.name());
    }
    match &output.head {
        Some(head) => {
            text += &format!(
                ", {} logits{}",
                head.matrix.rows(),
                if model.is_tied() { " by the embedding" } else { "" }
            );
        }
        None => text += &format!(", {} numbers", model.outputs()),
    }
    Ok(text + if output.normalize { ", of length 1" } else { "" })
}

fn block(model: &Model<'_>, index: u32) -> Result<BlockRow> {
    let block = model.block(index)?;
    let (kind, mut shape) = match &block.operation {
        Operation::Attention(a) => {
            let mut shape =
                format!("{} query, {} key/value heads of {}", a.heads, a.kv_heads, a.head_dim);
            if let Some(rope) = &a.rope {
                shape += &format!(", rotary over {}", 2 * rope.frequencies.len());
            }
            if a.query_norm.is_some() || a.key_norm.is_some() {
                shape += ", head norms";
            }
            if let Some(relative) = a.relative {
                shape += &format!(", bias by distance up to {}", relative.len() / a.heads / 2);
            }
            match a.mask {
                Mask::Causal => ("attention", shape),
                Mask::Full => ("attention", shape + ", to all positions"),
                Mask::Cross => ("across", shape),
                Mask::Window(count) => ("attention", shape + &format!(", to the last {count}")),
            }
        }
        Operation::FeedForward { gated, activation } => {
            let inner = block.output.matrix.cols();
            let gated = if *gated { ", gated" } else { "" };
            ("feed-forward", format!("width {inner}, {}{gated}", activation.name()))
        }
        Operation::Projection => ("projection", format!("to width {}", block.output.matrix.rows())),
    };
    let input_bias = block.input.is_some_and(|input| input.bias.is_some());
    if input_bias || block.output.bias.is_some() {
        shape += ", biases";
    }
    if block.norm.is_some_and(|norm| norm.is_layer()) {
        shape += ", layer norm";
    }
    match block.residual {
        Residual::Pre => {}
        Residual::Post(_) => shape += ", the stream is normed, too",
        Residual::Replace => shape += ", in place of the stream",
    }
    Ok(BlockRow { index, layer: block.layer, kind, shape })
}

impl Report {
    fn text(&self) -> String {
        let parts = [self.structure(), self.blocks(), self.tensors(), self.totals()];
        parts.concat().join("\n") + "\n"
    }

    /// Stacks, output and metadata.
    fn structure(&self) -> Vec<String> {
        let stacks = self.stacks.iter().enumerate();
        let mut lines: Vec<String> =
            stacks.map(|(index, stack)| format!("stack {index}: {stack}")).collect();
        lines.push(format!(
            "output: {}; {} blocks, {}",
            self.output,
            self.blocks.len(),
            bytes(self.file_bytes)
        ));
        lines.extend(self.metadata.iter().map(|(key, value)| {
            // Whole records lie there, too.
            match value.char_indices().nth(200) {
                None => format!("{}: {}", in_line(key), in_line(value)),
                Some(_) => format!("{}: {} bytes; --json shows them", in_line(key), value.len()),
            }
        }));
        lines
    }

    fn blocks(&self) -> Vec<String> {
        let title = "\nblocks (each: x += out(middle(in(norm(x)))), unless noted otherwise)";
        let rows = self
            .blocks
            .iter()
            .map(|b| format!("{:4}  layer {:<3} {:13} {}", b.index, b.layer, b.kind, b.shape));
        std::iter::once(title.to_owned()).chain(rows).collect()
    }

    fn tensors(&self) -> Vec<String> {
        let name = self.tensors.iter().map(|t| t.name.len()).max().unwrap_or(0);
        let row = |t: &TensorRow| {
            let blocks = t
                .blocks
                .map_or(String::new(), |part| format!(", {:.1}% of the blocks", 100.0 * part));
            let inputs = t.inputs.map_or(String::new(), |inputs| format!(", inputs {inputs}"));
            format!(
                "  {:name$}  {:>12}  {:>6} x {:<6} {:>10}  {:5.2} bits{blocks}{inputs}",
                in_line(&t.name),
                t.format,
                t.rows,
                t.cols,
                bytes(t.bytes),
                t.bits_per_weight
            )
        };
        std::iter::once("\ntensors".to_owned()).chain(self.tensors.iter().map(row)).collect()
    }

    /// Weights, golden answers and working memory.
    fn totals(&self) -> Vec<String> {
        let mut lines = vec![format!(
            "\n{} weights in {}, {:.2} bits each and {:.2} in the blocks; {} read for a token",
            self.weights,
            bytes(self.weight_bytes),
            self.bits_of_all,
            self.bits_per_weight,
            bytes(self.bytes_read_per_token)
        )];
        lines.extend(
            self.golden.iter().map(|g| {
                format!("golden: {} tokens after {}, logits {}", g.answer, g.prompt, g.hash)
            }),
        );
        let p = &self.plan;
        let source = match p.source {
            0 => String::new(),
            positions => format!("a source of {positions} positions, "),
        };
        let targets =
            if p.targets > 1 { format!("{} targets of ", p.targets) } else { String::new() };
        lines.push(format!(
            "working memory for {source}{targets}{} positions, {} tokens at a time: {} bytes \
             exactly",
            p.context, p.prefill, p.total
        ));
        lines.push(format!(
            "  self cache {}, cross cache {}, scratch {}",
            p.self_cache, p.cross_cache, p.scratch
        ));
        lines
    }
}
