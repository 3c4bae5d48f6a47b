//! An interface learns while everything else in the file stays as it is; the same bytes come out
//! with any number of threads; what cannot be adapted is refused in a sentence.

use std::path::{Path, PathBuf};

use kinglet::{Memory, Model};
use kinglet_adapt::{AdaptError, Fresh, Options, Outcome, Shape, adapt};
use kinglet_import::checkpoint::Checkpoint;
use kinglet_quantize::quantize;

const TEXTS: [&str; 6] =
    ["red heart", "blue circle", "green apple", "purple square", "orange book", "cat face"];

/// A folder with a quantized namer and pictures of one colour each, two shades of it for each text.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        let namer = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/namer");
        let options =
            kinglet_quantize::Options { golden: 4, ..kinglet_quantize::Options::default() };
        quantize(&Checkpoint::open(&namer).unwrap(), &place.path("namer"), &options, &|_, _, _| ())
            .unwrap();
        let mut lines = String::new();
        for (i, text) in TEXTS.iter().enumerate() {
            for shade in 0..4 {
                let name = format!("{i}-{shade}.png");
                let colour =
                    image::Rgb([(i * 50) as u8, (255 - i * 40) as u8, (shade * 9 + i * 20) as u8]);
                image::RgbImage::from_pixel(72, 72, colour).save(place.path(&name)).unwrap();
                lines += &format!("{name}\t{text}\n");
            }
        }
        std::fs::write(place.path("pairs.tsv"), lines).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn adapt(
        &self,
        file: &str,
        pairs: &str,
        to: &str,
        options: &Options,
    ) -> Result<Outcome, AdaptError> {
        adapt(&self.path(file), &self.path(pairs), &self.path(to), options, &|_, _, _| ())
    }

    fn refused(&self, file: &str, pairs: &str, options: &Options) -> String {
        let said = self.adapt(file, pairs, "refused", options).unwrap_err().to_string();
        assert!(!self.path("refused").exists());
        said
    }
}

fn options(shape: Shape) -> Options {
    let (queries, width) = match shape {
        Shape::Linear => (None, None),
        Shape::TwoLayer => (None, Some(40)),
        Shape::Resampler => (Some(5), Some(48)),
    };
    let fresh = Some(Fresh { shape, queries, width });
    Options {
        fresh,
        norms: shape == Shape::TwoLayer,
        passes: 12,
        batch: 8,
        rate: 4e-3,
        ..Options::default()
    }
}

/// Names and bytes of all tensors.
fn tensors(path: &Path) -> Vec<(String, Vec<u8>)> {
    let map = Memory::read(path).unwrap();
    let model = Model::open(&map).unwrap();
    model.verify(|_| ()).unwrap();
    let tensor = |index| model.tensor(index).unwrap();
    let named =
        |index| (model.tensor_name(&tensor(index).record).to_owned(), tensor(index).bytes.to_vec());
    (0..model.tensors()).map(named).collect()
}

#[test]
fn every_interface_learns_and_nothing_else_changes() {
    let place = Place::new();
    let old = tensors(&place.path("namer"));
    let of_interface = |name: &str| name.starts_with("stack 1 ");
    for shape in [Shape::Linear, Shape::TwoLayer, Shape::Resampler] {
        let options = options(shape);
        let mut files = vec![];
        for (threads, name) in [(1, "one"), (3, "three")] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let outcome =
                pool.install(|| place.adapt("namer", "pairs.tsv", name, &options)).unwrap();
            assert!(
                outcome.after.cross_entropy < 0.5 * outcome.before.cross_entropy,
                "{shape:?}: {outcome:?}"
            );
            // What training saw, in f32, is what the runtime does.
            let best = outcome.curve[outcome.best_pass];
            assert!(
                (best - outcome.after.cross_entropy).abs() < 0.02 * best.max(0.5),
                "{shape:?}: {outcome:?}"
            );
            files.push((std::fs::read(place.path(name)).unwrap(), outcome));
        }
        assert!(files[0] == files[1], "{shape:?}");
        let new = tensors(&place.path("one"));
        let learned = |name: &str| {
            options.norms && name.contains("across") || name.contains("cross attention norm")
        };
        let kept =
            old.iter().filter(|(name, _)| !(of_interface(name) || options.norms && learned(name)));
        let mut count = 0;
        for tensor in kept {
            assert!(new.contains(tensor), "{shape:?} {}", tensor.0);
            count += 1;
        }
        assert_eq!(count, files[0].1.kept_tensors, "{shape:?}");
        // Once more, on the spot, with the same interface: nothing moves.
        let again = Options { fresh: None, norms: false, passes: 1, ..options };
        let before = std::fs::read(place.path("one")).unwrap();
        let outcome = place.adapt("one", "pairs.tsv", "one", &again).unwrap();
        assert_eq!(outcome.before, files[0].1.after);
        assert!(outcome.curve.len() == 2 && outcome.file == outcome.before);
        let after = std::fs::read(place.path("one")).unwrap();
        assert_eq!(before.len(), after.len());
        let names =
            |of: &[(String, Vec<u8>)]| of.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
        let last = tensors(&place.path("one"));
        assert_eq!(names(&last), names(&new));
        for (one, other) in new.iter().zip(&last).filter(|(one, _)| !of_interface(&one.0)) {
            assert!(one == other, "{shape:?} {}", one.0);
        }
    }
}

#[test]
fn what_cannot_be_adapted_is_refused() {
    let place = Place::new();
    let linear = options(Shape::Linear);
    let pairs = |name: &str, text: &str| std::fs::write(place.path(name), text).unwrap();
    pairs("one.tsv", "0-0.png\tred\n0-0.png\tred heart\n");
    assert!(place.refused("namer", "one.tsv", &linear).contains("fewer than two sources"));
    pairs("empty.tsv", "");
    assert!(place.refused("namer", "empty.tsv", &linear).contains("fewer than two sources"));
    pairs("column.tsv", "0-0.png\tred\n\n1-0.png blue\n");
    assert!(
        place
            .refused("namer", "column.tsv", &linear)
            .contains("column.tsv: line 3 is not two columns")
    );
    pairs("none.tsv", "0-0.png\tred\n1-9.png\tblue\n");
    let said = place.refused("namer", "none.tsv", &linear);
    assert!(said.contains("line 2") && said.contains("1-9.png"), "{said}");
    pairs("long.tsv", &format!("0-0.png\tred\n1-0.png\t{}\n", "purple ".repeat(30)));
    let said = place.refused("namer", "long.tsv", &linear);
    assert!(said.contains("line 2") && said.contains("context is 24"), "{said}");
    let width = Options {
        fresh: Some(Fresh { shape: Shape::Linear, queries: None, width: Some(9) }),
        ..linear
    };
    assert!(place.refused("namer", "pairs.tsv", &width).contains("--width"));
    let width = Options {
        fresh: Some(Fresh { shape: Shape::Resampler, queries: None, width: Some(97) }),
        ..linear
    };
    assert!(place.refused("namer", "pairs.tsv", &width).contains("multiples of 16"));
    std::fs::write(place.path("alone"), &kinglet_fixtures::STORYTELLER.0).unwrap();
    assert!(place.refused("alone", "pairs.tsv", &linear).contains("one stack only"));
}
