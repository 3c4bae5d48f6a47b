//! What the f32 model says: its own continuations of prompts, token by token.
//!
//! The reference has no cache, so each token of its own would cost a run over all before it.
//! Instead the rounded model drafts: what it would say is run through the reference at once, which
//! finds the first token where it would have said another; from there the model drafts again. The
//! result is the reference's own, and the runs are about as many as the places where the two
//! differ.
//!
//! This holds for any choice that is a function of logits, prompt and position: of the most
//! probable token, and of one that is drawn with noise that depends on these alone ([`drawn`],
//! after Gumbel), so that what is drawn depends on the f32 model and the seed and not on the draft.

use kinglet::{Isa, Model, argmax};

use crate::EvaluateError;
use crate::samples::{Runner, begin};
use kinglet_reference::random::mixed;
use kinglet_reference::{Reference, Sample, Source};

/// How to continue.
pub struct How<'h> {
    /// Tokens to add to each prompt, at most.
    pub tokens: usize,
    /// Tokens that the reference runs for all prompts together; continuations that would need more
    /// are cut.
    pub budget: usize,
    /// Whether a token ends a text.
    pub ends: &'h dyn Fn(u32) -> bool,
    /// The token that is said, by the number of the prompt, that of the token after it, and
    /// logits.
    pub choose: &'h dyn Fn(usize, usize, &[f32]) -> u32,
}

/// A prompt and what is said then. Both answers hold the token that ends them, if one does.
#[derive(Clone, Debug, PartialEq)]
pub struct Continued {
    /// The prompt: of one stack its tokens, otherwise a source and the beginning of the target.
    pub prompt: Sample,
    /// The rounded model's answer.
    pub model: Vec<u32>,
    /// The f32 model's.
    pub reference: Vec<u32>,
    /// Whether that was not cut.
    pub whole: bool,
}

impl Continued {
    /// The prompt with more tokens after it.
    pub fn with(&self, more: &[u32]) -> Sample {
        let mut sample = self.prompt.clone();
        match &mut sample.source {
            Source::Tokens { tokens, .. } if sample.target.is_empty() => tokens.extend(more),
            _ => sample.target.extend(more),
        }
        sample
    }

    fn length(&self) -> usize {
        if self.prompt.target.is_empty() {
            self.prompt.source.tokens().len()
        } else {
            self.prompt.target.len()
        }
    }
}

/// The most probable token.
pub fn greedy(_: usize, _: usize, logits: &[f32]) -> u32 {
    argmax(logits)
}

/// A token drawn at temperature 1: the largest sum of a logit and of Gumbel noise that follows from
/// seed, prompt, position and token.
pub fn drawn(seed: u64, prompt: usize, at: usize, logits: &[f32]) -> u32 {
    // The noise is from -2.9 to 17.4, so what is further behind the largest cannot win.
    const REACH: f32 = 21.0;
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let place = mixed(mixed(seed ^ (prompt as u64) << 32) ^ at as u64);
    let noise = |token: usize| {
        let bits = mixed(place ^ (token as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)) >> 40;
        let uniform = (bits as f64 + 0.5) / (1u64 << 24) as f64;
        -(-uniform.ln()).ln()
    };
    let near = logits.iter().enumerate().filter(|(_, logit)| **logit > largest - REACH);
    let sums = near.map(|(token, &logit)| (token as u32, f64::from(logit) + noise(token)));
    sums.max_by(|a, b| a.1.total_cmp(&b.1)).map_or(0, |(token, _)| token)
}

/// A prompt on its way.
struct Talk {
    said: Continued,
    draft: Vec<u32>,
}

/// Continues prompts, none of which may be empty. `progress` is told how many more tokens are
/// known.
///
/// # Errors
/// Prompts that the model or the reference cannot run.
pub fn continued(
    model: &Model<'_>,
    isa: Isa,
    reference: &Reference<'_>,
    prompts: Vec<Sample>,
    how: &How<'_>,
    progress: &dyn Fn(usize),
) -> Result<Vec<Continued>, EvaluateError> {
    let new =
        |prompt| Continued { prompt, model: vec![], reference: vec![], whole: how.tokens == 0 };
    let mut talks: Vec<Talk> =
        prompts.into_iter().map(|prompt| Talk { said: new(prompt), draft: vec![] }).collect();
    let longest: Vec<Sample> =
        talks.iter().map(|talk| talk.said.with(&vec![0; how.tokens])).collect();
    let mut runner = Runner::new(model, isa, &longest)?;
    runner.logits_of_last().map_err(EvaluateError::run)?;
    let mut speaker = Speaker { runner: &runner, memory: kinglet::Memory::new(runner.bytes)?, how };
    for (number, talk) in talks.iter_mut().enumerate().filter(|_| how.tokens > 0) {
        talk.draft = speaker.answer(number, &talk.said, how.tokens)?;
        talk.said.model.clone_from(&talk.draft);
    }
    let mut budget = how.budget;
    loop {
        let open: Vec<usize> = (0..talks.len()).filter(|&i| !talks[i].said.whole).collect();
        let samples: Vec<Sample> = open.iter().map(|&i| talks[i].checked()).collect();
        let tokens: usize =
            samples.iter().map(|sample| sample.size(reference.architecture())).sum();
        if open.is_empty() || tokens > budget {
            return Ok(talks.into_iter().map(|talk| talk.said).collect());
        }
        budget -= tokens;
        let mut chosen = vec![vec![]; open.len()];
        reference.run_samples(&samples, |sample, position, logits| {
            let talk = &talks[open[sample]].said;
            if let Some(at) = (position + 1).checked_sub(talk.length() + talk.reference.len()) {
                chosen[sample].push((how.choose)(open[sample], talk.reference.len() + at, logits));
            }
        })?;
        for (number, chosen) in open.into_iter().zip(chosen) {
            let talk = &mut talks[number];
            let accepted = talk.accept(&chosen, how);
            progress(accepted);
            if !talk.said.whole {
                // Where drafts part soon, long ones are wasted.
                talk.draft = speaker.answer(number, &talk.said, 2 * accepted + 4)?;
            }
        }
    }
}

impl Talk {
    /// What the reference is to run. The last token of a draft has nothing after it to be checked.
    fn checked(&self) -> Sample {
        let draft = &self.draft[..self.draft.len().saturating_sub(1)];
        self.said.with(&[&self.said.reference, draft].concat())
    }

    /// Takes what the reference chose, up to the first token that is not the draft's; returns how
    /// many tokens that are.
    fn accept(&mut self, chosen: &[u32], how: &How<'_>) -> usize {
        let before = self.said.reference.len();
        for (&token, draft) in chosen.iter().zip(std::mem::take(&mut self.draft)) {
            self.said.reference.push(token);
            self.said.whole = self.said.reference.len() == how.tokens || (how.ends)(token);
            if self.said.whole || token != draft {
                break;
            }
        }
        self.said.reference.len() - before
    }
}

/// The rounded model, continuing.
struct Speaker<'s, 'm> {
    runner: &'s Runner<'m>,
    memory: kinglet::Memory,
    how: &'s How<'s>,
}

impl Speaker<'_, '_> {
    /// What the model says after what the reference has said, up to so many tokens.
    fn answer(
        &mut self,
        number: usize,
        said: &Continued,
        most: usize,
    ) -> Result<Vec<u32>, EvaluateError> {
        let sample = said.with(&said.reference);
        let mut session = self.runner.session(&mut self.memory)?;
        let mut next = begin(&mut session, &sample)?.to_vec();
        let mut answer = vec![];
        let known = said.reference.len();
        for at in known..self.how.tokens.min(known + most) {
            let logits = session.feed(&next).map_err(EvaluateError::run)?;
            let token = (self.how.choose)(number, at, logits);
            answer.push(token);
            if (self.how.ends)(token) {
                break;
            }
            next = vec![token];
        }
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How often tokens are drawn is how probable they are.
    #[test]
    fn draws_follow_the_distribution() {
        let logits = [0.5f32.ln(), 0.25f32.ln(), 0.125f32.ln(), 0.125f32.ln(), -40.0];
        let mut counts = [0i32; 5];
        (0..20_000).for_each(|at| counts[drawn(7, at % 10, at / 10, &logits) as usize] += 1);
        for (count, want) in counts.into_iter().zip([10_000, 5000, 2500, 2500, 0]) {
            assert!((count - want).abs() < 300, "{counts:?}");
        }
        assert_eq!(drawn(7, 1, 2, &logits), drawn(7, 1, 2, &logits));
    }
}
