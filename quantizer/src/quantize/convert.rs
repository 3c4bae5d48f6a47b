//! The stream: read, round, pack, write.

use std::ops::Range;
use std::path::Path;

use kinglet::Format;
use kinglet_kernels::layout::PANEL;
use rayon::prelude::*;

use super::codebook;
use super::golden;
use super::outline::{Source, outline};
use super::pack::Packer;
use super::round::{Levels, Row, round};
use super::{Options, QuantizeError, Summary};
use crate::checkpoint::{Checkpoint, CheckpointError, TensorRef};
use crate::file::{Kind, WriteError, Writer};
use crate::tokenizer;

/// Rows that a codebook is fitted to.
const CODEBOOK_ROWS: usize = 256;
/// f32 values read at a time, over all threads.
const BATCH: usize = 4 << 20;

/// Quantizes `checkpoint` to the file `target`. `progress` is called with the weights done and
/// the weights in all.
pub fn quantize(
    checkpoint: &Checkpoint,
    target: &Path,
    options: &Options,
    progress: &dyn Fn(u64, u64),
) -> Result<Summary, QuantizeError> {
    let architecture = checkpoint.architecture();
    let (mut outline, sources) = outline(architecture, options)?;
    if checkpoint.dir().join("tokenizer.json").exists() {
        outline.tokenizer = tokenizer::import(checkpoint.dir())?;
    }
    outline.metadata = vec![("family".to_owned(), architecture.family.clone())];
    outline.metadata.extend(options.metadata.iter().cloned());
    let prompt = golden::prompt(&outline.tokenizer, architecture, options);
    if !prompt.is_empty() {
        outline.golden = vec![prompt.len() + golden::length(&prompt, architecture, options)];
    }
    let weights = sources.iter().map(|(_, source)| source.weights()).sum();
    let mut writer = Writer::create(target, outline)?;
    let mut done = 0;
    for (kind, source) in &sources {
        writer.tensor(|put| {
            write_tensor(checkpoint, *kind, source, put, &mut |n| {
                done += n;
                progress(done, weights);
            })
        })?;
    }
    let mut finished = writer.finish()?;
    golden::add(&mut finished, &prompt, options)?;
    let bytes = std::fs::metadata(finished.path()).map_or(0, |m| m.len());
    finished.persist()?;
    Ok(Summary { weights, bytes })
}

impl Source {
    /// Numbers in matrices.
    fn weights(&self) -> u64 {
        match self {
            Self::Rows(parts) => parts.iter().map(|p| p.len() as u64).sum(),
            Self::Vectors(_) | Self::Phases(_) => 0,
        }
    }
}

type Put<'p> = &'p mut dyn FnMut(&[u8]) -> Result<(), WriteError>;

fn write_tensor(
    checkpoint: &Checkpoint,
    kind: Kind,
    source: &Source,
    put: Put<'_>,
    progress: &mut dyn FnMut(u64),
) -> Result<(), QuantizeError> {
    match source {
        Source::Phases(phases) => Ok(put(&phases.iter().flat_map(|p| p.to_le_bytes()).collect::<Vec<_>>())?),
        Source::Vectors(vectors) => {
            for vector in vectors {
                let values = match vector {
                    Ok(tensor) => read(checkpoint, std::slice::from_ref(tensor), 0..tensor.rows())?,
                    Err(zeros) => vec![0.0; *zeros],
                };
                put(&values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>())?;
            }
            Ok(())
        }
        Source::Rows(parts) => {
            let Kind::Matrix(format) = kind else { unreachable!("rows become matrices") };
            write_matrix(checkpoint, format, parts, put, progress)
        }
    }
}

fn write_matrix(
    checkpoint: &Checkpoint,
    format: Format,
    parts: &[TensorRef],
    put: Put<'_>,
    progress: &mut dyn FnMut(u64),
) -> Result<(), QuantizeError> {
    let rows: usize = parts.iter().map(TensorRef::rows).sum();
    let cols = parts[0].cols();
    let too_large = || WriteError::TooLarge { what: format!("{} ({rows} x {cols})", parts[0].name()) };
    let levels = levels(checkpoint, format, parts, rows)?;
    let mut packer = Packer::new(format, rows, cols).ok_or_else(too_large)?;
    put(&packer.start(&levels))?;
    let panels = rows.div_ceil(PANEL);
    let batch = (BATCH / (PANEL * cols)).max(rayon::current_num_threads());
    for first in (0..panels).step_by(batch) {
        let last = panels.min(first + batch);
        let rounded = (first..last).into_par_iter().map(|panel| {
            let range = panel * PANEL..rows.min((panel + 1) * PANEL);
            let values = read(checkpoint, parts, range)?;
            let rows: Vec<Row> = values.chunks(cols).map(|row| round(format, row, &levels)).collect();
            let codes = packer.codes(&rows);
            Ok((rows, codes))
        });
        let rounded: Result<Vec<_>, CheckpointError> = rounded.collect();
        for (rows, codes) in rounded? {
            put(&codes)?;
            packer.scales(&rows, codes.len());
        }
        progress(((last - first) * PANEL * cols) as u64);
    }
    Ok(put(&packer.end())?)
}

/// The levels of a matrix: even, or fitted to a sample of its rows.
fn levels(
    checkpoint: &Checkpoint,
    format: Format,
    parts: &[TensorRef],
    rows: usize,
) -> Result<Levels, CheckpointError> {
    if format != Format::Int4Codebook {
        return Ok(Levels::uniform());
    }
    let step = rows.div_ceil(CODEBOOK_ROWS);
    let sample: Result<Vec<_>, _> = (0..rows).step_by(step).map(|row| read(checkpoint, parts, row..row + 1)).collect();
    Ok(codebook::fit(&sample?))
}

/// Rows of matrices that lie one below the other.
fn read(checkpoint: &Checkpoint, parts: &[TensorRef], rows: Range<usize>) -> Result<Vec<f32>, CheckpointError> {
    let cols = parts[0].cols();
    let mut values = vec![0.0; rows.len() * cols];
    let (mut start, mut filled) = (0, 0);
    for part in parts {
        let end = start + part.rows();
        let (from, to) = (rows.start.max(start), rows.end.min(end));
        if from < to {
            let n = (to - from) * cols;
            checkpoint.read_rows(part, from - start..to - start, &mut values[filled..filled + n])?;
            filled += n;
        }
        start = end;
    }
    Ok(values)
}
