//! Mutated files: an error or a checkpoint that can be read, never a panic.
//!
//! That memory is bounded follows from bounds on what is allocated: sizes from
//! settings only after a file has shown to hold as much. A violation shows here
//! as an abort or as minutes, for the sizes tried would not fit any machine.

use kinglet_import::checkpoint::Checkpoint;
use kinglet_model::Operation;
use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::support::{Model, safetensors, with_header};

/// Opens a directory and reads all of it if it can be opened.
fn exercise(config: &[u8], weights: &[u8]) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("config.json"), config).unwrap();
    std::fs::write(dir.path().join("model.safetensors"), weights).unwrap();
    match Checkpoint::open(dir.path()) {
        Ok(checkpoint) => read_all(&checkpoint),
        Err(error) => assert!(error.to_string().len() < 4000, "{error}"),
    }
}

fn read_all(checkpoint: &Checkpoint) {
    let architecture = checkpoint.architecture();
    let mut tensors = architecture.tables();
    tensors.extend(architecture.last().norm.iter().filter_map(|norm| norm.weight.tensor()));
    for block in architecture.blocks() {
        tensors.extend(block.products().flat_map(|(_, linear)| linear.tensors()));
    }
    for tensor in tensors {
        // Damaged numbers are an error, and all right.
        let _ = checkpoint.read(tensor);
    }
}

fn config() -> Vec<u8> {
    serde_json::to_vec(&Model::new().config).unwrap()
}

const WORDS: &[&str] =
    &["default", "linear", "dynamic", "yarn", "longrope", "llama3", "proportional", "gelu", ""];

/// Values that settings seldom have.
fn strange() -> impl Strategy<Value = Value> {
    let numbers = prop_oneof![
        any::<i64>().prop_map(|n| json!(n)),
        any::<u64>().prop_map(|n| json!(n)),
        any::<f64>().prop_map(|x| json!(x)),
        (0..200_u64).prop_map(|n| json!(n)),
        (0..64_u32).prop_map(|n| json!(1_u64 << n)),
        (0..64_u32).prop_map(|n| json!((1_u64 << n) - 1)),
    ];
    let leaf = prop_oneof![
        4 => numbers,
        1 => Just(json!(null)),
        1 => any::<bool>().prop_map(|b| json!(b)),
        1 => proptest::sample::select(WORDS).prop_map(|word| json!(word)),
    ];
    leaf.prop_recursive(2, 16, 4, |inner| {
        let keys = proptest::sample::select(
            &["rope_type", "type", "factor", "rope_theta", "short_factor", "x"][..],
        );
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::Array),
            proptest::collection::btree_map(keys.prop_map(str::to_owned), inner, 0..5)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

const KEYS: &[&str] = &[
    "architectures",
    "model_type",
    "hidden_size",
    "vocab_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "intermediate_size",
    "max_position_embeddings",
    "original_max_position_embeddings",
    "rms_norm_eps",
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
    "partial_rotary_factor",
    "sliding_window",
    "use_sliding_window",
    "max_window_layers",
    "layer_types",
    "tie_word_embeddings",
    "attention_bias",
    "mlp_bias",
    "hidden_act",
    "bos_token_id",
    "eos_token_id",
    "quantization_config",
    "auto_map",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn settings_of_strange_values(changes in vec((proptest::sample::select(KEYS), strange()), 1..4)) {
        let mut model = Model::new();
        for (key, value) in changes {
            model = model.with(key, value);
        }
        exercise(&serde_json::to_vec(&model.config).unwrap(), &safetensors(&model.tensors));
    }

    #[test]
    fn rotations_of_strange_values(
        kind in proptest::sample::select(&["default", "linear", "dynamic", "yarn", "longrope", "llama3", "proportional"][..]),
        changes in vec((
            proptest::sample::select(&[
                "factor", "rope_theta", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor",
                "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "attention_factor", "partial_rotary_factor",
                "truncate", "short_factor", "long_factor",
            ][..]),
            prop_oneof![
                any::<f64>().prop_map(|x| json!(x)),
                (-4.0..4.0_f64).prop_map(|x| json!(x)),
                (1..100_u32).prop_map(|n| json!(n)),
                vec(0.0..2.0_f64, 2).prop_map(|list| json!(list)),
            ],
        ), 0..8),
    ) {
        let mut settings = json!({
            "rope_type": kind, "factor": 2.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "short_factor": [1.0, 1.0], "long_factor": [1.0, 2.0],
        });
        for (key, value) in changes {
            settings[key] = value;
        }
        if let Ok(checkpoint) = Model::new().with("rope_parameters", settings).open() {
            for block in checkpoint.architecture().blocks() {
                if let Operation::Attention(attention) = &block.operation {
                    let rope = attention.rope.as_ref().unwrap();
                    prop_assert!(rope.frequencies.iter().all(|f| f.is_finite() && *f >= 0.0));
                    prop_assert!(rope.magnitude.is_finite());
                    prop_assert_eq!(rope.frequencies.len(), 2);
                }
            }
        }
    }

    #[test]
    fn bytes_of_settings(changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let mut config = config();
        for (at, byte) in changes {
            let at = at.index(config.len());
            config[at] = byte;
        }
        exercise(&config, &safetensors(&Model::new().tensors));
    }

    #[test]
    fn bytes_of_weights(
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        header in any::<bool>(),
        cut in proptest::option::weighted(0.2, any::<prop::sample::Index>()),
    ) {
        let mut weights = safetensors(&Model::new().tensors);
        let length = usize::try_from(u64::from_le_bytes(weights[..8].try_into().unwrap())).unwrap();
        let reach = if header { 8 + length } else { weights.len() };
        for (at, byte) in changes {
            weights[at.index(reach)] = byte;
        }
        if let Some(cut) = cut {
            weights.truncate(cut.index(weights.len()));
        }
        exercise(&config(), &weights);
    }

    #[test]
    fn headers_of_strange_values(
        tensor in any::<prop::sample::Index>(),
        key in proptest::sample::select(&["dtype", "shape", "data_offsets"][..]),
        value in prop_oneof![
            strange(),
            vec(prop_oneof![any::<u64>(), 0..100_u64], 0..4).prop_map(|list| json!(list)),
        ],
    ) {
        let weights = safetensors(&Model::new().tensors);
        let length = usize::try_from(u64::from_le_bytes(weights[..8].try_into().unwrap())).unwrap();
        let mut header: Value = serde_json::from_slice(&weights[8..8 + length]).unwrap();
        let names: Vec<String> = header.as_object().unwrap().keys().cloned().collect();
        header[tensor.get(&names)][key] = value;
        exercise(&config(), &with_header(header.to_string().as_bytes(), &weights[8 + length..]));
    }
}
