//! Training: Adam (Kingma and Ba, arXiv 1412.6980) on the cross-entropy of the pairs' texts, in a
//! random order that follows from the seed. After each pass the interface is rounded as it would be
//! written and scored on the pairs held out; the best is kept.

use super::decoder::Decoder;
use super::inference::States;
use super::interface::Interface;
use super::pairs::{Pairs, Split};
use super::student::{Found, Lesson, run};
use super::{AdaptError, Options};
use kinglet_reference::random::Random;

/// Decay of the means of gradients and of their squares.
const DECAY: [f32; 2] = [0.9, 0.98];
/// The rate grows from 0 over this part of the steps, and falls to 0 over the rest.
const WARM_UP: f32 = 0.05;

/// What training did.
pub(super) struct Trained {
    /// The best interface.
    pub(super) best: Interface,
    /// The pass that it is from; 0 for the first one.
    pub(super) pass: usize,
    /// Mean cross-entropy of the held-out tokens, before and after each pass.
    pub(super) curve: Vec<f64>,
    pub(super) steps: usize,
}

/// Trains an interface.
pub(super) fn train(
    mut interface: Interface,
    decoder: &mut Decoder,
    pairs: &Pairs,
    states: &States,
    split: &Split,
    options: &Options,
    progress: &dyn Fn(&str, u64, u64),
) -> Result<Trained, AdaptError> {
    let of_pass = split.seen.len().div_ceil(options.batch.max(1));
    let steps = of_pass * options.passes;
    let held: Vec<Lesson> = split
        .held
        .chunks(options.batch.max(1))
        .map(|numbers| lesson(pairs, states, numbers))
        .collect();
    let look = |interface: &Interface, decoder: &mut Decoder| -> Result<f64, AdaptError> {
        let rounded = interface.rounded()?;
        let all = held.iter().map(|lesson| run(&rounded, decoder, lesson, false).0);
        let all = all.fold(Found::default(), |a, b| Found {
            loss: a.loss + b.loss,
            tokens: a.tokens + b.tokens,
        });
        Ok(all.loss / all.tokens.max(1) as f64)
    };
    let mut trained = Trained {
        best: interface.clone(),
        pass: 0,
        curve: vec![look(&interface, decoder)?],
        steps,
    };
    let mut lowest = trained.curve[0];
    let mut moments: Vec<[f32; 2]> =
        vec![[0.0; 2]; interface.parameters().iter().map(|numbers| numbers.len()).sum()];
    let mut random = Random(options.seed);
    let mut order = split.seen.clone();
    let mut step = 0;
    for pass in 1..=options.passes {
        random.shuffle(&mut order);
        for numbers in order.chunks(options.batch.max(1)) {
            let (_, gradient) = run(&interface, decoder, &lesson(pairs, states, numbers), true);
            step += 1;
            let done = step as f32 / (steps + 1) as f32;
            let rate = options.rate * (done / WARM_UP).min((1.0 - done) / (1.0 - WARM_UP));
            adam(&mut interface, &gradient, &mut moments, step, rate);
            progress("training", step as u64, steps as u64);
        }
        let now = look(&interface, decoder)?;
        trained.curve.push(now);
        if now < lowest {
            (lowest, trained.pass, trained.best) = (now, pass, interface.clone());
        }
    }
    Ok(trained)
}

/// Some pairs, by number.
fn lesson(pairs: &Pairs, states: &States, numbers: &[usize]) -> Lesson {
    let mut lesson = Lesson::default();
    for pair in numbers.iter().map(|&number| &pairs.all[number]) {
        let rows = &states.of[pair.source];
        lesson.states.extend(rows);
        lesson.rows.push(rows.len() / states.width);
        lesson.tokens.extend(&pair.tokens);
        lesson.lengths.push(pair.tokens.len());
        lesson.labels.extend(&pair.labels);
    }
    lesson
}

/// One step along the gradient.
fn adam(
    interface: &mut Interface,
    gradient: &[Vec<f32>],
    moments: &mut [[f32; 2]],
    step: usize,
    rate: f32,
) {
    let unbias = DECAY.map(|decay| 1.0 / (1.0 - decay.powi(step.min(1 << 20) as i32)));
    let parameters = interface.parameters();
    assert_eq!(parameters.len(), gradient.len(), "a gradient for each vector");
    let parameters = parameters.into_iter().zip(gradient).flat_map(|(numbers, gradient)| {
        assert_eq!(numbers.len(), gradient.len());
        numbers.iter_mut().zip(gradient)
    });
    for ((number, gradient), [mean, square]) in parameters.zip(moments) {
        *mean += (1.0 - DECAY[0]) * (gradient - *mean);
        *square += (1.0 - DECAY[1]) * (gradient * gradient - *square);
        let root = (*square * unbias[1]).sqrt();
        if root > 0.0 {
            *number -= rate * *mean * unbias[0] / root;
        }
    }
}
