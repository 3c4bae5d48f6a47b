//! Words to and from the host by semihosting.
//!
//! The log (defmt) owns the host's standard output: it is binary, and any other byte there would
//! break it. Results and stories are plain text on standard error, by [`say!`](crate::say) and
//! [`Stream`].

use core::mem::MaybeUninit;

use semihosting::io::{Stderr, Write};

/// How a program ends, as the host's shell sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Everything was as it should be.
    Good = 0,
    /// A check failed; what differed has been said.
    Wrong = 1,
    /// The arguments or the model do not fit this program.
    Unusable = 2,
    /// A panic.
    Panic = 101,
    /// A hard fault.
    Fault = 102,
}

/// Ends the program.
pub fn exit(how: Exit) -> ! {
    semihosting::process::exit(how as i32)
}

/// Prints a line of plain text.
#[macro_export]
macro_rules! say {
    ($($text:tt)*) => { $crate::host::say_line(format_args!($($text)*)) };
}

/// What [`say!`](crate::say) calls: one copy for all lines of a program.
#[inline(never)]
pub fn say_line(text: core::fmt::Arguments<'_>) {
    semihosting::eprintln!("{text}");
}

/// Plain text of any number of bytes, which need not be whole characters.
pub struct Stream(Option<Stderr>);

impl Stream {
    /// A new stream to the host.
    pub fn open() -> Self {
        Self(semihosting::io::stderr().ok())
    }

    /// Writes at once. A host that does not listen is no reason to stop.
    pub fn write(&mut self, bytes: &[u8]) {
        if let Some(stderr) = &mut self.0 {
            let _ = stderr.write_all(bytes);
        }
    }
}

/// Longest command line.
pub const ARGUMENT_BYTES: usize = 1024;

/// The words after the program's name: settings such as `tokens=64` first, free text after them.
#[derive(Clone, Copy, Debug)]
pub struct Arguments<'a>(&'a str);

impl<'a> Arguments<'a> {
    /// Asks the host for the command line. Without one, or with one that is too long or not UTF-8,
    /// there are no arguments.
    pub fn read(buffer: &'a mut [MaybeUninit<u8>; ARGUMENT_BYTES]) -> Self {
        let line = semihosting::sys::arm_compat::sys_get_cmdline_uninit(buffer);
        let text = line.ok().and_then(|bytes| core::str::from_utf8(bytes).ok()).unwrap_or("");
        let text = text.trim_end_matches('\0');
        Self(text.split_once(' ').map_or("", |(_program, words)| words.trim()))
    }

    fn settings(&self) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.0.split(' ').map_while(|word| word.split_once('='))
    }

    /// The value of a setting.
    pub fn text_of(&self, name: &str) -> Option<&'a str> {
        self.settings().find(|(key, _)| *key == name).map(|(_, value)| value)
    }

    /// The value of a setting that is a number, or `default` when it is not set. Ends the program
    /// when it is set to anything else. One type for all settings: reading a number takes flash for
    /// each.
    pub fn number(&self, name: &str, default: usize) -> usize {
        let Some(text) = self.text_of(name) else { return default };
        text.parse().unwrap_or_else(|_| {
            say!("{name}={text}: not a number that fits");
            exit(Exit::Unusable)
        })
    }

    /// What follows the settings.
    pub fn rest(&self) -> &'a str {
        let mut text = self.0;
        loop {
            let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
            if !word.contains('=') {
                return text;
            }
            text = rest;
        }
    }
}
