//! `kinglet inspect`.

use std::path::PathBuf;

use anyhow::{Context, Result};
use indicatif::ProgressBar;
use kinglet::format::{Middle, Values};
use kinglet::{Model, Options, Plan};
use serde::Serialize;

use crate::model::{Source, bar, bytes, bytes_per_token};

/// Show what is in a file, and the exact memory that it needs
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The .kinglet file; without one, the built-in model
    file: Option<PathBuf>,
    /// Positions of prompt and answer together; by default what the model was made for
    #[arg(long, value_name = "N")]
    context: Option<usize>,
    /// Tokens of a prompt that are run together
    #[arg(long, value_name = "N", default_value_t = 16)]
    prefill: usize,
    /// Compare every checksum too; reads the whole file
    #[arg(long)]
    verify: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// All that is shown.
#[derive(Serialize)]
struct Report {
    file_bytes: u64,
    width: usize,
    vocab: usize,
    context: usize,
    tied: bool,
    tokenizer: bool,
    metadata: Vec<(String, String)>,
    blocks: Vec<BlockRow>,
    tensors: Vec<TensorRow>,
    weights: u64,
    weight_bytes: u64,
    bits_per_weight: f64,
    bytes_read_per_token: u64,
    golden: Vec<GoldenRow>,
    plan: PlanRow,
}

#[derive(Serialize)]
struct BlockRow {
    index: u32,
    layer: u32,
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
    activations: usize,
    cache: usize,
    logits: usize,
    total: usize,
}

impl Args {
    pub(crate) fn run(self) -> Result<()> {
        let source = Source::open(self.file.as_deref())?;
        let model = source.model(self.file.as_deref())?;
        if self.verify {
            let progress: ProgressBar = bar(model.bytes().len() as u64, "bytes").with_message("verifying");
            let result = model.verify(|done| progress.set_position(done));
            progress.finish_and_clear();
            result.context("the file is damaged")?;
        }
        let report = report(&model, self.context.unwrap_or(model.context()), self.prefill)?;
        if self.json {
            println!("{}", serde_json::to_string_pretty(&report)?);
        } else {
            print!("{}", report.text());
            if self.verify {
                println!("all checksums match");
            }
        }
        Ok(())
    }
}

fn report(model: &Model<'_>, context: usize, prefill: usize) -> Result<Report> {
    let plan = Plan::new(model, Options { context, prefill, logits: 1 })?;
    let tensors = (0..model.record().tensors).map(|i| tensor(model, i)).collect::<Result<Vec<_>>>()?;
    let matrices = || tensors.iter().filter(|t| t.format != "f32" && t.format != "u32");
    let weights = matrices().map(|t| t.rows as u64 * t.cols as u64).sum();
    let weight_bytes: u64 = matrices().map(|t| t.bytes).sum();
    let record = model.record();
    Ok(Report {
        file_bytes: model.bytes().len() as u64,
        width: model.width(),
        vocab: model.vocab(),
        context: model.context(),
        tied: record.embedding == record.head,
        tokenizer: model.tokenizer().is_some(),
        metadata: model.metadata().map(|(k, v)| (k.to_owned(), v.to_owned())).collect(),
        blocks: (0..record.blocks).map(|i| block(model, i)).collect::<Result<_>>()?,
        weights,
        weight_bytes,
        bits_per_weight: weight_bytes as f64 * 8.0 / weights as f64,
        bytes_read_per_token: bytes_per_token(model)?,
        golden: model
            .golden()
            .map(|g| GoldenRow { prompt: g.prompt.len(), answer: g.answer.len(), hash: format!("{:016x}", g.hash) })
            .collect(),
        plan: PlanRow {
            context,
            prefill,
            activations: plan.cache_codes.start,
            cache: plan.logits.start - plan.cache_codes.start,
            logits: plan.bytes() - plan.logits.start,
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
            kinglet::Format::Int8 => "int8",
            kinglet::Format::Int4 => "int4-uniform",
            kinglet::Format::Int4Codebook => "int4",
        },
    };
    let blocks = match tensor.values {
        Values::Matrix(m) if m.is_sparse() => Some(m.blocks() as f64 / (m.panels() * m.groups()) as f64),
        _ => None,
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
        blocks,
        crc32: format!("{:08x}", record.crc),
    })
}

fn block(model: &Model<'_>, index: u32) -> Result<BlockRow> {
    let block = model.block(index)?;
    let (kind, mut shape) = match &block.middle {
        Middle::Attention(a) => {
            let mut shape = format!("{} query, {} key/value heads of {}", a.heads, a.kv_heads, a.head_dim);
            if !a.rope.is_empty() {
                shape += &format!(", rotary over {}", 2 * a.rope.len());
            }
            if a.query_norm.is_some() || a.key_norm.is_some() {
                shape += ", head norms";
            }
            ("attention", shape)
        }
        Middle::FeedForward { inner } => ("feed-forward", format!("width {inner}, silu, gated")),
    };
    if block.input_bias.is_some() || block.output_bias.is_some() {
        shape += ", biases";
    }
    Ok(BlockRow { index, layer: block.record.layer, kind, shape })
}

impl Report {
    fn text(&self) -> String {
        let mut out = String::new();
        let mut line = |text: String| out += &(text + "\n");
        let tied = if self.tied { "tied" } else { "own" };
        line(format!(
            "width {}, vocabulary {} ({tied} head), context {}, {} blocks, {}",
            self.width,
            self.vocab,
            self.context,
            self.blocks.len(),
            bytes(self.file_bytes)
        ));
        for (key, value) in &self.metadata {
            // Whole records lie there, too.
            match value.char_indices().nth(200) {
                None => line(format!("{key}: {value}")),
                Some(_) => line(format!("{key}: {} bytes; --json shows them", value.len())),
            }
        }
        line("\nblocks (each: x += out(middle(in(rms_norm(x)))))".into());
        for b in &self.blocks {
            line(format!("{:4}  layer {:<3} {:13} {}", b.index, b.layer, b.kind, b.shape));
        }
        line("\ntensors".into());
        let name = self.tensors.iter().map(|t| t.name.len()).max().unwrap_or(0);
        for t in &self.tensors {
            let blocks = t.blocks.map_or(String::new(), |part| format!(", {:.1}% of the blocks", 100.0 * part));
            line(format!(
                "  {:name$}  {:>12}  {:>6} x {:<6} {:>10}  {:5.2} bits{blocks}",
                t.name,
                t.format,
                t.rows,
                t.cols,
                bytes(t.bytes),
                t.bits_per_weight
            ));
        }
        line(format!(
            "\n{} weights in {}, {:.2} bits each; {} read for a token",
            self.weights,
            bytes(self.weight_bytes),
            self.bits_per_weight,
            bytes(self.bytes_read_per_token)
        ));
        for g in &self.golden {
            line(format!("golden: {} tokens after {}, logits {}", g.answer, g.prompt, g.hash));
        }
        let p = &self.plan;
        line(format!(
            "working memory for {} positions, {} tokens at a time: {} bytes exactly",
            p.context, p.prefill, p.total
        ));
        line(format!("  activations {}, cache {}, logits {}", p.activations, p.cache, p.logits));
        out
    }
}
