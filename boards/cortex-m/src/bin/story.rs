//! Tells a story, token by token, as text on the host's screen.
//!
//! ```text
//! story [tokens=200] [temperature=80] [top-p=95] [seed=1] [prefill=8] [beginning of the story]
//! ```
//!
//! Temperature and top-p are in hundredths; temperature 0 takes the most probable token. The same
//! seed tells the same story on every board.

#![no_std]
#![no_main]

use core::mem::MaybeUninit;

use cortex_m_rt::entry;
use kinglet::tokenizer::{Detokenizer, EncodeError, Tokenizer};
use kinglet::{Options, RunError, Sampler, Sampling, Session};
use kinglet_cortex_m::arena::Arena;
use kinglet_cortex_m::host::{ARGUMENT_BYTES, Arguments, Exit, Stream, exit};
use kinglet_cortex_m::{engine, stack};

/// The longest beginning, in tokens.
const PROMPT_TOKENS: usize = 256;
/// Memory for the tokenizer's work: enough for 256 bytes without a space, or much longer ordinary
/// texts.
const SCRATCH_WORDS: usize = 1280;

#[entry]
fn main() -> ! {
    let mut words = [MaybeUninit::uninit(); ARGUMENT_BYTES];
    let arguments = Arguments::read(&mut words);
    let sampling = Sampling {
        temperature: hundredths(&arguments, "temperature", 80),
        top_p: hundredths(&arguments, "top-p", 95),
        ..Sampling::GREEDY
    };
    let mut sampler = Sampler::new(sampling, arguments.number("seed", 1) as u64);
    let model = engine::open();
    let tokenizer = engine::tokenizer(model.tokenizer());
    let mut prompt = [0; PROMPT_TOKENS];
    let text = Some(arguments.rest()).filter(|text| !text.is_empty()).unwrap_or("Once upon a time");
    let length = engine::or_exit(encode(&tokenizer, text, &mut prompt), "prompt", Exit::Unusable);

    let context = model.context().min(length + arguments.number("tokens", 200));
    let options = Options { context, prefill: arguments.number("prefill", 8), ..Options::DECODE };
    let mut arena = Arena::take().expect("nothing took it before");
    let (mut session, planned) = engine::session(&model, options, &mut arena);
    let told = tell(&mut session, &tokenizer, &mut sampler, &prompt[..length]);
    engine::or_exit(told, "run", Exit::Wrong);
    engine::check(&arena, planned);
    defmt::info!("stack: {=usize} bytes used of {=usize}", stack::high_water(), stack::capacity());
    exit(Exit::Good)
}

/// Reading decimals would take several KB of flash.
fn hundredths(arguments: &Arguments<'_>, name: &str, default: usize) -> f32 {
    arguments.number(name, default) as f32 / 100.0
}

/// Apart from `main`, so that the scratch leaves the stack before the session needs it.
#[inline(never)]
fn encode(tokenizer: &Tokenizer<'_>, text: &str, out: &mut [u32]) -> Result<usize, EncodeError> {
    tokenizer.encode(text, true, &mut [0; SCRATCH_WORDS], out)
}

/// Streams the prompt and what follows it, until the story or the context ends.
fn tell(
    session: &mut Session<'_, '_>,
    tokenizer: &Tokenizer<'_>,
    sampler: &mut Sampler,
    prompt: &[u32],
) -> Result<(), RunError> {
    let mut screen = Stream::open();
    let mut text = Detokenizer::new(tokenizer);
    let mut show =
        |token| text.push(tokenizer, token).for_each(|piece| screen.write(piece.as_bytes()));
    prompt.iter().for_each(|&token| show(token));
    let mut logits = session.feed(prompt)?;
    loop {
        let token = sampler.sample(logits, &[]);
        if tokenizer.is_eos(token) || tokenizer.bos() == Some(token) {
            break;
        }
        show(token);
        if session.position() == session.options().context {
            break;
        }
        logits = session.feed(&[token])?;
    }
    screen.write(text.finish().unwrap_or("").as_bytes());
    screen.write(b"\n");
    Ok(())
}
