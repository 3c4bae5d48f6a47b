//! What the command says: through these macros and no others.
//!
//! Standard output may be closed or full: `println!` panics where nobody reads any more, as after
//! `| head -1`; the command ends quietly. And what it prints may come from a file of others: names,
//! metadata, tokens, paths. Characters that would steer a terminal are shown as JSON writes them,
//! so JSON stays what it is.

use std::fmt::{self, Arguments, Write as _};
use std::io::{ErrorKind, Write, stderr, stdout};
use std::process::exit;

/// Prints text. Ends the command with success where the reader has gone, as it has seen enough, and
/// with an error where the text cannot be written.
pub(crate) fn print(text: Arguments<'_>) {
    let mut out = stdout().lock();
    // Text that does not end its line is shown at once, too.
    match out.write_all(harmless(text).as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::BrokenPipe => exit(0),
        Err(error) => {
            tell(format_args!("kinglet: cannot write to standard output: {error}"));
            exit(1)
        }
    }
}

/// Prints a line to standard error, where that is possible.
pub(crate) fn tell(text: Arguments<'_>) {
    let _ = stderr().lock().write_all((harmless(text) + "\n").as_bytes());
}

/// A text without what would steer a terminal, but for the ends of lines and tabs.
fn harmless(text: Arguments<'_>) -> String {
    let mut shown = Harmless(String::new());
    // Memory takes any text; what cannot be formatted ends there.
    let _ = shown.write_fmt(text);
    shown.0
}

/// A name or a value of others, which stays on its line.
pub(crate) fn in_line(text: &str) -> String {
    text.replace('\n', r"\u000a").replace('\t', r"\u0009")
}

struct Harmless(String);

impl fmt::Write for Harmless {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            match steers(c) {
                true => write!(self.0, "\\u{:04x}", u32::from(c))?,
                false => self.0.push(c),
            }
        }
        Ok(())
    }
}

/// Whether a character is a command to a terminal, or changes the direction of what is around it.
fn steers(c: char) -> bool {
    let turns = matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    turns || matches!(c, '\u{2028}' | '\u{2029}') || c.is_control() && !matches!(c, '\n' | '\t')
}

/// As `print!`, and never panics.
macro_rules! put {
    ($($text:tt)*) => { $crate::output::print(format_args!($($text)*)) };
}

/// As `println!`, and never panics.
macro_rules! say {
    () => { $crate::output::print(format_args!("\n")) };
    ($($text:tt)*) => { $crate::output::print(format_args!("{}\n", format_args!($($text)*))) };
}

/// As `eprintln!`, and never panics.
macro_rules! warn {
    ($($text:tt)*) => { $crate::output::tell(format_args!($($text)*)) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_steers_a_terminal_is_shown() {
        let shown = |text: &str| harmless(format_args!("{text}"));
        assert_eq!(shown("one\ttwo\nthree \u{1f426} \u{e9}"), "one\ttwo\nthree \u{1f426} \u{e9}");
        assert_eq!(shown("\u{1b}]0;title\u{7}"), r"\u001b]0;title\u0007");
        assert_eq!(shown("a\rb\u{0}\u{7f}\u{9b}2J"), r"a\u000db\u0000\u007f\u009b2J");
        assert_eq!(shown("\u{202e}fdp\u{2066}"), r"\u202efdp\u2066");
    }

    #[test]
    fn json_stays_json() {
        let name = "\u{1b}[31m \u{9b}31m \u{202e} \u{7f} \" \\ \n";
        let json = harmless(format_args!("{}", serde_json::json!({"name": name})));
        let read: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(read["name"], name);
        assert!(!json.chars().any(steers));
    }
}
