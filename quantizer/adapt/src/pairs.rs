//! Pairs of a source and the text that belongs to it, a line each: `picture's path TAB text` or
//! `source text TAB text`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use kinglet::Model;
use kinglet::tokenizer::{Tokenizer, TokenizerError};
use kinglet_import::regular::{self, Kind};
use kinglet_model::Input;

use super::AdaptError;
use kinglet_import::encode;
use kinglet_media::{PictureSettings, Resize};
use kinglet_reference::random::{hash, mixed};

/// What the encoder reads.
#[derive(Debug)]
pub(super) enum Given {
    Tokens(Vec<u32>),
    Picture(PathBuf),
}

/// A source; several pairs may have the same.
#[derive(Debug)]
pub(super) struct Origin {
    /// The line that it is on first.
    pub(super) line: usize,
    /// Follows from what the line says.
    key: u64,
    pub(super) given: Given,
}

/// A source and its text.
#[derive(Debug)]
pub(super) struct Pair {
    /// Which source.
    pub(super) source: usize,
    /// What the decoder is given; the same one later is what it should answer.
    pub(super) tokens: Vec<u32>,
    pub(super) labels: Vec<u32>,
}

/// All pairs of a file.
#[derive(Debug)]
pub(super) struct Pairs {
    path: PathBuf,
    pub(super) sources: Vec<Origin>,
    pub(super) all: Vec<Pair>,
    /// The model's picture.
    picture: Option<PictureSettings>,
    /// The picture has to have its size, as the file does not say how to make it so.
    exact: bool,
}

/// Pairs to learn from, and pairs to score on, by number.
pub(super) struct Split {
    pub(super) seen: Vec<usize>,
    pub(super) held: Vec<usize>,
}

impl Pairs {
    /// Reads them for a model.
    pub(super) fn read(model: &Model<'_>, path: &Path) -> Result<Self, AdaptError> {
        let text = regular::read(path, Kind::Text)
            .map_err(|source| AdaptError::Io { path: path.into(), source })?;
        let text =
            String::from_utf8(text).map_err(|_| AdaptError::NotText { path: path.into() })?;
        let mut pairs =
            Self { path: path.into(), sources: vec![], all: vec![], picture: None, exact: false };
        let reader = Reader::new(model, path, &mut pairs)?;
        let mut known = HashMap::new();
        for (line, row) in
            text.lines().enumerate().map(|(i, row)| (i + 1, row)).filter(|(_, row)| !row.is_empty())
        {
            let mut columns = row.split('\t');
            let (Some(of), Some(text), None) = (columns.next(), columns.next(), columns.next())
            else {
                return Err(pairs.at(line, "is not two columns with a tab between them".into()));
            };
            if of.is_empty() || text.trim().is_empty() {
                return Err(pairs.at(
                    line,
                    format!("has no {}", if of.is_empty() { "source" } else { "text" }),
                ));
            }
            let source = match known.get(of) {
                Some(&number) => number,
                None => {
                    let given = reader.source(of).map_err(|what| pairs.at(line, what))?;
                    pairs.sources.push(Origin { line, key: hash(0, of.as_bytes()), given });
                    known.insert(of, pairs.sources.len() - 1);
                    pairs.sources.len() - 1
                }
            };
            let labels = reader.labels(text).map_err(|what| pairs.at(line, what))?;
            let tokens = [reader.start]
                .into_iter()
                .chain(labels[..labels.len() - 1].iter().copied())
                .collect();
            pairs.all.push(Pair { source, tokens, labels });
        }
        Ok(pairs)
    }

    fn at(&self, line: usize, what: String) -> AdaptError {
        AdaptError::Line { path: self.path.clone(), line, what }
    }

    /// The bytes of a picture.
    pub(super) fn picture(&self, path: &Path, line: usize) -> Result<Vec<u8>, AdaptError> {
        let at = |what: String| self.at(line, what);
        let Some(settings) = &self.picture else { return Err(AdaptError::Reads) };
        if self.exact {
            let decoded = kinglet_media::decode(path)
                .map_err(|e| at(format!("has a picture that cannot be used: {e}")));
            let (bytes, height, width) = decoded?;
            if (height, width) == (settings.height, settings.width) {
                return Ok(bytes);
            } else {
                let (high, wide) = (settings.height, settings.width);
                return Err(at(format!(
                    "has a picture of {width} x {height}; the file does not say how pictures are \
                     resized, so all have to be {wide} x {high}"
                )));
            }
        }
        kinglet_media::picture(path, settings)
            .map_err(|e| at(format!("has a picture that cannot be used: {e}")))
    }

    /// Holds out a part of the sources, at least one, chosen by a hash of each and the seed: pairs
    /// with the same source go together, and other lines change nothing but how many there are.
    pub(super) fn split(&self, part: f64, seed: u64) -> Result<Split, AdaptError> {
        let keys = self.sources.iter().map(|source| mixed(source.key ^ mixed(seed)));
        let mut order: Vec<(u64, usize)> = keys.zip(0..).collect();
        order.sort_unstable();
        if order.len() < 2 {
            return Err(AdaptError::Empty { path: self.path.clone() });
        }
        let count = ((order.len() as f64 * part).round() as usize).clamp(1, order.len() - 1);
        let mut is_held = vec![false; order.len()];
        order[..count].iter().for_each(|&(_, source)| is_held[source] = true);
        let (held, seen) = (0..self.all.len()).partition(|&pair| is_held[self.all[pair].source]);
        Ok(Split { seen, held })
    }
}

/// What turns columns into tokens.
struct Reader<'m> {
    /// Where pictures are looked for.
    folder: PathBuf,
    /// Of sources that are text.
    own: Option<Tokenizer<'m>>,
    /// The most tokens of a source, and of a text.
    contexts: [usize; 2],
    target: Tokenizer<'m>,
    start: u32,
    end: Option<u32>,
    vocab: usize,
}

impl<'m> Reader<'m> {
    /// For a model; says in `pairs` how its pictures are prepared.
    fn new(model: &Model<'m>, path: &Path, pairs: &mut Pairs) -> Result<Self, AdaptError> {
        let tokenizer = |of: Option<Result<Tokenizer<'m>, TokenizerError>>| {
            of.ok_or(AdaptError::NoTokenizer)?.map_err(AdaptError::Tokenizer)
        };
        let first = model.stack(0)?;
        let mut own = None;
        match first.input {
            Input::Tokens { .. } => own = Some(tokenizer(model.tokenizer())?),
            Input::Features { picture: Some(of), .. } if of.channels == 3 => {
                let said = model.metadata().find(|(key, _)| *key == PictureSettings::KEY);
                let (height, width) = (of.height as u32, of.width as u32);
                let settings = PictureSettings { resize: Resize::Keep, height, width };
                pairs.exact = said.is_none();
                pairs.picture = Some(said.map_or(Ok(settings), |(_, text)| text.parse())?);
            }
            Input::Features { .. } => return Err(AdaptError::Reads),
            Input::Queries(_) | Input::States => return Err(AdaptError::NoEncoder),
        }
        let target = tokenizer(model.target_tokenizer())?;
        let known = match model.last()?.input {
            Input::Tokens { embedding, .. } => embedding.matrix.rows(),
            _ => return Err(AdaptError::NoDecoder),
        };
        Ok(Self {
            folder: path.parent().unwrap_or(Path::new("")).into(),
            own,
            contexts: [first.context, model.context()],
            start: model.start().or(target.bos()).unwrap_or(0),
            end: target.eos().next(),
            target,
            vocab: model.outputs().min(known),
        })
    }

    /// The source that a column says, or what is wrong with it.
    fn source(&self, of: &str) -> Result<Given, String> {
        let Some(tokenizer) = &self.own else { return Ok(Given::Picture(self.folder.join(of))) };
        let tokens = encode(tokenizer, of, true)
            .map_err(|e| format!("has a source that cannot be encoded: {e}"))?;
        match tokens.len() {
            found if found == 0 || found > self.contexts[0] => Err(format!(
                "has a source of {found} tokens; the encoder reads 1 to {}",
                self.contexts[0]
            )),
            _ => Ok(Given::Tokens(tokens)),
        }
    }

    /// What the decoder should answer for a column, or what is wrong with it.
    fn labels(&self, text: &str) -> Result<Vec<u32>, String> {
        let labels = encode(&self.target, text, false);
        let mut labels = labels.map_err(|e| format!("has a text that cannot be encoded: {e}"))?;
        labels.extend(self.end);
        let (found, context) = (labels.len(), self.contexts[1]);
        if found == 0 || found > context {
            return Err(format!(
                "has a text of {found} tokens (its end counts); the decoder's context is {context}"
            ));
        }
        match labels.iter().find(|&&token| token as usize >= self.vocab) {
            Some(token) => Err(format!("has token {token}, which the decoder does not have")),
            None => Ok(labels),
        }
    }
}
