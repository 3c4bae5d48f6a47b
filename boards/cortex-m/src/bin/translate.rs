//! Turns words into other words, with a model that reads a source: by the pronouncer, spelling into
//! phonemes.
//!
//! ```text
//! translate [beams=1] [icount=SHIFT] [word ...]
//! ```
//!
//! Each word is a source of its own. One beam takes the most probable token each time; several
//! search for the best target.

#![no_std]
#![no_main]

use core::mem::MaybeUninit;

use cortex_m::{Peripherals, singleton};
use cortex_m_rt::entry;
use kinglet::tokenizer::EncodeError;
use kinglet::{BeamSearch, Model, Options, Plan, RunError, Session, Source};
use kinglet_cortex_m::arena::Arena;
use kinglet_cortex_m::host::{ARGUMENT_BYTES, Arguments, Exit, exit};
use kinglet_cortex_m::target::Marks;
use kinglet_cortex_m::ticks::Ticks;
use kinglet_cortex_m::{board, engine, say, target};

/// The longest source in tokens, its end included: 28 phonemes are the longest of the pronouncer's
/// dictionary, and few words have more letters.
const SOURCE: usize = 32;
/// The longest target in tokens, its end included.
const TARGET: usize = 32;
/// The most beams.
const BEAMS: usize = 4;
/// Scores are divided by the length to the power of this.
const PENALTY: f32 = 1.0;
/// Memory for the beams.
const HISTORY_WORDS: usize = BeamSearch::words(BEAMS, TARGET);
/// Memory for the tokenizer's work.
const SCRATCH_WORDS: usize = 5 * SOURCE;

#[entry]
fn main() -> ! {
    let mut words = [MaybeUninit::uninit(); ARGUMENT_BYTES];
    let arguments = Arguments::read(&mut words);
    let (beams, icount) = (arguments.number("beams", 1), arguments.number("icount", 0));
    if !(1..=BEAMS).contains(&beams) {
        say!("beams={beams}: 1 to {BEAMS} are possible");
        exit(Exit::Unusable)
    }
    let words = Some(arguments.rest()).filter(|words| !words.is_empty()).unwrap_or("hello");
    let ticks = Ticks::start(Peripherals::take().expect("nothing took them before").SYST);
    let model = engine::open();
    let marks = Marks::of(&model);
    let options = Options { context: TARGET, source: SOURCE, targets: beams, ..Options::DECODE };
    let plan = engine::or_exit(Plan::new(&model, options), "plan", Exit::Unusable);
    let mut arena = Arena::take().expect("nothing took it before");
    let (mut session, planned) = engine::session(&model, options, &mut arena);
    let history =
        singleton!(: [u32; HISTORY_WORDS] = [0; HISTORY_WORDS]).expect("nothing took it before");
    for word in words.split(' ').filter(|word| !word.is_empty()) {
        let mut source = [0; SOURCE];
        let length = engine::or_exit(encode(&model, word, &mut source), "word", Exit::Unusable);
        let began = ticks.now();
        engine::or_exit(session.encode(Source::Tokens(&source[..length])), "source", Exit::Wrong);
        let read = ticks.now();
        let mut tokens = [0; TARGET];
        let answer = answer(&mut session, &marks, beams, history, &mut tokens);
        let (length, hash) = engine::or_exit(answer, "target", Exit::Wrong);
        let done = ticks.now();
        target::show(&model, &tokens[..length]);
        if let Some(hash) = hash {
            say!("{}: {word}: {length} tokens, logits hash {hash:016x}", board::NAME);
        }
        target::report_time("source", read - began, icount);
        target::report_time("target", done - read, icount);
    }
    engine::check(&arena, planned);
    target::report_memory(&plan);
    exit(Exit::Good)
}

/// Apart from `main`, so that tokenizer and scratch leave the stack before the session needs it.
#[inline(never)]
fn encode(model: &Model<'_>, text: &str, out: &mut [u32]) -> Result<usize, EncodeError> {
    engine::tokenizer(model.tokenizer()).encode(text, true, &mut [0; SCRATCH_WORDS], out)
}

/// The target's length, and the hash of the logits that chose it where each step has one row.
fn answer(
    session: &mut Session<'_, '_>,
    marks: &Marks,
    beams: usize,
    history: &mut [u32],
    out: &mut [u32],
) -> Result<(usize, Option<u64>), RunError> {
    if beams == 1 {
        let (length, hash) = target::greedy(session, marks, out)?;
        return Ok((length, Some(hash)));
    }
    let mut search = BeamSearch::new(beams, PENALTY, marks.ends(), history);
    search.run(session, &[marks.start])?;
    let length = search.target(0, out).map_or(0, |(length, _score)| length);
    Ok((length, None))
}
