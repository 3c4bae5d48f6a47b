//! Calibrated quantization and pruning: what they are for, that they are deterministic, go on after
//! an interruption, and refuse what cannot be.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use kinglet::{Format, Memory, Model};
use kinglet_evaluate::{Protocol, evaluate};
use kinglet_fixtures::host::{Random, isa, shared};
use kinglet_import::checkpoint::Checkpoint;
use kinglet_model::write::WriteError;
use kinglet_quantize::calibrate::{self, CalibrateError, Passages};
use kinglet_quantize::fit::FitOptions;
use kinglet_quantize::prune::{Prune, Refit, Units};
use kinglet_quantize::{Options, QuantizeError, Target, quantize, record_path};
use kinglet_reference::{Reference, Sample};
use kinglet_report::Record;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name)
}

/// Two layers, and all biases there can be.
fn small() -> Checkpoint {
    Checkpoint::open(fixture("variants/llama_bias")).unwrap()
}

fn storyteller() -> Checkpoint {
    Checkpoint::open(fixture("storyteller")).unwrap()
}

/// Calibrated on tokens without meaning.
fn options(checkpoint: &Checkpoint) -> Options {
    let vocab = checkpoint.architecture().vocab();
    let mut random = Random(3);
    let calibration = (0..12)
        .map(|_| (0..40).map(|_| random.below(vocab) as u32).collect::<Vec<_>>().into())
        .collect();
    Options { weights: Format::Int4Codebook, calibration, golden: 8, ..Default::default() }
}

fn bytes(checkpoint: &Checkpoint, options: &Options) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("m.kinglet");
    quantize(checkpoint, &target, options, &|_, _, _| ()).unwrap();
    std::fs::read(target).unwrap()
}

/// All that can be asked for at once.
fn everything(checkpoint: &Checkpoint) -> Options {
    let units = Units::Part { heads: 0.25, channels: 0.2 };
    let prune = Prune { units, blocks: 1, refit: Refit::LeastSquares };
    let fit = FitOptions { steps: 2, rate: 0.003 };
    Options { target: Some(Target::Bits(5.0)), prune, learn: 3, fit, ..options(checkpoint) }
}

#[test]
fn threads_and_repetition_change_no_byte() {
    let checkpoint = small();
    let options = everything(&checkpoint);
    let once = bytes(&checkpoint, &options);
    for threads in [1, 3] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        assert!(pool.install(|| bytes(&checkpoint, &options)) == once, "{threads} threads");
    }
}

#[test]
fn an_interrupted_command_goes_on_to_the_same_file() {
    let checkpoint = small();
    let options = everything(&checkpoint);
    let whole = bytes(&checkpoint, &options);
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("m.kinglet");
    // A model, as far as a first look tells.
    let before = b"KINGLET\x1awhat was there before";
    std::fs::write(&target, before).unwrap();
    let mut stops = 0;
    // Stopped later and later, until it comes to its end.
    for limit in [0, 3, 9, 14, 17, 20, usize::MAX] {
        let seen = std::cell::Cell::new(0);
        let stop = |_: &str, _: u64, _: u64| {
            seen.set(seen.get() + 1);
            assert!(seen.get() <= limit, "interrupted");
        };
        match catch_unwind(AssertUnwindSafe(|| quantize(&checkpoint, &target, &options, &stop))) {
            Ok(done) => drop(done.unwrap()),
            Err(_) => {
                stops += 1;
                assert_eq!(std::fs::read(&target).unwrap(), before);
                assert!(dir.path().join("m.kinglet.work").exists());
            }
        }
    }
    assert!(stops >= 4, "{stops}");
    assert!(std::fs::read(&target).unwrap() == whole);
    assert!(!dir.path().join("m.kinglet.work").exists());
    // The record tells of every product that is left, and of the measured damage of all.
    let record: Record =
        serde_json::from_slice(&std::fs::read(record_path(&target)).unwrap()).unwrap();
    assert_eq!((record.tensors.len(), record.blocks.len()), (6, 4));
    assert!(record.tensors.iter().all(|t| t.error.is_some_and(|e| e > 0.0 && e < 1.0)));
    for what in ["learning", "fitting"] {
        assert!(record.notes.iter().any(|note| note.what == what), "{what}");
    }
}

#[test]
fn what_cannot_learn_is_refused() {
    let checkpoint = small();
    let dir = tempfile::tempdir().unwrap();
    let outcome = |change: fn(&mut Options)| {
        let mut options = Options { learn: 2, ..options(&checkpoint) };
        change(&mut options);
        quantize(&checkpoint, &dir.path().join("m.kinglet"), &options, &|_, _, _| ())
    };
    assert!(matches!(outcome(|o| o.calibration.clear()), Err(QuantizeError::NothingToMeasure)));
    assert!(matches!(outcome(|o| o.correct = false), Err(QuantizeError::Unsupported { .. })));
}

#[test]
fn other_commands_do_not_meet() {
    let checkpoint = small();
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("m.kinglet");
    let options = options(&checkpoint);
    let nested = std::cell::RefCell::new(None);
    quantize(&checkpoint, &target, &options, &|_, _, _| {
        nested.borrow_mut().get_or_insert_with(|| {
            quantize(&checkpoint, &target, &options, &|_, _, _| ()).map(|_| ())
        });
    })
    .unwrap();
    assert!(matches!(nested.into_inner(), Some(Err(QuantizeError::Busy { .. }))));
}

/// What the directory for unfinished work holds after a command that was stopped at its end.
fn stopped(target: &Path, options: &Options) -> PathBuf {
    let stop = |what: &str, done: u64, all: u64| {
        assert!(what != "writing" || done < all, "interrupted");
    };
    catch_unwind(AssertUnwindSafe(|| drop(quantize(&small(), target, options, &stop)))).ok();
    target.with_extension("kinglet.work")
}

#[test]
fn what_another_command_left_or_damage_has_reached_is_of_no_use() {
    let checkpoint = small();
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("m.kinglet");
    let options = options(&checkpoint);
    let whole = bytes(&checkpoint, &options);
    let other = Options { golden: 7, ..options.clone() };
    stopped(&target, &other);
    quantize(&checkpoint, &target, &options, &|_, _, _| ()).unwrap();
    assert!(std::fs::read(&target).unwrap() == whole);

    let mut random = Random(5);
    for _ in 0..8 {
        let work = stopped(&target, &options);
        let mut files: Vec<PathBuf> =
            std::fs::read_dir(&work).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.retain(|path| !path.ends_with("key"));
        files.sort();
        assert!(files.len() >= checkpoint.architecture().blocks().count());
        for path in files {
            let mut bytes = std::fs::read(&path).unwrap();
            let at = random.below(bytes.len());
            bytes[at] ^= 1 << random.below(8);
            std::fs::write(&path, bytes).unwrap();
        }
        quantize(&checkpoint, &target, &options, &|_, _, _| ()).unwrap();
        assert!(std::fs::read(&target).unwrap() == whole);
    }
}

#[test]
fn nothing_of_others_is_touched() {
    let checkpoint = small();
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let options = options(&checkpoint);
    let refused =
        |name: &str| quantize(&checkpoint, &at(name), &options, &|_, _, _| ()).unwrap_err();

    // The checkpoint itself, or any other file.
    std::fs::write(at("model.safetensors"), "weights").unwrap();
    assert!(matches!(
        refused("model.safetensors"),
        QuantizeError::Write(WriteError::NotAModel { .. })
    ));
    assert_eq!(std::fs::read(at("model.safetensors")).unwrap(), b"weights");

    // A directory with the name of ours.
    let work = at("a.kinglet.work");
    std::fs::create_dir(&work).unwrap();
    for (name, content) in [("thesis.txt", "words"), ("key", "of a door"), ("block", "of wood")] {
        std::fs::write(work.join(name), content).unwrap();
        assert!(matches!(refused("a.kinglet"), QuantizeError::Strange { .. }), "{name}");
        assert_eq!(std::fs::read(work.join(name)).unwrap(), content.as_bytes());
        std::fs::remove_file(work.join(name)).unwrap();
    }

    // Links to it, and in it.
    #[cfg(unix)]
    {
        use std::os::unix::fs::symlink;
        std::fs::write(at("precious"), "gold").unwrap();
        symlink(&work, at("b.kinglet.work")).unwrap();
        assert!(matches!(refused("b.kinglet"), QuantizeError::Strange { .. }));
        for name in ["key", "block0000.safetensors"] {
            symlink(at("precious"), work.join(name)).unwrap();
            assert!(matches!(refused("a.kinglet"), QuantizeError::Strange { .. }), "{name}");
            std::fs::remove_file(work.join(name)).unwrap();
        }
        assert_eq!(std::fs::read(at("precious")).unwrap(), b"gold");
    }
    // Empty, it is as good as a new one.
    quantize(&checkpoint, &at("a.kinglet"), &options, &|_, _, _| ()).unwrap();
    assert!(!work.exists());
}

#[test]
fn texts_that_teach_nothing_are_refused() {
    let checkpoint = storyteller();
    let dir = tempfile::tempdir().unwrap();
    let passages = Passages { tokens: 4096, seed: 0 };
    let outcome = |name: &str, content: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        calibrate::sequences(&checkpoint, &path, passages)
    };
    assert!(matches!(outcome("empty.txt", b""), Err(CalibrateError::TooShort { tokens: 0 })));
    assert!(matches!(
        outcome("short.txt", b"Once upon a time"),
        Err(CalibrateError::TooShort { .. })
    ));
    assert!(matches!(outcome("bytes.txt", b"Once\xff"), Err(CalibrateError::NotUtf8 { at: 4 })));
    assert!(matches!(outcome("a.json", b"{}"), Err(CalibrateError::Json(_))));
    assert!(matches!(
        outcome("b.json", b"[[1, 2], [99999]]"),
        Err(CalibrateError::Token { sequence: 1, token: 99_999, vocab: 1024 })
    ));
    let ids: Vec<Vec<u32>> =
        (0..8).map(|s| (0..300).map(|i| (s * 31 + i) % 1024).collect()).collect();
    let found = outcome("c.json", serde_json::to_string(&ids).unwrap().as_bytes()).unwrap();
    let expected =
        ids.iter().flat_map(|ids| ids.chunks(256)).map(|passage| Sample::from(passage.to_vec()));
    assert!(found.into_iter().eq(expected));
    let missing = calibrate::sequences(&checkpoint, &dir.path().join("absent"), passages);
    assert!(matches!(missing, Err(CalibrateError::Io(_))));
}

#[test]
fn targets_out_of_reach_say_how_near_one_can_come() {
    let checkpoint = small();
    let dir = tempfile::tempdir().unwrap();
    let outcome = |change: fn(&mut Options)| {
        let mut options = options(&checkpoint);
        change(&mut options);
        quantize(&checkpoint, &dir.path().join("m.kinglet"), &options, &|_, _, _| ())
    };
    let nearest = |result: Result<_, QuantizeError>| match result {
        Err(QuantizeError::Target { nearest, .. }) => nearest,
        other => panic!("{other:?}"),
    };
    // Codes and sub-scales have 4.25; row scales, codebooks and padding come on top.
    let bits = nearest(outcome(|o| o.target = Some(Target::Bits(4.0))));
    assert!((4.25..6.0).contains(&bits), "{bits}");
    let least = nearest(outcome(|o| o.target = Some(Target::Bytes(1000))));
    // Just as many bytes do.
    let mut options_of_size = options(&checkpoint);
    options_of_size.target = Some(Target::Bytes(least as u64));
    let size =
        quantize(&checkpoint, &dir.path().join("n.kinglet"), &options_of_size, &|_, _, _| ())
            .unwrap()
            .bytes;
    assert!(size <= least as u64 && size as f64 > 0.9 * least, "{size} {least}");
    assert!(nearest(outcome(|o| o.target = Some(Target::Divergence(1e-9)))) > 1e-9);
    assert!(matches!(
        outcome(|o| o.prune.units = Units::Part { heads: 0.0, channels: 0.999 }),
        Err(QuantizeError::Prune { .. })
    ));
    assert!(matches!(outcome(|o| o.prune.blocks = 8), Err(QuantizeError::Prune { .. })));
    assert!(matches!(outcome(|o| o.prune.units = Units::Auto), Err(QuantizeError::NoTarget)));
    // Below what formats alone can do, and with pruning not.
    let half = quantize(
        &checkpoint,
        &dir.path().join("n.kinglet"),
        &Options {
            target: Some(Target::Bits(3.5)),
            prune: Prune { units: Units::Auto, ..Prune::default() },
            ..options(&checkpoint)
        },
        &|_, _, _| (),
    );
    let kept: usize = half.unwrap().record.tensors.iter().map(|t| t.rows * t.cols).sum();
    let all: usize =
        checkpoint.architecture().blocks().map(kinglet_import::checkpoint::weights).sum();
    assert!(kept as f64 * 4.25 <= 3.5 * all as f64, "{kept} of {all}");
    let blind = outcome(|o| {
        o.calibration.clear();
        o.explain = true;
    });
    assert!(matches!(blind, Err(QuantizeError::NothingToMeasure)));
    assert!(!dir.path().join("m.kinglet").exists());
}

#[test]
fn overflowing_activations_are_reported() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"]
    {
        std::fs::copy(fixture("storyteller").join(name), dir.path().join(name)).unwrap();
    }
    // The largest f16 in every weight of a norm, and then in the products after it.
    let mut weights = std::fs::read(fixture("storyteller/model.safetensors")).unwrap();
    let header = 8 + u64::from_le_bytes(weights[..8].try_into().unwrap()) as usize;
    weights[header..].as_chunks_mut().0.iter_mut().for_each(|b: &mut [u8; 2]| *b = [0xff, 0x7b]);
    std::fs::write(dir.path().join("model.safetensors"), weights).unwrap();
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let result =
        quantize(&checkpoint, &dir.path().join("m.kinglet"), &options(&checkpoint), &|_, _, _| ());
    match result {
        Err(error @ QuantizeError::Hessian { .. }) => {
            assert!(error.to_string().contains("overflows"), "{error}")
        }
        // All weights alike keep every number finite in f32: then the file has to be whole.
        other => drop(other.unwrap()),
    }
}

/// Mean divergence from the f32 model on the validation text.
fn divergence(checkpoint: &Checkpoint, options: &Options, text: &Path, tokens: usize) -> f64 {
    let file = bytes(checkpoint, options);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.kinglet");
    std::fs::write(&path, file).unwrap();
    let map = Memory::read(&path).unwrap();
    let model = Model::open(&map).unwrap();
    let text = std::fs::read_to_string(text).unwrap();
    let tokenizer = model.tokenizer().unwrap().unwrap();
    let mut ids = kinglet_import::encode(&tokenizer, &text[..tokens * 8], false).unwrap();
    ids.truncate(tokens);
    let protocol = Protocol { window: 255, bos: Some(1), int4_values: false };
    let reference = Reference::new(checkpoint).unwrap();
    let result = evaluate(&model, isa(), &ids, protocol, Some(&reference), &|_| ()).unwrap();
    result.divergence.unwrap().mean_kl
}

#[test]
fn calibration_halves_the_divergence() {
    let Some(shared) = shared() else { return };
    let stories = shared.join("data/tinystories");
    for (dir, calibrate) in
        [(shared.join("models/stories260K"), 8192), (fixture("storyteller"), 8192)]
    {
        let checkpoint = Checkpoint::open(&dir).unwrap();
        let passages = Passages { tokens: calibrate, seed: 0 };
        let calibration =
            calibrate::sequences(&checkpoint, &stories.join("train_head.txt"), passages).unwrap();
        let plain = |weights| Options { weights, golden: 0, ..Default::default() };
        let kl =
            |options: &Options| divergence(&checkpoint, options, &stories.join("valid.txt"), 3000);
        let uniform = kl(&plain(Format::Int4));
        let calibrated = kl(&Options { calibration, ..plain(Format::Int4Codebook) });
        println!("{}: uniform to nearest {uniform:.5}, calibrated {calibrated:.5}", dir.display());
        assert!(calibrated <= uniform / 2.0, "{calibrated} {uniform}");
    }
}
