//! A small GGUF file that tests can bend.

use std::path::{Path, PathBuf};

use kinglet_import::checkpoint::{Architecture, Checkpoint, CheckpointError, Norm, TensorRef};

/// The repository's `fixtures`.
pub(crate) fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures")
}

/// A file that the reference implementation wrote.
pub(crate) fn fixture(name: &str) -> PathBuf {
    fixtures().join(format!("gguf/{name}.gguf"))
}

/// Every tensor of a model.
pub(crate) fn tensors<'a>(architecture: &'a Architecture) -> Vec<&'a TensorRef> {
    let mut all = architecture.tables();
    let weight = |norm: &'a Norm| norm.weight.tensor();
    all.extend(architecture.last().norm.iter().filter_map(weight));
    for block in architecture.blocks() {
        if let Some(a) = block.attention() {
            all.extend(a.query_norm.iter().chain(&a.key_norm).filter_map(weight));
        }
        all.extend(block.norm.iter().filter_map(weight));
        for part in block.products().flat_map(|(_, linear)| linear.parts()) {
            all.push(&part.weight);
            all.extend(&part.bias);
        }
    }
    all
}

/// A value of the metadata.
#[derive(Clone)]
pub(crate) enum Value {
    U32(u32),
    F32(f32),
    Text(&'static str),
    /// Type and bytes, as they go to the file.
    Raw(u32, Vec<u8>),
}

impl Value {
    fn bytes(&self) -> Vec<u8> {
        let (kind, bytes) = match self {
            Self::U32(n) => (4, n.to_le_bytes().to_vec()),
            Self::F32(x) => (6, x.to_le_bytes().to_vec()),
            Self::Text(text) => (8, string(text.as_bytes())),
            Self::Raw(kind, bytes) => (*kind, bytes.clone()),
        };
        [&kind.to_le_bytes()[..], &bytes].concat()
    }
}

/// A tensor as it goes to the file.
#[derive(Clone)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    pub(crate) dimensions: Vec<u64>,
    pub(crate) kind: u32,
    /// From the start of the data; after the tensor before it unless told.
    pub(crate) offset: Option<u64>,
    pub(crate) bytes: Vec<u8>,
}

/// A file in memory: a Llama of one layer, untied, in f32.
#[derive(Clone)]
pub(crate) struct File {
    pub(crate) magic: [u8; 4],
    pub(crate) version: u32,
    /// Tensors and keys, if they are to differ from what follows.
    pub(crate) counts: [Option<u64>; 2],
    pub(crate) keys: Vec<(Vec<u8>, Value)>,
    pub(crate) tensors: Vec<Tensor>,
}

impl File {
    pub(crate) fn new() -> Self {
        let keys = [
            ("general.architecture", Value::Text("llama")),
            ("llama.embedding_length", Value::U32(8)),
            ("llama.block_count", Value::U32(1)),
            ("llama.feed_forward_length", Value::U32(6)),
            ("llama.attention.head_count", Value::U32(2)),
            ("llama.attention.head_count_kv", Value::U32(1)),
            ("llama.context_length", Value::U32(64)),
            ("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
        ];
        let tensors: [(&str, &[u64]); 12] = [
            ("token_embd.weight", &[8, 10]),
            ("blk.0.attn_norm.weight", &[8]),
            ("blk.0.attn_q.weight", &[8, 8]),
            ("blk.0.attn_k.weight", &[8, 4]),
            ("blk.0.attn_v.weight", &[8, 4]),
            ("blk.0.attn_output.weight", &[8, 8]),
            ("blk.0.ffn_norm.weight", &[8]),
            ("blk.0.ffn_gate.weight", &[8, 6]),
            ("blk.0.ffn_up.weight", &[8, 6]),
            ("blk.0.ffn_down.weight", &[6, 8]),
            ("output_norm.weight", &[8]),
            ("output.weight", &[8, 10]),
        ];
        Self {
            magic: *b"GGUF",
            version: 3,
            counts: [None; 2],
            keys: keys.map(|(key, value)| (key.as_bytes().to_vec(), value)).to_vec(),
            tensors: tensors.map(|(name, dimensions)| tensor(name, dimensions)).to_vec(),
        }
    }

    /// With one more or another key.
    pub(crate) fn with(mut self, key: &str, value: Value) -> Self {
        self.keys.retain(|(other, _)| other != key.as_bytes());
        self.keys.push((key.as_bytes().to_vec(), value));
        self
    }

    /// Without a key.
    pub(crate) fn without(mut self, key: &str) -> Self {
        self.keys.retain(|(other, _)| other != key.as_bytes());
        self
    }

    /// The tensor of this name.
    pub(crate) fn tensor(&mut self, name: &str) -> &mut Tensor {
        self.tensors.iter_mut().find(|tensor| tensor.name == name).expect("the tensor to bend")
    }

    /// With one tensor changed.
    pub(crate) fn bent(mut self, name: &str, bend: impl FnOnce(&mut Tensor)) -> Self {
        bend(self.tensor(name));
        self
    }

    /// The file; and how long its header is.
    pub(crate) fn bytes(&self) -> (Vec<u8>, usize) {
        let [tensors, keys] = self.counts;
        let mut file = self.magic.to_vec();
        file.extend(self.version.to_le_bytes());
        file.extend(tensors.unwrap_or(self.tensors.len() as u64).to_le_bytes());
        file.extend(keys.unwrap_or(self.keys.len() as u64).to_le_bytes());
        for (key, value) in &self.keys {
            file.extend(string(key));
            file.extend(value.bytes());
        }
        let mut data = Vec::new();
        for tensor in &self.tensors {
            file.extend(string(tensor.name.as_bytes()));
            file.extend((tensor.dimensions.len() as u32).to_le_bytes());
            tensor.dimensions.iter().for_each(|size| file.extend(size.to_le_bytes()));
            file.extend(tensor.kind.to_le_bytes());
            file.extend(tensor.offset.unwrap_or(data.len() as u64).to_le_bytes());
            data.extend(&tensor.bytes);
            data.resize(data.len().next_multiple_of(32), 0);
        }
        let header = file.len();
        file.resize(header.next_multiple_of(32), 0);
        file.extend(data);
        (file, header)
    }

    /// Opens it.
    pub(crate) fn open(&self) -> Result<Checkpoint, CheckpointError> {
        open(&self.bytes().0)
    }

    /// The error of opening it.
    pub(crate) fn error(&self) -> CheckpointError {
        self.open().expect_err("a file that is refused")
    }
}

/// Numbers 0, 1/64, 2/64, ...
pub(crate) fn tensor(name: &str, dimensions: &[u64]) -> Tensor {
    let bytes =
        (0..dimensions.iter().product()).flat_map(|i| (i as f32 / 64.0).to_le_bytes()).collect();
    Tensor { name: name.to_owned(), dimensions: dimensions.to_vec(), kind: 0, offset: None, bytes }
}

/// Length and bytes.
pub(crate) fn string(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u64).to_le_bytes(), bytes].concat()
}

/// Opens a file of these bytes.
pub(crate) fn open(bytes: &[u8]) -> Result<Checkpoint, CheckpointError> {
    let dir = tempfile::tempdir().unwrap();
    // The name says nothing on purpose.
    let path = dir.path().join("model");
    std::fs::write(&path, bytes).unwrap();
    Checkpoint::open(path)
}
