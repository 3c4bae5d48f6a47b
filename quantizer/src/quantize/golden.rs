//! The golden sequence: the finished file is opened and run as a device would, and its answer is put into it.

use kinglet::tokenizer::Tokenizer;
use kinglet::{Golden, Isa, LogitsHash, Map, Model, Plan, Progress, Serial, Session, argmax};

use super::{Options, QuantizeError};
use crate::checkpoint::Architecture;
use crate::file::Finished;
use crate::memory::Memory;

/// Tokens of the prompt: the text of the options, or, without a tokenizer, the first few of the vocabulary. Empty when no
/// golden sequence is wanted or fits.
pub(super) fn prompt(tokenizer: &[u8], architecture: &Architecture, options: &Options) -> Vec<u32> {
    if options.golden == 0 || architecture.last().context < 2 {
        return vec![];
    }
    let encoded = Tokenizer::parse(tokenizer).ok().and_then(|t| crate::text::encode(&t, &options.prompt, true).ok());
    let mut tokens = encoded.unwrap_or_else(|| (0..5).map(|i| i % architecture.vocab() as u32).collect());
    tokens.retain(|&t| (t as usize) < architecture.vocab());
    tokens.truncate(architecture.last().context / 2);
    tokens
}

/// Tokens of the answer.
pub(super) fn length(prompt: &[u32], architecture: &Architecture, options: &Options) -> usize {
    options.golden.min(architecture.last().context - prompt.len())
}

/// Multiply-accumulates between two releases of the map: some 100 MB of weights for one token.
const PIECE: u64 = 1 << 27;

/// Runs the file and adds its answer.
pub(super) fn add(file: &mut Finished, prompt: &[u32], options: &Options) -> Result<(), QuantizeError> {
    let path = file.path().to_path_buf();
    let fail = |what: &dyn std::fmt::Display| QuantizeError::check(&path, what);
    let map = Map::open(&path).map_err(|e| fail(&e))?;
    let model = Model::open(&map).map_err(|e| fail(&e))?;
    if prompt.is_empty() {
        return Ok(());
    }
    let answer = options.golden.min(model.context() - prompt.len());
    let context = prompt.len() + answer;
    let plan_options = kinglet::Options { context, prefill: prompt.len(), logits: 1 };
    let mut memory = Memory::new(Plan::new(&model, plan_options).map_err(|e| fail(&e))?.bytes());
    let session = Session::with(&model, plan_options, memory.bytes(), Isa::detect(), Serial);
    let mut session = session.map_err(|e| fail(&e))?;
    let (mut tokens, mut hash) = (vec![], LogitsHash::default());
    let mut next = prompt.to_vec();
    for _ in 0..answer {
        session.begin(&next, 1).map_err(|e| fail(&e))?;
        // In pieces, so that the weights of a large model are not all in memory at once.
        while session.resume(PIECE).map_err(|e| fail(&e))? == Progress::Pending {
            map.release();
        }
        let logits = session.logits();
        hash.update(logits);
        tokens.push(argmax(logits));
        next = tokens[tokens.len() - 1..].to_vec();
    }
    Ok(file.golden(&[Golden { prompt, answer: &tokens, hash: hash.value() }])?)
}
