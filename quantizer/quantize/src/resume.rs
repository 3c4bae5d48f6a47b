//! Finished blocks, on disk beside the target, so that an interrupted command goes on where it
//! stopped.
//!
//! `FILE.work/` holds a key, which says what the blocks were made from, and one safetensors file
//! for each block. Each is written under another name and renamed when it is whole, and ends with a
//! checksum: what is damaged counts as missing. A directory with another key is of another command
//! of ours, and is emptied. One that holds anything else is refused and left as it is.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{File, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kinglet::Format;
use kinglet_model::layout::{BlockRecord, NONE};
use kinglet_model::lowering::{Lower, Part, Raise, inputs_code, inputs_of, lower, raise};
use kinglet_model::write::WriteError;
use safetensors::tensor::{Dtype, SafeTensors, View};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::QuantizeError;
use crate::rounding::levels::{Levels, Row};
use crate::rounding::rounded::{Rounded, RoundedBlock, RoundedLinear};

const KEY: &str = "key";
/// What the key's file begins with.
const SIGN: &str = "kinglet at work\n";
/// What names of files in the directory begin with, those that are not whole yet included.
const OURS: [&str; 8] = [KEY, "aims", "block", "norm", "plan", "record", ".tmp", ".kinglet-"];
const ABOUT: &str = "about";
/// The record of a block, which says what its tensors are.
const RECORD: &str = "record";

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
    #[serde(with = "as_name::all")]
    formats: [Format; 3],
    inputs: [u8; 3],
    extra: T,
}

/// The tensors of a block on their way into a file of their own, where each is under the number of
/// its [`Part`].
struct Keeping<'b> {
    tensors: Vec<(String, Tensor<'b>)>,
}

fn f32s(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

impl Keeping<'_> {
    fn put(&mut self, name: String, dtype: Dtype, shape: Vec<usize>, bytes: Vec<u8>) {
        self.tensors.push((name, Tensor { dtype, shape, bytes: bytes.into() }));
    }

    fn numbers(&mut self, part: Part, values: &[f32]) -> u32 {
        self.put(name_of(part as u32), Dtype::F32, vec![values.len()], f32s(values));
        part as u32
    }
}

fn name_of(part: u32) -> String {
    format!("part{part}")
}

/// The part after a product's, which is its bias.
fn bias_of(part: Part) -> Part {
    match part {
        Part::Input => Part::InputBias,
        Part::States => Part::StatesBias,
        _ => Part::OutputBias,
    }
}

impl Lower<Rounded> for Keeping<'_> {
    type Error = QuantizeError;

    fn linear(&mut self, part: Part, of: &RoundedLinear) -> Result<(u32, u32), QuantizeError> {
        let name = |what: &str| format!("{}.{what}", name_of(part as u32));
        let bytes = |get: fn(&Row) -> &[i8]| -> Vec<u8> {
            of.rows.iter().flat_map(|row| get(row).iter().map(|&c| c as u8)).collect()
        };
        let rows = of.rows.len();
        let groups = |bytes: &[u8]| vec![rows, bytes.len() / rows.max(1)];
        let scales = |get: fn(&Row) -> f32| f32s(&of.rows.iter().map(get).collect::<Vec<_>>());
        let subs = bytes(|row| &row.sub_scales);
        self.put(name("codes"), Dtype::I8, vec![rows, of.cols], bytes(|row| &row.codes));
        self.put(name("sub_scales"), Dtype::I8, groups(&subs), subs);
        self.put(name("scales"), Dtype::F32, vec![rows], scales(|row| row.scale));
        if of.format.has_offsets() {
            let offsets = bytes(|row| &row.offsets);
            self.put(name("offsets"), Dtype::I8, groups(&offsets), offsets);
            self.put(name("offset_scales"), Dtype::F32, vec![rows], scales(|row| row.offset_scale));
        }
        self.put(name("levels"), Dtype::I8, vec![16], of.levels.values.map(|v| v as u8).to_vec());
        let bias = of.bias.as_ref().map_or(NONE, |bias| self.numbers(bias_of(part), bias));
        Ok((part as u32, bias))
    }

    fn vector(&mut self, part: Part, of: &Vec<f32>) -> Result<u32, QuantizeError> {
        Ok(self.numbers(part, of))
    }

    /// Zeros are made again where a block becomes part of a file.
    fn zeros(&mut self, _: Part, _: &Vec<f32>) -> Result<u32, QuantizeError> {
        Ok(NONE)
    }

    fn frequencies(&mut self, of: &Vec<f64>) -> Result<u32, QuantizeError> {
        let part = Part::Frequencies as u32;
        let bytes = of.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.put(name_of(part), Dtype::F64, vec![of.len()], bytes);
        Ok(part)
    }

    fn relative(&mut self, of: &Arc<Vec<f32>>) -> Result<u32, QuantizeError> {
        Ok(self.numbers(Part::Relative, of))
    }

    fn cols(&self, of: &RoundedLinear) -> usize {
        of.cols
    }
}

/// A block's file, read again.
struct Kept<'t, T> {
    tensors: SafeTensors<'t>,
    about: About<T>,
}

/// A part that is not in the file: it was not written to its end.
struct Lost;

impl<T> Kept<'_, T> {
    fn bytes(&self, name: &str) -> Result<&[u8], Lost> {
        self.tensors.tensor(name).map(|tensor| tensor.data()).map_err(|_| Lost)
    }

    fn f32s(&self, name: &str) -> Result<Vec<f32>, Lost> {
        Ok(self.bytes(name)?.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect())
    }

    fn rows(&self, part: &str, format: Format) -> Result<(Vec<Row>, usize), Lost> {
        let of = |what: &str| {
            let tensor = self.tensors.tensor(&format!("{part}.{what}")).map_err(|_| Lost)?;
            let &[_, cols] = tensor.shape() else { return Err(Lost) };
            Ok((tensor.data().iter().map(|&b| b as i8).collect::<Vec<i8>>(), cols))
        };
        let ((codes, cols), (subs, groups)) = (of("codes")?, of("sub_scales")?);
        let scales = self.f32s(&format!("{part}.scales"))?;
        let (offsets, offset_scales) = match format.has_offsets() {
            true => (of("offsets")?.0, self.f32s(&format!("{part}.offset_scales"))?),
            false => (vec![], vec![]),
        };
        let row = |(r, &scale): (usize, &f32)| {
            let of_row = |all: &[i8], count: usize| {
                all.get(r * count..(r + 1) * count).map(<[i8]>::to_vec).ok_or(Lost)
            };
            let (codes, sub_scales) = (of_row(&codes, cols)?, of_row(&subs, groups)?);
            let offsets = if offsets.is_empty() { vec![] } else { of_row(&offsets, groups)? };
            let offset_scale = offset_scales.get(r).copied().unwrap_or_default();
            Ok(Row { codes, sub_scales, scale, offsets, offset_scale })
        };
        Ok((scales.iter().enumerate().map(row).collect::<Result<_, _>>()?, cols))
    }
}

impl<T> Raise<Rounded> for Kept<'_, T> {
    type Error = Lost;

    fn linear(&self, matrix: u32, bias: u32) -> Result<RoundedLinear, Lost> {
        let products = [Part::Input, Part::States, Part::Output];
        let site = products.iter().position(|&part| part as u32 == matrix).ok_or(Lost)?;
        let (part, format) = (name_of(matrix), self.about.formats[site]);
        let (rows, cols) = self.rows(&part, format)?;
        let levels = self.bytes(&format!("{part}.levels"))?.iter().map(|&b| b as i8);
        Ok(RoundedLinear {
            format,
            levels: match format.is_int8() {
                true => Levels::bytes(),
                false => Levels::new(levels.collect::<Vec<_>>().try_into().map_err(|_| Lost)?),
            },
            rows,
            cols,
            inputs: inputs_of(self.about.inputs[site]).ok_or(Lost)?,
            bias: if bias == NONE { None } else { Some(self.vector(bias)?) },
        })
    }

    fn vector(&self, index: u32) -> Result<Vec<f32>, Lost> {
        self.f32s(&name_of(index))
    }

    fn frequencies(&self, index: u32) -> Result<Vec<f64>, Lost> {
        let bytes = self.bytes(&name_of(index))?;
        Ok(bytes.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b)).collect())
    }

    fn relative(&self, index: u32) -> Result<Arc<Vec<f32>>, Lost> {
        Ok(Arc::new(self.vector(index)?))
    }

    fn missing_norm(&self) -> Lost {
        Lost
    }
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
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                refuse_strange(&dir)?
            }
            made => made.map_err(fail)?,
        }
        let path = dir.join(KEY);
        let mut file = File::options()
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
        let (mut found, signed) = (String::new(), format!("{SIGN}{key}"));
        // What is not text is no key.
        let _ = file.read_to_string(&mut found);
        if found != signed {
            for name in names(&dir).map_err(fail)?.iter().filter(|name| *name != KEY) {
                std::fs::remove_file(dir.join(name)).map_err(fail)?;
            }
            // In place, as the lock is the file's: a key cut short is no key.
            file.set_len(0).and_then(|()| file.rewind()).map_err(fail)?;
            file.write_all(signed.as_bytes()).map_err(fail)?;
        }
        Ok(Self { dir, target: target.to_path_buf(), _key: file })
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
        file.write_all(&crc32fast::hash(bytes).to_le_bytes()).map_err(|e| self.fail(e))?;
        file.persist(self.dir.join(name)).map_err(|e| self.fail(e.error))?;
        Ok(())
    }

    /// What was written under a name, unless it is damaged.
    fn read(&self, name: &str) -> Option<Vec<u8>> {
        let mut bytes = std::fs::read(self.dir.join(name)).ok()?;
        let (content, crc) = bytes.split_last_chunk::<4>()?;
        if crc32fast::hash(content).to_le_bytes() != *crc {
            return None;
        }
        bytes.truncate(bytes.len() - 4);
        Some(bytes)
    }

    /// Keeps something small under a name.
    pub(super) fn keep<T: Serialize>(&self, name: &str, value: &T) -> Result<(), QuantizeError> {
        let bytes = serde_json::to_vec(value).map_err(|e| self.fail(e.into()))?;
        self.write(name, &bytes)
    }

    /// What was kept under a name.
    pub(super) fn kept<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        serde_json::from_slice(&self.read(name)?).ok()
    }

    /// Keeps numbers under a name.
    pub(super) fn keep_numbers(&self, name: &str, numbers: &[f32]) -> Result<(), QuantizeError> {
        self.write(name, &numbers.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>())
    }

    /// Numbers that were kept under a name.
    pub(super) fn kept_numbers(&self, name: &str) -> Option<Vec<f32>> {
        let bytes = self.read(name)?;
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
        let mut keeping = Keeping { tensors: vec![] };
        let record = lower(block, &mut keeping)?.write().to_vec();
        keeping.put(RECORD.to_owned(), Dtype::U8, vec![record.len()], record);
        let (mut formats, mut inputs) = ([block.output.format; 3], [0; 3]);
        for (site, linear) in block.products() {
            formats[site as usize] = linear.format;
            inputs[site as usize] = inputs_code(linear.inputs);
        }
        let about = About { formats, inputs, extra };
        let about = serde_json::to_string(&about).map_err(|e| self.fail(e.into()))?;
        let about = HashMap::from([(ABOUT.to_owned(), about)]);
        let tensors: Vec<(&str, &Tensor<'_>)> =
            keeping.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
        let bytes = safetensors::serialize(tensors, Some(about))
            .map_err(|e| self.fail(std::io::Error::other(e)))?;
        self.write(&Self::name(index), &bytes)
    }

    /// The block of this number, if it was kept. A file that is not whole counts as none.
    pub(super) fn get<T: DeserializeOwned>(&self, index: usize) -> Option<(RoundedBlock, T)> {
        let bytes = self.read(&Self::name(index))?;
        let (_, metadata) = SafeTensors::read_metadata(&bytes).ok()?;
        let about: About<T> =
            serde_json::from_str(metadata.metadata().as_ref()?.get(ABOUT)?).ok()?;
        let kept = Kept { tensors: SafeTensors::deserialize(&bytes).ok()?, about };
        // In words, as records lie in a file.
        let words: Vec<u32> =
            kept.bytes(RECORD).ok()?.as_chunks().0.iter().map(|b| u32::from_ne_bytes(*b)).collect();
        let record = BlockRecord::read(bytemuck::cast_slice(&words))?;
        let block = raise(&record, &kept).ok()?;
        Some((block, kept.about.extra))
    }

    /// Removes the directory, if nothing but files of ours is in it.
    pub(super) fn remove(self) {
        // What cannot be removed is in nobody's way: the next command of this target empties it.
        for name in names(&self.dir).unwrap_or_default().iter().filter(|name| is_ours(name)) {
            let _ = std::fs::remove_file(self.dir.join(name));
        }
        let _ = std::fs::remove_dir(&self.dir);
    }
}

/// Names of what is in a directory.
fn names(dir: &Path) -> std::io::Result<Vec<OsString>> {
    std::fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name())).collect()
}

fn is_ours(name: &OsString) -> bool {
    name.to_str().is_some_and(|name| OURS.iter().any(|begin| name.starts_with(begin)))
}

/// Refuses a directory that no command of ours has made. Links are never followed.
fn refuse_strange(dir: &Path) -> Result<(), QuantizeError> {
    let strange = |what: String| QuantizeError::Strange { dir: dir.to_path_buf(), what };
    let about = |path: &Path| std::fs::symlink_metadata(path);
    if !about(dir).is_ok_and(|about| about.is_dir()) {
        return Err(strange("it is no directory".to_owned()));
    }
    let names = names(dir).map_err(|error| strange(error.to_string()))?;
    for name in &names {
        let ours = is_ours(name) && about(&dir.join(name)).is_ok_and(|about| about.is_file());
        if !ours {
            return Err(strange(format!("it holds {}", name.display())));
        }
    }
    let key = std::fs::read(dir.join(KEY)).unwrap_or_default();
    // A command that was stopped before it had written its key has left nothing else.
    let begun = names.is_empty() || names == [KEY] && SIGN.as_bytes().starts_with(&key);
    match begun || key.starts_with(SIGN.as_bytes()) {
        true => Ok(()),
        false => Err(strange("its file `key` is another program's".to_owned())),
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
