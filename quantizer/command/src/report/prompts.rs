//! Ten prompts, continued by the f32 checkpoint and by the file, each taking the most probable
//! token.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use kinglet::Model;
use kinglet::tokenizer::{Detokenizer, Tokenizer};
use kinglet_evaluate::continued::{Continued, How, continued, greedy};
use kinglet_import::encode;
use kinglet_import::regular::{self, Kind};
use kinglet_reference::Reference;
use kinglet_report::Prompt;

use crate::model::{bar, isa};

/// Prompts that are taken from a text.
const PASSAGES: usize = 10;
/// Prompts that a page can hold.
const MOST: usize = 100;
/// Tokens that the reference runs for all prompts together; continuations that would need more are
/// cut.
const REFERENCE_TOKENS: usize = 1 << 16;

/// The first words of passages spread over the text: of its lines, or, where it has too few, of
/// equal parts.
pub(super) fn from_text(text: &str, words: usize) -> Vec<String> {
    let words = words.max(1);
    let first = |passage: &[&str]| passage[..words.min(passage.len())].join(" ");
    let lines: Vec<Vec<&str>> =
        text.lines().map(|line| line.split_whitespace().collect()).collect();
    let long: Vec<&Vec<&str>> = lines.iter().filter(|line| line.len() > 2 * words).collect();
    if long.len() >= PASSAGES {
        return (0..PASSAGES).map(|i| first(long[i * long.len() / PASSAGES])).collect();
    }
    let all = lines.concat();
    all.chunks(all.len().div_ceil(PASSAGES).max(words)).map(first).collect()
}

/// One a line.
pub(super) fn from_file(path: &Path) -> Result<Vec<String>> {
    let text = regular::read_to_string(path, Kind::Text)
        .with_context(|| format!("cannot read {} as text", path.display()))?;
    let prompts: Vec<String> =
        text.lines().map(str::trim).filter(|l| !l.is_empty()).map(str::to_owned).collect();
    if prompts.is_empty() || prompts.len() > MOST {
        bail!(
            "{} has {} prompts; expected 1 to {MOST}, one per line",
            path.display(),
            prompts.len()
        );
    }
    Ok(prompts)
}

/// Continues `prompts` by up to `n` tokens each.
pub(super) fn run(
    model: &Model<'_>,
    reference: &Reference<'_>,
    prompts: &[String],
    n: usize,
) -> Result<Vec<Prompt>> {
    let context = model.context().min(reference.architecture().last().context);
    let n = n.min(context / 2);
    if n == 0 || prompts.is_empty() {
        return Ok(vec![]);
    }
    let tokenizer = model.tokenizer().context("the file has no tokenizer")??;
    let encoded = |text: &String| {
        let mut prompt = encode(&tokenizer, text, true)
            .with_context(|| format!("cannot encode the prompt {text:?}"))?;
        prompt.truncate(context - n);
        ensure!(!prompt.is_empty(), "the prompt {text:?} has no tokens");
        Ok(prompt.into())
    };
    let samples = prompts.iter().map(encoded).collect::<Result<Vec<_>>>()?;
    let progress = bar((n * samples.len()) as u64, "tokens").with_message("continuing prompts");
    let ends = |token| tokenizer.is_eos(token);
    let how = How { tokens: n, budget: REFERENCE_TOKENS, ends: &ends, choose: &greedy };
    let all = continued(model, isa()?, reference, samples, &how, &|n| progress.inc(n as u64))?;
    progress.finish_and_clear();
    Ok(all.iter().map(|said| shown(said, &tokenizer)).collect())
}

fn shown(said: &Continued, tokenizer: &Tokenizer<'_>) -> Prompt {
    let (reference, model) = (&said.reference, &said.model);
    let both = reference.len().min(model.len());
    let parts_at = (0..both).find(|&i| reference[i] != model[i]);
    // One that was cut is compared as far as it goes.
    let cut = !said.whole && both < model.len();
    let ends = (reference.len() != model.len() && !cut).then_some(both);
    Prompt {
        text: pieces(tokenizer, said.prompt.source.tokens(), true).concat().trim_start().to_owned(),
        reference: pieces(tokenizer, reference, false),
        model: pieces(tokenizer, model, false),
        parts_at: parts_at.or(ends),
    }
}

/// The text of each token; bytes of a character that is not whole yet come with the token that
/// completes it. A token that ends the text is shown as a mark.
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
        assert_eq!(
            (found.len(), found[0].as_str(), found[9].as_str()),
            (10, "w0 b c d e f g h", "w36 b c d e f g h")
        );
        let one = "a b c d e f g h i j ".repeat(10);
        assert_eq!(from_text(&one, 4), vec!["a b c d"; 10]);
        assert_eq!(from_text("only three words", 8), ["only three words"]);
        assert!(from_text("", 8).is_empty());
    }
}
