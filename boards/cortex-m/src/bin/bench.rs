//! What a token costs on this core: ticks of the core's clock, and instructions where QEMU counts
//! them.
//!
//! ```text
//! bench [prompt=32] [tokens=16] [prefill=16] [icount=SHIFT]
//! ```
//!
//! The answer is checked before it is timed. With `icount`, which `boards/run` adds when it runs
//! QEMU with `-icount`, an instruction takes 2^SHIFT ns, so ticks are instructions. A plugin that
//! knows the marks counts prompt and answer as its first and second region.

#![no_std]
#![no_main]

use core::mem::MaybeUninit;

use cortex_m::Peripherals;
use cortex_m_rt::entry;
use kinglet::{Model, Options, RunError, Session};
use kinglet_cortex_m::arena::Arena;
use kinglet_cortex_m::host::{ARGUMENT_BYTES, Arguments, Exit, exit};
use kinglet_cortex_m::ticks::{Ticks, instructions};
use kinglet_cortex_m::{board, engine, marks, say};

/// What was asked for.
struct Settings {
    prompt: usize,
    tokens: usize,
    prefill: usize,
    /// 0 when time is not instructions.
    icount: usize,
}

#[entry]
fn main() -> ! {
    let mut words = [MaybeUninit::uninit(); ARGUMENT_BYTES];
    let arguments = Arguments::read(&mut words);
    let settings = Settings {
        prompt: arguments.number("prompt", 32),
        tokens: arguments.number("tokens", 16),
        prefill: arguments.number("prefill", 16),
        icount: arguments.number("icount", 0),
    };
    let model = engine::open();
    let needed = model.golden().next().map_or(0, |golden| engine::positions(&golden));
    let context = needed.max(settings.prompt + settings.tokens);
    let options = Options { context, prefill: settings.prefill, ..Options::DECODE };
    let mut arena = Arena::take().expect("nothing took it before");
    let (mut session, _) = engine::session(&model, options, &mut arena);
    match model.golden().next() {
        Some(golden) => engine::or_exit(session.check_golden(&golden), "golden 0", Exit::Wrong),
        None => say!("no golden sequences: the answer is not checked"),
    }
    say!("{}: isa {}", board::NAME, session.isa().name());
    engine::or_exit(measure(&model, &mut session, &settings), "run", Exit::Unusable);
    exit(Exit::Good)
}

fn measure(
    model: &Model<'_>,
    session: &mut Session<'_, '_>,
    settings: &Settings,
) -> Result<(), RunError> {
    let timer = Peripherals::take().expect("nothing took them before").SYST;
    let ticks = Ticks::start(timer);
    session.rewind(0)?;
    let mut tokens = some_tokens(model);
    let mut prompt = [0; 256];
    let prompt = &mut prompt[..settings.prompt.min(256)];
    prompt.fill_with(&mut tokens);

    let start = ticks.now();
    marks::begin();
    session.feed(prompt)?;
    marks::end();
    report("prefill", prompt.len(), ticks.now() - start, settings);

    let start = ticks.now();
    marks::begin();
    for _ in 0..settings.tokens {
        session.feed(&[tokens()])?;
    }
    marks::end();
    report("decode", settings.tokens, ticks.now() - start, settings);
    Ok(())
}

/// Tokens without meaning, the same every time: what a token costs does not depend on which it is.
fn some_tokens(model: &Model<'_>) -> impl FnMut() -> u32 + use<> {
    let vocab = model.outputs() as u32;
    let mut state = 1u32;
    move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) % vocab
    }
}

fn report(what: &str, tokens: usize, ticks: u64, settings: &Settings) {
    let tokens = tokens.max(1) as u64;
    say!("{what}: {} ticks a token at {} Hz ({tokens} tokens)", ticks / tokens, board::CLOCK_HZ);
    if settings.icount > 0 {
        say!("{what}: {} instructions a token", instructions(ticks, settings.icount) / tokens);
    }
}
