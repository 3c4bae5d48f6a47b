//! Pre-tokenization of byte-level vocabularies: the few regexes in use, each as a small function
//! that finds where the piece that starts at a position ends.
//!
//! Invariants: a piece is never empty, and pieces cover the whole segment: each regex ends in
//! alternatives that take any character, so there are no gaps. The work on a piece is linear in its
//! length plus one run of whitespace, which the next piece consumes.

use super::layout::{CLASS_LETTER, CLASS_NUMBER, CLASS_NUMERIC, Digits, Pattern};
use super::tables::Classes;
use super::view::View;

/// The four kinds of characters that the regexes tell apart: `\p{L}`, `\p{N}`, `\s` and the rest.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Letter,
    Number,
    Space,
    Other,
}

/// How segments are cut into pieces.
#[derive(Clone, Copy)]
pub(super) struct Splitter<'a> {
    pub(super) classes: Classes<'a>,
    pub(super) pattern: Pattern,
    pub(super) digits: Digits,
    pub(super) max_digits: u8,
}

impl Splitter<'_> {
    /// Calls `piece` for each piece of a segment, in order.
    pub(super) fn split<'t, E>(
        self,
        segment: View<'t>,
        mut piece: impl FnMut(View<'t>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut from = 0;
        while from < segment.len() {
            let to = self.digits_end(segment, from);
            // Look-ahead sees the end of the text where a number was cut out, so the pattern runs
            // on the part alone.
            let part = segment.part(from..to);
            let mut at = 0;
            while at < part.len() {
                let end = self.piece_end(part, at);
                piece(part.part(at..end))?;
                at = end;
            }
            from = to;
        }
        Ok(())
    }

    /// Where the part that starts at `at` ends, when numbers are cut out first.
    fn digits_end(self, view: View<'_>, at: usize) -> usize {
        let numeric = |c| self.classes.of(c) & CLASS_NUMERIC != 0;
        match (self.digits, view.char_at(at)) {
            (Digits::Joined, _) | (_, None) => view.len(),
            (Digits::Individual, Some((c, next))) if numeric(c) => next,
            (_, Some((c, next))) => {
                let wanted = numeric(c);
                run(view, next, usize::MAX, |c| numeric(c) == wanted)
            }
        }
    }

    fn piece_end(self, view: View<'_>, at: usize) -> usize {
        let end = match self.pattern {
            Pattern::Whole => None,
            Pattern::Gpt2 => self.gpt2(view, at),
            Pattern::Cl100k => self.cl100k(view, at),
        };
        end.unwrap_or(view.len())
    }

    fn class(self, c: char) -> Class {
        match self.classes.of(c) {
            bits if bits & CLASS_LETTER != 0 => Class::Letter,
            bits if bits & CLASS_NUMBER != 0 => Class::Number,
            _ if c.is_whitespace() => Class::Space,
            _ => Class::Other,
        }
    }

    /// Where a run of one class ends.
    fn run_of(self, view: View<'_>, at: usize, class: Class) -> usize {
        run(view, at, usize::MAX, |c| self.class(c) == class)
    }

    /// `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
    fn gpt2(self, view: View<'_>, at: usize) -> Option<usize> {
        let (c, next) = view.char_at(at)?;
        if let Some(end) = contraction(view, at, false) {
            return Some(end);
        }
        // ` ?` takes a space only in front of a class that may follow it.
        let after_space = view.char_at(next).map(|(d, after)| (self.class(d), after));
        let (class, after) = match after_space {
            Some((class, after)) if c == ' ' && class != Class::Space => (class, after),
            _ => (self.class(c), next),
        };
        Some(match class {
            Class::Space => self.whitespace(view, at),
            class => self.run_of(view, after, class),
        })
    }

    /// `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,max}|
    /// ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|` `\s+(?!\S)|\s+`
    fn cl100k(self, view: View<'_>, at: usize) -> Option<usize> {
        let (c, next) = view.char_at(at)?;
        if let Some(end) = contraction(view, at, true) {
            return Some(end);
        }
        let class = self.class(c);
        let following = view.char_at(next).map(|(d, after)| (self.class(d), after));
        Some(match (class, following) {
            (Class::Letter, _) => self.run_of(view, next, Class::Letter),
            (Class::Space | Class::Other, Some((Class::Letter, after))) if !is_newline(c) => {
                self.run_of(view, after, Class::Letter)
            }
            (Class::Number, _) => {
                let more = usize::from(self.max_digits).saturating_sub(1);
                run(view, next, more, |c| self.class(c) == Class::Number)
            }
            (Class::Space, Some((Class::Other, after))) if c == ' ' => self.others(view, after),
            (Class::Other, _) => self.others(view, next),
            (Class::Space, _) => match self.last_newline(view, at) {
                Some(end) => end,
                None => self.whitespace(view, at),
            },
        })
    }

    /// The rest of `[^\s\p{L}\p{N}]+[\r\n]*`.
    fn others(self, view: View<'_>, at: usize) -> usize {
        let end = self.run_of(view, at, Class::Other);
        run(view, end, usize::MAX, is_newline)
    }

    /// `\s*[\r\n]+`: the run of whitespace up to and with its last line break.
    fn last_newline(self, view: View<'_>, at: usize) -> Option<usize> {
        let end = self.run_of(view, at, Class::Space);
        let part = view.part(at..end);
        let mut back = part.len();
        while let Some((c, before)) = part.char_before(back) {
            if is_newline(c) {
                return Some(at + back);
            }
            back = before;
        }
        None
    }

    /// `\s+(?!\S)|\s+`: a run of whitespace, leaving its last character to what follows.
    fn whitespace(self, view: View<'_>, at: usize) -> usize {
        let end = self.run_of(view, at, Class::Space);
        match view.char_before(end) {
            Some((_, last)) if end < view.len() && last > at => last,
            _ => end,
        }
    }
}

fn is_newline(c: char) -> bool {
    c == '\r' || c == '\n'
}

/// Where a run of characters that satisfy `test` ends, of at most `limit` characters.
fn run(view: View<'_>, at: usize, limit: usize, test: impl Fn(char) -> bool) -> usize {
    let (mut at, mut left) = (at, limit);
    while let Some((c, next)) = view.char_at(at) {
        if left == 0 || !test(c) {
            break;
        }
        (at, left) = (next, left - 1);
    }
    at
}

/// `'s|'t|'re|'ve|'m|'ll|'d`. With `fold`, in the letter case folding of Unicode, where U+017F is
/// an `s` and the other letters have no third form.
fn contraction(view: View<'_>, at: usize, fold: bool) -> Option<usize> {
    let lower = |c: char| match c {
        '\u{17f}' if fold => 's',
        c if fold => c.to_ascii_lowercase(),
        c => c,
    };
    let ('\'', quote) = view.char_at(at)? else { return None };
    let (first, one) = view.char_at(quote)?;
    let second = view.char_at(one).map(|(c, two)| (lower(c), two));
    match (lower(first), second) {
        ('s' | 't' | 'm' | 'd', _) => Some(one),
        ('r' | 'v', Some(('e', two))) | ('l', Some(('l', two))) => Some(two),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::tables::WordTable;
    use super::*;

    /// Pieces of an ASCII text, joined with `|`, compared with `expected`.
    fn check(pattern: Pattern, digits: Digits, max_digits: u8, text: &str, expected: &str) {
        let splitter =
            Splitter { classes: Classes(WordTable::new(&[])), pattern, digits, max_digits };
        let mut wanted = expected.split('|');
        let done: Result<(), ()> = splitter.split(View::new(text), |piece| {
            assert!(
                piece.chars().map(|(_, c)| c).eq(wanted.next().unwrap_or("(none)").chars()),
                "{text:?}"
            );
            Ok(())
        });
        assert_eq!(done, Ok(()));
        assert_eq!(wanted.next(), None, "{text:?}");
    }

    #[test]
    fn gpt2_pieces() {
        let check = |text, expected| check(Pattern::Gpt2, Digits::Joined, 1, text, expected);
        check("I'll go, it'S 42  times", "I|'ll| go|,| it|'|S| 42| | times");
        check("a \n b\n\n", "a| \n| b|\n\n");
        check("'", "'");
        check("  ", "  ");
    }

    #[test]
    fn cl100k_pieces() {
        let check = |text, expected| check(Pattern::Cl100k, Digits::Joined, 3, text, expected);
        check("I'LL 12345 (ok)\n\n  x", "I|'LL| |123|45| (|ok|)\n\n| | x");
        check("a \n \n  b", "a| \n \n| | b");
        check("\tx  ", "\tx|  ");
    }

    #[test]
    fn digits_are_cut_before_the_pattern() {
        check(Pattern::Gpt2, Digits::Individual, 1, "a 12 b", "a| |1|2| b");
        check(Pattern::Gpt2, Digits::Runs, 1, "a 12 b", "a| |12| b");
    }
}
