//! The header of a GGUF file: metadata, and where the tensors are.
//!
//! ```text
//! "GGUF"  version: u32  tensors: u64  keys: u64
//! keys x     (key: string, type: u32, value)           string: length u64, UTF-8
//! tensors x  (name: string, n: u32, dimensions: n x u64, type: u32, offset: u64)
//! padding to the alignment
//! data
//! ```
//!
//! Long lists (a vocabulary) are passed over and read when they are asked for.
//! Afterwards each tensor is known to lie within the file, at a multiple of the
//! alignment and apart from the others, with rows of whole blocks.

use std::collections::BTreeMap;

use super::super::CheckpointError;
use super::super::element::Element;
use super::super::error::abbreviate;
use super::super::file::PositionedFile;
use super::super::tensors::Stored;
use super::cursor::Cursor;

const MAGIC: [u8; 4] = *b"GGUF";
/// More than any model has, in keys and in tensors; the runtime's own limit for the latter.
const MOST: u64 = 1 << 16;
/// Dimensions of a tensor.
const MOST_DIMENSIONS: u32 = 4;
const ALIGNMENT: &str = "general.alignment";
const DEFAULT_ALIGNMENT: u64 = 32;

/// The types of tensors that are not read, for messages.
const OTHER_TYPES: &[(u32, &str)] = &[
    (9, "Q8_1"),
    (10, "Q2_K"),
    (11, "Q3_K"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (28, "F64"),
    (29, "IQ1_M"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (39, "MXFP4"),
    (40, "NVFP4"),
];

/// A value of the metadata.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Flag(bool),
    Text(String),
    List(List),
}

/// A list of the metadata, by its place.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct List {
    pub(super) item: u32,
    pub(super) count: u64,
    pub(super) at: u64,
}

/// The metadata.
pub(super) type Metadata = BTreeMap<String, Value>;

/// The types of values.
pub(super) mod kind {
    pub(in super::super) const U8: u32 = 0;
    pub(in super::super) const I8: u32 = 1;
    pub(in super::super) const U16: u32 = 2;
    pub(in super::super) const I16: u32 = 3;
    pub(in super::super) const U32: u32 = 4;
    pub(in super::super) const I32: u32 = 5;
    pub(in super::super) const F32: u32 = 6;
    pub(in super::super) const BOOL: u32 = 7;
    pub(in super::super) const TEXT: u32 = 8;
    pub(in super::super) const LIST: u32 = 9;
    pub(in super::super) const U64: u32 = 10;
    pub(in super::super) const I64: u32 = 11;
    pub(in super::super) const F64: u32 = 12;
}

/// Reads and checks a header.
pub(super) fn read(
    file: &PositionedFile,
) -> Result<(Metadata, BTreeMap<String, Stored>), CheckpointError> {
    let mut cursor = Cursor::new(file, 0);
    if cursor.left() < 4 || cursor.bytes()? != MAGIC {
        return Err(CheckpointError::NotACheckpoint { path: file.path().to_owned() });
    }
    version(cursor.u32()?, file)?;
    let (tensors, keys) = (count(&mut cursor, "tensors")?, count(&mut cursor, "keys")?);
    let mut metadata = Metadata::new();
    for _ in 0..keys {
        let key = cursor.text()?;
        let kind = cursor.u32()?;
        let value = value(&mut cursor, kind)?;
        if metadata.contains_key(&key) {
            return Err(cursor.wrong(format!("the key `{}` is there twice", abbreviate(&key))));
        }
        metadata.insert(key, value);
    }
    let mut infos = BTreeMap::new();
    for _ in 0..tensors {
        let (name, info) = info(&mut cursor, file)?;
        if infos.contains_key(&name) {
            return Err(cursor.wrong(format!("tensor `{}` is there twice", abbreviate(&name))));
        }
        infos.insert(name, info);
    }
    place(&mut infos, &metadata, &cursor)?;
    Ok((metadata, infos))
}

fn version(found: u32, file: &PositionedFile) -> Result<(), CheckpointError> {
    let refuse = |found, instead| {
        Err(CheckpointError::GgufVersion { path: file.path().to_owned(), found, instead })
    };
    match found {
        2 | 3 => Ok(()),
        1 => refuse(1, "2 and 3 are; convert the model again with a newer llama.cpp"),
        _ if (1..=0xffff).contains(&found.swap_bytes()) => refuse(
            found.swap_bytes(),
            "its numbers are big-endian, little-endian ones are read; convert the model again",
        ),
        _ => refuse(found, "2 and 3 are; fetch a file of one of these"),
    }
}

fn count(cursor: &mut Cursor<'_>, what: &str) -> Result<u64, CheckpointError> {
    match cursor.u64()? {
        count if count <= MOST => Ok(count),
        count => {
            Err(cursor.wrong(format!("{count} {what} are more than the {MOST} that any model has")))
        }
    }
}

/// Reads one value, or passes over a list.
fn value(cursor: &mut Cursor<'_>, kind: u32) -> Result<Value, CheckpointError> {
    Ok(match kind {
        kind::U8 => Value::Unsigned(u8::from_le_bytes(cursor.bytes()?).into()),
        kind::I8 => Value::Signed(i8::from_le_bytes(cursor.bytes()?).into()),
        kind::U16 => Value::Unsigned(u16::from_le_bytes(cursor.bytes()?).into()),
        kind::I16 => Value::Signed(i16::from_le_bytes(cursor.bytes()?).into()),
        kind::U32 => Value::Unsigned(cursor.u32()?.into()),
        kind::I32 => Value::Signed(i32::from_le_bytes(cursor.bytes()?).into()),
        kind::F32 => Value::Float(f32::from_le_bytes(cursor.bytes()?).into()),
        kind::U64 => Value::Unsigned(cursor.u64()?),
        kind::I64 => Value::Signed(i64::from_le_bytes(cursor.bytes()?)),
        kind::F64 => Value::Float(f64::from_le_bytes(cursor.bytes()?)),
        kind::BOOL => match cursor.bytes()? {
            [0] => Value::Flag(false),
            [1] => Value::Flag(true),
            [byte] => return Err(cursor.wrong(format!("a flag is {byte}, neither 0 nor 1"))),
        },
        kind::TEXT => Value::Text(cursor.text()?),
        kind::LIST => Value::List(list(cursor)?),
        _ => return Err(cursor.wrong(format!("values of type {kind} are unknown"))),
    })
}

fn list(cursor: &mut Cursor<'_>) -> Result<List, CheckpointError> {
    let (item, count) = (cursor.u32()?, cursor.u64()?);
    let list = List { item, count, at: cursor.at() };
    let size = match item {
        kind::U8 | kind::I8 | kind::BOOL => 1,
        kind::U16 | kind::I16 => 2,
        kind::U32 | kind::I32 | kind::F32 => 4,
        kind::U64 | kind::I64 | kind::F64 => 8,
        kind::TEXT => {
            for _ in 0..count {
                let length = cursor.u64()?;
                cursor.skip(length)?;
            }
            return Ok(list);
        }
        _ => return Err(cursor.wrong(format!("lists of values of type {item} are not read"))),
    };
    cursor.skip(count.saturating_mul(size))?;
    Ok(list)
}

/// Reads where one tensor is; the offset is still that from the start of the data.
fn info(
    cursor: &mut Cursor<'_>,
    file: &PositionedFile,
) -> Result<(String, Stored), CheckpointError> {
    let name = cursor.text()?;
    let dimensions = cursor.u32()?;
    if !(1..=MOST_DIMENSIONS).contains(&dimensions) {
        return Err(
            cursor.wrong(format!("tensor `{}` has {dimensions} dimensions", abbreviate(&name)))
        );
    }
    let mut shape = Vec::new();
    for _ in 0..dimensions {
        let size = cursor.u64()?;
        let size = usize::try_from(size).ok().filter(|size| *size > 0);
        shape.push(size.ok_or_else(|| {
            cursor.wrong(format!("tensor `{}` has an absurd size", abbreviate(&name)))
        })?);
    }
    // The file has the numbers of a row first.
    shape.reverse();
    let kind = cursor.u32()?;
    let Some(element) = element(kind) else {
        let known = OTHER_TYPES.iter().find(|(other, _)| *other == kind);
        let found = known.map_or_else(|| kind.to_string(), |(_, name)| (*name).to_owned());
        return Err(CheckpointError::GgufType {
            path: file.path().to_owned(),
            tensor: abbreviate(&name),
            found,
        });
    };
    if shape.last().is_none_or(|cols| !cols.is_multiple_of(element.numbers())) {
        let problem = format!(
            "rows of tensor `{}` {shape:?} are no whole blocks of its type",
            abbreviate(&name)
        );
        return Err(cursor.wrong(problem));
    }
    let offset = cursor.u64()?;
    Ok((name, Stored { file: 0, offset, element: Ok(element), shape }))
}

fn element(kind: u32) -> Option<Element> {
    Some(match kind {
        0 => Element::F32,
        1 => Element::F16,
        2 => Element::Q4_0,
        3 => Element::Q4_1,
        6 => Element::Q5_0,
        7 => Element::Q5_1,
        8 => Element::Q8_0,
        12 => Element::Q4K,
        13 => Element::Q5K,
        14 => Element::Q6K,
        20 => Element::Iq4Nl,
        30 => Element::Bf16,
        _ => return None,
    })
}

/// Turns offsets into places in the file, and checks these.
fn place(
    infos: &mut BTreeMap<String, Stored>,
    metadata: &Metadata,
    cursor: &Cursor<'_>,
) -> Result<(), CheckpointError> {
    let alignment = match metadata.get(ALIGNMENT) {
        None => DEFAULT_ALIGNMENT,
        Some(Value::Unsigned(alignment)) if alignment.is_power_of_two() => *alignment,
        Some(other) => {
            return Err(cursor.wrong(format!("`{ALIGNMENT}` is {other:?}, not a power of two")));
        }
    };
    let data = cursor.at().checked_next_multiple_of(alignment).unwrap_or(u64::MAX);
    let end = cursor.at().saturating_add(cursor.left());
    let mut places = Vec::with_capacity(infos.len());
    for (name, info) in infos {
        let wrong =
            |problem: &str| cursor.wrong(format!("tensor `{}` {problem}", abbreviate(name)));
        if !info.offset.is_multiple_of(alignment) {
            return Err(wrong("does not begin at a multiple of the alignment"));
        }
        let last = bytes(info).and_then(|bytes| data.checked_add(info.offset)?.checked_add(bytes));
        match last {
            Some(last) if last <= end => {
                info.offset = info.offset.saturating_add(data);
                places.push((info.offset, last, name));
            }
            _ => return Err(wrong("reaches beyond the end of the file: the download was cut")),
        }
    }
    places.sort_unstable();
    for (first, second) in places.iter().zip(places.iter().skip(1)) {
        if second.0 < first.1 {
            let (first, second) = (abbreviate(first.2), abbreviate(second.2));
            return Err(cursor.wrong(format!("tensors `{first}` and `{second}` overlap")));
        }
    }
    Ok(())
}

/// Bytes of a tensor, unless there are too many to count.
fn bytes(info: &Stored) -> Option<u64> {
    let element = info.element.as_ref().ok()?;
    let numbers = info
        .shape
        .iter()
        .try_fold(1_u64, |all, size| all.checked_mul(u64::try_from(*size).ok()?))?;
    (numbers / element.numbers() as u64).checked_mul(element.bytes() as u64)
}
