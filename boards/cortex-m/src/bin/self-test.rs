//! Proves a firmware image: the model is whole, this core computes the bits of the file's maker whatever the chunk size
//! and however often it is interrupted, and nothing but the planned memory is touched.
//!
//! ```text
//! self-test [break=golden|arena|panic|fault|stack]
//! ```
//!
//! `break` does something wrong on purpose, to show that it is found.

#![no_std]
#![no_main]

use core::mem::MaybeUninit;

use cortex_m_rt::entry;
use kinglet::{Golden, LogitsHash, Model, Options, Progress, Session};
use kinglet_cortex_m::arena::Arena;
use kinglet_cortex_m::host::{ARGUMENT_BYTES, Arguments, Exit, exit};
use kinglet_cortex_m::{board, engine, faults, say, stack};

/// Multiply-accumulates between two interruptions: little enough to stop within every matrix.
const BUDGET: u64 = 1000;
/// Tokens run together: one by one, and in odd chunks. Ascending, as a larger plan may dirty what a smaller one must not.
const PREFILLS: [usize; 2] = [1, 7];

#[entry]
fn main() -> ! {
    let mut words = [MaybeUninit::uninit(); ARGUMENT_BYTES];
    let fault = Arguments::read(&mut words).text_of("break").unwrap_or("");
    faults::provoke(fault);
    let mut arena = Arena::take().expect("nothing took it before");
    let model = engine::open();
    engine::or_exit(model.verify(|_| ()), "checksums", Exit::Wrong);
    say!("{}: {} bytes of model, checksums ok", board::NAME, model.bytes().len());
    let mut planned = 0;
    for prefill in PREFILLS {
        let options = Options { context: longest(&model), prefill, logits: 1 };
        planned = goldens(&model, options, &mut arena, fault == "golden");
        if let (true, Some(memory)) = (fault == "arena", arena.lend(planned + 1)) {
            memory[planned] = 0;
        }
        untouched(&arena, planned);
    }
    say!("prefill {PREFILLS:?}: the same hashes");
    say!("arena: {planned} bytes planned, {} used, the rest untouched", arena.used(planned));
    say!("stack: {} bytes used of {}", stack::high_water(), stack::capacity());
    exit(Exit::Good)
}

/// The context the golden sequences need. A file without any proves nothing.
fn longest(model: &Model<'_>) -> usize {
    model.golden().map(|golden| engine::positions(&golden)).max().unwrap_or_else(|| {
        say!("the model has no golden sequences");
        exit(Exit::Unusable)
    })
}

/// Checks every golden sequence, and returns the bytes of arena that were planned for that.
fn goldens(model: &Model<'_>, options: Options, arena: &mut Arena, spoil: bool) -> usize {
    let (mut session, planned) = engine::session(model, options, arena);
    for (number, mut golden) in model.golden().enumerate() {
        golden.hash ^= u64::from(spoil);
        if let Err(error) = session.check_golden(&golden) {
            say!("golden {number}, prefill {}: {error}", options.prefill);
            exit(Exit::Wrong)
        }
        let (tokens, hash) = (golden.answer.len(), golden.hash);
        say!("golden {number}: {tokens} tokens, logits hash {hash:016x} ok (prefill {})", options.prefill);
    }
    let first = model.golden().next().expect("a longest was found");
    let (pieces, hash) = engine::or_exit(in_pieces(&mut session, &first), "run in pieces", Exit::Wrong);
    let want = prompt_hash(&mut session, &first);
    if hash != want {
        say!("golden 0 in {pieces} pieces: logits hash {hash:016x}, at once {want:016x}");
        exit(Exit::Wrong)
    }
    say!("golden 0: prompt in {pieces} pieces, logits hash {hash:016x} as at once (prefill {})", options.prefill);
    planned
}

/// Runs the prompt of `golden`, stopping after every [`BUDGET`]. Returns how many pieces that were, and the hash of the
/// logits at the end.
fn in_pieces(session: &mut Session<'_, '_>, golden: &Golden<'_>) -> Result<(u32, u64), kinglet::RunError> {
    let mut pieces = 0;
    session.rewind(0)?;
    for tokens in golden.prompt.chunks(session.options().prefill) {
        session.begin(tokens, 1)?;
        pieces += 1;
        while session.resume(BUDGET)? == Progress::Pending {
            pieces += 1;
        }
    }
    Ok((pieces, hash(session.logits())))
}

fn prompt_hash(session: &mut Session<'_, '_>, golden: &Golden<'_>) -> u64 {
    let fed = session.rewind(0).and_then(|()| session.feed(golden.prompt));
    hash(engine::or_exit(fed.as_deref(), "run at once", Exit::Wrong))
}

fn hash(logits: &[f32]) -> u64 {
    let mut hash = LogitsHash::default();
    hash.update(logits);
    hash.value()
}

fn untouched(arena: &Arena, planned: usize) {
    if let Err(overwritten) = arena.check(planned) {
        say!("memory outside of the {planned} planned bytes was written, at {}", overwritten.offset);
        exit(Exit::Wrong)
    }
}
