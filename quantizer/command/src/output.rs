//! Standard output, which may be closed or full.
//!
//! `println!` panics where nobody reads any more, as after `| head -1`; the command ends quietly.

use std::fmt::Arguments;
use std::io::{ErrorKind, Write, stdout};
use std::process::exit;

/// Prints text. Ends the command with success where the reader has gone, as it has seen enough, and
/// with an error where the text cannot be written.
pub(crate) fn print(text: Arguments<'_>) {
    let mut out = stdout().lock();
    // Text that does not end its line is shown at once, too.
    match out.write_fmt(text).and_then(|()| out.flush()) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::BrokenPipe => exit(0),
        Err(error) => {
            eprintln!("kinglet: cannot write to standard output: {error}");
            exit(1)
        }
    }
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
