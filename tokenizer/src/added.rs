//! Finding added tokens in a text, as the `tokenizers` crate does: leftmost-longest matches that do
//! not overlap, then widened over whitespace or dropped by the token's flags.
//!
//! Invariants: a match advances the search by at least one character; the work at one position is
//! bounded by the longest allowed pattern; whitespace is walked over once, however many matches ask
//! for the same run.

use core::ops::Range;

use super::layout::{CLASS_WORD, MAX_PATTERN_BYTES};
use super::tables::{Added, AddedEntry, Classes};
use super::view::View;

/// A part of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Part {
    /// Text between added tokens, never empty.
    Text(Range<usize>),
    /// An added token.
    Token(u32),
}

/// Iterates over the parts of a view.
pub(super) struct Parts<'t, 'a> {
    view: View<'t>,
    added: Added<'a>,
    classes: Classes<'a>,
    match_special: bool,
    /// Where the search goes on.
    search: usize,
    /// Where text that was not handed out yet begins. A token that takes whitespace on its right
    /// may move it past `search`, and a later match inside that whitespace may move it back: this
    /// is what the crate does.
    pending: usize,
    queued: Option<u32>,
    last_space_run: Range<usize>,
}

impl<'t, 'a> Parts<'t, 'a> {
    pub(super) fn new(
        view: View<'t>,
        added: Added<'a>,
        classes: Classes<'a>,
        match_special: bool,
    ) -> Self {
        Self {
            view,
            added,
            classes,
            match_special,
            search: 0,
            pending: 0,
            queued: None,
            last_space_run: 0..0,
        }
    }

    /// The next match at or after `self.search`, and the range it covers before widening.
    fn next_match(&mut self) -> Option<(AddedEntry<'a>, Range<usize>)> {
        if self.added.entries.is_empty() {
            return None;
        }
        while let Some((_, next)) = self.view.char_at(self.search) {
            let start = self.search;
            if let Some((entry, end)) = longest_at(self.added, self.view, start) {
                self.search = end;
                return Some((entry, start..end));
            }
            self.search = next;
        }
        None
    }

    fn allowed(&self, entry: AddedEntry<'_>, range: &Range<usize>) -> bool {
        if entry.special() && !self.match_special {
            return false;
        }
        let is_word =
            |c: Option<(char, usize)>| c.is_some_and(|(c, _)| self.classes.of(c) & CLASS_WORD != 0);
        let touched =
            is_word(self.view.char_before(range.start)) || is_word(self.view.char_at(range.end));
        !(entry.single_word() && touched)
    }

    /// Where the whitespace before `start` begins, not going below what was handed out.
    fn space_before(&self, start: usize) -> usize {
        let mut at = start;
        while at > self.pending {
            match self.view.char_before(at) {
                Some((c, before)) if c.is_whitespace() => at = before,
                _ => break,
            }
        }
        at.max(self.pending)
    }

    /// Where the whitespace after `end` ends. A text of whitespace alone with a whitespace token at
    /// each place would make this quadratic, hence the memory of the last run.
    fn space_after(&mut self, end: usize) -> usize {
        if self.last_space_run.contains(&end) {
            return self.last_space_run.end;
        }
        let mut at = end;
        while let Some((c, next)) = self.view.char_at(at) {
            if !c.is_whitespace() {
                break;
            }
            at = next;
        }
        self.last_space_run = end..at;
        at
    }
}

impl Iterator for Parts<'_, '_> {
    type Item = Part;

    fn next(&mut self) -> Option<Part> {
        if let Some(id) = self.queued.take() {
            return Some(Part::Token(id));
        }
        while let Some((entry, range)) = self.next_match() {
            if !self.allowed(entry, &range) {
                continue;
            }
            let start = if entry.lstrip() { self.space_before(range.start) } else { range.start };
            let end = if entry.rstrip() { self.space_after(range.end) } else { range.end };
            let text = self.pending..start;
            self.pending = end;
            // A token that lies in whitespace which the one before it took is gone.
            let token = (start < end).then_some(entry.id);
            if !text.is_empty() {
                self.queued = token;
                return Some(Part::Text(text));
            }
            if let Some(id) = token {
                return Some(Part::Token(id));
            }
        }
        let text = self.pending..self.view.len();
        self.pending = text.end;
        if text.is_empty() { None } else { Some(Part::Text(text)) }
    }
}

/// The longest pattern that matches at a position, and where it ends.
fn longest_at<'a>(
    added: Added<'a>,
    view: View<'_>,
    position: usize,
) -> Option<(AddedEntry<'a>, usize)> {
    let mut utf8 = [0; 4];
    let (mut lo, mut hi) = (0, added.entries.len());
    let (mut at, mut depth, mut best) = (position, 0, None);
    // Entries lo..hi share the first `depth` bytes, which are those of the view.
    while let Some((c, next)) = view.char_at(at) {
        for &byte in c.encode_utf8(&mut utf8).as_bytes() {
            if depth == 0 && !added.may_start(byte) {
                return None;
            }
            lo =
                added.partition(lo, hi, |entry| entry.pattern.get(depth).is_none_or(|&b| b < byte));
            hi = added
                .partition(lo, hi, |entry| entry.pattern.get(depth).is_some_and(|&b| b == byte));
            depth += 1;
        }
        if lo == hi || depth > MAX_PATTERN_BYTES {
            break;
        }
        at = next;
        // The shortest of the entries that share a prefix comes first.
        if let Some(entry) = added.get(lo).filter(|entry| entry.pattern.len() == depth) {
            best = Some((entry, at));
        }
    }
    best
}

/// The entry whose pattern is exactly these bytes.
pub(super) fn exact<'a>(added: Added<'a>, pattern: &[u8]) -> Option<AddedEntry<'a>> {
    let at = added.partition(0, added.entries.len(), |entry| entry.pattern < pattern);
    added.get(at).filter(|entry| entry.pattern == pattern)
}
