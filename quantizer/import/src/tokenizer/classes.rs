//! The Unicode classes of the pre-tokenizing regexes, from the data of the regex engine that the
//! `tokenizers` crate uses, so that firmware carries only the table its model needs.

use kinglet_tokenizer::layout::{
    CLASS_ALONE, CLASS_LETTER, CLASS_NUMBER, CLASS_NUMERIC, CLASS_SHIFT, CLASS_WORD,
};
use regex_syntax::hir::{Class, HirKind};

/// The first code point of the table: the runtime knows ASCII.
const FIRST: u32 = 0x80;

/// The entries of the table for the classes in `wanted` and for the characters that are words of
/// their own; none if nothing is wanted.
pub(super) fn table(wanted: u8, alone: &[bool]) -> Vec<u32> {
    let mut classes = vec![0u8; char::MAX as usize + 1];
    for (bit, regex) in [(CLASS_LETTER, r"\p{L}"), (CLASS_NUMBER, r"\p{N}"), (CLASS_WORD, r"\w")] {
        if wanted & bit != 0 {
            for (start, end) in ranges(regex) {
                classes[start as usize..=end as usize].iter_mut().for_each(|class| *class |= bit);
            }
        }
    }
    if wanted & CLASS_NUMERIC != 0 {
        // `Digits` asks the standard library, not the regex engine.
        for (c, class) in (0..).zip(&mut classes) {
            if char::from_u32(c).is_some_and(char::is_numeric) {
                *class |= CLASS_NUMERIC;
            }
        }
    }
    for (class, _) in classes.iter_mut().zip(alone).filter(|(_, alone)| **alone) {
        *class |= CLASS_ALONE;
    }
    let mut last = 0;
    let mut runs = Vec::new();
    for (c, &class) in (0u32..).zip(&classes).skip(FIRST as usize) {
        if class != last {
            runs.push(c | u32::from(class) << CLASS_SHIFT);
            last = class;
        }
    }
    runs
}

/// The ranges of a regex that is a single class.
fn ranges(regex: &str) -> Vec<(char, char)> {
    match regex_syntax::parse(regex).map(regex_syntax::hir::Hir::into_kind) {
        Ok(HirKind::Class(Class::Unicode(class))) => {
            class.iter().map(|r| (r.start(), r.end())).collect()
        }
        _ => unreachable!("the regexes above are single Unicode classes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regex_whitespace_is_the_standard_librarys() {
        // The runtime uses `char::is_whitespace` for `\s`.
        let spaces = ranges(r"\s");
        for c in '\0'..=char::MAX {
            assert_eq!(
                c.is_whitespace(),
                spaces.iter().any(|&(start, end)| (start..=end).contains(&c)),
                "{c:?}"
            );
        }
    }

    #[test]
    fn ascii_is_what_the_runtime_takes_for_granted() {
        for (regex, test) in [
            (r"\p{L}", char::is_alphabetic as fn(char) -> bool),
            (r"\p{N}", char::is_numeric),
            (r"\w", |c| c.is_alphanumeric() || c == '_'),
        ] {
            let class = ranges(regex);
            for c in '\0'..='\x7f' {
                assert_eq!(
                    test(c),
                    class.iter().any(|&(start, end)| (start..=end).contains(&c)),
                    "{regex} {c:?}"
                );
            }
        }
    }

    #[test]
    fn a_table_of_nothing_is_empty() {
        assert!(table(0, &[]).is_empty());
        assert!(table(CLASS_LETTER | CLASS_NUMBER, &[]).len() < 2000);
    }
}
