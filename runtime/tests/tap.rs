//! Taps: each hidden state is shown once, is the same however the run is divided, and looking at it
//! changes nothing.

mod common;

use common::{PLAIN, Random, logits, shapes};
use kinglet::Memory;
use kinglet::{Isa, Model, Options, Plan, Progress, RunError, Serial, Session, TapError};
use kinglet_model::Input;

const TOKENS: usize = 40;

fn tokens(vocab: usize) -> Vec<u32> {
    let mut random = Random(5);
    (0..TOKENS).map(|_| random.below(vocab) as u32).collect()
}

/// All states in one buffer, with the prompt in chunks; then the bits of the last logits.
fn tapped(model: &Model<'_>, tokens: &[u32], prefill: usize) -> (Vec<f32>, Vec<u32>) {
    let options = Options { context: TOKENS, prefill, logits: 1, ..Options::DECODE };
    let mut memory = Memory::new(Plan::new(model, options).unwrap().bytes()).unwrap();
    let mut session = Session::new(model, options, memory.bytes()).unwrap();
    let states: Vec<u32> = (0..=model.blocks()).collect();
    let mut buffer = vec![f32::NAN; states.len() * tokens.len() * model.width()];
    let last = session.feed_tapped(tokens, &states, &mut buffer).unwrap();
    let last = last.iter().map(|v| v.to_bits()).collect();
    (buffer, last)
}

#[test]
fn tapped_and_untapped_runs_give_the_same_bits() {
    for (seed, shape) in shapes().iter().enumerate() {
        let mut file = Memory::copy_of(&common::model(shape, seed as u64 + 1, vec![])).unwrap();
        let model = Model::open(file.bytes()).unwrap();
        let tokens = tokens(shape.vocab);
        let plain = logits(
            &model,
            &tokens,
            Options { context: TOKENS, prefill: 8, logits: 8, ..Options::DECODE },
            Isa::SCALAR,
            Serial,
        );
        let (states, last) = tapped(&model, &tokens, TOKENS);
        assert_eq!(last, plain[plain.len() - shape.vocab..], "{shape:?}");
        assert!(states.iter().all(|v| v.is_finite()), "{shape:?}");
        for prefill in [1, 7] {
            assert!(
                tapped(&model, &tokens, prefill) == (states.clone(), last.clone()),
                "chunks of {prefill} {shape:?}"
            );
        }
        // State 0 is the embedding.
        let mut row = vec![0.0; shape.width];
        let Input::Tokens { embedding, .. } = model.last().unwrap().input else {
            panic!("a decoder")
        };
        embedding.matrix.dequantize_row(tokens[3] as usize, &mut row);
        assert_eq!(states[3 * shape.width..4 * shape.width], row);
    }
}

#[test]
fn each_state_is_shown_once_whatever_the_budget() {
    let mut file = Memory::copy_of(&common::model(&PLAIN, 1, vec![])).unwrap();
    let model = Model::open(file.bytes()).unwrap();
    let tokens = tokens(PLAIN.vocab);
    let (want, last) = tapped(&model, &tokens, TOKENS);
    let options = Options { context: TOKENS, prefill: TOKENS, logits: 1, ..Options::DECODE };
    let mut memory = Memory::new(Plan::new(&model, options).unwrap().bytes()).unwrap();
    for budget in [1, 700, 50_000, u64::MAX] {
        let mut session = Session::new(&model, options, memory.bytes()).unwrap();
        session.begin(&tokens, 1).unwrap();
        let (mut numbers, mut states) = (vec![], vec![]);
        let mut look = |number: u32, rows: &[f32]| {
            numbers.push(number);
            states.extend_from_slice(rows);
        };
        while session.resume_tapped(budget, &mut look).unwrap() == Progress::Pending {}
        assert_eq!(numbers, [0, 1, 2, 3, 4], "budget {budget}");
        assert!(states == want, "budget {budget}");
        assert!(
            session.logits().iter().map(|v| v.to_bits()).eq(last.iter().copied()),
            "budget {budget}"
        );
    }
}

#[test]
fn states_come_in_the_order_asked_for() {
    let mut file = Memory::copy_of(&common::model(&PLAIN, 1, vec![])).unwrap();
    let model = Model::open(file.bytes()).unwrap();
    let tokens = tokens(PLAIN.vocab);
    let (all, _) = tapped(&model, &tokens, TOKENS);
    let each = TOKENS * PLAIN.width;
    let options = Options { context: TOKENS, prefill: 16, logits: 1, ..Options::DECODE };
    let mut memory = Memory::new(Plan::new(&model, options).unwrap().bytes()).unwrap();
    let mut session = Session::new(&model, options, memory.bytes()).unwrap();
    let mut buffer = vec![0.0; 3 * each];
    session.feed_tapped(&tokens, &[3, 1, 3], &mut buffer).unwrap();
    let want = [&all[3 * each..4 * each], &all[each..2 * each], &all[3 * each..4 * each]].concat();
    assert!(buffer == want);
}

#[test]
fn what_cannot_be_tapped_is_refused_and_changes_nothing() {
    let mut file = Memory::copy_of(&common::model(&PLAIN, 1, vec![])).unwrap();
    let model = Model::open(file.bytes()).unwrap();
    let options = Options { context: 20, prefill: 8, logits: 1, ..Options::DECODE };
    let mut memory = Memory::new(Plan::new(&model, options).unwrap().bytes()).unwrap();
    let mut session = Session::new(&model, options, memory.bytes()).unwrap();
    let mut buffer = vec![0.0; 2 * PLAIN.width];
    let mut tap = |tokens: &[u32], states: &[u32], numbers: usize| {
        session.feed_tapped(tokens, states, &mut buffer[..numbers]).map(|_| ())
    };
    assert_eq!(tap(&[1, 2], &[5], 96), Err(TapError::State { asked: 5, last: 4 }));
    assert_eq!(tap(&[1, 2], &[4], 95), Err(TapError::Buffer { needed: 96, found: 95 }));
    assert_eq!(tap(&[], &[4], 0), Err(TapError::Run(RunError::Empty)));
    assert_eq!(
        tap(&[1, 67], &[4], 96),
        Err(TapError::Run(RunError::Token { index: 1, token: 67, vocab: 67 }))
    );
    assert_eq!(tap(&[1, 2], &[], 0), Ok(()));
    assert_eq!(tap(&[1, 2], &[4], 96), Ok(()));
    assert_eq!(session.position(), 4);
    session.begin(&[1], 1).unwrap();
    let busy = session.feed_tapped(&[1], &[], &mut []).map(|_| ());
    assert_eq!(busy, Err(TapError::Run(RunError::Unfinished)));
}

#[test]
fn states_of_another_width_are_refused_and_can_be_looked_at() {
    let mut file = Memory::copy_of(&common::widening(3)).unwrap();
    let model = Model::open(file.bytes()).unwrap();
    let options = Options { context: 8, prefill: 2, logits: 1, ..Options::DECODE };
    let mut memory = Memory::new(Plan::new(&model, options).unwrap().bytes()).unwrap();
    let mut session = Session::new(&model, options, memory.bytes()).unwrap();
    let mut buffer = vec![f32::NAN; 3 * 2 * 24];
    for state in [2, 3] {
        let refused = session.feed_tapped(&[1, 2, 3], &[0, state], &mut buffer).map(|_| ());
        assert_eq!(refused, Err(TapError::Width { state, width: 40 }));
    }
    assert_eq!(session.position(), 0);
    session.feed_tapped(&[1, 2, 3], &[0, 1], &mut buffer).unwrap();
    assert!(buffer.iter().all(|x| x.is_finite()));
    session.begin(&[1], 1).unwrap();
    let mut widths = vec![];
    while session.resume_tapped(1, |_, rows| widths.push(rows.len())).unwrap() == Progress::Pending
    {
    }
    assert_eq!(widths, [24, 24, 40, 40]);
}
