//! From a checkpoint to a file: blocks one after the other, then embedding, head and the file
//! itself.

use std::path::Path;

use crate::blocks::{self, Done, Streams, Task};
use crate::fit::{self, Aims, FitOutcome, Student};
use crate::golden;
use crate::layer::{self, Layer};
use crate::lowering::{Build, Source};
use crate::overhead::{metadata, overhead};
use crate::plan::{self, Plan};
use crate::reach::reachable;
use crate::record::{Recorder, record_path};
use crate::resume::Store;
use crate::rounding::packed;
use crate::rounding::rounded::RoundedBlock;
use crate::taken;
use crate::tensors::{Blocks, Tensors};
use crate::{Options, QuantizeError, Summary, Target};
use kinglet_evaluate::record::Record;
use kinglet_import::checkpoint::{self, Architecture, Block, Checkpoint};
use kinglet_model::write::{Finished, Outline, WriteError, Writer, refuse_target, replace};
use kinglet_reference::{
    BlockWeights, Inputs, LinearWeights, NormWeights, RESIDENT_BYTES, Reference,
};

/// Quantizes `checkpoint` to the file `target`. `progress` is called with what is being done, how
/// much of it is done, and how much there is.
///
/// Finished blocks are kept in the directory `target.work` until the file is whole; after an
/// interruption the same call goes on.
///
/// # Errors
///
/// When the checkpoint cannot be read or is of a kind that is not supported, when options exclude
/// each other or the target cannot be met, and when the file cannot be written.
pub fn quantize(
    checkpoint: &Checkpoint,
    target: &Path,
    options: &Options,
    progress: &dyn Fn(&str, u64, u64),
) -> Result<Summary, QuantizeError> {
    let architecture = checkpoint.architecture();
    reachable(checkpoint, options)?;
    let (tokenizer, target_tokenizer) = (checkpoint.tokenizer()?, checkpoint.target_tokenizer()?);
    refuse_target(target)?;
    let store = Store::open(target, &key(checkpoint, options))?;
    let metadata = metadata(checkpoint, options)?;
    let overhead =
        overhead(architecture, options, tokenizer.len() + target_tokenizer.len(), &metadata);
    refuse(architecture, options)?;
    let plan = planned(checkpoint, options, &store, overhead, progress)?;
    let rounded = rounded(checkpoint, options, plan, &store, progress)?;

    let (mut outline, sources, record) = lowered(checkpoint, options, &rounded)?;
    outline.tokenizer = tokenizer;
    outline.target_tokenizer = target_tokenizer;
    outline.metadata = metadata;
    let question = golden::question(&outline.tokenizer, architecture, options);
    outline.golden = question.iter().map(|question| question.tokens()).collect();
    let writer = Writer::create(target, store.dir(), outline)?;
    let tensors = Tensors::new(checkpoint, options, rounded.blocks);
    let mut finished = write_all(writer, sources, tensors, progress)?;
    if let Some(question) = &question {
        golden::add(&mut finished, std::slice::from_ref(question))?;
    }

    let bytes = std::fs::metadata(finished.path()).map_or(0, |m| m.len());
    if let Some(Target::Bytes(most)) = options.target
        && bytes > most
    {
        return Err(QuantizeError::Target { target: Target::Bytes(most), nearest: bytes as f64 });
    }
    finished.persist()?;
    if !options.calibration.is_empty() {
        write_record(&record_path(target), &store, &record)?;
    }
    store.remove();
    Ok(Summary { weights: weights(architecture), bytes, record })
}

/// A model that is rounded, and fitted where that is wanted.
struct Rounded<'s> {
    plan: Plan,
    /// What was done to each block that is left.
    done: Vec<Done>,
    blocks: Blocks<'s>,
    /// The last norm.
    norm: Option<NormWeights>,
    fit: Option<FitOutcome>,
}

/// Rounds and fits the model as planned.
fn rounded<'s>(
    checkpoint: &Checkpoint,
    options: &Options,
    plan: Plan,
    store: &'s Store,
    progress: &dyn Fn(&str, u64, u64),
) -> Result<Rounded<'s>, QuantizeError> {
    let weights = weights(checkpoint.architecture());
    let done = round_blocks(checkpoint, options, &plan, store, &mut |done| {
        progress("rounding", done, weights)
    })?;
    let (norm, fit) = fitted(checkpoint, options, store, &done, progress)?;
    // Fitted blocks are kept after the others.
    let first = if fit.is_some() { done.len() } else { 0 };
    Ok(Rounded { plan, done, blocks: Blocks::new(store, first), norm, fit })
}

/// What the file will hold, where its tensors come from, and what was done.
fn lowered(
    checkpoint: &Checkpoint,
    options: &Options,
    rounded: &Rounded<'_>,
) -> Result<(Outline, Vec<Source>, Record), QuantizeError> {
    let Rounded { plan, done, blocks, norm, fit } = rounded;
    let architecture = checkpoint.architecture();
    let mut recorder = Recorder::begin(checkpoint, options, plan, done, *fit);
    let mut build = Build::new(checkpoint, options);
    let mut left = (0..plan.tasks.len())
        .filter(|&number| plan.tasks[number].is_some())
        .zip(done)
        .enumerate()
        .peekable();
    for (number, stack) in architecture.stacks.iter().enumerate() {
        build.stack(stack)?;
        let numbers = architecture.numbers(number);
        while let Some((index, (number, done))) =
            left.next_if(|(_, (number, _))| numbers.contains(number))
        {
            let block = blocks.get(index)?;
            recorder.block(number, &block, done);
            build.block(&block)?;
        }
        let last = number + 1 == architecture.stacks.len();
        let norm = if last { norm.clone() } else { build.norm(stack)? };
        build.end(norm.as_ref())?;
    }
    let record = recorder.finish();
    let (outline, sources) = build.finish()?;
    Ok((outline, sources, record))
}

/// Writes all tensors.
fn write_all(
    mut writer: Writer,
    sources: Vec<Source>,
    mut tensors: Tensors<'_>,
    progress: &dyn Fn(&str, u64, u64),
) -> Result<Finished, QuantizeError> {
    let architecture = tensors.architecture();
    let weights = weights(architecture);
    let mut done = weights - tables(architecture);
    let mut step = |n| {
        done += n;
        progress("writing", done, weights);
    };
    for source in sources {
        writer.tensor(|put| tensors.write(source, put, &mut step))?;
    }
    Ok(writer.finish()?)
}

/// Writes the record beside the file.
fn write_record(path: &Path, store: &Store, record: &Record) -> Result<(), QuantizeError> {
    let fail = |source| WriteError::Io { path: path.to_path_buf(), source };
    let bytes = serde_json::to_vec(record).map_err(|error| fail(error.into()))?;
    replace(path, store.dir(), &bytes).map_err(fail)?;
    Ok(())
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
    let mut streams = streams(&reference, options)?;
    let (mut weights, mut all) = (0, vec![]);
    let mut layer = Layer::default();
    for (number, (description, task)) in architecture.blocks().zip(&plan.tasks).enumerate() {
        if layer.ends_before(description.layer) {
            layer.finish(options, store, streams.as_mut(), &mut all)?;
        }
        weights += checkpoint::weights(description) as u64;
        let Some(task) = task else {
            if let Some(streams) = &mut streams {
                streams.pass_exact(&reference, number)?;
            }
            continue;
        };
        if let Some(streams) = &mut streams {
            streams.enter(number);
        }
        match store.get::<Done>(all.len()).filter(|_| layer.len() == 0) {
            Some((block, done)) => {
                if let Some(streams) = &mut streams {
                    packed::advance(&block, &mut streams.own);
                    streams.pass_exact(&reference, number)?;
                }
                all.push(done);
            }
            None => {
                let block = reference.block_weights(number)?;
                layer.begin(options, streams.as_ref());
                let how = (options, *task);
                let place = (number, description);
                layer.push(round_block(checkpoint, place, block, how, streams.as_mut())?);
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

/// The calibration samples in front of the first block, if there are any.
fn streams(reference: &Reference<'_>, options: &Options) -> Result<Option<Streams>, QuantizeError> {
    if options.calibration.is_empty() {
        return Ok(None);
    }
    let own = reference.begin(&options.calibration)?;
    let exact = options.corrects(reference.architecture()).then(|| own.clone());
    Ok(Some(Streams { own, exact }))
}

/// Takes over the codes of a block where that is wanted and possible, and rounds it otherwise.
fn round_block(
    checkpoint: &Checkpoint,
    (number, description): (usize, &Block),
    block: BlockWeights,
    (options, task): (&Options, Task),
    mut streams: Option<&mut Streams>,
) -> Result<(RoundedBlock, Done, Aims), QuantizeError> {
    let source = (description, &block);
    match taken::block(checkpoint, source, (options, task), streams.as_deref_mut())? {
        Some((block, done)) => Ok((block, done, Aims::default())),
        None => blocks::quantize(block, task, streams)
            .map_err(|source| QuantizeError::Hessian { block: number, source }),
    }
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
    let rounded = Blocks::new(store, 0);
    let blocks = (0..done.len()).map(|index| rounded.get(index)).collect::<Result<Vec<_>, _>>()?;
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
