//! The model in this image and sessions of it, for programs that can only log what is wrong and
//! stop.

use defmt::Format;
use kinglet::tokenizer::{Tokenizer, TokenizerError};
use kinglet::{Golden, Model, Options, Plan, Session};

use crate::arena::Arena;
use crate::host::{Exit, exit};
use crate::{model, say};

/// The value, or the end of the program; the log has the error.
pub fn or_exit<T, E: Format>(result: Result<T, E>, what: &str, how: Exit) -> T {
    match result {
        Ok(value) => value,
        Err(error) => {
            defmt::error!("{=str}: {}", what, error);
            exit(how)
        }
    }
}

/// The model in this image. Apart from `main`, as the next: what opening needs leaves the stack
/// before the session runs.
#[inline(never)]
pub fn open() -> Model<'static> {
    let bytes = model::bytes();
    let model = or_exit(Model::open(bytes), "model", Exit::Unusable);
    defmt::info!(
        "model of {=usize} bytes at {=u32:#010x}",
        bytes.len(),
        bytes.as_ptr().addr() as u32
    );
    model
}

/// A tokenizer of the model, if it is there and can be read.
pub fn tokenizer<'m>(found: Option<Result<Tokenizer<'m>, TokenizerError>>) -> Tokenizer<'m> {
    let Some(tokenizer) = found else {
        say!("the model has no tokenizer");
        exit(Exit::Unusable)
    };
    or_exit(tokenizer, "tokenizer", Exit::Unusable)
}

/// A session in exactly the bytes that its plan says, and how many these are.
#[inline(never)]
pub fn session<'m, 'a>(
    model: &Model<'m>,
    options: Options,
    arena: &'a mut Arena,
) -> (Session<'m, 'a>, usize) {
    let planned = or_exit(Plan::new(model, options), "plan", Exit::Unusable).bytes();
    defmt::info!(
        "context {=usize}, prefill {=usize}: {=usize} bytes of arena",
        options.context,
        options.prefill,
        planned
    );
    let Some(memory) = arena.lend(planned) else {
        say!(
            "the plan needs {planned} bytes of arena, more than this board has; ask for a smaller \
             context"
        );
        exit(Exit::Unusable)
    };
    (or_exit(Session::new(model, options, memory), "session", Exit::Unusable), planned)
}

/// Ends the program if memory outside of the plan was written.
pub fn check(arena: &Arena, planned: usize) {
    if let Err(overwritten) = arena.check(planned) {
        say!(
            "memory outside of the {planned} planned bytes was written, at {}",
            overwritten.offset
        );
        exit(Exit::Wrong)
    }
}

/// Positions that a golden sequence takes.
pub fn positions(golden: &Golden<'_>) -> usize {
    golden.prompt.len() + golden.answer.len()
}
