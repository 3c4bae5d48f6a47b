//! What BertNormalizer makes of each character, as the few runs that the runtime looks up.
//!
//! Only what a vocabulary can tell apart is stored: a character that no token has makes its word
//! unknown, whether it was folded or not, so most of Unicode takes part in the run before it. The
//! Unicode data are those of the crates that `tokenizers` itself asks (older ones than the standard
//! library's), but for small letters, where both ask the standard library.

use std::collections::{HashMap, HashSet};

use kinglet_tokenizer::layout::{CLASS_SHIFT, Fold};
use serde::Deserialize;
use unicode_categories::UnicodeCategories;
use unicode_normalization_alignments::UnicodeNormalization;

/// `BertNormalizer`.
#[derive(Deserialize, Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Bert {
    clean_text: bool,
    handle_chinese_chars: bool,
    strip_accents: Option<bool>,
    lowercase: bool,
}

/// Code points, of which surrogates are none.
const CODE_POINTS: u32 = char::MAX as u32 + 1;
/// The longest text of a fold: its length is stored in 8 bits, its place in 24.
const MAX_TEXTS: usize = 1 << 24;

impl Bert {
    /// What a character becomes, but for the spaces around Chinese ones and for white space that
    /// becomes other white space.
    fn folded(self, c: char) -> Vec<char> {
        let control = c.is_other() && !matches!(c, '\t' | '\n' | '\r');
        if self.clean_text && (c == '\0' || c == '\u{fffd}' || control) {
            return Vec::new();
        }
        let mut out = vec![c];
        if self.strip_accents.unwrap_or(self.lowercase) {
            out = std::iter::once(c)
                .nfd()
                .map(|(c, _)| c)
                .filter(|c| !c.is_mark_nonspacing())
                .collect();
        }
        if self.lowercase { out.into_iter().flat_map(char::to_lowercase).collect() } else { out }
    }

    /// The folded characters that are words of their own.
    pub(super) fn alone(self) -> Vec<bool> {
        let mut alone: Vec<bool> =
            (0..CODE_POINTS).map(|c| char::from_u32(c).is_some_and(is_punctuation)).collect();
        for c in (0..CODE_POINTS)
            .filter_map(char::from_u32)
            .filter(|&c| self.handle_chinese_chars && is_chinese(c))
        {
            self.folded(c).into_iter().for_each(|c| alone[c as usize] = true);
        }
        alone
    }
}

fn is_punctuation(c: char) -> bool {
    c.is_ascii_punctuation() || c.is_punctuation()
}

/// What `handle_chinese_chars` takes for Chinese.
fn is_chinese(c: char) -> bool {
    matches!(u32::from(c),
        0x4e00..=0x9fff
        | 0x3400..=0x4dbf
        | 0x20000..=0x2a6df
        | 0x2a700..=0x2b73f
        | 0x2b740..=0x2b81f
        | 0x2b920..=0x2ceaf
        | 0xf900..=0xfaff
        | 0x2f800..=0x2fa1f)
}

/// The runs, and the texts they refer to.
pub(super) struct Runs {
    /// Keys and values.
    pub(super) runs: Vec<(u32, u32)>,
    pub(super) texts: Vec<u8>,
}

/// A way to change characters, for as many in a row as it gives what it should.
#[derive(Debug, Clone, Copy)]
struct Change {
    fold: Fold,
    first: u32,
    value: u32,
}

/// What tokens can tell: known characters, and of others only whether they are space, a word of
/// their own, or part of one. Longer results are numbered.
struct Seen<'b> {
    alone: &'b [bool],
    /// What single characters are taken for.
    single: Vec<u32>,
    numbers: HashMap<Vec<u32>, u32>,
}

const SPACE: u32 = CODE_POINTS;
const UNKNOWN_WORD: u32 = CODE_POINTS + 1;
const UNKNOWN: u32 = CODE_POINTS + 2;
const SEQUENCES: u32 = CODE_POINTS + 3;

impl Seen<'_> {
    fn new<'b>(alone: &'b [bool], alphabet: &HashSet<char>) -> Seen<'b> {
        let mut single: Vec<u32> =
            alone.iter().map(|&alone| if alone { UNKNOWN_WORD } else { UNKNOWN }).collect();
        alphabet.iter().for_each(|&c| single[c as usize] = c as u32);
        ('\0'..=char::MAX).filter(|c| c.is_whitespace()).for_each(|c| single[c as usize] = SPACE);
        Seen { alone, single, numbers: HashMap::new() }
    }

    fn one(&self, c: char) -> u32 {
        self.single[c as usize]
    }

    fn all(&mut self, chars: &[char]) -> u32 {
        if let &[c] = chars {
            return self.one(c);
        }
        let seen: Vec<u32> = chars.iter().map(|&c| self.one(c)).collect();
        let within = |c: &char| !c.is_whitespace() && !self.alone[*c as usize];
        match seen.as_slice() {
            // One unknown part makes the whole word unknown.
            many if many.contains(&UNKNOWN) && chars.iter().all(within) => UNKNOWN,
            _ => {
                let next = SEQUENCES + self.numbers.len() as u32;
                *self.numbers.entry(seen).or_insert(next)
            }
        }
    }

    /// What `change` makes of a character, as the runtime does it.
    fn changed(&mut self, change: Change, c: char, text: &[char]) -> u32 {
        let added = char::from_u32((c as u32).wrapping_add(change.value)).unwrap_or(c);
        match change.fold {
            Fold::Add => self.one(added),
            Fold::AddToEachSecond if (c as u32 - change.first).is_multiple_of(2) => self.one(added),
            Fold::AddToEachSecond => self.one(c),
            Fold::Become => self.one(char::from_u32(change.value).unwrap_or(c)),
            Fold::Text => self.all(&text[..text.len().min(c.len_utf8())]),
            Fold::Hangul => {
                let letters: Vec<char> = std::iter::once(c).nfd().map(|(c, _)| c).collect();
                let letters = if is_hangul(c) { letters } else { vec![c] };
                self.all(&letters)
            }
        }
    }
}

fn is_hangul(c: char) -> bool {
    matches!(c, '\u{ac00}'..='\u{d7a3}')
}

/// The runs for a vocabulary of the characters in `alphabet`. `None` if their texts are too long,
/// which those of Unicode are not.
pub(super) fn runs(
    bert: Bert,
    alone: &[bool],
    alphabet: &HashSet<char>,
    texts_at: usize,
) -> Option<Runs> {
    let mut seen = Seen::new(alone, alphabet);
    let wanted: Vec<Option<u32>> =
        (0..CODE_POINTS).map(|c| char::from_u32(c).map(|c| seen.all(&bert.folded(c)))).collect();
    let mut out = Runs { runs: Vec::new(), texts: Vec::new() };
    let mut at = 0;
    while at < CODE_POINTS {
        let Some(c) = char::from_u32(at) else {
            at += 1;
            continue;
        };
        let text = bert.folded(c);
        let mut best = (at, Change { fold: Fold::Text, first: at, value: 0 });
        for change in candidates(c, &text) {
            let mut end = at;
            while end < CODE_POINTS {
                let good = wanted[end as usize].zip(char::from_u32(end));
                if good.is_some_and(|(wanted, c)| seen.changed(change, c, &text) != wanted) {
                    break;
                }
                end += 1;
            }
            if end > best.0 {
                best = (end, change);
            }
        }
        let (end, mut change) = best;
        if change.fold == Fold::Text && !text.is_empty() {
            let text: String = text.iter().collect();
            let place = texts_at + out.texts.len();
            out.texts.extend(text.as_bytes());
            change.value = u32::try_from(place).ok()? | (u32::try_from(text.len()).ok()? << 24);
            if texts_at + out.texts.len() > MAX_TEXTS {
                return None;
            }
        }
        out.runs.push((change.first | (change.fold as u32) << CLASS_SHIFT, change.value));
        at = end.max(at + 1);
    }
    Some(out)
}

/// Changes that do what is wanted for `c` at least, the simplest first.
fn candidates(c: char, text: &[char]) -> Vec<Change> {
    let first = c as u32;
    let mut all = vec![Change { fold: Fold::Add, first, value: 0 }];
    if let &[one] = text {
        let value = (one as u32).wrapping_sub(first);
        all.push(Change { fold: Fold::Add, first, value });
        all.push(Change { fold: Fold::AddToEachSecond, first, value });
        all.push(Change { fold: Fold::Become, first, value: one as u32 });
    }
    if is_hangul(c) && first == 0xac00 {
        all.push(Change { fold: Fold::Hangul, first, value: 0 });
    }
    all.push(Change { fold: Fold::Text, first, value: 0 });
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn most_of_unicode_needs_no_runs() {
        let bert = Bert {
            clean_text: true,
            handle_chinese_chars: true,
            strip_accents: None,
            lowercase: true,
        };
        let alone = bert.alone();
        let latin = runs(bert, &alone, &('a'..='z').collect(), 0).unwrap();
        let all = runs(bert, &alone, &('\0'..=char::MAX).collect(), 0).unwrap();
        println!("{} runs for a to z, {} for all of Unicode", latin.runs.len(), all.runs.len());
        assert!(latin.runs.len() < 900 && all.runs.len() < 6000);
        let none = runs(Bert::default(), &alone, &('\0'..=char::MAX).collect(), 0).unwrap();
        assert_eq!((none.runs, none.texts), (vec![(0, 0)], vec![]));
    }
}
