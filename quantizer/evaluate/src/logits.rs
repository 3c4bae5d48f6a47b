//! Predictions of files beside those of a reference.

use std::sync::Mutex;

use kinglet::{Isa, Model};
use kinglet_reference::Reference;

use super::error::EvaluateError;
use super::figures::{Evaluation, Protocol};
use super::peer::Peer;
use super::score::Score;
use super::windows::{Machine, Window};

/// Evaluates `model` on `tokens`. `progress` is called with tokens done, which add up to those of
/// the text.
///
/// # Errors
///
/// When there are fewer than two tokens, when one of them is unknown to the model, when the window
/// exceeds the context, when the reference predicts other tokens or is no causal decoder, and when
/// the model or the reference fails to run.
pub fn evaluate(
    model: &Model<'_>,
    isa: Isa,
    tokens: &[u32],
    protocol: Protocol,
    reference: Option<&Reference<'_>>,
    progress: &(dyn Fn(usize) + Sync),
) -> Result<Evaluation, EvaluateError> {
    let mut all = evaluate_all(&[*model], isa, tokens, protocol, reference, progress)?;
    Ok(all.remove(0))
}

/// Evaluates several models on the same tokens, in one run, and measures the distance of each from
/// the first.
///
/// # Errors
///
/// As [`evaluate`]; also when the models predict different tokens.
///
/// # Panics
///
/// Without a model.
pub fn evaluate_all(
    models: &[Model<'_>],
    isa: Isa,
    tokens: &[u32],
    protocol: Protocol,
    reference: Option<&Reference<'_>>,
    progress: &(dyn Fn(usize) + Sync),
) -> Result<Vec<Evaluation>, EvaluateError> {
    evaluate_beside(models, vec![], isa, tokens, protocol, reference, progress)
}

/// The same with peers, whose results follow those of the models and have no hidden states.
///
/// # Errors
///
/// As [`evaluate_all`]; also when a peer does not answer, or not with numbers.
///
/// # Panics
///
/// Without a model.
pub fn evaluate_beside(
    models: &[Model<'_>],
    peers: Vec<Box<dyn Peer>>,
    isa: Isa,
    tokens: &[u32],
    protocol: Protocol,
    reference: Option<&Reference<'_>>,
    progress: &(dyn Fn(usize) + Sync),
) -> Result<Vec<Evaluation>, EvaluateError> {
    if tokens.len() < 2 {
        return Err(EvaluateError::TooShort { tokens: tokens.len() });
    }
    let want = models[0].outputs();
    if let Some(got) = models.iter().map(Model::outputs).find(|&got| got != want) {
        return Err(EvaluateError::OtherVocabulary { want, got });
    }
    let causal =
        |r: &Reference<'_>| r.architecture().stacks.len() == 1 && r.architecture().is_causal();
    if !reference.is_none_or(causal) {
        return Err(EvaluateError::Kind);
    }
    if let Some(got) = reference.map(|r| r.architecture().outputs()).filter(|&got| got != want) {
        return Err(EvaluateError::Vocabulary { want, got });
    }
    if let Some(&token) = tokens.iter().chain(&protocol.bos).find(|&&token| token as usize >= want)
    {
        return Err(EvaluateError::Token { token, vocab: want });
    }
    let window = protocol.window.min(tokens.len());
    if let Some(context) =
        models.iter().map(Model::context).find(|&context| window == 0 || window > context)
    {
        return Err(EvaluateError::Window { window, context });
    }
    let windows: Vec<Window<'_>> =
        tokens.chunks(window).map(|chunk| Window::new(chunk, protocol.bos)).collect();
    let peers: Vec<_> = peers.into_iter().map(Mutex::new).collect();
    let machine =
        Machine::new(models, &peers, isa, (window, protocol.int4_values), reference, progress)?;
    let mut totals = vec![Score::default(); models.len() + peers.len()];
    for scores in machine.run(&windows)? {
        totals.iter_mut().zip(scores).for_each(|(total, score)| total.add(score));
    }
    Ok(totals.into_iter().map(|total| total.finish()).collect())
}
