//! What the programs share that read a source and answer it: the most probable target, its text,
//! and what it took.

use kinglet::tokenizer::Detokenizer;
use kinglet::{LogitsHash, Model, Plan, RunError, Session, argmax};

use crate::host::{Exit, Stream, exit};
use crate::{engine, say, stack, statics, ticks};

/// The most tokens that end a target.
const ENDS: usize = 4;

/// The tokens between which a target lies.
pub struct Marks {
    /// Begins it.
    pub start: u32,
    ends: ([u32; ENDS], usize),
}

impl Marks {
    /// Those of the model.
    #[inline(never)]
    pub fn of(model: &Model<'_>) -> Self {
        let Some(start) = model.start() else {
            say!("the model has no token that a target begins with");
            exit(Exit::Unusable)
        };
        let mut ends = [0; ENDS];
        let all = engine::tokenizer(model.target_tokenizer()).eos();
        let len = ends.iter_mut().zip(all).map(|(to, end)| *to = end).count();
        Self { start, ends: (ends, len) }
    }

    /// The tokens that end it.
    pub fn ends(&self) -> &[u32] {
        &self.ends.0[..self.ends.1]
    }
}

/// Feeds the most probable token after the start, one after the other, until one ends the target
/// or the plan's context or `out` is full. Returns how many tokens there are, and the hash of the
/// logits that chose them and the end.
#[inline(never)]
pub fn greedy(
    session: &mut Session<'_, '_>,
    marks: &Marks,
    out: &mut [u32],
) -> Result<(usize, u64), RunError> {
    let mut hash = LogitsHash::default();
    let (mut token, mut len) = (marks.start, 0);
    while len < out.len() && session.position() < session.options().context {
        let logits = session.feed(&[token])?;
        hash.update(logits);
        token = argmax(logits);
        if marks.ends().contains(&token) {
            break;
        }
        out[len] = token;
        len += 1;
    }
    Ok((len, hash.value()))
}

/// Writes the text of a target and ends the line.
#[inline(never)]
pub fn show(model: &Model<'_>, tokens: &[u32]) {
    let tokenizer = &engine::tokenizer(model.target_tokenizer());
    let mut screen = Stream::open();
    let mut text = Detokenizer::new(tokenizer);
    for &token in tokens {
        text.push(tokenizer, token).for_each(|piece| screen.write(piece.as_bytes()));
    }
    screen.write(text.finish().unwrap_or("").as_bytes());
    screen.write(b"\n");
}

/// Says what something took; `icount` as in [`ticks::instructions`].
pub fn report_time(what: &str, ticks: u64, icount: usize) {
    match icount {
        0 => say!("{what}: {ticks} ticks"),
        _ => say!("{what}: {ticks} ticks, {} instructions", ticks::instructions(ticks, icount)),
    }
}

/// Says what memory the program took, all of it.
pub fn report_memory(plan: &Plan) {
    let (arena, stack, statics) = (plan.bytes(), stack::high_water(), statics::bytes());
    let (own, cross, scratch) = (plan.self_cache(), plan.cross_cache(), plan.scratch());
    say!("arena: {arena} bytes planned: {own} self cache, {cross} cross cache, {scratch} scratch");
    say!(
        "RAM: {} bytes: the arena, {stack} of stack, {statics} of statics",
        arena + stack + statics
    );
}
