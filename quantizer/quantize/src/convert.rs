//! From a checkpoint to a file: blocks one after the other, then embedding, head and the file
//! itself.

use std::ops::Range;
use std::path::Path;

use kinglet::Format;
use kinglet_kernels::layout::PANEL;
use rayon::prelude::*;

use crate::blocks::{self, Done, Streams};
use crate::fit::{self, Aims, FitOutcome, Student};
use crate::golden;
use crate::layer::{self, Layer};
use crate::lowering::{Build, Source};
use crate::overhead::{metadata, overhead};
use crate::plan::{self, Plan};
use crate::reach::reachable;
use crate::record::{self, record_path};
use crate::resume::Store;
use crate::rounding::codebook;
use crate::rounding::levels::{Levels, Row};
use crate::rounding::linear::{codebook_step, nearest};
use crate::rounding::pack::{self, Packer};
use crate::rounding::packed;
use crate::rounding::round::round;
use crate::taken;
use crate::{Options, QuantizeError, Summary, Target};
use kinglet_evaluate::record::Record;
use kinglet_import::checkpoint::{self, Architecture, Checkpoint, CheckpointError, TensorRef};
use kinglet_model::write::{Kind, WriteError, Writer};
use kinglet_reference::{Inputs, LinearWeights, NormWeights, RESIDENT_BYTES, Reference, ops};

/// The record, before it has its name.
const RECORD: &str = "record.json";
/// f32 values read at a time, over all threads.
const BATCH: usize = 4 << 20;

/// Quantizes `checkpoint` to the file `target`. `progress` is called with what is being done, how
/// much of it is done, and how much there is.
///
/// Finished blocks are kept in the directory `target.work` until the file is whole; after an
/// interruption the same call goes on.
pub fn quantize(
    checkpoint: &Checkpoint,
    target: &Path,
    options: &Options,
    progress: &dyn Fn(&str, u64, u64),
) -> Result<Summary, QuantizeError> {
    let architecture = checkpoint.architecture();
    reachable(checkpoint, options)?;
    let (tokenizer, target_tokenizer) = (checkpoint.tokenizer()?, checkpoint.target_tokenizer()?);
    let store = Store::open(target, &key(checkpoint, options))?;
    let weights = weights(architecture);
    let metadata = metadata(checkpoint, options)?;
    let overhead =
        overhead(architecture, options, tokenizer.len() + target_tokenizer.len(), &metadata);
    refuse(architecture, options)?;
    let plan = planned(checkpoint, options, &store, overhead, progress)?;
    let done = round_blocks(checkpoint, options, &plan, &store, &mut |done| {
        progress("rounding", done, weights)
    })?;

    let (norm, fitted) = fitted(checkpoint, options, &store, &done, progress)?;
    // Fitted blocks are kept after the others.
    let first = if fitted.is_some() { done.len() } else { 0 };
    let block = |index: usize| block(&store, first + index);
    let mut record = record::begin(checkpoint, options, &plan, &done, fitted);
    let mut build = Build::new(checkpoint, options);
    let mut left = (0..plan.tasks.len())
        .filter(|&number| plan.tasks[number].is_some())
        .zip(&done)
        .enumerate()
        .peekable();
    for (number, stack) in architecture.stacks.iter().enumerate() {
        build.stack(stack)?;
        let numbers = architecture.numbers(number);
        while let Some((index, (number, of))) =
            left.next_if(|(_, (number, _))| numbers.contains(number))
        {
            let block = block(index)?;
            record::block(&mut record, architecture, options, &plan, number, &block, of);
            build.block(&block)?;
        }
        let last = number + 1 == architecture.stacks.len();
        let norm = if last { norm.clone() } else { build.norm(stack)? };
        build.end(norm.as_ref())?;
    }
    record::size(&mut record);
    let (mut outline, sources) = build.finish()?;
    outline.tokenizer = tokenizer;
    outline.target_tokenizer = target_tokenizer;
    outline.metadata = metadata;
    let question = golden::question(&outline.tokenizer, architecture, options);
    outline.golden = question.iter().map(|question| question.tokens()).collect();
    let mut writer = Writer::create(target, store.dir(), outline)?;
    let mut done = weights - tables(architecture);
    let mut step = |n| {
        done += n;
        progress("writing", done, weights);
    };
    let mut loaded = None;
    for source in sources {
        writer.tensor(|put| match source {
            Source::Phases(phases) => {
                Ok(put(&phases.iter().flat_map(|p| p.to_le_bytes()).collect::<Vec<_>>())?)
            }
            Source::Vector(vector) => {
                Ok(put(&vector.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>())?)
            }
            Source::Table(of, format, inputs) => {
                let taken = inputs != Inputs::Transformed
                    && taken::of_table(checkpoint, &of, format, options).is_some();
                table(checkpoint, (&of, format, inputs, taken), put, &mut step)
            }
            Source::Rows(values, cols, format) => {
                let weights = LinearWeights {
                    weight: values,
                    bias: None,
                    cols,
                    inputs: Some(Inputs::Rounded),
                };
                Ok(pack::write(&nearest(&weights, format, &vec![1.0; cols]), put)?)
            }
            Source::Product { block: index, site } => {
                let loaded = match &mut loaded {
                    Some((at, block)) if *at == index => block,
                    other => &mut other.insert((index, block(index)?)).1,
                };
                let product = loaded.product(site).ok_or_else(|| lost(&store, index))?;
                Ok(pack::write(product, put)?)
            }
        })?;
    }
    let mut finished = writer.finish()?;
    if let Some(question) = &question {
        golden::add(&mut finished, std::slice::from_ref(question))?;
    }
    let bytes = std::fs::metadata(finished.path()).map_or(0, |m| m.len());
    if let Some(Target::Bytes(most)) = options.target
        && bytes > most
    {
        return Err(QuantizeError::Target { target: Target::Bytes(most), nearest: bytes as f64 });
    }
    if !options.calibration.is_empty() {
        write_record(&record_path(target), &store, &record)?;
    }
    finished.persist()?;
    store.remove();
    Ok(Summary { weights, bytes, record })
}

/// Writes the record beside the file.
fn write_record(path: &Path, store: &Store, record: &Record) -> Result<(), QuantizeError> {
    store.keep(RECORD, record)?;
    let result = std::fs::rename(store.dir().join(RECORD), path);
    Ok(result.map_err(|source| WriteError::Io { path: path.to_path_buf(), source })?)
}

/// Numbers in matrices.
fn weights(architecture: &Architecture) -> u64 {
    let blocks = architecture.blocks().map(checkpoint::weights);
    blocks.sum::<usize>() as u64 + tables(architecture)
}

/// Numbers in those of inputs and output.
fn tables(architecture: &Architecture) -> u64 {
    architecture.tables().iter().map(|table| table.len() as u64).sum()
}

/// What the blocks are made from: another key, other blocks. The kept tokens are among the
/// architecture's tensors.
fn key(checkpoint: &Checkpoint, options: &Options) -> String {
    let stamp = |path: &Path| {
        let meta = path.metadata().ok()?;
        Some(format!("{:?} {} {:?}", path.file_name(), meta.len(), meta.modified().ok()))
    };
    let files: Vec<String> = checkpoint.files().filter_map(stamp).collect();
    let text = format!(
        "{:?} {:?} {files:?} {:?}",
        env!("CARGO_PKG_VERSION"),
        checkpoint.architecture(),
        options
    );
    format!("{:08x} {}", crc32fast::hash(text.as_bytes()), text.len())
}

/// The plan, from the store if it was made before.
fn planned(
    checkpoint: &Checkpoint,
    options: &Options,
    store: &Store,
    overhead: u64,
    progress: &dyn Fn(&str, u64, u64),
) -> Result<Plan, QuantizeError> {
    const PLAN: &str = "plan.json";
    if let Some(plan) = store.kept(PLAN) {
        return Ok(plan);
    }
    let reference = Reference::with_memory(
        checkpoint,
        if options.calibration.is_empty() { 0 } else { RESIDENT_BYTES },
    )?;
    let plan = plan::plan(&reference, options, overhead, &mut |done, all| {
        progress("measuring", done as u64, all as u64);
    })?;
    store.keep(PLAN, &plan)?;
    Ok(plan)
}

/// Refuses to learn what cannot be learned, before anything is done.
fn refuse(architecture: &Architecture, options: &Options) -> Result<(), QuantizeError> {
    if options.learn == 0 {
        return Ok(());
    }
    if options.calibration.is_empty() {
        return Err(QuantizeError::NothingToMeasure);
    }
    if !options.corrects(architecture) {
        return Err(QuantizeError::Unsupported {
            what: "learning the codes of blocks that do not make up for those before them".into(),
            instead: "models that predict each position from those before it can learn, without \
                      --no-correct"
                .into(),
        });
    }
    let weights: usize = architecture.blocks().map(checkpoint::weights).sum();
    if options.fit.steps > 0 && weights > fit::MOST_CODES {
        return Err(QuantizeError::Unsupported {
            what: format!("moving all {weights} codes at once"),
            instead: format!(
                "up to {} can be fitted with --learn (leave --fit out)",
                fit::MOST_CODES
            ),
        });
    }
    Ok(())
}

/// Rounds all blocks that are not in the store yet.
pub(super) fn round_blocks(
    checkpoint: &Checkpoint,
    options: &Options,
    plan: &Plan,
    store: &Store,
    progress: &mut dyn FnMut(u64),
) -> Result<Vec<Done>, QuantizeError> {
    let architecture = checkpoint.architecture();
    // Blocks are read when their turn comes.
    let reference = Reference::with_memory(checkpoint, 0)?;
    let mut streams = match options.calibration.is_empty() {
        true => None,
        false => {
            let own = reference.begin(&options.calibration)?;
            Some(Streams { exact: options.corrects(architecture).then(|| own.clone()), own })
        }
    };
    let (mut weights, mut all) = (0, vec![]);
    let mut layer = Layer::default();
    for (number, (description, task)) in architecture.blocks().zip(&plan.tasks).enumerate() {
        if layer.ends_before(description.layer) {
            layer.finish(options, store, streams.as_mut(), &mut all)?;
        }
        weights += checkpoint::weights(description) as u64;
        let Some(task) = task else {
            if let Some(exact) = streams.as_mut().and_then(|streams| streams.exact.as_mut()) {
                reference.advance(exact, number, &mut ())?;
            }
            continue;
        };
        if let Some(Streams { own, exact }) = &mut streams {
            own.enter(number);
            exact.iter_mut().for_each(|exact| exact.enter(number));
        }
        match store.get::<Done>(all.len()).filter(|_| layer.len() == 0) {
            Some((block, done)) => {
                if let Some(streams) = &mut streams {
                    packed::advance(&block, &mut streams.own);
                    if let Some(exact) = &mut streams.exact {
                        reference.advance(exact, number, &mut ())?;
                    }
                }
                all.push(done);
            }
            None => {
                let block = reference.block_weights(number)?;
                layer.begin(options, streams.as_ref());
                let source = (description, &block);
                let rounded =
                    match taken::block(checkpoint, source, (options, *task), streams.as_mut())? {
                        Some((block, done)) => (block, done, Aims::default()),
                        None => blocks::quantize(block, *task, streams.as_mut())
                            .map_err(|source| QuantizeError::Hessian { block: number, source })?,
                    };
                layer.push(rounded);
                if options.learn == 0 {
                    layer.finish(options, store, streams.as_mut(), &mut all)?;
                }
            }
        }
        progress(weights);
    }
    layer.finish(options, store, streams.as_mut(), &mut all)?;
    Ok(all)
}

/// Fits the blocks in the store, if that is wanted, and returns the last norm and what fitting did.
fn fitted(
    checkpoint: &Checkpoint,
    options: &Options,
    store: &Store,
    done: &[Done],
    progress: &dyn Fn(&str, u64, u64),
) -> Result<(Option<NormWeights>, Option<FitOutcome>), QuantizeError> {
    const NORM: &str = "norm.json";
    let reference = Reference::with_memory(checkpoint, 0)?;
    if options.fit.steps == 0 || options.calibration.is_empty() {
        return Ok((reference.final_norm()?, None));
    }
    let refused = || QuantizeError::Unsupported {
        what: "fitting a model of this kind".into(),
        instead:
            "decoders of one stack with root-mean-square norms and gated feed-forwards can be \
             fitted (leave --fit out)"
                .into(),
    };
    if !fit::knows(checkpoint.architecture()) {
        return Err(refused());
    }
    let reference = Reference::new(checkpoint)?;
    let (Some(norm), Some(head)) = (reference.final_norm()?, reference.head_weights()?) else {
        return Err(refused());
    };
    if let Some((weight, fitted)) = store.kept(NORM) {
        return Ok((Some(NormWeights { weight, ..norm }), fitted));
    }
    let head = LinearWeights { inputs: Some(Inputs::Rounded), ..head };
    let blocks = (0..done.len()).map(|index| block(store, index)).collect::<Result<Vec<_>, _>>()?;
    let aims = (0..done.len()).map(|index| layer::kept(store, index)).collect();
    let mut student = Student { blocks, norm, head };
    let steps = options.fit.steps as u64;
    let outcome =
        fit::fit(&reference, &mut student, aims, &options.calibration, options.fit, &mut |step| {
            progress("fitting", step as u64, steps);
        })?;
    for (index, (block, of)) in student.blocks.iter().zip(done).enumerate() {
        store.put(done.len() + index, block, of)?;
    }
    let fitted = Some(outcome);
    store.keep(NORM, &(&student.norm.weight, &fitted))?;
    Ok((Some(student.norm), fitted))
}

fn block(
    store: &Store,
    index: usize,
) -> Result<crate::rounding::rounded::RoundedBlock, QuantizeError> {
    store.get::<Done>(index).map(|(block, _)| block).ok_or_else(|| lost(store, index))
}

fn lost(store: &Store, block: usize) -> QuantizeError {
    QuantizeError::Lost { block, dir: store.dir().to_path_buf() }
}

type Put<'p> = &'p mut dyn FnMut(&[u8]) -> Result<(), WriteError>;

/// Reads, rounds and writes a table with a row for each token, a batch of rows at a time. One that
/// is taken over keeps its codes.
fn table(
    checkpoint: &Checkpoint,
    (of, format, inputs, taken): (&TensorRef, Format, Inputs, bool),
    put: Put<'_>,
    progress: &mut dyn FnMut(u64),
) -> Result<(), QuantizeError> {
    let (rows, cols) = (of.rows(), of.cols());
    let importance = vec![1.0; cols];
    let read = |rows| -> Result<Vec<f32>, CheckpointError> {
        let values = read(checkpoint, of, rows)?;
        Ok(if inputs == Inputs::Transformed { ops::transformed(&values, cols) } else { values })
    };
    let levels = match format {
        Format::Int4Codebook => {
            let step = codebook_step(rows, cols);
            let sample: Result<Vec<_>, _> =
                (0..rows).step_by(step).map(|row| read(row..row + 1)).collect();
            codebook::fit(&sample?.iter().map(Vec::as_slice).collect::<Vec<_>>(), &importance)
        }
        _ => Levels::of(format),
    };
    let too_large = || WriteError::TooLarge { what: format!("{} ({rows} x {cols})", of.name()) };
    let mut packer =
        Packer::new(Kind::Matrix(format), rows, cols, &levels).ok_or_else(too_large)?;
    put(&packer.start())?;
    let panels = rows.div_ceil(PANEL);
    let batch = (BATCH / (PANEL * cols)).max(rayon::current_num_threads());
    for first in (0..panels).step_by(batch) {
        let last = panels.min(first + batch);
        let rounded = (first..last).into_par_iter().map(|panel| {
            let of_panel = panel * PANEL..rows.min((panel + 1) * PANEL);
            let kept = match taken {
                true => taken::rows(&checkpoint.coded_rows(of, of_panel.clone())?, cols, &levels),
                false => None,
            };
            let values = read(of_panel)?;
            let round = || {
                values.chunks(cols).map(|row| round(format, row, &importance, &levels)).collect()
            };
            let rows: Vec<Row> = kept.unwrap_or_else(round);
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

fn read(
    checkpoint: &Checkpoint,
    of: &TensorRef,
    rows: Range<usize>,
) -> Result<Vec<f32>, CheckpointError> {
    let mut values = vec![0.0; rows.len() * of.cols()];
    checkpoint.read_rows(of, rows, &mut values)?;
    Ok(values)
}
