//! Evaluation against its definitions, computed here once more and in the plainest way; and the
//! figures of real models.

use std::path::{Path, PathBuf};

use kinglet::Memory;
use kinglet::{Format, Model, Options, Plan, Session, argmax};
use kinglet_evaluate::{EvaluateError, Evaluation, Part, Place, Protocol, evaluate, evaluate_all};
use kinglet_fixtures::host::{isa, shared};
use kinglet_import::checkpoint::Checkpoint;
use kinglet_import::encode;
use kinglet_model::layout::{BlockRecord, Head, ModelRecord, SectionEntry, StackRecord, section};
use kinglet_quantize::quantize;
use kinglet_reference::Reference;

const STORY: &str = "Once upon a time there was a little dog named Max. He liked to run in the \
                     park with his friend. One \
    day, Max saw a big red ball. He wanted to play with it. \"Can I have the ball?\" he asked the girl. She smiled and said, \
    \"Yes, you can!\" Max was very happy. He ran and jumped all day. When the sun went down, he went home to his mom. \
    The next day it was raining. Max looked out of the window and felt sad. He could not go to the \
    park. His mom gave him a \
    warm bowl of soup and a soft blanket. \"Do not worry,\" she said. \"The rain will stop soon, and then you can find your \
    friends again.\" Max closed his eyes and dreamed of a rainbow over the green hill. ";

fn storyteller() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/storyteller")
}

fn built_in() -> Model<'static> {
    Model::open(&kinglet_fixtures::STORYTELLER.0).unwrap()
}

fn story(model: &Model<'_>) -> Vec<u32> {
    encode(&model.tokenizer().unwrap().unwrap(), STORY, false).unwrap()
}

fn to_file(checkpoint: &Checkpoint, weights: Format) -> (tempfile::TempDir, Memory) {
    let temporary = tempfile::tempdir().unwrap();
    let target = temporary.path().join("model.kinglet");
    let options = kinglet_quantize::Options { weights, golden: 0, ..Default::default() };
    quantize(checkpoint, &target, &options, &|_, _, _| ()).unwrap();
    let map = Memory::read(&target).unwrap();
    (temporary, map)
}

fn close(got: f64, want: f64, within: f64) {
    assert!((got - want).abs() <= within * want.abs().max(1e-9), "{got}, should be {want}");
}

fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let sum: f64 = logits.iter().map(|&v| f64::from(v).exp()).sum();
    logits.iter().map(|&v| f64::from(v) - sum.ln()).collect()
}

/// All hidden states and logits of a model's session.
fn run(model: &Model<'_>, input: &[u32]) -> (Vec<f32>, Vec<f32>) {
    let options = Options {
        context: input.len(),
        prefill: input.len(),
        logits: input.len(),
        ..Options::DECODE
    };
    let mut memory = Memory::new(Plan::new(model, options).unwrap().bytes()).unwrap();
    let mut session = Session::new(model, options, memory.bytes()).unwrap();
    let states: Vec<u32> = (0..=model.blocks()).collect();
    let mut buffer = vec![0.0; states.len() * input.len() * model.width()];
    session.feed_tapped(input, &states, &mut buffer).unwrap();
    session.rewind(0).unwrap();
    let mut logits = vec![];
    session.feed_each(input, |_, row| logits.extend_from_slice(row)).unwrap();
    (buffer, logits)
}

/// All figures of a file, in the plainest way.
#[derive(Default)]
struct Plain {
    /// Divergences from the f32 model, and from the first file.
    kls: Vec<f64>,
    firsts: Vec<f64>,
    /// Tokens whose most probable one, or one of the five, is the f32 model's.
    top1: usize,
    top5: usize,
    nll: f64,
    reference_nll: f64,
    /// Sums over tokens, of each state.
    errors: Vec<f64>,
    cosines: Vec<f64>,
}

impl Plain {
    /// Adds a token by its logits: the file's, the f32 model's and the first file's.
    fn token(&mut self, [own, reference, first]: [&[f32]; 3], next: u32) {
        let (q, p, o) = (log_softmax(own), log_softmax(reference), log_softmax(first));
        let kl = |p: &[f64]| p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum::<f64>();
        self.kls.push(kl(&p));
        self.firsts.push(kl(&o));
        self.nll -= q[next as usize];
        self.reference_nll -= p[next as usize];
        let mut order: Vec<usize> = (0..own.len()).collect();
        order.sort_by(|&a, &b| own[b].total_cmp(&own[a]));
        let best = argmax(reference) as usize;
        self.top1 += usize::from(order[0] == best);
        self.top5 += usize::from(order[..5].contains(&best));
    }

    /// Adds the rows of a state.
    fn state(&mut self, state: usize, own: &[f32], reference: &[f32], width: usize) {
        for (h, r) in own.chunks(width).zip(reference.chunks(width)) {
            let sum = |f: fn(f64, f64) -> f64| -> f64 {
                h.iter().zip(r).map(|(&h, &r)| f(f64::from(h), f64::from(r))).sum()
            };
            self.errors[state] += (sum(|h, r| (h - r) * (h - r)) / sum(|_, r| r * r)).sqrt();
            self.cosines[state] +=
                sum(|h, r| h * r) / (sum(|h, _| h * h) * sum(|_, r| r * r)).sqrt();
        }
    }

    /// Compares all with what was found.
    fn compare(&self, result: &Evaluation, first: &Evaluation) {
        let n = self.kls.len();
        let mut sorted = self.kls.clone();
        sorted.sort_by(f64::total_cmp);
        let mean = |all: &[f64]| all.iter().sum::<f64>() / n as f64;
        let d = result.divergence.unwrap();
        assert_eq!(result.tokens, n);
        close(result.perplexity, (self.nll / n as f64).exp(), 1e-9);
        close(d.reference_perplexity, (self.reference_nll / n as f64).exp(), 1e-5);
        close(d.mean_kl, mean(&self.kls), 1e-4);
        close(d.max_kl, sorted[n - 1], 1e-4);
        close(d.p99_kl, sorted[(n * 99).div_ceil(100) - 1], 1e-4);
        close(d.top1_agreement, self.top1 as f64 / n as f64, 1e-12);
        close(d.top5_agreement, self.top5 as f64 / n as f64, 1e-12);
        close(result.from_first.unwrap().mean_kl, mean(&self.firsts), 1e-9);
        close(result.from_first.unwrap().reference_perplexity, first.perplexity, 1e-9);
        assert!(first.from_first.is_none());
        let hidden = result.hidden.as_ref().unwrap();
        assert_eq!((hidden.tokens, hidden.states.len()), (n, self.errors.len()));
        let sums = self.errors.iter().zip(&self.cosines);
        for (state, (error, cosine)) in hidden.states.iter().zip(sums) {
            close(state.relative_error, error / n as f64, 1e-3);
            close(state.cosine, cosine / n as f64, 1e-6);
        }
        let place = Place { stack: 0, layer: 1, part: Part::FeedForward };
        assert_eq!((hidden.states[0].after, hidden.states[4].after), (None, Some(place)));
    }
}

#[test]
fn every_figure_is_that_of_its_definition() {
    let checkpoint = Checkpoint::open(storyteller()).unwrap();
    let reference = Reference::new(&checkpoint).unwrap();
    let (_temporary, map) = to_file(&checkpoint, Format::Int4);
    let (first, model) = (built_in(), Model::open(&map).unwrap());
    let (tokens, vocab, width) = (story(&model), model.outputs(), model.width());
    let (window, bos) = (90, 1);
    let protocol = Protocol { window, bos: Some(bos), int4_values: false };
    let found =
        evaluate_all(&[first, model], isa(), &tokens, protocol, Some(&reference), &|_| ()).unwrap();
    assert!(tokens.len() > 150 && tokens.len() % window != 0, "{} tokens", tokens.len());

    let states = checkpoint.architecture().count() + 1;
    let mut plain =
        Plain { errors: vec![0.0; states], cosines: vec![0.0; states], ..Plain::default() };
    for chunk in tokens.chunks(window) {
        let input = [&[bos], &chunk[..chunk.len() - 1]].concat();
        let (own_states, logits) = run(&model, &input);
        let (_, first_logits) = run(&first, &input);
        let reference_logits = reference.logits(&input).unwrap();
        let of_all = [&logits, &reference_logits, &first_logits];
        for (at, &next) in chunk.iter().enumerate() {
            plain.token(of_all.map(|all| &all[at * vocab..][..vocab]), next);
        }
        let mut batch = reference.embed(&[&input]).unwrap();
        for state in 0..states {
            if state > 0 {
                reference.advance(&mut batch, state - 1, &mut ()).unwrap();
            }
            let rows = &own_states[state * input.len() * width..][..input.len() * width];
            plain.state(state, rows, batch.stream(), width);
        }
    }
    plain.compare(&found[1], &found[0]);
}

#[test]
fn the_storyteller_loses_little() {
    let checkpoint = Checkpoint::open(storyteller()).unwrap();
    let reference = Reference::new(&checkpoint).unwrap();
    let (_temporary, map) = to_file(&checkpoint, Format::Int4Codebook);
    let models = [built_in(), Model::open(&map).unwrap()];
    let tokens = story(&models[0]);
    let protocol = Protocol { window: 255, bos: Some(1), int4_values: false };
    let with = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let run = || evaluate_all(&models, isa(), &tokens, protocol, Some(&reference), &|_| ());
        pool.install(run).unwrap()
    };
    let results = with(1);
    assert!(results == with(3), "the number of threads changed something");
    let [int8, int4] = [0, 1].map(|i| results[i].divergence.unwrap());
    println!("int8 {int8:?}\nint4 {int4:?}");
    assert!(
        int8.mean_kl < 0.003 && int8.top1_agreement > 0.95 && int8.top5_agreement > 0.99,
        "{int8:?}"
    );
    assert!((int8.mean_kl * 4.0..0.05).contains(&int4.mean_kl), "{int4:?}");
    for d in [int8, int4] {
        assert!(
            d.mean_kl < d.p99_kl && d.p99_kl < d.max_kl && d.top1_agreement <= d.top5_agreement,
            "{d:?}"
        );
    }
    for (result, most) in results.iter().zip([0.05, 0.25]) {
        let hidden = result.hidden.as_ref().unwrap();
        assert_eq!((hidden.tokens, hidden.states.len()), (tokens.len(), 9));
        assert!(hidden.states[0].relative_error < 0.01, "{:?}", hidden.states[0]);
        assert!(
            hidden.states.iter().all(|s| s.relative_error < most && s.cosine > 0.97),
            "{hidden:?}"
        );
    }
    // The results can be written and read again.
    let json = serde_json::to_string(&results).unwrap();
    assert_eq!(serde_json::from_str::<Vec<Evaluation>>(&json).unwrap().len(), 2);
}

/// The file without the block of this number: what a pruned file looks like.
fn without_block(file: &[u8], block: usize) -> Memory {
    let mut memory = Memory::copy_of(file).unwrap();
    let bytes = memory.bytes();
    let mut head = Head::read(bytes).unwrap();
    let table = Head::SIZE..Head::SIZE + usize::from(head.sections) * SectionEntry::SIZE;
    let mut entries: Vec<SectionEntry> = bytes[table.clone()]
        .chunks(SectionEntry::SIZE)
        .map(|entry| SectionEntry::read(entry).unwrap())
        .collect();
    for entry in &mut entries {
        let start = entry.offset as usize;
        let end = start + entry.bytes as usize;
        if entry.kind == section::BLOCKS {
            bytes.copy_within(
                start + (block + 1) * BlockRecord::SIZE..end,
                start + block * BlockRecord::SIZE,
            );
            entry.bytes -= BlockRecord::SIZE as u64;
        }
        if entry.kind == section::MODEL {
            let mut record = ModelRecord::read(&bytes[start..end]).unwrap();
            record.blocks -= 1;
            bytes[start..end].copy_from_slice(&record.write());
        }
        if entry.kind == section::STACKS {
            let mut record = StackRecord::read(&bytes[start..end]).unwrap();
            record.blocks -= 1;
            bytes[start..end].copy_from_slice(&record.write());
        }
        if entry.kind != section::WEIGHTS {
            entry.crc = crc32fast::hash(&bytes[start..][..entry.bytes as usize]);
        }
    }
    let entries: Vec<u8> = entries.iter().flat_map(SectionEntry::write).collect();
    bytes[table.clone()].copy_from_slice(&entries);
    head.crc = 0;
    head.crc = crc32fast::hash(&[&head.write()[..], &entries].concat());
    bytes[..Head::SIZE].copy_from_slice(&head.write());
    memory
}

#[test]
fn states_of_a_pruned_model_meet_those_of_the_same_layer() {
    let checkpoint = Checkpoint::open(storyteller()).unwrap();
    let reference = Reference::new(&checkpoint).unwrap();
    let mut pruned = without_block(&kinglet_fixtures::STORYTELLER.0, 3);
    let pruned = Model::open(pruned.bytes()).unwrap();
    let tokens = story(&pruned);
    let protocol = Protocol { window: 100, bos: Some(1), int4_values: false };
    let result = evaluate(&pruned, isa(), &tokens, protocol, Some(&reference), &|_| ()).unwrap();
    let states = result.hidden.unwrap().states;
    let places: Vec<_> = states.iter().map(|s| s.after.map(|p| (p.layer, p.part))).collect();
    use Part::{Attention, FeedForward};
    let places: Vec<_> = places.into_iter().skip(1).map(Option::unwrap).collect();
    let expected =
        [(0, Attention), (0, FeedForward), (1, Attention), (2, Attention), (2, FeedForward)];
    assert_eq!(places, [&expected[..], &[(3, Attention), (3, FeedForward)]].concat());
    // Up to the hole it is the built-in model; after it, another.
    let whole = evaluate(&built_in(), isa(), &tokens, protocol, Some(&reference), &|_| ()).unwrap();
    let whole = whole.hidden.unwrap().states;
    assert_eq!(states[..4], whole[..4]);
    assert!(
        states[4].relative_error > 4.0 * whole[5].relative_error,
        "{:?} {:?}",
        states[4],
        whole[5]
    );
}

#[test]
fn what_cannot_be_evaluated_is_said() {
    let model = built_in();
    let attempt =
        |models: &[Model<'_>], tokens: &[u32], window, reference: Option<&Reference<'_>>| {
            let protocol = Protocol { window, bos: Some(1), int4_values: false };
            evaluate_all(models, isa(), tokens, protocol, reference, &|_| ()).unwrap_err()
        };
    assert!(matches!(attempt(&[model], &[1], 8, None), EvaluateError::TooShort { tokens: 1 }));
    assert!(matches!(attempt(&[model], &[1; 9], 0, None), EvaluateError::Window { window: 0, .. }));
    assert!(matches!(
        attempt(&[model], &[1; 9999], 9999, None),
        EvaluateError::Window { window: 9999, .. }
    ));
    assert!(matches!(
        attempt(&[model], &[1, 9999], 8, None),
        EvaluateError::Token { token: 9999, .. }
    ));
    let variant = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/variants/llama_tied");
    let foreign = Checkpoint::open(variant).unwrap();
    let reference = Reference::new(&foreign).unwrap();
    assert!(matches!(
        attempt(&[model], &[1; 9], 8, Some(&reference)),
        EvaluateError::Vocabulary { got: 64, .. }
    ));
    let (_temporary, map) = to_file(&foreign, Format::Int8);
    let other = Model::open(&map).unwrap();
    assert!(matches!(
        attempt(&[model, other], &[1; 9], 8, None),
        EvaluateError::OtherVocabulary { got: 64, .. }
    ));
}

#[test]
fn stories260k_has_its_figures() {
    let Some(shared) = shared() else { return };
    let checkpoint = Checkpoint::open(shared.join("models/stories260K")).unwrap();
    let reference = Reference::new(&checkpoint).unwrap();
    let files = [Format::Int8, Format::Int4Codebook].map(|format| to_file(&checkpoint, format));
    let models = files.each_ref().map(|(_, map)| Model::open(map).unwrap());
    let text = std::fs::read_to_string(shared.join("data/tinystories/valid.txt")).unwrap();
    let tokens = encode(&models[0].tokenizer().unwrap().unwrap(), &text, false).unwrap();
    let protocol = Protocol { window: 255, bos: Some(1), int4_values: false };
    let results =
        evaluate_all(&models, isa(), &tokens[..20_000], protocol, Some(&reference), &|_| ())
            .unwrap();
    for result in &results {
        println!(
            "{:?} {:?} {:?}",
            result.divergence.unwrap(),
            result.from_first,
            result.hidden.as_ref().unwrap().states.last()
        );
    }
    let [int8, int4] = [0, 1].map(|i| results[i].divergence.unwrap());
    close(int8.reference_perplexity, 4.668_135_963, 1e-4);
    assert!(int8.mean_kl < 0.005 && int8.p99_kl < 0.04 && int8.top1_agreement > 0.965, "{int8:?}");
    assert!(int4.mean_kl < 0.08 && int4.p99_kl < 0.6 && int4.top1_agreement > 0.86, "{int4:?}");
    assert!(int4.top5_agreement > 0.99, "{int4:?}");
    let last = |i: usize| results[i].hidden.as_ref().unwrap().states.last().unwrap().relative_error;
    assert!(last(0) < 0.06 && last(1) < 0.25, "{} {}", last(0), last(1));
}
