//! The tensors of one or several safetensors files.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use half::{bf16, f16};
use safetensors::tensor::{Dtype, Metadata};
use serde_json::Value;

use super::error::abbreviate;
use super::fields::read_object;
use super::file::PositionedFile;
use super::{CheckpointError, TensorRef};

/// The longest header that `safetensors` itself accepts.
const MAX_HEADER: u64 = 100_000_000;
/// The longest index accepted.
const MAX_INDEX: u64 = 100_000_000;
/// Bytes read at a time.
const BUFFER: usize = 1 << 18;

/// Where a tensor lies.
#[derive(Debug)]
struct Entry {
    file: usize,
    offset: u64,
    shape: Vec<usize>,
    dtype: Dtype,
}

/// All tensors of a checkpoint, by name.
#[derive(Debug)]
pub(super) struct Store {
    files: Vec<PositionedFile>,
    tensors: BTreeMap<String, Entry>,
}

impl Store {
    /// Opens `model.safetensors`, or the shards that `model.safetensors.index.json` names.
    pub(super) fn open(dir: &Path) -> Result<Self, CheckpointError> {
        let mut store = Self { files: vec![], tensors: BTreeMap::new() };
        let (single, index) = (dir.join("model.safetensors"), dir.join("model.safetensors.index.json"));
        if single.exists() {
            store.add(&single)?;
        } else if index.exists() {
            store.add_shards(dir, &index)?;
        } else {
            return Err(CheckpointError::NoWeights { dir: dir.to_owned() });
        }
        Ok(store)
    }

    fn add_shards(&mut self, dir: &Path, path: &Path) -> Result<(), CheckpointError> {
        let bad = |problem: String| CheckpointError::BadIndex { path: path.to_owned(), problem };
        let index = read_object(path, MAX_INDEX)?;
        let Some(Value::Object(map)) = index.get("weight_map") else {
            return Err(bad("`weight_map` is missing or not an object".to_owned()));
        };
        let mut shards = BTreeMap::<&str, Vec<&str>>::new();
        for (tensor, shard) in map {
            let shard = shard.as_str().filter(|name| is_plain(name));
            let place = || format!("tensor `{}` is not placed in a file beside the index", abbreviate(tensor));
            shards.entry(shard.ok_or_else(|| bad(place()))?).or_default().push(tensor);
        }
        for (shard, tensors) in shards {
            let path = dir.join(shard);
            let tensor = || abbreviate(tensors.first().copied().unwrap_or_default());
            if !path.exists() {
                return Err(CheckpointError::MissingShard { tensor: tensor(), shard: path });
            }
            self.add(&path)?;
            if let Some(tensor) = tensors.iter().find(|&&tensor| !self.tensors.contains_key(tensor)) {
                return Err(CheckpointError::NotInShard { tensor: abbreviate(tensor), shard: path });
            }
        }
        Ok(())
    }

    fn add(&mut self, path: &Path) -> Result<(), CheckpointError> {
        let file = PositionedFile::open(path)?;
        let (metadata, start) = header(&file)?;
        let number = self.files.len();
        for (name, info) in metadata.tensors() {
            let (begin, _) = info.data_offsets;
            let entry =
                Entry { file: number, offset: start + begin as u64, shape: info.shape.clone(), dtype: info.dtype };
            if let Some(old) = self.tensors.insert(name.clone(), entry) {
                let first = self.files.get(old.file).map_or(path, PositionedFile::path).to_owned();
                return Err(CheckpointError::DuplicateTensor {
                    tensor: abbreviate(&name),
                    first,
                    second: path.to_owned(),
                });
            }
        }
        self.files.push(file);
        Ok(())
    }

    /// All names.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Compares a tensor's shape and type with what config.json implies.
    pub(super) fn check(&self, tensor: &TensorRef, vector: bool) -> Result<(), CheckpointError> {
        let expected = if vector { vec![tensor.cols] } else { vec![tensor.rows, tensor.cols] };
        let name = tensor.name.clone();
        let Some(entry) = self.tensors.get(&tensor.name) else {
            let hint = "the download is incomplete, or config.json belongs to another model";
            return Err(CheckpointError::MissingTensor { tensor: name, shape: expected, hint });
        };
        if entry.shape != expected {
            return Err(CheckpointError::WrongShape { tensor: name, expected, found: entry.shape.clone() });
        }
        match entry.dtype {
            Dtype::F32 | Dtype::F16 | Dtype::BF16 => Ok(()),
            other => Err(CheckpointError::WrongDtype { tensor: name, found: format!("{other:?}") }),
        }
    }

    /// Reads rows as f32 and checks that all are finite.
    pub(super) fn read(&self, tensor: &TensorRef, rows: Range<usize>, out: &mut [f32]) -> Result<(), CheckpointError> {
        let unknown = || CheckpointError::UnknownTensor { tensor: tensor.name.clone() };
        let entry = self.tensors.get(&tensor.name).ok_or_else(unknown)?;
        let file = self.files.get(entry.file).ok_or_else(unknown)?;
        let (start, end) = (rows.start, rows.end);
        if start > end || end > tensor.rows || (end - start) * tensor.cols != out.len() {
            let (rows, cols, buffer) = (tensor.rows, tensor.cols, out.len());
            return Err(CheckpointError::RowRange { tensor: tensor.name.clone(), start, end, rows, cols, buffer });
        }
        let width = if entry.dtype == Dtype::F32 { 4 } else { 2 };
        let mut offset = entry.offset + (start * tensor.cols * width) as u64;
        let mut bytes = vec![0; BUFFER.min(out.len() * width)];
        for (chunk, piece) in out.chunks_mut(BUFFER / width).enumerate() {
            let bytes = &mut bytes[..piece.len() * width];
            file.read_exact_at(bytes, offset)?;
            offset += bytes.len() as u64;
            convert(entry.dtype, bytes, piece);
            if let Some(i) = piece.iter().position(|v| !v.is_finite()) {
                let at = start * tensor.cols + chunk * (BUFFER / width) + i;
                let (row, col) = (at / tensor.cols, at % tensor.cols);
                return Err(CheckpointError::NotFinite { tensor: tensor.name.clone(), row, col, value: piece[i] });
            }
        }
        Ok(())
    }
}

/// Whether a name is that of a file in the same directory.
fn is_plain(name: &str) -> bool {
    !name.is_empty() && Path::new(name).file_name().is_some_and(|plain| plain == name)
}

fn convert(dtype: Dtype, bytes: &[u8], out: &mut [f32]) {
    match dtype {
        Dtype::F16 => out.iter_mut().zip(bytes.as_chunks().0).for_each(|(o, &b)| *o = f16::from_le_bytes(b).to_f32()),
        Dtype::BF16 => out.iter_mut().zip(bytes.as_chunks().0).for_each(|(o, &b)| *o = bf16::from_le_bytes(b).to_f32()),
        _ => out.iter_mut().zip(bytes.as_chunks().0).for_each(|(o, &b)| *o = f32::from_le_bytes(b)),
    }
}

/// A file's header, and where its data starts.
fn header(file: &PositionedFile) -> Result<(Metadata, u64), CheckpointError> {
    let path = || file.path().to_owned();
    let short = |header| CheckpointError::HeaderLength { path: path(), header, file: file.len() };
    if file.len() < 8 {
        return Err(short(0));
    }
    let mut length = [0; 8];
    file.read_exact_at(&mut length, 0)?;
    let length = u64::from_le_bytes(length);
    if length > MAX_HEADER || length > file.len() - 8 {
        return Err(short(length));
    }
    let mut bytes = vec![0; 8 + length as usize];
    file.read_exact_at(&mut bytes, 0)?;
    let metadata: Metadata =
        serde_json::from_slice(&bytes[8..]).map_err(|source| CheckpointError::Json { path: path(), source })?;
    let data = metadata.tensors().values().map(|info| info.data_offsets.1).max().unwrap_or(0);
    let expected = 8 + length + data as u64;
    if expected != file.len() {
        return Err(CheckpointError::FileLength { path: path(), expected, found: file.len() });
    }
    Ok((metadata, 8 + length))
}
