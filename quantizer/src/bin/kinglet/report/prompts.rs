//! Ten prompts, continued by the f32 checkpoint and by the file, each taking the most probable token.
//!
//! The reference has no cache, so each token of its own would cost a run over all before it. Instead the file drafts: what it
//! would say is run through the reference at once, which finds the first token where it would have said another; from there the file
//! drafts again. The result is the reference's own, and the runs are about as many as the places where the two differ.

use std::path::Path;

use anyhow::{Context, Result, bail};
use indicatif::ProgressBar;
use kinglet::tokenizer::{Detokenizer, Tokenizer};
use kinglet::{Model, Options, Plan, Session, argmax};
use kinglet_quantizer::reference::Reference;
use kinglet_quantizer::report::Prompt;
use kinglet_quantizer::{Memory, encode};

use crate::model::{bar, isa};

/// Prompts that are taken from a text.
const PASSAGES: usize = 10;
/// Prompts that a page can hold.
const MOST: usize = 100;
/// Tokens that the reference runs for all prompts together; continuations that would need more are cut.
const REFERENCE_TOKENS: usize = 1 << 16;

/// The first words of passages spread over the text: of its lines, or, where it has too few, of equal parts.
pub(super) fn from_text(text: &str, words: usize) -> Vec<String> {
    let words = words.max(1);
    let first = |passage: &[&str]| passage[..words.min(passage.len())].join(" ");
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    let long: Vec<&Vec<&str>> = lines.iter().filter(|line| line.len() > 2 * words).collect();
    if long.len() >= PASSAGES {
        return (0..PASSAGES).map(|i| first(long[i * long.len() / PASSAGES])).collect();
    }
    let all = lines.concat();
    all.chunks(all.len().div_ceil(PASSAGES).max(words)).map(first).collect()
}

/// One a line.
pub(super) fn from_file(path: &Path) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {} as text", path.display()))?;
    let prompts: Vec<String> = text.lines().map(str::trim).filter(|l| !l.is_empty()).map(str::to_owned).collect();
    if prompts.is_empty() || prompts.len() > MOST {
        bail!("{} has {} prompts; write 1 to {MOST}, one a line", path.display(), prompts.len());
    }
    Ok(prompts)
}

/// A prompt on its way.
struct Talk {
    prompt: Vec<u32>,
    model: Vec<u32>,
    reference: Vec<u32>,
    draft: Vec<u32>,
    done: bool,
}

/// The file, continuing.
struct Speaker<'s, 'm, 'a> {
    session: Session<'m, 'a>,
    tokenizer: &'s Tokenizer<'m>,
}

impl Speaker<'_, '_, '_> {
    /// At most `n` tokens behind `tokens`; the last may be one that ends a text.
    fn continued(&mut self, tokens: &[u32], n: usize) -> Result<Vec<u32>> {
        self.session.rewind(0)?;
        let mut answer: Vec<u32> = vec![];
        let mut logits = self.session.feed(tokens)?;
        while answer.len() < n {
            let token = argmax(logits);
            answer.push(token);
            if self.tokenizer.is_eos(token) || answer.len() == n {
                break;
            }
            logits = self.session.feed(&[token])?;
        }
        Ok(answer)
    }
}

/// Continues `prompts` by up to `n` tokens each.
pub(super) fn run(model: &Model<'_>, reference: &Reference<'_>, prompts: &[String], n: usize) -> Result<Vec<Prompt>> {
    let context = model.context().min(reference.architecture().last().context);
    let n = n.min(context / 2);
    if n == 0 || prompts.is_empty() {
        return Ok(vec![]);
    }
    let tokenizer = model.tokenizer().context("the file carries no tokenizer")??;
    let options = Options { context, prefill: context.min(32), logits: 1, ..Options::ONE };
    let mut memory = Memory::new(Plan::new(model, options)?.bytes());
    let session = Session::with(model, options, memory.bytes(), isa()?, kinglet::Serial)?;
    let mut speaker = Speaker { session, tokenizer: &tokenizer };
    let mut talks = vec![];
    for text in prompts {
        let mut prompt =
            encode(&tokenizer, text, true).with_context(|| format!("cannot encode the prompt {text:?}"))?;
        prompt.truncate(context - n);
        if prompt.is_empty() {
            bail!("the prompt {text:?} has no tokens");
        }
        let model = speaker.continued(&prompt, n)?;
        talks.push(Talk { prompt, draft: model.clone(), model, reference: vec![], done: false });
    }
    let progress = bar((n * talks.len()) as u64, "tokens").with_message("continuing prompts");
    check(&mut speaker, reference, &mut talks, n, &progress)?;
    progress.finish_and_clear();
    Ok(talks.into_iter().map(|talk| talk.finish(&tokenizer)).collect())
}

/// Runs drafts through the reference until all continuations are its own.
fn check(
    speaker: &mut Speaker<'_, '_, '_>,
    reference: &Reference<'_>,
    talks: &mut [Talk],
    n: usize,
    progress: &ProgressBar,
) -> Result<()> {
    let mut budget = REFERENCE_TOKENS;
    loop {
        let mut open: Vec<&mut Talk> = talks.iter_mut().filter(|talk| !talk.done).collect();
        // The last token of a draft has nothing behind it to be checked.
        let inputs: Vec<Vec<u32>> =
            open.iter().map(|t| [&t.prompt[..], &t.reference, &t.draft[..t.draft.len() - 1]].concat()).collect();
        let tokens: usize = inputs.iter().map(Vec::len).sum();
        if open.is_empty() || tokens > budget {
            return Ok(());
        }
        budget -= tokens;
        let mut chosen = vec![vec![]; open.len()];
        let sequences: Vec<&[u32]> = inputs.iter().map(Vec::as_slice).collect();
        reference.run(&sequences, |sequence, _, logits| chosen[sequence].push(argmax(logits)))?;
        for (talk, chosen) in open.iter_mut().zip(&chosen) {
            let before = talk.reference.len();
            let first = talk.prompt.len() + before - 1;
            for (&token, draft) in chosen[first..].iter().zip(std::mem::take(&mut talk.draft)) {
                talk.reference.push(token);
                talk.done = talk.reference.len() == n || speaker.tokenizer.is_eos(token);
                if talk.done || token != draft {
                    break;
                }
            }
            progress.inc((talk.reference.len() - before) as u64);
            if !talk.done {
                let known = [&talk.prompt[..], &talk.reference].concat();
                talk.draft = speaker.continued(&known, n - talk.reference.len())?;
            }
        }
    }
}

impl Talk {
    fn finish(self, tokenizer: &Tokenizer<'_>) -> Prompt {
        let both = self.reference.len().min(self.model.len());
        let parts_at = (0..both).find(|&i| self.reference[i] != self.model[i]);
        // One that was cut is compared as far as it goes.
        let cut = !self.done && both < self.model.len();
        let ends = (self.reference.len() != self.model.len() && !cut).then_some(both);
        Prompt {
            text: pieces(tokenizer, &self.prompt, true).concat().trim_start().to_owned(),
            reference: pieces(tokenizer, &self.reference, false),
            model: pieces(tokenizer, &self.model, false),
            parts_at: parts_at.or(ends),
        }
    }
}

/// The text of each token; bytes of a character that is not whole yet come with the token that completes it. A token that ends the
/// text is shown as a mark.
fn pieces(tokenizer: &Tokenizer<'_>, tokens: &[u32], start: bool) -> Vec<String> {
    let mut text = if start { Detokenizer::new(tokenizer) } else { Detokenizer::continuing() };
    let mut piece = |&token: &u32| -> String {
        if tokenizer.is_eos(token) {
            return "∎".to_owned();
        }
        let mut all = String::new();
        text.push(tokenizer, token).for_each(|piece| all.push_str(piece));
        all
    };
    let mut all: Vec<String> = tokens.iter().map(&mut piece).collect();
    if let (Some(last), Some(rest)) = (all.last_mut(), text.finish()) {
        last.push_str(rest);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_come_from_all_of_the_text() {
        let line = |i: usize| format!("w{i} b c d e f g h i j k l m n o p q r\n\n");
        let lines: String = (0..40).map(line).collect();
        let found = from_text(&lines, 8);
        assert_eq!((found.len(), found[0].as_str(), found[9].as_str()), (10, "w0 b c d e f g h", "w36 b c d e f g h"));
        let one = "a b c d e f g h i j ".repeat(10);
        assert_eq!(from_text(&one, 4), vec!["a b c d"; 10]);
        assert_eq!(from_text("only three words", 8), ["only three words"]);
        assert!(from_text("", 8).is_empty());
    }
}
