//! Windows through reference and models.
//!
//! ```text
//! windows -> groups (Limits::streams) -> reference, block by block; states of the first tokens are kept (Limits::states)
//!                                     head -> waves of whole windows (Limits::logits) -> models, a window on each thread
//! ```

use std::sync::Mutex;

use kinglet::{Isa, Model, Options, Plan, Serial, Session, ValueFormat};
use rayon::prelude::*;

use super::hidden::{Alignment, Kept, States};
use super::score::{Prediction, Score};
use super::{EvaluateError, Peer};
use kinglet::Memory;
use kinglet_reference::Reference;

/// What may be in memory at once, in bytes.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    /// The reference's residual streams of a group.
    pub(super) streams: usize,
    /// The reference's hidden states that are kept to be compared.
    pub(super) states: usize,
    /// The reference's logits that wait for the models. One window is taken even if it has more.
    pub(super) logits: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { streams: 1 << 26, states: 1 << 27, logits: 1 << 26 }
    }
}

/// Tokens that a model runs together.
const CHUNK: usize = 64;

/// Some tokens of the text.
pub(super) struct Window<'t> {
    /// What is run.
    input: Vec<u32>,
    /// What follows each.
    targets: &'t [u32],
    /// Tokens of the text.
    tokens: usize,
}

impl<'t> Window<'t> {
    pub(super) fn new(tokens: &'t [u32], bos: Option<u32>) -> Self {
        let input = bos.into_iter().chain(tokens[..tokens.len() - 1].iter().copied()).collect();
        let targets = if bos.is_some() { tokens } else { &tokens[1..] };
        Self { input, targets, tokens: tokens.len() }
    }
}

/// What the reference has for a window.
#[derive(Clone, Copy)]
struct Expected<'e> {
    logits: &'e [f32],
    kept: &'e Kept,
    /// The window's first token in the group.
    first: usize,
}

/// One for all threads: each window has a peer for itself.
type Peers<'r> = &'r [Mutex<Box<dyn Peer>>];

/// All that a run needs.
pub(super) struct Machine<'r> {
    models: &'r [Model<'r>],
    peers: Peers<'r>,
    options: Options,
    /// Bytes of each model's session.
    bytes: Vec<usize>,
    isa: Isa,
    reference: Option<(&'r Reference<'r>, Vec<Alignment>)>,
    progress: &'r (dyn Fn(usize) + Sync),
    pub(super) limits: Limits,
}

impl<'r> Machine<'r> {
    pub(super) fn new(
        models: &'r [Model<'r>],
        peers: Peers<'r>,
        isa: Isa,
        (window, int4_values): (usize, bool),
        reference: Option<&'r Reference<'r>>,
        progress: &'r (dyn Fn(usize) + Sync),
    ) -> Result<Self, EvaluateError> {
        let (together, values) =
            (window.min(CHUNK), if int4_values { ValueFormat::Int4 } else { ValueFormat::Int8 });
        let options = Options {
            context: window,
            prefill: together,
            logits: together,
            values,
            ..Options::DECODE
        };
        let plan =
            |model| Plan::new(model, options).map(|plan| plan.bytes()).map_err(EvaluateError::run);
        let bytes = models.iter().map(plan).collect::<Result<_, _>>()?;
        let align = |r: &'r Reference<'r>| {
            let alignments = models.iter().map(|model| Alignment::new(model, r.architecture()));
            Ok::<_, EvaluateError>((r, alignments.collect::<Result<_, _>>()?))
        };
        Ok(Self {
            models,
            peers,
            options,
            bytes,
            isa,
            reference: reference.map(align).transpose()?,
            progress,
            limits: Limits::default(),
        })
    }

    /// The scores of each window, a score for each model.
    pub(super) fn run(&self, windows: &[Window<'_>]) -> Result<Vec<Vec<Score>>, EvaluateError> {
        let Some((reference, alignments)) = &self.reference else {
            return self.wave(windows, None);
        };
        let most = self.limits.streams / size_of::<f32>() / reference.architecture().last().width;
        let mut scores = vec![];
        let mut rest = windows;
        while !rest.is_empty() {
            let mut tokens = 0;
            let fits = |window: &&Window<'_>| {
                tokens += window.input.len();
                tokens <= most
            };
            let (group, others) = rest.split_at(rest.iter().take_while(fits).count().max(1));
            scores.extend(self.group(group, reference, alignments)?);
            rest = others;
        }
        Ok(scores)
    }

    fn group(
        &self,
        group: &[Window<'_>],
        reference: &Reference<'_>,
        alignments: &[Alignment],
    ) -> Result<Vec<Vec<Score>>, EvaluateError> {
        let inputs: Vec<&[u32]> = group.iter().map(|window| window.input.as_slice()).collect();
        let blocks = reference.architecture().count();
        let mut batch = reference.embed(&inputs)?;
        let width = batch.width();
        let affordable = self.limits.states / size_of::<f32>() / width / (blocks + 1);
        let tokens = affordable.min(batch.stream().len() / width);
        let mut kept = Kept { width, tokens, states: vec![] };
        let mut done = Share::new(group);
        for state in 0..=blocks {
            if state > 0 {
                reference.advance(&mut batch, state - 1, &mut ())?;
                (self.progress)(done.until(state, blocks));
            }
            let wanted = alignments.iter().any(|alignment| alignment.states.contains(&Some(state)));
            let rows = if wanted { tokens * width } else { 0 };
            kept.states.push(batch.stream()[..rows].to_vec());
        }

        let mut scores = vec![];
        let mut failed = None;
        let (mut wave, mut logits, mut first) = (0, vec![], 0);
        reference.head(&batch, &mut (), |window, position, row| {
            logits.extend_from_slice(row);
            let whole = position + 1 == group[window].input.len();
            let enough =
                size_of_val(logits.as_slice()) >= self.limits.logits || window + 1 == group.len();
            if failed.is_some() || !(whole && enough) {
                return;
            }
            let windows = &group[wave..=window];
            match self.wave(windows, Some(Expected { logits: &logits, kept: &kept, first })) {
                Ok(more) => scores.extend(more),
                Err(error) => failed = Some(error),
            }
            first += windows.iter().map(|window| window.input.len()).sum::<usize>();
            wave = window + 1;
            logits.clear();
        })?;
        failed.map_or(Ok(scores), Err)
    }

    /// Runs the models on windows that lie together; `expected` is what the reference has for all
    /// of them.
    fn wave(
        &self,
        windows: &[Window<'_>],
        expected: Option<Expected<'_>>,
    ) -> Result<Vec<Vec<Score>>, EvaluateError> {
        let starts = windows
            .iter()
            .scan(0, |start, window| Some(std::mem::replace(start, *start + window.input.len())));
        let jobs: Vec<_> =
            windows.iter().zip(starts).filter(|(window, _)| !window.input.is_empty()).collect();
        let vocab = self.models[0].outputs();
        let memories = || {
            let each = self.bytes.iter().map(|&bytes| Memory::new(bytes));
            each.collect::<Result<Vec<_>, _>>()
        };
        jobs.into_par_iter()
            .map_init(memories, |memories, (window, start)| {
                let own = expected.map(|all| Expected {
                    logits: &all.logits[start * vocab..][..window.input.len() * vocab],
                    first: all.first + start,
                    ..all
                });
                let memories = memories.as_mut().map_err(|error| EvaluateError::Memory(*error))?;
                let scores = self.window(memories, window, own);
                let before = if expected.is_some() { window.tokens / 2 } else { 0 };
                (self.progress)(window.tokens - before);
                scores
            })
            .collect()
    }

    fn window(
        &self,
        memories: &mut [Memory],
        window: &Window<'_>,
        expected: Option<Expected<'_>>,
    ) -> Result<Vec<Score>, EvaluateError> {
        let with = |(model, memory): (&Model<'r>, _)| {
            Session::with(model, self.options, Memory::bytes(memory), self.isa, Serial)
                .map_err(EvaluateError::run)
        };
        let mut sessions =
            self.models.iter().zip(memories).map(with).collect::<Result<Vec<_>, _>>()?;
        let alignments = self
            .reference
            .as_ref()
            .map(|(_, alignments)| alignments.as_slice())
            .unwrap_or_default();
        let mut scores = vec![Score::default(); sessions.len() + self.peers.len()];
        scores.iter_mut().zip(alignments).for_each(|(score, a)| score.states = States::new(a));
        let vocab = self.models[0].outputs();
        let of_peers = self.of_peers(&window.input, vocab)?;
        let mut targets = window.targets.iter();
        for (number, chunk) in window.input.chunks(CHUNK).enumerate() {
            let start = number * CHUNK;
            for (model, (session, score)) in sessions.iter_mut().zip(&mut scores).enumerate() {
                session.begin(chunk, chunk.len()).map_err(EvaluateError::run)?;
                let run = session.resume_tapped(u64::MAX, |state, rows| {
                    if let Some(all) = expected {
                        let first = all.first + start;
                        score.states.compare(
                            &alignments[model],
                            state as usize,
                            rows,
                            all.kept,
                            first,
                        );
                    }
                });
                run.map_err(EvaluateError::run)?;
            }
            let logits: Vec<&[f32]> =
                sessions.iter_mut().map(|session| &*session.logits()).collect();
            for (row, &next) in (0..chunk.len()).zip(&mut targets) {
                let reference = expected
                    .map(|all| Prediction::new(&all.logits[(start + row) * vocab..][..vocab]));
                let own =
                    logits.iter().map(|logits| Prediction::new(&logits[row * vocab..][..vocab]));
                let theirs = of_peers
                    .iter()
                    .map(|all| Prediction::new(&all[(start + row) * vocab..][..vocab]));
                let own: Vec<_> = own.chain(theirs).collect();
                for (model, score) in scores.iter_mut().enumerate() {
                    let first = own.first().filter(|_| model > 0);
                    score.position(next, &own[model], reference.as_ref(), first);
                }
            }
        }
        Ok(scores)
    }

    /// All logits of each peer.
    fn of_peers(&self, input: &[u32], vocab: usize) -> Result<Vec<Vec<f32>>, EvaluateError> {
        let of_peer = |peer: &Mutex<Box<dyn Peer>>| {
            let mut peer = peer.lock().map_err(EvaluateError::run)?;
            let logits = peer.logits(input, vocab).map_err(EvaluateError::run)?;
            let (got, want) = (logits.len(), input.len() * vocab);
            if got != want {
                return Err(EvaluateError::Run(format!(
                    "a peer gave {got} logits instead of {want}"
                )));
            }
            if logits.iter().any(|logit| !logit.is_finite()) {
                return Err(EvaluateError::run(
                    "a peer gave logits that are infinite or not numbers",
                ));
            }
            Ok(logits)
        };
        self.peers.iter().map(of_peer).collect()
    }
}

/// Half of a group's tokens count as done while the reference runs, the other half as the models
/// do.
struct Share {
    half: usize,
    told: usize,
}

impl Share {
    fn new(group: &[Window<'_>]) -> Self {
        Self { half: group.iter().map(|window| window.tokens / 2).sum(), told: 0 }
    }

    /// What to tell when `n` of `all` blocks are done.
    fn until(&mut self, n: usize, all: usize) -> usize {
        let now = self.half * n / all;
        now - std::mem::replace(&mut self.told, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kinglet_import::checkpoint::Checkpoint;

    /// However windows are grouped, positions are scored alike; only fewer hidden states are
    /// compared.
    #[test]
    fn groups_and_waves_change_no_score() {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/storyteller");
        let checkpoint = Checkpoint::open(dir).unwrap();
        let reference = Reference::new(&checkpoint).unwrap();
        let models = [Model::open(&kinglet_fixtures::STORYTELLER.0).unwrap()];
        let tokens: Vec<u32> = (0..150).map(|i| i * 37 % 512).collect();
        let windows: Vec<_> = tokens.chunks(20).map(|chunk| Window::new(chunk, None)).collect();
        let width = models[0].width();
        let run = |limits| {
            let told = std::sync::atomic::AtomicUsize::new(0);
            let progress = |n| _ = told.fetch_add(n, std::sync::atomic::Ordering::Relaxed);
            let mut machine =
                Machine::new(&models, &[], Isa::detect(), (20, false), Some(&reference), &progress)
                    .unwrap();
            machine.limits = limits;
            let mut total = Score::default();
            machine.run(&windows).unwrap().into_iter().flatten().for_each(|score| total.add(score));
            assert_eq!(told.into_inner(), 150);
            total.finish()
        };
        let whole = run(Limits::default());
        // Two windows of 19 to a group, 5 tokens of which have states; each window a wave.
        let states = models[0].blocks() as usize + 1;
        let small =
            run(Limits { streams: 40 * width * 4, states: 5 * states * width * 4, logits: 0 });
        assert_eq!((whole.tokens, small.tokens), (142, 142));
        assert_eq!(whole.hidden.as_ref().unwrap().tokens, 142);
        assert_eq!(small.hidden.as_ref().unwrap().tokens, 4 * 5);
        let (a, b) = (whole.divergence.unwrap(), small.divergence.unwrap());
        assert!(
            (a.mean_kl / b.mean_kl - 1.0).abs() < 1e-4 && (a.p99_kl / b.p99_kl - 1.0).abs() < 1e-3,
            "{a:?} {b:?}"
        );
        assert_eq!((whole.perplexity, a.top1_agreement), (small.perplexity, b.top1_agreement));
    }
}
