//! The tensors of a directory, from the headers of its safetensors files.
//!
//! Reads headers only. Afterwards each file is known to be exactly as long as
//! its header says, so each tensor lies within its file.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path};

use safetensors::tensor::Metadata;
use safetensors::{Dtype, SafeTensorError};
use serde_json::Value;

use super::CheckpointError;
use super::element::Element;
use super::fields::read_object;
use super::file::PositionedFile;
use super::tensors::{Stored, Tensors};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// Bytes of an index: enough for a hundred thousand tensors.
const INDEX_LIMIT: u64 = 1 << 24;
/// Bytes of a header: enough for fifty thousand tensors in one file. The format allows ten times as
/// many, which take half a minute.
const HEADER_LIMIT: u64 = 1 << 23;
/// Bytes before the header.
const PREFIX: u64 = 8;

impl Tensors {
    /// Reads the headers of `model.safetensors`, or else of the shards in the index.
    pub(super) fn open(dir: &Path) -> Result<Self, CheckpointError> {
        let mut tensors = Self::default();
        let single = dir.join(SINGLE);
        let index = dir.join(INDEX);
        if single.exists() {
            tensors.add(&single)?;
        } else if index.exists() {
            tensors.add_shards(dir, &index)?;
        } else {
            return Err(CheckpointError::NoWeights { dir: dir.to_owned() });
        }
        Ok(tensors)
    }

    fn add_shards(&mut self, dir: &Path, index: &Path) -> Result<(), CheckpointError> {
        let map = read_index(index)?;
        let shards: BTreeSet<&str> = map.values().map(String::as_str).collect();
        for shard in shards {
            let path = dir.join(shard);
            if !path.exists() {
                let tensor = map.iter().find(|(_, file)| *file == shard);
                return Err(CheckpointError::MissingShard {
                    tensor: tensor.map(|(name, _)| name.clone()).unwrap_or_default(),
                    shard: path,
                });
            }
            self.add(&path)?;
        }
        for (tensor, shard) in map {
            let path = dir.join(shard);
            let stored = self.entries.get(&tensor).and_then(|entry| self.file(entry));
            if stored.is_none_or(|file| file.path() != path) {
                return Err(CheckpointError::NotInShard { tensor, shard: path });
            }
        }
        Ok(())
    }

    fn add(&mut self, path: &Path) -> Result<(), CheckpointError> {
        let file = PositionedFile::open(path)?;
        let (data, metadata) = read_header(&file)?;
        for (name, info) in metadata.tensors() {
            if let Some(other) = self.entries.get(&name) {
                let first = self.file(other).map(|file| file.path().to_owned());
                return Err(CheckpointError::DuplicateTensor {
                    tensor: name,
                    first: first.unwrap_or_default(),
                    second: path.to_owned(),
                });
            }
            let stored = Stored {
                file: self.files.len(),
                // Cannot overflow: it lies within the file, as checked.
                offset: data.saturating_add(info.data_offsets.0 as u64),
                element: element(info.dtype),
                shape: info.shape.clone(),
            };
            self.entries.insert(name, stored);
        }
        self.files.push(file);
        Ok(())
    }
}

fn element(dtype: Dtype) -> Result<Element, String> {
    match dtype {
        Dtype::F32 => Ok(Element::F32),
        Dtype::F16 => Ok(Element::F16),
        Dtype::BF16 => Ok(Element::Bf16),
        _ => Err(format!("{dtype:?}")),
    }
}

/// Where each tensor is, according to the index.
fn read_index(path: &Path) -> Result<BTreeMap<String, String>, CheckpointError> {
    let bad = |problem: String| CheckpointError::BadIndex { path: path.to_owned(), problem };
    let mut index = read_object(path, INDEX_LIMIT)?;
    let Some(Value::Object(map)) = index.remove("weight_map") else {
        return Err(bad("it has no object `weight_map`".to_owned()));
    };
    let mut places = BTreeMap::new();
    for (tensor, file) in map {
        let Value::String(file) = file else {
            return Err(bad(format!("the file of tensor {tensor:?} is not a string")));
        };
        // A checkpoint has no business in other directories.
        let mut parts = Path::new(&file).components();
        let plain = matches!(
            (parts.next(), parts.next()),
            (Some(Component::Normal(name)), None) if name == file.as_str()
        );
        if !plain || !file.ends_with(".safetensors") {
            return Err(bad(format!(
                "tensor {tensor:?} is said to be in {file:?}, which is not a plain name of a \
                 safetensors file"
            )));
        }
        places.insert(tensor, file);
    }
    Ok(places)
}

/// Reads and checks a header; gives the position of the data after it.
fn read_header(file: &PositionedFile) -> Result<(u64, Metadata), CheckpointError> {
    let mut prefix = [0; PREFIX as usize];
    let wrong_length = |header| CheckpointError::HeaderLength {
        path: file.path().to_owned(),
        header,
        file: file.len(),
    };
    if file.len() < PREFIX {
        return Err(wrong_length(0));
    }
    file.read_exact_at(&mut prefix, 0)?;
    let length = u64::from_le_bytes(prefix);
    if length > file.len() - PREFIX {
        return Err(wrong_length(length));
    }
    if length > HEADER_LIMIT {
        let (path, bytes) = (file.path().to_owned(), length);
        return Err(CheckpointError::HeaderTooLong { path, bytes, limit: HEADER_LIMIT });
    }
    let bytes = usize::try_from(length).map_err(|_| wrong_length(length))?;
    let mut header = vec![0; bytes];
    file.read_exact_at(&mut header, PREFIX)?;
    let metadata: Metadata =
        serde_json::from_slice(&header).map_err(|source| CheckpointError::Header {
            path: file.path().to_owned(),
            source: SafeTensorError::InvalidHeaderDeserialization(source),
        })?;
    let data = PREFIX + length;
    let expected = data.saturating_add(metadata.data_len() as u64);
    if expected != file.len() {
        return Err(CheckpointError::FileLength {
            path: file.path().to_owned(),
            expected,
            found: file.len(),
        });
    }
    Ok((data, metadata))
}
