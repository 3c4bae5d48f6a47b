//! Finished blocks, on disk beside the target, so that an interrupted command goes on where it
//! stopped.
//!
//! `FILE.work/` holds a key, which says what the blocks were made from, and one safetensors file
//! for each block. Each is written under another name and renamed when it is whole. A directory
//! with another key is of another command: it is emptied.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::{File, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kinglet::Format;
use safetensors::tensor::{Dtype, SafeTensors, View};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::QuantizeError;
use super::round::{Levels, Row};
use super::rounded::{RoundedBlock, RoundedLinear};
use crate::checkpoint::{Activation, Join, NormKind, Rope, Sight};
use crate::reference::{Heads, Inputs, Middle, NormWeights, Site};
use kinglet_model::write::WriteError;

const KEY: &str = "key";
const ABOUT: &str = "about";
/// Of the products of a block.
const NAMES: [&str; 3] = ["input", "memory", "output"];

/// The directory of a command at work.
#[derive(Debug)]
pub(super) struct Store {
    dir: PathBuf,
    target: PathBuf,
    /// Locked: two commands must not share a directory.
    _key: File,
}

/// A tensor of a block's file.
struct Tensor<'a> {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Cow<'a, [u8]>,
}

impl View for &Tensor<'_> {
    fn dtype(&self) -> Dtype {
        self.dtype
    }
    fn shape(&self) -> &[usize] {
        &self.shape
    }
    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.bytes)
    }
    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}

/// What is not a tensor.
#[derive(Serialize, Deserialize)]
struct About<T> {
    layer: usize,
    #[serde(with = "as_name::all")]
    formats: [Format; 3],
    inputs: [Inputs; 3],
    norms: [Option<(NormKind, f32)>; 2],
    join: Join,
    middle: AboutMiddle,
    extra: T,
}

#[derive(Serialize, Deserialize)]
enum AboutMiddle {
    Attention {
        heads: [usize; 3],
        scale: f32,
        norms: [Option<(NormKind, f32)>; 2],
        rope: Option<(Vec<f64>, f32)>,
        sight: Sight,
        transforms: bool,
    },
    FeedForward {
        activation: Activation,
        gated: bool,
    },
    Projection,
}

impl Store {
    /// The directory beside `target`, with whatever an earlier command with the same key has left.
    pub(super) fn open(target: &Path, key: &str) -> Result<Self, QuantizeError> {
        let mut dir = target.as_os_str().to_owned();
        dir.push(".work");
        let dir = PathBuf::from(dir);
        let fail = |source| WriteError::Io { path: target.to_path_buf(), source };
        // Its parent is the target's, which is not ours to make.
        match std::fs::create_dir(&dir) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(fail(error).into());
            }
            _ => {}
        }
        let path = dir.join(KEY);
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(fail)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(QuantizeError::Busy { dir }),
            Err(TryLockError::Error(error)) => return Err(fail(error).into()),
        }
        let store = Self { dir, target: target.to_path_buf(), _key: file };
        if std::fs::read(&path).is_ok_and(|found| found == key.as_bytes()) {
            return Ok(store);
        }
        for entry in std::fs::read_dir(&store.dir).map_err(fail)?.flatten() {
            if entry.path() != path {
                std::fs::remove_file(entry.path()).map_err(fail)?;
            }
        }
        // In place, as the lock is the file's: a key cut short is no key.
        std::fs::write(&path, key).map_err(fail)?;
        Ok(store)
    }

    /// Where files of the command belong until they are whole.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    fn fail(&self, source: std::io::Error) -> QuantizeError {
        WriteError::Io { path: self.target.clone(), source }.into()
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), QuantizeError> {
        let mut file = tempfile::NamedTempFile::new_in(&self.dir).map_err(|e| self.fail(e))?;
        file.write_all(bytes).map_err(|e| self.fail(e))?;
        file.persist(self.dir.join(name)).map_err(|e| self.fail(e.error))?;
        Ok(())
    }

    /// Keeps something small under a name.
    pub(super) fn keep<T: Serialize>(&self, name: &str, value: &T) -> Result<(), QuantizeError> {
        let bytes = serde_json::to_vec(value).map_err(|e| self.fail(e.into()))?;
        self.write(name, &bytes)
    }

    /// What was kept under a name.
    pub(super) fn kept<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        serde_json::from_slice(&std::fs::read(self.dir.join(name)).ok()?).ok()
    }

    /// Keeps numbers under a name.
    pub(super) fn keep_numbers(&self, name: &str, numbers: &[f32]) -> Result<(), QuantizeError> {
        self.write(name, &numbers.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>())
    }

    /// Numbers that were kept under a name.
    pub(super) fn kept_numbers(&self, name: &str) -> Option<Vec<f32>> {
        let bytes = std::fs::read(self.dir.join(name)).ok()?;
        Some(bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect())
    }

    fn name(index: usize) -> String {
        format!("block{index:04}.safetensors")
    }

    /// Keeps a block, and something to remember about it.
    pub(super) fn put<T: Serialize>(
        &self,
        index: usize,
        block: &RoundedBlock,
        extra: &T,
    ) -> Result<(), QuantizeError> {
        let mut tensors: Vec<(String, Tensor<'_>)> = vec![];
        let mut put = |name: &str, dtype, shape: Vec<usize>, bytes: Vec<u8>| {
            tensors.push((name.to_owned(), Tensor { dtype, shape, bytes: bytes.into() }));
        };
        let f32s =
            |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
        let mut norm = |name: &str, norm: &Option<NormWeights>| {
            let norm = norm.as_ref()?;
            put(name, Dtype::F32, vec![norm.weight.len()], f32s(&norm.weight));
            if let Some(bias) = &norm.bias {
                put(&format!("{name}.bias"), Dtype::F32, vec![bias.len()], f32s(bias));
            }
            Some((norm.kind, norm.eps))
        };
        let norms = [norm("norm", &block.norm), norm("stream_norm", &block.stream_norm)];
        let middle = match &block.middle {
            Middle::FeedForward { activation, gated } => {
                AboutMiddle::FeedForward { activation: *activation, gated: *gated }
            }
            Middle::Projection => AboutMiddle::Projection,
            Middle::Attention(h) => {
                let norms = [norm("query_norm", &h.query_norm), norm("key_norm", &h.key_norm)];
                if let Some(relative) = &h.relative {
                    put("relative", Dtype::F32, vec![relative.len()], f32s(relative));
                }
                AboutMiddle::Attention {
                    heads: [h.heads, h.kv_heads, h.dim],
                    scale: h.scale,
                    norms,
                    rope: h.rope.as_ref().map(|rope| (rope.inv_freq.clone(), rope.magnitude)),
                    sight: h.sight,
                    transforms: h.transforms,
                }
            }
        };
        let (mut formats, mut inputs) = ([block.output.format; 3], [block.output.inputs; 3]);
        for (site, linear) in block.products() {
            let name = NAMES[site as usize];
            formats[site as usize] = linear.format;
            inputs[site as usize] = linear.inputs;
            let bytes = |of: fn(&Row) -> &[i8]| -> Vec<u8> {
                linear.rows.iter().flat_map(|row| of(row).iter().map(|&c| c as u8)).collect()
            };
            let rows = linear.rows.len();
            let subs = bytes(|row| &row.sub_scales);
            put(
                &format!("{name}.codes"),
                Dtype::I8,
                vec![rows, linear.cols],
                bytes(|row| &row.codes),
            );
            put(
                &format!("{name}.sub_scales"),
                Dtype::I8,
                vec![rows, subs.len() / rows.max(1)],
                subs,
            );
            let scales: Vec<f32> = linear.rows.iter().map(|row| row.scale).collect();
            put(&format!("{name}.scales"), Dtype::F32, vec![rows], f32s(&scales));
            if linear.format.has_offsets() {
                let offsets = bytes(|row| &row.offsets);
                put(
                    &format!("{name}.offsets"),
                    Dtype::I8,
                    vec![rows, offsets.len() / rows.max(1)],
                    offsets,
                );
                let scales: Vec<f32> = linear.rows.iter().map(|row| row.offset_scale).collect();
                put(&format!("{name}.offset_scales"), Dtype::F32, vec![rows], f32s(&scales));
            }
            put(
                &format!("{name}.levels"),
                Dtype::I8,
                vec![16],
                linear.levels.values.map(|v| v as u8).to_vec(),
            );
            if let Some(bias) = &linear.bias {
                put(&format!("{name}.bias"), Dtype::F32, vec![bias.len()], f32s(bias));
            }
        }
        let about =
            About { layer: block.layer, formats, inputs, norms, join: block.join, middle, extra };
        let about = serde_json::to_string(&about).map_err(|e| self.fail(e.into()))?;
        let about = HashMap::from([(ABOUT.to_owned(), about)]);
        let tensors: Vec<(&str, &Tensor<'_>)> =
            tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
        let bytes = safetensors::serialize(tensors, Some(about))
            .map_err(|e| self.fail(std::io::Error::other(e)))?;
        self.write(&Self::name(index), &bytes)
    }

    /// The block of this number, if it was kept. A file that is not whole counts as none.
    pub(super) fn get<T: DeserializeOwned>(&self, index: usize) -> Option<(RoundedBlock, T)> {
        let bytes = std::fs::read(self.dir.join(Self::name(index))).ok()?;
        let (_, metadata) = SafeTensors::read_metadata(&bytes).ok()?;
        let about: About<T> =
            serde_json::from_str(metadata.metadata().as_ref()?.get(ABOUT)?).ok()?;
        let tensors = SafeTensors::deserialize(&bytes).ok()?;
        let f32s = |name: &str| -> Option<Vec<f32>> {
            let tensor = tensors.tensor(name).ok()?;
            Some(tensor.data().as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect())
        };
        let linear = |name: &str, format: Format, inputs: Inputs| -> Option<RoundedLinear> {
            let part = |part: &str| tensors.tensor(&format!("{name}.{part}")).ok();
            let i8s = |of: &[u8]| of.iter().map(|&b| b as i8).collect::<Vec<i8>>();
            let (codes, subs) = (part("codes")?, part("sub_scales")?);
            let (&[_, cols], &[_, groups]) = (codes.shape(), subs.shape()) else { return None };
            let scales = f32s(&format!("{name}.scales"))?;
            let (offsets, offset_scales) = match format.has_offsets() {
                true => (i8s(part("offsets")?.data()), f32s(&format!("{name}.offset_scales"))?),
                false => (vec![], vec![]),
            };
            let row = |(r, &scale): (usize, &f32)| -> Option<Row> {
                let of_row =
                    |all: &[u8], count: usize| all.get(r * count..(r + 1) * count).map(i8s);
                let (codes, sub_scales) =
                    (of_row(codes.data(), cols)?, of_row(subs.data(), groups)?);
                let offsets = match format.has_offsets() {
                    true => offsets.get(r * groups..(r + 1) * groups)?.to_vec(),
                    false => vec![],
                };
                let offset_scale = offset_scales.get(r).copied().unwrap_or_default();
                Some(Row { codes, sub_scales, scale, offsets, offset_scale })
            };
            Some(RoundedLinear {
                format,
                levels: match format.is_int8() {
                    true => Levels::bytes(),
                    false => Levels::new(i8s(part("levels")?.data()).try_into().ok()?),
                },
                rows: scales.iter().enumerate().map(row).collect::<Option<_>>()?,
                cols,
                inputs,
                bias: f32s(&format!("{name}.bias")),
            })
        };
        let norm = |name: &str, about: Option<(NormKind, f32)>| {
            about.and_then(|(kind, eps)| {
                Some(NormWeights {
                    kind,
                    weight: f32s(name)?,
                    bias: f32s(&format!("{name}.bias")),
                    eps,
                })
            })
        };
        let middle = match about.middle {
            AboutMiddle::FeedForward { activation, gated } => {
                Middle::FeedForward { activation, gated }
            }
            AboutMiddle::Projection => Middle::Projection,
            AboutMiddle::Attention {
                heads: [heads, kv_heads, dim],
                scale,
                norms,
                rope,
                sight,
                transforms,
            } => {
                let rope = rope.map(|(inv_freq, magnitude)| Rope { inv_freq, magnitude });
                let [query_norm, key_norm] =
                    [norm("query_norm", norms[0]), norm("key_norm", norms[1])];
                let relative = f32s("relative").map(Arc::new);
                Middle::Attention(Heads {
                    heads,
                    kv_heads,
                    dim,
                    scale,
                    query_norm,
                    key_norm,
                    rope,
                    sight,
                    relative,
                    transforms,
                })
            }
        };
        let [input, memory, output] = Site::OF_BLOCK.map(|site| {
            let name = NAMES[site as usize];
            linear(name, about.formats[site as usize], about.inputs[site as usize])
        });
        let block = RoundedBlock {
            layer: about.layer,
            norm: norm("norm", about.norms[0]),
            join: about.join,
            stream_norm: norm("stream_norm", about.norms[1]),
            input,
            memory,
            middle,
            output: output?,
        };
        Some((block, about.extra))
    }

    /// Removes the directory.
    pub(super) fn remove(self) {
        // What cannot be removed is in nobody's way: the next command of this target empties it.
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// Formats by name.
pub(super) mod as_name {
    use kinglet::Format;
    use serde::{Deserialize, Deserializer, Serializer};

    /// What the command calls them.
    pub(crate) fn name(format: Format) -> &'static str {
        match format {
            Format::Int8 => "int8-row",
            Format::Int8Grouped => "int8",
            Format::Int4 => "int4-uniform",
            Format::Int4Codebook => "int4",
            Format::Int4Offset => "int4-offset",
        }
    }

    pub(crate) fn serialize<S: Serializer>(format: &Format, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(name(*format))
    }

    pub(crate) fn deserialize<'d, D: Deserializer<'d>>(from: D) -> Result<Format, D::Error> {
        let found = String::deserialize(from)?;
        let format = Format::ALL.into_iter().find(|&format| name(format) == found);
        format.ok_or_else(|| serde::de::Error::custom("not a format"))
    }

    /// The formats of all products of a block.
    pub(crate) mod all {
        use super::{Deserialize, Deserializer, Format, Serializer};
        use serde::Serialize;

        #[derive(Serialize, Deserialize)]
        struct Named(#[serde(with = "super")] Format);

        pub(crate) fn serialize<S: Serializer>(
            formats: &[Format; 3],
            to: S,
        ) -> Result<S::Ok, S::Error> {
            formats.map(Named).serialize(to)
        }

        pub(crate) fn deserialize<'d, D: Deserializer<'d>>(
            from: D,
        ) -> Result<[Format; 3], D::Error> {
            Ok(<[Named; 3]>::deserialize(from)?.map(|named| named.0))
        }
    }
}
