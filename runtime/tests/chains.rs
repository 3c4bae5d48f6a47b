//! Encoders, encoder-decoders and models that read pictures: one answer however it is computed, in
//! exactly the planned memory; a source is read once for all of its targets; what does not fit is
//! refused.

mod common;

use common::{CHAIN_CONTEXT, CHAIN_VOCAB, CHAINS, Chain, Eager, FEATURES, PICTURE, Random};
use kinglet::Memory;
use kinglet::{
    Format, Isa, Model, Options, Parallel, Plan, PlanError, Progress, RunError, Serial, Session,
    Source, Threads,
};
use kinglet_model::Pooling;

/// Sources for the same model, of different lengths where that is possible.
struct Sources {
    tokens: Vec<u32>,
    types: Vec<u8>,
    numbers: Vec<f32>,
    pixels: Vec<u8>,
}

impl Sources {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let length = CHAIN_CONTEXT - 1 - seed as usize % 9;
        Self {
            tokens: (0..length).map(|_| random.below(CHAIN_VOCAB) as u32).collect(),
            types: (0..length).map(|i| u8::from(i > length / 2)).collect(),
            numbers: (0..length * FEATURES).map(|_| 2.0 * random.unit()).collect(),
            pixels: (0..PICTURE[0] * PICTURE[1] * PICTURE[3])
                .map(|_| random.next() as u8)
                .collect(),
        }
    }

    fn of(&self, chain: Chain) -> Source<'_> {
        match chain {
            Chain::Encoder(_) => Source::Typed(&self.tokens, &self.types),
            Chain::Translator => Source::Tokens(&self.tokens),
            Chain::Describer => Source::Pixels(&self.pixels),
            Chain::Frames => Source::Features(&self.numbers),
        }
    }
}

fn target() -> Vec<u32> {
    let mut random = Random(77);
    (0..CHAIN_CONTEXT).map(|_| random.below(CHAIN_VOCAB) as u32).collect()
}

fn options(model: &Model<'_>, chunk: usize) -> Options {
    let of = Options::of(model).unwrap();
    match model.is_decoder() {
        true => Options { prefill: chunk, logits: chunk, ..of },
        false if model.pooling() == Pooling::None => Options { logits: of.source, ..of },
        false => of,
    }
}

fn finish<P: Parallel>(session: &mut Session<'_, '_, P>, budget: u64) -> usize {
    let mut stops = 0;
    while session.resume(budget).unwrap() == Progress::Pending {
        stops += 1;
    }
    stops
}

/// The bits of all outputs: of the source, then of each position of the target.
fn bits<P: Parallel>(
    model: &Model<'_>,
    source: Source<'_>,
    chunk: usize,
    isa: Isa,
    parallel: P,
    budget: u64,
) -> Vec<u32> {
    let options = options(model, chunk);
    let mut memory = Memory::new(Plan::new(model, options).unwrap().bytes()).unwrap();
    memory.bytes().fill(0xA5);
    let mut session = Session::with(model, options, memory.bytes(), isa, parallel).unwrap();
    session.begin_source(source).unwrap();
    let stops = finish(&mut session, budget);
    assert!(stops > 10 || budget > 1_000, "a budget of {budget} stopped {stops} times");
    let mut all: Vec<u32> = session.logits().iter().map(|v| v.to_bits()).collect();
    assert_eq!(all.is_empty(), model.is_decoder());
    if model.is_decoder() {
        for tokens in target().chunks(chunk) {
            session.begin(tokens, tokens.len()).unwrap();
            finish(&mut session, budget);
            all.extend(session.logits().iter().map(|v| v.to_bits()));
        }
    }
    all
}

#[test]
fn every_division_of_the_work_gives_the_same_bits() {
    let pools = [2, 3].map(|n| Eager(Threads::new(n).unwrap()));
    for (number, (chain, format)) in
        CHAINS.iter().flat_map(|&chain| Format::ALL.map(|format| (chain, format))).enumerate()
    {
        let mut file = Memory::copy_of(&common::chain(chain, format, number as u64 + 1)).unwrap();
        let model = Model::open(file.bytes()).unwrap();
        let sources = Sources::new(number as u64);
        let source = sources.of(chain);
        let want = bits(&model, source, 1, Isa::SCALAR, Serial, u64::MAX);
        assert!(want.iter().all(|&bits| f32::from_bits(bits).is_finite()), "{chain:?} {format:?}");
        let first = f32::from_bits(want[0]);
        assert!(want.iter().any(|&bits| f32::from_bits(bits) != first), "{chain:?} {format:?}");
        let others = Sources::new(number as u64 + 100);
        let other = bits(&model, others.of(chain), 1, Isa::SCALAR, Serial, u64::MAX);
        assert!(other != want, "{chain:?} {format:?}: the source does not count");
        for isa in Isa::available() {
            for chunk in if model.is_decoder() { vec![1, 7, CHAIN_CONTEXT] } else { vec![1] } {
                assert!(
                    bits(&model, source, chunk, isa, Serial, u64::MAX) == want,
                    "{isa:?} {chunk} {chain:?} {format:?}"
                );
                for pool in &pools {
                    let got = pool.0.enter(|| bits(&model, source, chunk, isa, pool, u64::MAX));
                    assert!(got == want, "{isa:?} chunk {chunk} threads {chain:?} {format:?}");
                }
            }
            for budget in [1, 1_000, 50_000] {
                assert!(
                    bits(&model, source, 5, isa, Serial, budget) == want,
                    "{isa:?} {budget} {chain:?} {format:?}"
                );
            }
        }
    }
}

#[test]
fn a_session_uses_exactly_the_planned_bytes() {
    const GUARD: usize = 256;
    for chain in CHAINS {
        let mut file = Memory::copy_of(&common::chain(chain, Format::Int4, 5)).unwrap();
        let model = Model::open(file.bytes()).unwrap();
        let options = Options { targets: 3, ..options(&model, 2) };
        let plan = Plan::new(&model, options).unwrap();
        let planned = plan.bytes();
        assert_eq!(planned, plan.self_cache() + plan.cross_cache() + plan.scratch());
        assert_eq!(plan.cross_cache() > 0, matches!(chain, Chain::Translator | Chain::Describer));
        let mut memory = Memory::new(planned + 2 * GUARD).unwrap();
        memory.bytes().fill(0x5A);
        let arena = &mut memory.bytes()[GUARD..GUARD + planned];
        let mut session = Session::new(&model, options, arena).unwrap();
        session.encode(Sources::new(0).of(chain)).unwrap();
        if model.is_decoder() {
            for &token in &target() {
                session.feed_targets(&[token; 3]).unwrap();
            }
        }
        let (before, rest) = memory.bytes().split_at(GUARD);
        let (arena, after) = rest.split_at(planned);
        assert!(
            before.iter().chain(after).all(|&b| b == 0x5A),
            "written outside the plan: {chain:?}"
        );
        let last = if model.is_decoder() || model.pooling() != Pooling::None {
            planned - 4
        } else {
            planned - 400
        };
        assert!(
            arena[last..] != vec![0x5A; planned - last],
            "the plan's last bytes are not used: {chain:?}"
        );
    }
}

#[test]
fn a_source_is_read_once_for_all_of_its_targets() {
    for chain in [Chain::Translator, Chain::Describer] {
        let mut file = Memory::copy_of(&common::chain(chain, Format::Int8, 9)).unwrap();
        let model = Model::open(file.bytes()).unwrap();
        let options = Options { prefill: 4, logits: 1, ..options(&model, 4) };
        let mut memory = Memory::new(Plan::new(&model, options).unwrap().bytes()).unwrap();
        let mut session = Session::new(&model, options, memory.bytes()).unwrap();
        let target = target();
        assert_eq!(session.feed(&target[..1]).map(|_| ()), Err(RunError::NoSource));
        let sources = [Sources::new(1), Sources::new(2)];
        let mut fresh = vec![];
        for source in &sources {
            session.encode(source.of(chain)).unwrap();
            fresh.push([session.feed(&target[..9]).unwrap().to_vec(), {
                session.encode(source.of(chain)).unwrap();
                session.feed(&target[9..20]).unwrap().to_vec()
            }]);
        }
        session.encode(sources[0].of(chain)).unwrap();
        let rows = session.source();
        // What a target costs in steps of one unit: the same for the second, which reads nothing of
        // the source.
        let mut steps = vec![];
        for (part, want) in [
            (&target[..9], &fresh[0][0]),
            (&target[9..20], &fresh[0][1]),
            (&target[..9], &fresh[0][0]),
        ] {
            session.rewind(0).unwrap();
            let mut count = 0;
            for chunk in part.chunks(4) {
                session.begin(chunk, 1).unwrap();
                count += finish(&mut session, 1);
            }
            assert_eq!(session.logits(), want, "{chain:?}");
            assert_eq!(session.source(), rows);
            steps.push(count);
            session.rewind(0).unwrap();
        }
        assert_eq!(steps[0], steps[2]);
        session.begin_source(sources[0].of(chain)).unwrap();
        assert!(finish(&mut session, 1) > steps[0] / 4, "reading the source takes its own steps");
        session.encode(sources[1].of(chain)).unwrap();
        assert_eq!(
            session.feed(&target[..9]).unwrap(),
            fresh[1][0],
            "a new source forgets the old one"
        );
    }
}

#[test]
fn targets_side_by_side_are_those_one_after_the_other() {
    for chain in [Chain::Translator, Chain::Describer] {
        let mut file = Memory::copy_of(&common::chain(chain, Format::Int4Codebook, 3)).unwrap();
        let model = Model::open(file.bytes()).unwrap();
        let one = options(&model, 4);
        let many = Options { targets: 5, prefill: 4, logits: 1, ..one };
        let (mut small, mut large) = (
            Memory::new(Plan::new(&model, one).unwrap().bytes()).unwrap(),
            Memory::new(Plan::new(&model, many).unwrap().bytes()).unwrap(),
        );
        let mut alone = Session::new(&model, one, small.bytes()).unwrap();
        let mut session = Session::new(&model, many, large.bytes()).unwrap();
        let sources = Sources::new(4);
        alone.encode(sources.of(chain)).unwrap();
        session.encode(sources.of(chain)).unwrap();
        let mut random = Random(6);
        // The targets so far; they begin with the same prompt and then go ways of their own.
        let prompt = vec![3, 9, 4];
        session.feed(&prompt).unwrap();
        session.reorder(&[0; 5]).unwrap();
        let mut targets = vec![prompt; 5];
        for step in 0..12 {
            let tokens: Vec<u32> = (0..5).map(|_| random.below(CHAIN_VOCAB) as u32).collect();
            targets.iter_mut().zip(&tokens).for_each(|(target, &token)| target.push(token));
            let rows: Vec<Vec<f32>> = session
                .feed_targets(&tokens)
                .unwrap()
                .chunks(CHAIN_VOCAB)
                .map(<[f32]>::to_vec)
                .collect();
            for (target, row) in targets.iter().zip(&rows) {
                alone.rewind(0).unwrap();
                assert_eq!(alone.feed(target).unwrap(), row, "{chain:?} step {step}");
            }
            let from: Vec<usize> = (0..5).map(|_| random.below(5)).collect();
            session.reorder(&from).unwrap();
            targets = from.iter().map(|&from| targets[from].clone()).collect();
        }
        assert_eq!(session.reorder(&[5]), Err(RunError::TooMany { asked: 6, most: 5 }));
        assert_eq!(
            session.feed_targets(&[1; 6]).map(|_| ()),
            Err(RunError::TooMany { asked: 6, most: 5 })
        );
    }
}

#[test]
fn hidden_states_of_all_stacks_are_shown_once() {
    for chain in CHAINS {
        let mut file = Memory::copy_of(&common::chain(chain, Format::Int8, 4)).unwrap();
        let model = Model::open(file.bytes()).unwrap();
        let options = options(&model, 4);
        let mut memory = Memory::new(Plan::new(&model, options).unwrap().bytes()).unwrap();
        let mut session = Session::new(&model, options, memory.bytes()).unwrap();
        let mut want: Option<Vec<(u32, Vec<f32>)>> = None;
        for budget in [1, 999, u64::MAX] {
            let mut seen = vec![];
            session.begin_source(Sources::new(3).of(chain)).unwrap();
            while session
                .resume_tapped(budget, |state, rows| seen.push((state, rows.to_vec())))
                .unwrap()
                == Progress::Pending
            {}
            if model.is_decoder() {
                session.begin(&[4, 5, 6], 1).unwrap();
                while session
                    .resume_tapped(budget, |state, rows| seen.push((state, rows.to_vec())))
                    .unwrap()
                    == Progress::Pending
                {}
            }
            let numbers: Vec<u32> = seen.iter().map(|(state, _)| *state).collect();
            assert!(numbers.iter().copied().eq(0..model.blocks() + model.stacks()), "{numbers:?}");
            assert!(want.get_or_insert_with(|| seen.clone()) == &seen, "{chain:?} {budget}");
        }
    }
}

/// Plans of which the source or the targets are not the model's.
fn refused_plans(model: &Model<'_>, of: Options) {
    let refused = |options| Plan::new(model, options).map(|_| ()).unwrap_err();
    assert_eq!(
        refused(Options { source: 0, ..of }),
        PlanError::Source { asked: 0, most: of.source }
    );
    let asked = of.source + 1;
    assert_eq!(
        refused(Options { source: asked, ..of }),
        PlanError::Source { asked, most: of.source }
    );
    assert_eq!(refused(Options { targets: 17, ..of }), PlanError::Options);
}

/// Sources that a model which reads 10 tokens refuses.
fn refused_tokens(read: &mut dyn FnMut(Source<'_>) -> Result<(), RunError>, sources: &Sources) {
    assert_eq!(read(Source::Tokens(&[])), Err(RunError::Source { most: 10, found: 0 }));
    assert_eq!(read(Source::Tokens(&[1; 11])), Err(RunError::Source { most: 10, found: 11 }));
    let unknown = RunError::Token { index: 1, token: 61, vocab: 61 };
    assert_eq!(read(Source::Tokens(&[1, 61])), Err(unknown));
    assert_eq!(read(Source::Pixels(&sources.pixels)), Err(RunError::Reads { what: "tokens" }));
    assert_eq!(read(Source::Features(&sources.numbers)), Err(RunError::Reads { what: "tokens" }));
    assert_eq!(read(Source::Typed(&[1, 2], &[0])), Err(RunError::Source { most: 2, found: 1 }));
}

#[test]
fn what_does_not_fit_is_refused() {
    let sources = Sources::new(1);
    for chain in CHAINS {
        let mut file = Memory::copy_of(&common::chain(chain, Format::Int8, 4)).unwrap();
        let model = Model::open(file.bytes()).unwrap();
        let of = options(&model, 4);
        refused_plans(&model, of);
        let short = if chain == Chain::Describer {
            of
        } else {
            Options { source: 10, logits: of.logits.min(10), ..of }
        };
        let mut memory = Memory::new(Plan::new(&model, short).unwrap().bytes()).unwrap();
        let mut session = Session::new(&model, short, memory.bytes()).unwrap();
        let mut read = |source: Source<'_>| session.encode(source).map(|_| ());
        match chain {
            Chain::Encoder(_) => {
                refused_tokens(&mut read, &sources);
                let unknown = RunError::Token { index: 1, token: 2, vocab: 2 };
                assert_eq!(read(Source::Typed(&[1, 2], &[1, 2])), Err(unknown));
                assert_eq!(
                    session.feed(&[1]).map(|_| ()),
                    Err(RunError::Reads { what: "a source and no target" })
                );
            }
            Chain::Translator => refused_tokens(&mut read, &sources),
            Chain::Describer => {
                let most = sources.pixels.len();
                assert_eq!(read(Source::Tokens(&[1])), Err(RunError::Reads { what: "pictures" }));
                assert_eq!(
                    read(Source::Pixels(&sources.pixels[1..])),
                    Err(RunError::Source { most, found: most - 1 })
                );
            }
            Chain::Frames => {
                let most = 10 * FEATURES;
                assert_eq!(read(Source::Tokens(&[1])), Err(RunError::Reads { what: "features" }));
                assert_eq!(
                    read(Source::Features(&[0.5; 22])),
                    Err(RunError::Source { most, found: 22 })
                );
                let found = 11 * FEATURES;
                assert_eq!(
                    read(Source::Features(&vec![0.5; found])),
                    Err(RunError::Source { most, found })
                );
            }
        }
    }
    let mut file = Memory::copy_of(&common::model(&common::PLAIN, 3, vec![])).unwrap();
    let model = Model::open(file.bytes()).unwrap();
    let plan = Plan::new(&model, Options { source: 5, ..Options::DECODE });
    assert_eq!(plan.map(|_| ()), Err(PlanError::Source { asked: 5, most: 0 }));
    let mut memory = Memory::new(Plan::new(&model, Options::DECODE).unwrap().bytes()).unwrap();
    let mut session = Session::new(&model, Options::DECODE, memory.bytes()).unwrap();
    let none = RunError::Reads { what: "tokens of a target and no source" };
    assert_eq!(session.encode(Source::Tokens(&[1])).map(|_| ()), Err(none));
}
