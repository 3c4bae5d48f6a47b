//! Learning the codes of a layer from the f32 model's stream after it.
//!
//! All products of the layer's blocks move together, against the squared distance of the stream
//! after the layer from the f32 model's, on the inputs that the rounded model gives: so a layer
//! makes up for those before it. The manner is AutoRound's (Cheng et al., arXiv 2309.05516), rates
//! that fall to zero and the best state kept, with Adam's steps in the place of signs.
//!
//! The end of the text is held out. What does best there is kept, which is the start if nothing
//! does better.

use super::latent::{Aims, BlockLatent, Pace};
use super::{FitOutcome, LOOKS};
use crate::rounding::evidence::held_out;
use crate::rounding::{RoundedBlock, block_weights};
use kinglet_reference::random::Random;
use kinglet_reference::tape::{self, Learns};
use kinglet_reference::{Batch, BlockWeights, Forward, Part, joined, ops};

/// Tokens of a step, at most.
const TOKENS: usize = 1024;
/// A text is divided into so many parts at least.
const PARTS: usize = 10;
/// The first step of codes, as a part of the mean distance of two levels.
const CODES: f32 = 0.004;
/// The first step of everything else, as a part of each number.
const OTHERS: f32 = 0.0003;

/// A part of the text before the layer, and the f32 model's stream after it.
struct Lesson<'b> {
    part: Part<'b>,
    wanted: &'b [f32],
    /// Numbers of a row.
    width: usize,
}

fn square(row: &[f32]) -> f64 {
    row.iter().map(|&x| f64::from(x).powi(2)).sum()
}

/// The lessons to learn from, and those that are held out.
fn lessons<'b>(before: &'b Batch, after: &'b Batch) -> [Vec<Lesson<'b>>; 2] {
    let all: usize = before.lengths().iter().sum();
    let tokens = TOKENS.min(all.div_ceil(PARTS));
    let wanted = after.parts(tokens).map(|part| part.stream);
    let mut seen: Vec<_> = before
        .parts(tokens)
        .zip(wanted)
        .map(|(part, wanted)| Lesson { part, wanted, width: after.width() })
        .collect();
    let (mut held, mut left) = (vec![], held_out(before.lengths().len()));
    while left > 0
        && let Some(lesson) = seen.pop()
    {
        left = left.saturating_sub(lesson.part.sequences.lengths.len());
        held.push(lesson);
    }
    [seen, held]
}

/// Learns the blocks between two places of the stream; `aims` follow. Nothing is done if the text
/// has one part only.
pub(crate) fn learn(
    blocks: &mut [RoundedBlock],
    aims: &mut [Aims],
    before: &Batch,
    after: &Batch,
    steps: usize,
) -> Option<FitOutcome> {
    let [seen, held] = lessons(before, after);
    if seen.is_empty() || blocks.is_empty() {
        return None;
    }
    let start = error(blocks, &held);
    let mut outcome = FitOutcome { before: start, after: start };
    let mut best = blocks.to_vec();
    let mut latents: Vec<_> =
        blocks.iter().zip(&*aims).map(|(block, aims)| BlockLatent::new(block, aims)).collect();
    let (mut random, mut order) = (Random(0), vec![]);
    for step in 0..steps {
        if order.is_empty() {
            order = (0..seen.len()).collect();
            random.shuffle(&mut order);
        }
        let lesson = &seen[order.pop().unwrap_or(0)];
        let left = 1.0 - step as f32 / steps as f32;
        take(blocks, &mut latents, lesson, Pace::new(step, CODES * left, OTHERS * left));
        if (step + 1) % steps.div_ceil(LOOKS) == 0 || step + 1 == steps {
            let now = error(blocks, &held);
            if now < outcome.after {
                outcome.after = now;
                best = blocks.to_vec();
                aims.iter_mut()
                    .zip(latents.iter().zip(&best))
                    .for_each(|(aims, (of, block))| *aims = of.aims(block));
            }
        }
    }
    blocks.clone_from_slice(&best);
    Some(outcome)
}

/// The squared distance from the f32 model's stream, as a part of that stream's square: the mean
/// over tokens, since norms stand before what reads the stream, and a few tokens have one that is a
/// hundred times larger.
fn error(blocks: &[RoundedBlock], lessons: &[Lesson<'_>]) -> f64 {
    let weights: Vec<BlockWeights> = blocks.iter().map(block_weights).collect();
    let mut sums = [0.0; 2];
    for Lesson { part, wanted, width } in lessons {
        let mut stream = part.stream.to_vec();
        for block in &weights {
            stream = block.advance(part.sequences, &stream);
        }
        for (found, wanted) in stream.chunks(*width).zip(wanted.chunks(*width)) {
            let missing: f64 =
                found.iter().zip(wanted).map(|(a, b)| f64::from(a - b).powi(2)).sum();
            let whole = square(wanted);
            sums[0] += if whole > 0.0 { missing / whole } else { 0.0 };
            sums[1] += 1.0;
        }
    }
    if sums[1] > 0.0 { sums[0] / sums[1] } else { 0.0 }
}

/// One step along the gradient.
fn take(blocks: &mut [RoundedBlock], latents: &mut [BlockLatent], lesson: &Lesson<'_>, pace: Pace) {
    let Lesson { part, wanted, width } = lesson;
    let weights: Vec<BlockWeights> = blocks.iter().map(block_weights).collect();
    let mut streams = vec![part.stream.to_vec()];
    for block in &weights[..weights.len() - 1] {
        streams.push(block.advance(part.sequences, &streams[streams.len() - 1]));
    }
    let mut gradient = vec![];
    let mut to_states = vec![0.0; part.sequences.states.len()];
    let all = blocks.iter_mut().zip(latents).zip(weights.iter().zip(&streams));
    for ((block, latent), (weights, stream)) in all.rev() {
        // Behind the last block the gradient is what is left to the f32 model's stream.
        let see = |mixed: &[f32], gradient: &mut Vec<f32>| {
            if gradient.is_empty() {
                *gradient = joined(weights.base(stream), weights.output.apply(mixed));
                ops::subtract(gradient, wanted);
                for (row, wanted) in gradient.chunks_mut(*width).zip(wanted.chunks(*width)) {
                    let whole = square(wanted);
                    let part = if whole > 0.0 { (*width as f64 / whole) as f32 } else { 0.0 };
                    row.iter_mut().for_each(|g| *g *= part);
                }
            }
        };
        let found = tape::block_seen(
            weights,
            part.sequences,
            stream,
            &mut gradient,
            &mut to_states,
            Learns::All,
            see,
        );
        latent.step(block, &found, pace);
    }
}

#[cfg(test)]
mod tests {
    use kinglet::Format;

    use super::*;
    use crate::rounding::{assembled, linear};
    use kinglet_import::checkpoint::Activation;
    use kinglet_reference::testing::{self, numbers};
    use kinglet_reference::{LinearWeights, Operation, Sequences, Site, product};

    const WIDTH: usize = 32;
    const FACTORS: usize = 6;
    const LENGTHS: [usize; 40] = [24; 40];

    fn block() -> BlockWeights {
        let linear = |rows: usize, cols: usize, seed: u32| {
            let weight = numbers(rows * cols, seed).iter().map(|w| w * 0.3).collect();
            LinearWeights { weight, bias: None, cols, inputs: None }
        };
        let operation = Operation::FeedForward { activation: Activation::Silu, gated: true };
        testing::block(vec![1.0; WIDTH], linear(128, WIDTH, 3), operation, linear(WIDTH, 64, 4))
    }

    /// The block rounded to the nearest values, and what was rounded.
    fn rounded(of: &BlockWeights, format: Format) -> (RoundedBlock, Aims) {
        let product = |of: &LinearWeights| linear(of, format, None).unwrap().0;
        let (input, output) = (of.input.as_ref().unwrap(), &of.output);
        let block = assembled(of, [Some(product(input)), None, Some(product(output))]);
        (block, [Some(input.weight.clone()), None, Some(output.weight.clone())])
    }

    #[test]
    fn codes_move_and_held_out_error_falls() {
        let exact = block();
        let tokens: usize = LENGTHS.iter().sum();
        // Inputs that depend on each other: where they do not, there is little to learn.
        let stream = product::rows_by_rows(
            &numbers(tokens * FACTORS, 7),
            &numbers(WIDTH * FACTORS, 8),
            FACTORS,
        );
        let before = Batch::of(WIDTH, &LENGTHS, stream);
        let mut after = before.clone();
        after.step(usize::MAX, |part| {
            exact.advance(Sequences::alone(part.sequences.lengths), part.stream)
        });
        for format in [Format::Int4, Format::Int4Codebook] {
            let (start, aims) = rounded(&exact, format);
            let learned = |threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                let (mut blocks, mut aims) = ([start.clone()], [aims.clone()]);
                let outcome =
                    pool.install(|| learn(&mut blocks, &mut aims, &before, &after, 300)).unwrap();
                (blocks, outcome)
            };
            let (blocks, outcome) = learned(1);
            assert!(outcome.after < 0.9 * outcome.before, "{format:?}: {outcome:?}");
            let moved = |site| {
                let rows = |block: &RoundedBlock| block.product(site).unwrap().rows.clone();
                rows(&start).iter().zip(rows(&blocks[0])).any(|(old, new)| old.codes != new.codes)
            };
            assert!(moved(Site::Input) && moved(Site::Output), "{format:?}");
            for (_, product) in blocks[0].products() {
                assert!(product.rows.iter().all(|row| row.fits(&product.levels)));
            }
            let (others, other) = learned(3);
            assert_eq!(other, outcome);
            let rows = |blocks: &[RoundedBlock; 1]| {
                blocks[0].products().map(|(_, p)| p.rows.clone()).collect::<Vec<_>>()
            };
            assert!(rows(&blocks) == rows(&others), "{format:?}: threads change bits");
        }
    }
}
