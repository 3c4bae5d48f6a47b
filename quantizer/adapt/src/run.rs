//! From two models and pairs to a file.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use kinglet::{Memory, Model};
use kinglet_reference::random::{Random, mixed};

use super::decoder::Decoder;
use super::error::AdaptError;
use super::interface::Interface;
use super::options::{Options, Outcome, Score};
use super::pairs::Pairs;

use super::{inference, initialization, train, write};

/// Adapts the interface of `file` to the pairs in `pairs`, and writes `target`, which may be the
/// same file. `progress` is called with what is being done, how much of it is done, and how much
/// there is.
///
/// # Errors
///
/// Files that cannot be read or have nothing to adapt, pairs that do not fit the model, a target
/// that cannot be written.
pub fn adapt(
    file: &Path,
    pairs: &Path,
    target: &Path,
    options: &Options,
    progress: &(dyn Fn(&str, u64, u64) + Sync),
) -> Result<Outcome, AdaptError> {
    let bytes =
        Memory::read(file).map_err(|source| AdaptError::Io { path: file.into(), source })?;
    let model = Model::open(&bytes)?;
    afford_numbers(&model)?;
    let mut decoder = read_decoder(&model)?;
    let mut interface = first_interface(&model, &decoder, options)?;
    let pairs = Pairs::read(&model, pairs)?;
    let split = pairs.split(options.held_out, options.seed)?;
    let done = AtomicU64::new(0);
    let states = inference::states(&model, &pairs, &|more| {
        let before = done.fetch_add(more as u64, Ordering::Relaxed);
        progress("encoding", before + more as u64, pairs.sources.len() as u64);
    })?;
    let score = |path: &Path| -> Result<Score, AdaptError> {
        let io = |source| AdaptError::Io { path: path.into(), source };
        inference::score(&Model::open(&Memory::read(path).map_err(io)?)?, &pairs, &split.held)
    };
    let given = score(file)?;
    let before = match options.fresh {
        None => given,
        Some(_) => score(write::write(&model, &interface, target)?.0.path())?,
    };
    let parameters = interface.parameters().iter().map(|numbers| numbers.len()).sum();
    let trained =
        train::train(interface, &mut decoder, &pairs, &states, &split, options, progress)?;
    let (finished, kept_tensors) = write::write(&model, &trained.best, target)?;
    let after = score(finished.path())?;
    let bytes = std::fs::metadata(finished.path()).map_or(0, |of| of.len());
    finished.persist()?;
    Ok(Outcome {
        learned_from: split.seen.len(),
        parameters,
        steps: trained.steps,
        best_pass: trained.pass,
        curve: trained.curve,
        file: given,
        before,
        after,
        kept_tensors,
        bytes,
    })
}

/// Whether there is memory for the numbers of all tensors in f32: a sparse matrix without blocks is
/// small in a file, whatever its shape.
fn afford_numbers(model: &Model<'_>) -> Result<(), AdaptError> {
    let mut bytes = 0u64;
    for index in 0..model.tensors() {
        let record = model.tensor(index)?.record;
        let numbers = u64::from(record.rows) * u64::from(record.cols);
        bytes = bytes.saturating_add(numbers.saturating_mul(4));
    }
    Ok(Memory::afford(usize::try_from(bytes).unwrap_or(usize::MAX))?)
}

/// The interface that training begins with: the file's, or a new one.
fn first_interface(
    model: &Model<'_>,
    decoder: &Decoder,
    options: &Options,
) -> Result<Interface, AdaptError> {
    let mut interface = match &options.fresh {
        None if model.stacks() == 2 => return Err(AdaptError::NoInterface),
        None => Interface::read(model)?,
        Some(fresh) => {
            let (from, to) = (model.end_width(0), decoder.memory());
            let context = model.stack(0)?.context as u32;
            let mut random = Random(mixed(options.seed));
            initialization::interface(fresh, from, to, context, &mut random)?
        }
    };
    if options.norms {
        interface.norms = decoder.norms();
    }
    Ok(interface)
}

/// The decoder of a model that has something to adapt.
fn read_decoder(model: &Model<'_>) -> Result<Decoder, AdaptError> {
    if model.stacks() == 1 {
        return Err(AdaptError::Alone);
    }
    if !model.is_decoder() {
        return Err(AdaptError::NoDecoder);
    }
    let decoder = Decoder::read(model)?;
    if decoder.memory() == 0 { Err(AdaptError::NotAcross) } else { Ok(decoder) }
}
