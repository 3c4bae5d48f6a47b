//! A model that ends after some of its blocks gives the states that the whole model has there,
//! pooled.

use std::path::{Path, PathBuf};

use kinglet::Memory;
use kinglet::{Isa, Model, Options, Plan, Session, Source};
use kinglet_import::checkpoint::Checkpoint;
use kinglet_model::Norm;
use kinglet_quantize::cut::{self, Cut, CutError, Pool, Pooled};
use kinglet_quantize::quantize;

const TOKENS: [u32; 7] = [4, 9, 5, 11, 7, 7, 3];

fn file(directory: &Path, name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name);
    let path = directory.join("whole.kinglet");
    quantize(
        &Checkpoint::open(dir).unwrap(),
        &path,
        &kinglet_quantize::Options::default(),
        &|_, _, _| {},
    )
    .unwrap();
    path
}

fn with<T>(model: &Model<'_>, run: impl FnOnce(&mut Session<'_, '_>) -> T) -> T {
    let options = Options::of(model).unwrap();
    let options = Options { prefill: options.context, ..options };
    let options = if model.outputs() == model.width() {
        Options { logits: options.prefill, ..options }
    } else {
        options
    };
    let mut memory = Memory::new(Plan::new(model, options).unwrap().bytes()).unwrap();
    run(&mut Session::new(model, options, memory.bytes()).unwrap())
}

/// State `wanted` of the first stack.
fn state(model: &Model<'_>, wanted: u32) -> Vec<f32> {
    let alone = model.is_decoder() && model.stacks() == 1;
    with(model, |session| {
        let mut found = vec![];
        match alone {
            true => session.begin(&TOKENS, 1).unwrap(),
            false => session.begin_source(Source::Tokens(&TOKENS)).unwrap(),
        }
        let tap = |state, rows: &[f32]| {
            if state == wanted {
                found = rows.to_vec();
            }
        };
        session.resume_tapped(u64::MAX, tap).unwrap();
        found
    })
}

fn normed(rows: &[f32], norm: &Norm<&[f32]>) -> Vec<f32> {
    let mut out = vec![0.0; rows.len()];
    let width = norm.weight.len();
    for (row, out) in rows.chunks(width).zip(out.chunks_mut(width)) {
        match norm.is_layer() {
            true => Isa::SCALAR.layer_norm(row, norm.weight, norm.bias.unwrap(), norm.eps, out),
            false => Isa::SCALAR.rms_norm(row, norm.weight, norm.eps, out),
        }
    }
    out
}

fn same(a: &[f32], b: &[f32]) {
    assert_eq!(a.len(), b.len());
    let far = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(far < 1e-5, "{far}");
}

#[test]
fn states_are_those_of_the_whole_model() {
    // Norms before the branches and after them, of a decoder, and of the first of two stacks.
    for name in
        ["families/bert_mean", "families/gpt2", "pronouncer", "families/opennmt_pre", "storyteller"]
    {
        let directory = tempfile::tempdir().unwrap();
        let map = Memory::read(file(directory.path(), name)).unwrap();
        let whole = Model::open(&map).unwrap();
        let most = cut::blocks(&whole).unwrap();
        for after in 1..=most {
            let path = directory.path().join("cut.kinglet");
            let pool = [Pool::Mean, Pool::Max, Pool::First][after as usize % 3];
            let pooled = Pooled { pool, normalize: after % 2 == 0 };
            let bytes = cut::cut(&whole, &path, Cut { after, pooled }).unwrap();
            assert!(bytes <= map.len() as u64 + 256, "{name}");
            let map = Memory::read(&path).unwrap();
            let model = Model::open(&map).unwrap();
            model.verify(|_| {}).unwrap();
            let norm = model.last().unwrap().norm;
            let rows = state(&whole, after);
            let rows = norm.map_or(rows.clone(), |norm| normed(&rows, &norm));
            let want = pooled.pool(&rows, model.outputs());
            let found = with(&model, |session| match model.is_decoder() {
                true => {
                    let mut states = vec![];
                    session.feed_each(&TOKENS, |_, state| states.extend_from_slice(state)).unwrap();
                    Pooled::of(&model).pool(&states, model.outputs())
                }
                false => session.encode(Source::Tokens(&TOKENS)).unwrap().to_vec(),
            });
            same(&found, &want);
            // What follows the branches is the norm of the stream, not that of the next branch.
            if name == "families/bert_mean" && after < most {
                let next = whole.block(after).unwrap();
                let kinglet_model::Residual::Post(stream) = next.residual else {
                    panic!("norms precede the branches")
                };
                assert_eq!(norm.unwrap().weight, stream.weight);
            }
        }
        let path = directory.path().join("none.kinglet");
        for after in [0, most + 1] {
            let refused = cut::cut(&whole, &path, Cut { after, pooled: Pooled::default() });
            assert!(matches!(refused, Err(CutError::Blocks { .. })), "{name}");
        }
        assert!(!path.exists());
    }
}

#[test]
fn a_model_cut_behind_its_last_block_is_the_whole_one() {
    let directory = tempfile::tempdir().unwrap();
    let map = Memory::read(file(directory.path(), "families/bert_mean")).unwrap();
    let whole = Model::open(&map).unwrap();
    let path = directory.path().join("cut.kinglet");
    let pooled = Pooled { pool: Pool::Mean, normalize: whole.record().normalize != 0 };
    cut::cut(&whole, &path, Cut { after: cut::blocks(&whole).unwrap(), pooled }).unwrap();
    let map = Memory::read(&path).unwrap();
    let outputs =
        |model| with(model, |session| session.encode(Source::Tokens(&TOKENS)).unwrap().to_vec());
    assert_eq!(outputs(&Model::open(&map).unwrap()), outputs(&whole));
}

#[test]
fn poolings_are_written_and_read() {
    for pool in [Pool::Mean, Pool::First, Pool::Max] {
        for normalize in [false, true] {
            let pooled = Pooled { pool, normalize };
            assert_eq!(pooled.to_string().parse(), Ok(pooled));
        }
    }
    let pool = |pool, normalize| Pooled { pool, normalize }.pool(&[3.0, 4.0, 0.0, -2.0], 2);
    assert_eq!(pool(Pool::Mean, false), [1.5, 1.0]);
    assert_eq!(pool(Pool::Max, false), [3.0, 4.0]);
    assert_eq!(pool(Pool::First, true), [0.6, 0.8]);
    assert_eq!("median".parse::<Pooled>(), Err(()));
}
