//! A small checkpoint that tests can bend.

use std::collections::BTreeMap;
use std::path::Path;

use kinglet_import::checkpoint::{Checkpoint, CheckpointError};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

/// A tensor as it goes to a file.
#[derive(Clone)]
pub(crate) struct Tensor {
    pub(crate) dtype: &'static str,
    pub(crate) shape: Vec<usize>,
    pub(crate) bytes: Vec<u8>,
}

impl Tensor {
    /// Numbers 0, 1/64, 2/64, ..., which all types hold exactly.
    pub(crate) fn f32(shape: &[usize]) -> Self {
        let count = shape.iter().product::<usize>();
        let bytes = (0..count).flat_map(|i| (i as f32 / 64.0).to_le_bytes()).collect();
        Self { dtype: "F32", shape: shape.to_vec(), bytes }
    }

    /// The same numbers in another type.
    pub(crate) fn cast(&self, dtype: &'static str) -> Self {
        let numbers = self.bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
        let bytes = match dtype {
            "F16" => numbers.flat_map(|x| half::f16::from_f32(x).to_le_bytes()).collect(),
            "BF16" => numbers.flat_map(|x| half::bf16::from_f32(x).to_le_bytes()).collect(),
            "F64" => numbers.flat_map(|x| f64::from(x).to_le_bytes()).collect(),
            _ => panic!("no cast to {dtype}"),
        };
        Self { dtype, shape: self.shape.clone(), bytes }
    }
}

/// A checkpoint in memory: a Llama of one layer, untied, in f32.
#[derive(Clone)]
pub(crate) struct Model {
    pub(crate) config: Map<String, Value>,
    pub(crate) tensors: BTreeMap<String, Tensor>,
}

pub(crate) const LAYER: &str = "model.layers.0.";

impl Model {
    pub(crate) fn new() -> Self {
        let config = json!({
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": 8,
            "vocab_size": 10,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "intermediate_size": 6,
            "max_position_embeddings": 64,
        });
        let shapes: &[(&str, &[usize])] = &[
            ("model.embed_tokens.weight", &[10, 8]),
            ("model.layers.0.input_layernorm.weight", &[8]),
            ("model.layers.0.self_attn.q_proj.weight", &[8, 8]),
            ("model.layers.0.self_attn.k_proj.weight", &[4, 8]),
            ("model.layers.0.self_attn.v_proj.weight", &[4, 8]),
            ("model.layers.0.self_attn.o_proj.weight", &[8, 8]),
            ("model.layers.0.post_attention_layernorm.weight", &[8]),
            ("model.layers.0.mlp.gate_proj.weight", &[6, 8]),
            ("model.layers.0.mlp.up_proj.weight", &[6, 8]),
            ("model.layers.0.mlp.down_proj.weight", &[8, 6]),
            ("model.norm.weight", &[8]),
            ("lm_head.weight", &[10, 8]),
        ];
        let Value::Object(config) = config else { unreachable!("it is an object") };
        let tensors = shapes.iter().map(|(name, shape)| ((*name).to_owned(), Tensor::f32(shape)));
        Self { config, tensors: tensors.collect() }
    }

    /// With one setting changed.
    pub(crate) fn with(mut self, key: &str, value: Value) -> Self {
        self.config.insert(key.to_owned(), value);
        self
    }

    /// Without a setting.
    pub(crate) fn without(mut self, key: &str) -> Self {
        self.config.remove(key);
        self
    }

    /// With one more or another tensor.
    pub(crate) fn with_tensor(mut self, name: &str, tensor: Tensor) -> Self {
        self.tensors.insert(name.to_owned(), tensor);
        self
    }

    /// Without a tensor.
    pub(crate) fn without_tensor(mut self, name: &str) -> Self {
        self.tensors.remove(name).expect("the tensor to remove");
        self
    }

    /// Writes the directory, with one file of weights.
    pub(crate) fn write(&self) -> TempDir {
        let dir = self.write_config();
        std::fs::write(dir.path().join("model.safetensors"), safetensors(&self.tensors)).unwrap();
        dir
    }

    /// Writes the directory without weights.
    pub(crate) fn write_config(&self) -> TempDir {
        let dir = tempfile::tempdir().unwrap();
        write_json(&dir.path().join("config.json"), &Value::Object(self.config.clone()));
        dir
    }

    /// Writes the directory with the weights in two shards; the index is returned, not written.
    pub(crate) fn write_shards(&self) -> (TempDir, Value) {
        let dir = self.write_config();
        let mut map = Map::new();
        let half = self.tensors.len() / 2;
        let tensors: Vec<_> = self.tensors.clone().into_iter().collect();
        for (file, tensors) in
            ["a.safetensors", "b.safetensors"].iter().zip([&tensors[..half], &tensors[half..]])
        {
            std::fs::write(dir.path().join(file), safetensors(&tensors.iter().cloned().collect()))
                .unwrap();
            map.extend(tensors.iter().map(|(name, _)| (name.clone(), json!(file))));
        }
        (dir, json!({"metadata": {}, "weight_map": map}))
    }

    /// Opens it as written to one file.
    pub(crate) fn open(&self) -> Result<Checkpoint, CheckpointError> {
        // The files stay open, their directory need not stay.
        Checkpoint::open(self.write().path())
    }

    /// The error of opening it.
    pub(crate) fn error(&self) -> CheckpointError {
        self.open().expect_err("a checkpoint that is refused")
    }
}

/// Writes a JSON file.
pub(crate) fn write_json(path: &Path, value: &Value) {
    std::fs::write(path, serde_json::to_vec(value).unwrap()).unwrap();
}

/// The bytes of a safetensors file.
pub(crate) fn safetensors(tensors: &BTreeMap<String, Tensor>) -> Vec<u8> {
    let mut header = Map::new();
    let mut data = Vec::new();
    for (name, tensor) in tensors {
        let start = data.len();
        data.extend_from_slice(&tensor.bytes);
        let info = json!({"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [start, data.len()]});
        header.insert(name.clone(), info);
    }
    with_header(&serde_json::to_vec(&header).unwrap(), &data)
}

/// A file with this header and data.
pub(crate) fn with_header(header: &[u8], data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header, data].concat()
}

/// Asserts that an error names all of these.
pub(crate) fn assert_says(error: &CheckpointError, words: &[&str]) {
    let message = error.to_string();
    for word in words {
        assert!(message.contains(word), "{word:?} is not in {message:?}");
    }
}
