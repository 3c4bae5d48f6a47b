//! A text as the normalizer and the pre-tokenizer see it, without making a copy: a body with,
//! possibly, one character put in front and spaces shown as marks.
//!
//! Invariants: positions run from 0 to [`View::len`]; those below the front character's length
//! belong to it, the rest are offsets in the body moved by it. Every position that is handed out is
//! a character boundary, and [`View::char_at`] always moves forward, so loops over a view end.

use core::ops::Range;

use super::layout::SPACE_MARK;

/// See the module.
#[derive(Debug, Clone, Copy)]
pub(super) struct View<'t> {
    front: Option<char>,
    body: &'t str,
    /// Where the body starts in the whole text.
    origin: usize,
    marks: bool,
}

impl<'t> View<'t> {
    /// The text as it is.
    pub(super) fn new(text: &'t str) -> Self {
        Self { front: None, body: text, origin: 0, marks: false }
    }

    /// The same text with spaces shown as [`SPACE_MARK`].
    pub(super) fn with_marks(self) -> Self {
        Self { marks: true, ..self }
    }

    /// The same text with a character in front.
    pub(super) fn with_front(self, front: char) -> Self {
        Self { front: Some(front), ..self }
    }

    fn front_len(self) -> usize {
        self.front.map_or(0, char::len_utf8)
    }

    /// Positions of the view.
    pub(super) fn len(self) -> usize {
        self.front_len() + self.body.len()
    }

    /// Where the body starts in the whole text.
    pub(super) fn origin(self) -> usize {
        self.origin
    }

    /// The offset in the whole text of a position; that of the front character is the body's start.
    pub(super) fn offset(self, position: usize) -> usize {
        self.origin + position.saturating_sub(self.front_len())
    }

    /// The character at a position and the position after it; `None` at the end.
    pub(super) fn char_at(self, position: usize) -> Option<(char, usize)> {
        let front = self.front_len();
        match self.front {
            Some(c) if position < front => Some((c, front)),
            _ => {
                let c = self.body.get(position.checked_sub(front)?..)?.chars().next()?;
                Some((self.shown(c), position + c.len_utf8()))
            }
        }
    }

    /// The character before a position and its position; `None` at the start.
    pub(super) fn char_before(self, position: usize) -> Option<(char, usize)> {
        let front = self.front_len();
        match self.front {
            Some(c) if position == front => Some((c, 0)),
            _ => {
                let c = self.body.get(..position.checked_sub(front)?)?.chars().next_back()?;
                Some((self.shown(c), position - c.len_utf8()))
            }
        }
    }

    fn shown(self, c: char) -> char {
        if self.marks && c == ' ' { SPACE_MARK } else { c }
    }

    /// A part of the view; empty if the range is none of its own.
    pub(super) fn part(self, range: Range<usize>) -> Self {
        let front = self.front_len();
        let keeps_front = range.start == 0 && range.end >= front;
        let body = range.start.max(front) - front..range.end.max(front) - front;
        Self {
            front: if keeps_front { self.front } else { None },
            origin: self.origin + body.start,
            body: self.body.get(body).unwrap_or(""),
            marks: self.marks,
        }
    }

    /// The characters of the view.
    pub(super) fn chars(self) -> impl Iterator<Item = (usize, char)> + use<'t> {
        let mut at = 0;
        core::iter::from_fn(move || {
            let (c, next) = self.char_at(at)?;
            Some((core::mem::replace(&mut at, next), c))
        })
    }

    /// The bytes of a view without marks; the front character must be ASCII.
    pub(super) fn bytes(self) -> impl Iterator<Item = u8> + use<'t> {
        self.front.map(|c| c as u8).into_iter().chain(self.body.bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_keeps_the_front_only_at_the_start() {
        let view = View::new("a b").with_marks().with_front(SPACE_MARK);
        assert_eq!(view.len(), 6);
        assert!(view.chars().map(|(_, c)| c).eq("\u{2581}a\u{2581}b".chars()));
        assert!(view.part(0..4).chars().map(|(_, c)| c).eq("\u{2581}a".chars()));
        assert!(view.part(4..6).chars().map(|(_, c)| c).eq("\u{2581}b".chars()));
        assert_eq!(view.part(4..6).offset(1), 2);
        assert_eq!(view.part(0..3).len(), 3);
        assert_eq!(view.part(9..12).len(), 0);
    }

    #[test]
    fn walking_back_mirrors_walking_forward() {
        let view = View::new("é \u{1F600}").with_front(' ');
        let mut at = view.len();
        let mut seen = [None; 8];
        for slot in &mut seen {
            let Some((c, before)) = view.char_before(at) else { break };
            *slot = Some((before, c));
            at = before;
        }
        assert!(seen.iter().rev().flatten().copied().eq(view.chars()));
    }
}
