//! Settings of a JSON object, read as what they should be.
//!
//! `null` counts as absent, as it does for almost every setting of
//! `transformers`; the exceptions ask [`Fields::is_null`]. Numbers are bounded
//! where they are read, so that no later product of two of them can be large
//! enough to surprise (sizes stay below 2^24, and products are checked on top).

use std::io::Read;
use std::path::Path;

use serde_json::{Map, Value};

use super::CheckpointError;
use super::error::abbreviate;
use super::file;

/// Bytes of config.json and of other settings.
pub(super) const CONFIG_LIMIT: u64 = 1 << 20;
/// The largest width, vocabulary, context or head count accepted.
pub(super) const MAX_SIZE: usize = 1 << 24;

/// Reads a JSON object of at most `limit` bytes.
pub(super) fn read_object(path: &Path, limit: u64) -> Result<Map<String, Value>, CheckpointError> {
    read_json(path, limit)
}

fn read_json<T: serde::de::DeserializeOwned>(
    path: &Path,
    limit: u64,
) -> Result<T, CheckpointError> {
    let (file, bytes) = file::open(path)?;
    if bytes > limit {
        return Err(CheckpointError::JsonTooLong { path: path.to_owned(), bytes, limit });
    }
    let mut text = Vec::new();
    // `take`: the file may grow between the two calls.
    file.take(limit)
        .read_to_end(&mut text)
        .map_err(|source| CheckpointError::Io { path: path.to_owned(), source })?;
    serde_json::from_slice(&text)
        .map_err(|source| CheckpointError::Json { path: path.to_owned(), source })
}

/// Reads a JSON list of at most `limit` bytes.
pub(super) fn read_list(path: &Path, limit: u64) -> Result<Vec<Value>, CheckpointError> {
    read_json(path, limit)
}

/// How the source of some settings spells the names of config.json.
pub(super) type Spelling = dyn Fn(&str) -> String;

/// A view of one JSON object that knows where it came from.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a> {
    map: &'a Map<String, Value>,
    file: &'static str,
    prefix: &'static str,
    spelling: Option<&'a Spelling>,
}

impl<'a> Fields<'a> {
    /// The settings of `map`, which is the object in `file`.
    pub(super) fn new(map: &'a Map<String, Value>, file: &'static str) -> Self {
        Self { map, file, prefix: "", spelling: None }
    }

    /// The same settings, named in errors as their source spells them.
    pub(super) fn spelled(self, spelling: &'a Spelling) -> Self {
        Self { spelling: Some(spelling), ..self }
    }

    /// The value of `key` unless absent or null.
    pub(super) fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    /// Whether `key` is there and null.
    pub(super) fn is_null(&self, key: &str) -> bool {
        self.map.get(key).is_some_and(Value::is_null)
    }

    /// All values, for checks across them.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&'a String, &'a Value)> {
        self.map.iter()
    }

    /// The object under `key`, unless absent, null or empty; its settings are
    /// named in errors as `prefix` and key.
    pub(super) fn object(
        &self,
        key: &'static str,
        prefix: &'static str,
    ) -> Result<Option<Fields<'a>>, CheckpointError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Object(map)) if map.is_empty() => Ok(None),
            Some(Value::Object(map)) => Ok(Some(Fields { map, prefix, ..*self })),
            Some(_) => Err(self.bad(key, "an object")),
        }
    }

    /// A whole number from 1 to `most`.
    pub(super) fn size(&self, key: &str, most: usize) -> Result<Option<usize>, CheckpointError> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        match value.as_u64().and_then(|n| usize::try_from(n).ok()) {
            Some(n) if (1..=most).contains(&n) => Ok(Some(n)),
            _ => Err(self.bad(key, &format!("a whole number from 1 to {most}"))),
        }
    }

    /// A size that has no default.
    pub(super) fn required_size(&self, key: &str, most: usize) -> Result<usize, CheckpointError> {
        self.size(key, most)?
            .ok_or_else(|| self.missing(key, &format!("a whole number from 1 to {most}")))
    }

    /// A finite number.
    pub(super) fn number(&self, key: &str) -> Result<Option<f64>, CheckpointError> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        match value.as_f64() {
            Some(x) if x.is_finite() => Ok(Some(x)),
            _ => Err(self.bad(key, "a number")),
        }
    }

    /// A finite number above zero.
    pub(super) fn positive(&self, key: &str) -> Result<Option<f64>, CheckpointError> {
        match self.number(key)? {
            Some(x) if x <= 0.0 => Err(self.bad(key, "a number above zero")),
            other => Ok(other),
        }
    }

    /// A list of exactly `count` finite numbers above zero.
    pub(super) fn positives(&self, key: &str, count: usize) -> Result<Vec<f64>, CheckpointError> {
        let expected = format!("a list of {count} numbers above zero, one for each rotated pair");
        let value = self.get(key).ok_or_else(|| self.missing(key, &expected))?;
        let items = value.as_array().filter(|items| items.len() == count);
        items
            .and_then(|items| {
                items
                    .iter()
                    .map(|item| item.as_f64().filter(|x| x.is_finite() && *x > 0.0))
                    .collect()
            })
            .ok_or_else(|| self.bad(key, &expected))
    }

    /// True or false.
    pub(super) fn flag(&self, key: &str) -> Result<Option<bool>, CheckpointError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(_) => Err(self.bad(key, "true or false")),
        }
    }

    /// A string.
    pub(super) fn text(&self, key: &str) -> Result<Option<&'a str>, CheckpointError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.bad(key, "a string")),
        }
    }

    /// `key` is missing.
    pub(super) fn missing(&self, key: &str, expected: &str) -> CheckpointError {
        CheckpointError::MissingField {
            file: self.file,
            field: self.name(key),
            expected: expected.to_owned(),
        }
    }

    /// `key` makes no sense.
    pub(super) fn bad(&self, key: &str, expected: &str) -> CheckpointError {
        CheckpointError::BadField {
            file: self.file,
            field: self.name(key),
            value: self.show(key),
            expected: expected.to_owned(),
        }
    }

    /// `key` asks for something that is not supported.
    pub(super) fn unsupported(&self, key: &str, supported: &str) -> CheckpointError {
        CheckpointError::Unsupported {
            file: self.file,
            field: self.name(key),
            value: self.show(key),
            supported: supported.to_owned(),
        }
    }

    fn name(&self, key: &str) -> String {
        match self.spelling {
            Some(spelling) => abbreviate(&spelling(key)),
            None => format!("{}{}", self.prefix, abbreviate(key)),
        }
    }

    fn show(&self, key: &str) -> String {
        match self.map.get(key) {
            None => "absent".to_owned(),
            Some(value) => abbreviate(&value.to_string()),
        }
    }
}
