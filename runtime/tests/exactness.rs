//! One answer, however it is computed: every instruction set, 1 to 3 threads, any chunk of the
//! prompt, any budget; in exactly the planned memory, whatever it held before.

mod common;

use common::{Eager, Random, logits, shapes};
use kinglet::Memory;
use kinglet::{
    ArenaError, Isa, Model, Options, Plan, PlanError, Progress, RunError, Serial, Session,
    SessionError, Threads,
};

fn tokens(vocab: usize, n: usize) -> Vec<u32> {
    let mut random = Random(11);
    (0..n).map(|_| random.below(vocab) as u32).collect()
}

#[test]
fn every_division_of_the_work_gives_the_same_bits() {
    let pools = [2, 3].map(|n| Eager(Threads::new(n).unwrap()));
    for (seed, shape) in shapes().iter().enumerate() {
        let file = Memory::copy_of(&common::model(shape, seed as u64 + 1, vec![]))
            .unwrap()
            .bytes()
            .to_vec();
        let mut file = Memory::copy_of(&file).unwrap();
        let model = Model::open(file.bytes()).unwrap();
        let tokens = tokens(shape.vocab, 80);
        let options =
            |chunk| Options { context: 80, prefill: chunk, logits: chunk, ..Options::DECODE };
        let want = logits(&model, &tokens, options(1), Isa::SCALAR, Serial);
        assert!(want.iter().all(|&bits| f32::from_bits(bits).is_finite()), "{shape:?}");
        assert_ne!(want[..shape.vocab], want[shape.vocab..2 * shape.vocab], "{shape:?}");
        for isa in Isa::available() {
            for chunk in [1, 7, 64, 80] {
                assert!(
                    logits(&model, &tokens, options(chunk), isa, Serial) == want,
                    "{isa:?} chunk {chunk} {shape:?}"
                );
                for pool in &pools {
                    let got = pool.0.enter(|| logits(&model, &tokens, options(chunk), isa, pool));
                    assert!(got == want, "{isa:?} chunk {chunk} threads {shape:?}");
                }
            }
            for budget in [1, 1_000, 50_000] {
                assert!(
                    in_pieces(&model, &tokens, isa, budget) == want,
                    "{isa:?} budget {budget} {shape:?}"
                );
            }
        }
    }
}

/// The same in pieces of work.
fn in_pieces(model: &Model<'_>, tokens: &[u32], isa: Isa, budget: u64) -> Vec<u32> {
    let options = Options { context: 80, prefill: 13, logits: 13, ..Options::DECODE };
    let mut memory = Memory::new(Plan::new(model, options).unwrap().bytes()).unwrap();
    let mut session = Session::with(model, options, memory.bytes(), isa, Serial).unwrap();
    let mut all = vec![];
    for chunk in tokens.chunks(13) {
        session.begin(chunk, chunk.len()).unwrap();
        let mut stops = 0;
        while session.resume(budget).unwrap() == Progress::Pending {
            stops += 1;
        }
        assert!(stops > 10 || budget > 1_000, "a budget of {budget} stopped {stops} times");
        all.extend(session.logits().iter().map(|v| v.to_bits()));
    }
    all
}

#[test]
fn a_session_uses_exactly_the_planned_bytes() {
    const GUARD: usize = 256;
    for shape in shapes() {
        let mut file = Memory::copy_of(&common::model(&shape, 5, vec![])).unwrap();
        let model = Model::open(file.bytes()).unwrap();
        let options = Options { context: 40, prefill: 9, logits: 2, ..Options::DECODE };
        let planned = Plan::new(&model, options).unwrap().bytes();
        let mut memory = Memory::new(planned + 2 * GUARD).unwrap();
        memory.bytes().fill(0x5A);
        let arena = &mut memory.bytes()[GUARD..GUARD + planned];
        let mut session = Session::new(&model, options, arena).unwrap();
        session.feed_each(&tokens(shape.vocab, 40), |_, _| {}).unwrap();
        let (before, rest) = memory.bytes().split_at(GUARD);
        let (arena, after) = rest.split_at(planned);
        assert!(
            before.iter().chain(after).all(|&b| b == 0x5A),
            "written outside the plan: {shape:?}"
        );
        // Not a byte less: the last planned bytes are the last logits.
        assert!(arena[planned - 4..] != [0x5A; 4], "the plan's last bytes are not used: {shape:?}");
        let short = Session::new(&model, options, &mut memory.bytes()[..planned - 1]).map(|_| ());
        assert_eq!(
            short,
            Err(SessionError::Arena(ArenaError::TooSmall { needed: planned, found: planned - 1 }))
        );
    }
}

#[test]
fn rewinding_forgets() {
    let mut file = Memory::copy_of(&common::model(&common::PLAIN, 3, vec![])).unwrap();
    let model = Model::open(file.bytes()).unwrap();
    let options = Options { context: 100, prefill: 16, logits: 1, ..Options::DECODE };
    let mut memory = Memory::new(Plan::new(&model, options).unwrap().bytes()).unwrap();
    let mut session = Session::new(&model, options, memory.bytes()).unwrap();
    let tokens = tokens(67, 90);
    session.feed(&tokens[..30]).unwrap();
    let want = session.feed(&tokens[30..35]).unwrap().to_vec();
    session.feed(&tokens[35..]).unwrap();
    session.rewind(30).unwrap();
    assert_eq!(session.feed(&tokens[30..35]).unwrap(), want);
    // An unfinished run is forgotten, too.
    session.begin(&tokens[..16], 1).unwrap();
    session.resume(1).unwrap();
    assert_eq!(session.feed(&tokens[..1]).map(|_| ()), Err(RunError::Unfinished));
    session.rewind(30).unwrap();
    assert_eq!(session.feed(&tokens[30..35]).unwrap(), want);
    assert_eq!(session.position(), 35);
    assert_eq!(session.rewind(36), Err(RunError::Position { asked: 36, reached: 35 }));
}

#[test]
fn what_cannot_be_run_is_refused_and_changes_nothing() {
    let mut file = Memory::copy_of(&common::model(&common::PLAIN, 3, vec![])).unwrap();
    let model = Model::open(file.bytes()).unwrap();
    let options = Options { context: 20, prefill: 8, logits: 1, ..Options::DECODE };
    let mut memory = Memory::new(Plan::new(&model, options).unwrap().bytes()).unwrap();
    let mut session = Session::new(&model, options, memory.bytes()).unwrap();
    let want = session.feed(&[1, 2, 3]).unwrap().to_vec();
    session.rewind(0).unwrap();
    let feed = |session: &mut Session<'_, '_>, tokens: &[u32]| session.feed(tokens).map(|_| ());
    assert_eq!(feed(&mut session, &[]), Err(RunError::Empty));
    assert_eq!(
        feed(&mut session, &[1, 67]),
        Err(RunError::Token { index: 1, token: 67, vocab: 67 })
    );
    assert_eq!(
        feed(&mut session, &[u32::MAX]),
        Err(RunError::Token { index: 0, token: u32::MAX, vocab: 67 })
    );
    assert_eq!(
        feed(&mut session, &[1; 21]),
        Err(RunError::ContextFull { needed: 21, context: 20 })
    );
    assert_eq!(session.begin(&[1; 9], 1), Err(RunError::TooMany { asked: 9, most: 8 }));
    assert_eq!(session.begin(&[1; 8], 2), Err(RunError::TooMany { asked: 2, most: 1 }));
    assert_eq!(session.resume(1), Err(RunError::Idle));
    assert_eq!(session.position(), 0);
    assert_eq!(session.feed(&[1, 2, 3]).unwrap(), want);
}

#[test]
fn what_cannot_be_planned_is_refused() {
    let mut file = Memory::copy_of(&common::model(&common::PLAIN, 3, vec![])).unwrap();
    let model = Model::open(file.bytes()).unwrap();
    let plan = |context, prefill, logits| {
        Plan::new(&model, Options { context, prefill, logits, ..Options::DECODE }).map(|_| ())
    };
    assert_eq!(plan(0, 1, 1), Err(PlanError::Options));
    assert_eq!(plan(1, 0, 1), Err(PlanError::Options));
    assert_eq!(plan(1, 1, 2), Err(PlanError::Options));
    assert_eq!(plan(101, 1, 1), Err(PlanError::Context { asked: 101, most: 100 }));
    assert_eq!(plan(100, usize::MAX / 2, 1), Err(PlanError::TooLarge));
    let options = Options { context: 20, prefill: 8, logits: 1, ..Options::DECODE };
    let mut memory = Memory::new(Plan::new(&model, options).unwrap().bytes() + 64).unwrap();
    let unaligned = Session::new(&model, options, &mut memory.bytes()[4..]).map(|_| ());
    assert_eq!(unaligned, Err(SessionError::Arena(ArenaError::Unaligned)));
}
