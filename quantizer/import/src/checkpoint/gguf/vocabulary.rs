//! The tokenizer's part of the metadata: which key is what.

use super::super::CheckpointError;
use super::super::file::PositionedFile;
use super::cursor::Cursor;
use super::header::{List, Metadata, Value, kind};
use crate::tokenizer::TokenizerImportError as Error;
use crate::tokenizer::gguf::{self, Parts};

const PREFIX: &str = "tokenizer.ggml.";
/// What files without a tokenizer say.
const NO_MODEL: [&str; 2] = ["no_vocab", "none"];

/// The tokenizer section; empty if there is no tokenizer.
pub(super) fn import(metadata: &Metadata, file: &PositionedFile) -> Result<Vec<u8>, Error> {
    let keys = Keys { metadata, file };
    let Some(model) = keys.text("model")?.filter(|model| !NO_MODEL.contains(&model.as_str()))
    else {
        return Ok(Vec::new());
    };
    gguf::import(&Parts {
        model,
        pre: keys.text("pre")?,
        tokens: keys.texts("tokens")?,
        scores: keys.numbers("scores", kind::F32, f32::from_le_bytes)?,
        types: keys.numbers("token_type", kind::I32, i32::from_le_bytes)?,
        merges: keys.texts("merges")?,
        bos: keys.id("bos_token_id")?,
        ends: ["eos_token_id", "eot_token_id", "eom_token_id"]
            .map(|key| keys.id(key))
            .into_iter()
            .collect::<Result<_, _>>()?,
        unknown: keys.id("unknown_token_id")?,
        padding: keys.id("padding_token_id")?,
        add_bos: keys.flag("add_bos_token")?,
        add_eos: keys.flag("add_eos_token")?,
        add_space_prefix: keys.flag("add_space_prefix")?,
    })
}

struct Keys<'m> {
    metadata: &'m Metadata,
    file: &'m PositionedFile,
}

impl Keys<'_> {
    fn get(&self, key: &str) -> Option<&Value> {
        self.metadata.get(&format!("{PREFIX}{key}"))
    }

    fn text(&self, key: &str) -> Result<Option<String>, Error> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Text(text)) => Ok(Some(text.clone())),
            Some(_) => Err(bad(key, "a string")),
        }
    }

    fn flag(&self, key: &str) -> Result<Option<bool>, Error> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Flag(flag)) => Ok(Some(*flag)),
            Some(_) => Err(bad(key, "true or false")),
        }
    }

    fn id(&self, key: &str) -> Result<Option<u32>, Error> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Unsigned(id)) => {
                u32::try_from(*id).map(Some).map_err(|_| bad(key, "a token"))
            }
            Some(_) => Err(bad(key, "a token")),
        }
    }

    /// The strings of a list, none if it is not there.
    fn texts(&self, key: &str) -> Result<Vec<String>, Error> {
        self.list(key, kind::TEXT, Cursor::text)
    }

    /// The numbers of a list, none if it is not there.
    fn numbers<T, const N: usize>(
        &self,
        key: &str,
        item: u32,
        number: fn([u8; N]) -> T,
    ) -> Result<Vec<T>, Error> {
        self.list(key, item, |cursor| cursor.bytes().map(number))
    }

    fn list<'f, T>(
        &'f self,
        key: &str,
        wanted: u32,
        mut next: impl FnMut(&mut Cursor<'f>) -> Result<T, CheckpointError>,
    ) -> Result<Vec<T>, Error> {
        let (count, at) = match self.get(key) {
            None => return Ok(Vec::new()),
            Some(Value::List(List { item, count, at })) if *item == wanted => (*count, *at),
            Some(_) => return Err(bad(key, "a list of strings, f32 (scores) or i32 (types)")),
        };
        let mut cursor = Cursor::new(self.file, at);
        // The header's reader has passed over as many; still, nothing is reserved by the number
        // alone.
        let mut found = Vec::new();
        for _ in 0..count {
            found.push(next(&mut cursor).map_err(|source| Error::Source(Box::new(source)))?);
        }
        Ok(found)
    }
}

fn bad(key: &str, expected: &str) -> Error {
    Error::bad(&format!("{PREFIX}{key}"), format!("expected {expected}; convert the model again"))
}
