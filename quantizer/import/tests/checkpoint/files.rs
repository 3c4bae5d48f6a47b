//! What the weight files can get wrong.

use std::path::Path;

use kinglet_import::checkpoint::{Checkpoint, CheckpointError};
use serde_json::{Value, json};

use super::support::{LAYER, Model, Tensor, assert_says, safetensors, with_header, write_json};

const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

fn error(dir: &Path) -> CheckpointError {
    Checkpoint::open(dir).expect_err("a checkpoint that is refused")
}

/// The error of a weight file of these bytes.
fn error_of_file(bytes: &[u8]) -> CheckpointError {
    let dir = Model::new().write_config();
    std::fs::write(dir.path().join(WEIGHTS), bytes).unwrap();
    error(dir.path())
}

#[test]
fn missing_files_are_named() {
    let empty = tempfile::tempdir().unwrap();
    let none = error(empty.path());
    assert!(matches!(none, CheckpointError::Io { .. }));
    assert_says(&none, &["config.json"]);
    let none = error(Model::new().write_config().path());
    assert!(matches!(none, CheckpointError::NoWeights { .. }));
    assert_says(&none, &[WEIGHTS, INDEX]);
    assert!(matches!(error(&empty.path().join("nowhere")), CheckpointError::Io { .. }));
}

#[test]
fn directories_are_not_files() {
    let dir = Model::new().write_config();
    std::fs::create_dir(dir.path().join(WEIGHTS)).unwrap();
    assert!(matches!(error(dir.path()), CheckpointError::NotAFile { .. }));
}

#[cfg(unix)]
#[test]
fn pipes_and_devices_are_not_files() {
    let dir = Model::new().write_config();
    std::os::unix::fs::symlink("/dev/zero", dir.path().join(WEIGHTS)).unwrap();
    assert!(matches!(error(dir.path()), CheckpointError::NotAFile { .. }));
}

#[test]
fn missing_tensors_are_named() {
    for name in Model::new().tensors.keys() {
        let error = Model::new().without_tensor(name).error();
        assert!(matches!(&error, CheckpointError::MissingTensor { tensor, .. } if tensor == name));
        assert_says(&error, &[name, "incomplete"]);
    }
    assert_says(&Model::new().without_tensor("lm_head.weight").error(), &["tie_word_embeddings"]);
    let biased = Model::new().with("mlp_bias", json!(true)).error();
    assert_says(&biased, &["model.layers.0.mlp.gate_proj.bias", "[6]"]);
    let deeper = Model::new().with("num_hidden_layers", json!(4096)).error();
    assert_says(&deeper, &["model.layers.1."]);
}

#[test]
fn extra_tensors_are_listed() {
    let mut model = Model::new();
    for i in 0..20 {
        model = model.with_tensor(&format!("{LAYER}mlp.experts.{i:02}"), Tensor::f32(&[2]));
    }
    let error = model.error();
    assert!(
        matches!(&error, CheckpointError::ExtraTensors { names, count: 20 } if names.len() == 8)
    );
    assert_says(&error, &["20 tensors", "mlp.experts.00", "mlp.experts.07", "..."]);
    let shallower = Model::new().with("tie_word_embeddings", json!(false));
    let bias = shallower.with_tensor(&format!("{LAYER}self_attn.q_proj.bias"), Tensor::f32(&[8]));
    assert_says(&bias.error(), &["q_proj.bias"]);
}

#[test]
fn wrong_types_and_shapes_are_named() {
    const NAME: &str = "model.layers.0.mlp.up_proj.weight";
    let error = Model::new().with_tensor(NAME, Tensor::f32(&[6, 8]).cast("F64")).error();
    assert!(matches!(error, CheckpointError::WrongDtype { .. }));
    assert_says(&error, &[NAME, "F64", "BF16"]);
    for shape in [&[8, 6][..], &[48], &[6, 8, 1], &[6, 7], &[0, 8], &[]] {
        let error = Model::new().with_tensor(NAME, Tensor::f32(shape)).error();
        assert!(matches!(error, CheckpointError::WrongShape { .. }), "{error:?}");
        assert_says(&error, &[NAME, "[6, 8]", &format!("{shape:?}")]);
    }
}

#[test]
fn files_of_another_length_are_refused() {
    let whole = safetensors(&Model::new().tensors);
    let longer = [whole.as_slice(), &[0]].concat();
    for bytes in [&longer[..], &whole[..whole.len() - 1], &whole[..whole.len() / 2]] {
        let error = error_of_file(bytes);
        assert!(
            matches!(
                error,
                CheckpointError::FileLength { .. } | CheckpointError::HeaderLength { .. }
            ),
            "{error:?}"
        );
        assert_says(&error, &[WEIGHTS, "fetch it again"]);
    }
}

#[test]
fn every_cut_of_a_file_is_an_error() {
    let whole = safetensors(&Model::new().tensors);
    let dir = Model::new().write_config();
    for length in (0..whole.len()).step_by(7) {
        std::fs::write(dir.path().join(WEIGHTS), &whole[..length]).unwrap();
        assert_says(&error(dir.path()), &[WEIGHTS]);
    }
}

/// A header that is there, and so long that its names would take half a minute.
#[test]
fn a_header_longer_than_any_is_refused_unread() {
    let dir = Model::new().write_config();
    let file = std::fs::File::create(dir.path().join(WEIGHTS)).unwrap();
    std::io::Write::write_all(&mut &file, &90_000_000u64.to_le_bytes()).unwrap();
    // A hole: no disk is needed for it.
    file.set_len(90_000_100).unwrap();
    let error = error(dir.path());
    assert!(matches!(error, CheckpointError::HeaderTooLong { bytes: 90_000_000, .. }), "{error:?}");
    assert_says(&error, &[WEIGHTS, "90000000", "8388608", "several files"]);
}

#[test]
fn header_lengths_that_lie_are_refused() {
    for length in [3_u64, 1 << 20, 99_999_999, 100_000_001, u64::MAX, u64::MAX - 7] {
        let error = error_of_file(&[&length.to_le_bytes()[..], b"{}"].concat());
        assert!(
            matches!(error, CheckpointError::HeaderLength { header, .. } if header == length),
            "{error:?}"
        );
    }
}

#[test]
fn headers_that_lie_are_refused() {
    let info = |dtype: &str, shape: Value, offsets: Value| json!({"dtype": dtype, "shape": shape, "data_offsets": offsets});
    for header in [
        json!({"a": info("F32", json!([2]), json!([0, 4]))}),
        json!({"a": info("F32", json!([2]), json!([8, 0]))}),
        json!({"a": info("F32", json!([2]), json!([4, 12]))}),
        json!({"a": info("F32", json!([u64::MAX, 8]), json!([0, 8]))}),
        json!({"a": info("F32", json!([1_u64 << 62]), json!([0, 8]))}),
        json!({"a": info("F33", json!([2]), json!([0, 8]))}),
        json!({"a": info("F32", json!([-2]), json!([0, 8]))}),
        json!({"a": info("F32", json!([2]), json!([0, 8])), "b": info("F32", json!([2]), json!([0, 8]))}),
        json!({"a": {"dtype": "F32"}}),
        json!([]),
        json!(null),
    ] {
        let error = error_of_file(&with_header(header.to_string().as_bytes(), &[0; 8]));
        assert!(matches!(error, CheckpointError::Header { .. }), "{header}: {error:?}");
    }
    let more = json!({"a": info("F32", json!([1_u64 << 40]), json!([0, 1_u64 << 42]))});
    let error = error_of_file(&with_header(more.to_string().as_bytes(), &[0; 8]));
    assert!(matches!(error, CheckpointError::FileLength { .. }), "{error:?}");
    for header in [&b"\xff\xfe"[..], b"{", b"", b"{}{}", &b"[".repeat(100_000)] {
        let error = error_of_file(&with_header(header, &[]));
        assert!(matches!(error, CheckpointError::Header { .. }), "{error:?}");
    }
}

#[test]
fn numbers_that_are_not_finite_are_found() {
    const NAME: &str = "model.layers.0.mlp.gate_proj.weight";
    let one = |dtype: &'static str, bytes: &[u8]| {
        let mut tensor = Tensor::f32(&[6, 8]);
        if dtype != "F32" {
            tensor = tensor.cast(dtype);
        }
        let at = (4 * 8 + 5) * bytes.len();
        tensor.bytes[at..at + bytes.len()].copy_from_slice(bytes);
        Model::new().with_tensor(NAME, tensor).open().unwrap()
    };
    for checkpoint in [
        one("F32", &f32::NAN.to_le_bytes()),
        one("F32", &f32::INFINITY.to_le_bytes()),
        one("F16", &half::f16::NEG_INFINITY.to_le_bytes()),
        one("F16", &half::f16::NAN.to_le_bytes()),
        one("BF16", &half::bf16::NAN.to_le_bytes()),
    ] {
        // The second block is a feed-forward.
        let gate =
            &checkpoint.architecture().block(1).unwrap().input.as_ref().unwrap().parts()[0].weight;
        let mut out = [0.0; 16];
        checkpoint.read_rows(gate, 0..2, &mut out).unwrap();
        let error = checkpoint.read_rows(gate, 3..5, &mut out).unwrap_err();
        assert!(matches!(error, CheckpointError::NotFinite { row: 4, col: 5, .. }), "{error:?}");
        assert_says(&error, &[NAME, "row 4", "column 5"]);
    }
}

#[test]
fn a_file_cut_while_open_is_an_error() {
    let dir = Model::new().write();
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(dir.path().join(WEIGHTS)).unwrap();
    file.set_len(100).unwrap();
    let cut = checkpoint.read(checkpoint.architecture().tables()[0]);
    assert!(matches!(cut, Err(CheckpointError::Io { .. })), "{cut:?}");
}

#[test]
fn indexes_that_lie_are_refused() {
    let (dir, index) = Model::new().write_shards();
    let with = |change: &dyn Fn(&mut Value)| {
        let mut index = index.clone();
        change(&mut index);
        write_json(&dir.path().join(INDEX), &index);
        error(dir.path())
    };
    let absent = with(&|index| index["weight_map"]["model.norm.weight"] = json!("c.safetensors"));
    assert!(matches!(absent, CheckpointError::MissingShard { .. }));
    assert_says(&absent, &["model.norm.weight", "c.safetensors"]);
    let misplaced =
        with(&|index| index["weight_map"]["model.norm.weight"] = json!("a.safetensors"));
    assert!(matches!(misplaced, CheckpointError::NotInShard { .. }), "{misplaced:?}");
    let unknown = with(&|index| index["weight_map"]["model.other"] = json!("a.safetensors"));
    assert!(matches!(unknown, CheckpointError::NotInShard { .. }), "{unknown:?}");
    assert_says(&unknown, &["model.other", "a.safetensors"]);
    for path in [
        "../a.safetensors",
        "/a.safetensors",
        "./a.safetensors",
        "x/a.safetensors",
        "",
        "..",
        "a.bin",
    ] {
        let outside = with(&|index| index["weight_map"]["model.norm.weight"] = json!(path));
        assert!(matches!(outside, CheckpointError::BadIndex { .. }), "{path}: {outside:?}");
    }
    let number = with(&|index| index["weight_map"]["model.norm.weight"] = json!(1));
    assert!(matches!(number, CheckpointError::BadIndex { .. }));
    let none = with(&|index| *index = json!({"weight_map": []}));
    assert!(matches!(none, CheckpointError::BadIndex { .. }));
    let empty = with(&|index| *index = json!({"weight_map": {}}));
    assert!(matches!(empty, CheckpointError::MissingTensor { .. }));
}

#[test]
fn tensors_in_two_shards_are_refused() {
    let (dir, index) = Model::new().write_shards();
    write_json(&dir.path().join(INDEX), &index);
    std::fs::write(dir.path().join("a.safetensors"), safetensors(&Model::new().tensors)).unwrap();
    assert!(matches!(error(dir.path()), CheckpointError::DuplicateTensor { .. }));
}
