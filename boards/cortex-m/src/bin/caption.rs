//! Names the picture in this image (`KINGLET_PICTURE`), with a model that reads pictures.
//!
//! ```text
//! caption [icount=SHIFT]
//! ```

#![no_std]
#![no_main]

use core::mem::MaybeUninit;

use cortex_m::Peripherals;
use cortex_m_rt::entry;
use kinglet::{Options, Plan, Source};
use kinglet_cortex_m::arena::Arena;
use kinglet_cortex_m::host::{ARGUMENT_BYTES, Arguments, Exit, exit};
use kinglet_cortex_m::target::Marks;
use kinglet_cortex_m::ticks::Ticks;
use kinglet_cortex_m::{board, engine, say, target};

/// The longest name, in tokens.
const TARGET: usize = 24;

/// Red, green and blue, pixel by pixel.
static PICTURE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/picture.rgb"));

#[entry]
fn main() -> ! {
    let mut words = [MaybeUninit::uninit(); ARGUMENT_BYTES];
    let icount = Arguments::read(&mut words).number("icount", 0);
    let ticks = Ticks::start(Peripherals::take().expect("nothing took them before").SYST);
    let model = engine::open();
    let marks = Marks::of(&model);
    let all = engine::or_exit(Options::of(&model), "model", Exit::Unusable);
    let options = Options { context: TARGET.min(all.context), ..all };
    let plan = engine::or_exit(Plan::new(&model, options), "plan", Exit::Unusable);
    let mut arena = Arena::take().expect("nothing took it before");
    let (mut session, planned) = engine::session(&model, options, &mut arena);
    let began = ticks.now();
    engine::or_exit(session.encode(Source::Pixels(PICTURE)), "picture", Exit::Unusable);
    let read = ticks.now();
    let mut tokens = [0; TARGET];
    let greedy = target::greedy(&mut session, &marks, &mut tokens);
    let (length, hash) = engine::or_exit(greedy, "target", Exit::Wrong);
    let done = ticks.now();
    target::show(&model, &tokens[..length]);
    say!("{}: {length} tokens, logits hash {hash:016x}", board::NAME);
    target::report_time("picture", read - began, icount);
    target::report_time("name", done - read, icount);
    engine::check(&arena, planned);
    target::report_memory(&plan);
    exit(Exit::Good)
}
