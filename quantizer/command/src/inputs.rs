//! What a model is given, from words, pictures and recordings; and what encoders make of it.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use kinglet::Memory;
use kinglet::tokenizer::Tokenizer;
use kinglet::{Isa, Model, Options, Parallel, Plan, Session, Source};
use kinglet_import::encode;
use kinglet_import::regular::{self, Kind};
use kinglet_media::{PictureSettings, SoundSettings, picture, sound};
use kinglet_model::{InPlace, Input, Pooling, Stack};
use kinglet_quantize::cut::Pooled;
use kinglet_reference::{self, Sample};

use crate::model::Work;

/// What is read in one go.
pub(crate) enum Given {
    /// Tokens, and the type of each; no types where all are the first.
    Tokens(Vec<u32>, Vec<u8>),
    Pixels(Vec<u8>),
    Features(Vec<f32>),
}

impl Given {
    pub(crate) fn source(&self) -> Source<'_> {
        match self {
            Self::Tokens(tokens, types) if types.is_empty() => Source::Tokens(tokens),
            Self::Tokens(tokens, types) => Source::Typed(tokens, types),
            Self::Pixels(bytes) => Source::Pixels(bytes),
            Self::Features(numbers) => Source::Features(numbers),
        }
    }

    /// The same for the f32 reference.
    pub(crate) fn sample(self) -> Sample {
        let source = match self {
            Self::Tokens(tokens, types) => {
                let types = types.into_iter().map(u32::from).collect();
                kinglet_reference::Source::Tokens { tokens, types }
            }
            Self::Pixels(bytes) => kinglet_reference::Source::Pixels(bytes),
            Self::Features(numbers) => kinglet_reference::Source::Features(numbers),
        };
        Sample { source, target: vec![] }
    }

    /// Positions that it takes.
    pub(crate) fn rows(&self, stack: &Stack<InPlace<'_>>) -> usize {
        match (self, &stack.input) {
            (Self::Tokens(tokens, _), _) => tokens.len(),
            (Self::Features(numbers), Input::Features { class, .. }) => {
                numbers.len() / stack.features().max(1) + usize::from(class.is_some())
            }
            _ => stack.context,
        }
    }
}

/// Token numbers with commas or spaces between them.
pub(crate) fn token_ids(text: &str) -> Result<Vec<u32>> {
    let numbers = text.split([',', ' ']).filter(|number| !number.is_empty());
    let ids: Result<Vec<u32>, _> = numbers.map(str::parse).collect();
    ids.with_context(|| format!("'{text}' is not a list of token ids, such as 1,2,3"))
}

/// Makes what a model reads of what people write.
pub(crate) struct Reader<'a> {
    model: Model<'a>,
    stack: Stack<InPlace<'a>>,
    tokenizer: Option<Tokenizer<'a>>,
    ids: bool,
}

impl<'a> Reader<'a> {
    /// With `ids`, texts are token numbers.
    pub(crate) fn new(model: &Model<'a>, ids: bool) -> Result<Self> {
        let tokenizer =
            model.tokenizer().transpose().context("cannot read the file's tokenizer")?;
        Ok(Self { model: *model, stack: model.stack(0)?, tokenizer, ids })
    }

    pub(crate) fn all(&self, inputs: &[String]) -> Result<Vec<Given>> {
        inputs.iter().map(|input| self.read(input, None)).collect()
    }

    /// A text and perhaps a second one after it, or the name of a file.
    pub(crate) fn read(&self, input: &str, pair: Option<&str>) -> Result<Given> {
        let path = Path::new(input);
        match &self.stack.input {
            Input::Tokens { types, .. } => self.tokens(input, pair, types.is_some()),
            _ if pair.is_some() => bail!("only models that read text accept pairs: omit --pair"),
            Input::Features { picture: Some(_), .. } => {
                ensure!(
                    path.exists(),
                    "this model reads pictures, but there is no file {input}: pass the path of a \
                     PNG, JPEG or BMP"
                );
                let settings = self.setting(PictureSettings::KEY, "pictures")?.parse()?;
                Ok(Given::Pixels(picture(path, &settings)?))
            }
            Input::Features { .. } => {
                ensure!(
                    path.exists(),
                    "this model reads recordings, but there is no file {input}: pass the path of a \
                     WAV file"
                );
                if path.extension().is_some_and(|extension| extension == "json") {
                    return self.numbers(path);
                }
                let settings = self.setting(SoundSettings::KEY, "recordings")?.parse()?;
                Ok(Given::Features(sound(path, &settings)?))
            }
            _ => bail!("the model reads no input that can be passed here"),
        }
    }

    fn setting(&self, key: &str, what: &str) -> Result<&'a str> {
        let found = self.model.metadata().find(|(name, _)| *name == key);
        found.map(|(_, value)| value).with_context(|| {
            format!(
                "the file does not say how to preprocess {what}: quantize its checkpoint again, or \
                 add --metadata {key}=..."
            )
        })
    }

    fn numbers(&self, path: &Path) -> Result<Given> {
        let name = path.display();
        let text = regular::read_to_string(path, Kind::Text)
            .with_context(|| format!("cannot read {name}"))?;
        let numbers: Vec<f32> = match serde_json::from_str::<Vec<Vec<f32>>>(&text) {
            Ok(rows) => rows.concat(),
            Err(_) => serde_json::from_str(&text)
                .with_context(|| format!("{name} is not a JSON list of numbers"))?,
        };
        let (cols, rows) = (self.stack.features(), self.stack.context);
        ensure!(
            !numbers.is_empty() && numbers.len().is_multiple_of(cols),
            "{name} has {} numbers; expected up to {rows} rows of {cols}",
            numbers.len()
        );
        Ok(Given::Features(numbers))
    }

    fn tokens(&self, text: &str, pair: Option<&str>, types: bool) -> Result<Given> {
        const OTHERS: [&str; 5] = ["png", "jpg", "jpeg", "bmp", "wav"];
        let path = Path::new(text);
        let extension = path.extension().and_then(|extension| extension.to_str());
        if extension.is_some_and(|e| OTHERS.contains(&e.to_lowercase().as_str())) && path.exists() {
            bail!(
                "this model reads text, but {text} is a picture or a recording: pass a text, or \
                 choose another model"
            );
        }
        let encoded = |text: &str, special| match (&self.tokenizer, self.ids) {
            (_, true) => token_ids(text),
            (Some(tokenizer), _) => {
                encode(tokenizer, text, special).context("cannot encode the text")
            }
            (None, _) => bail!(
                "the file has no tokenizer: pass token ids (--ids 1,2,3), or quantize a directory \
                 that has one"
            ),
        };
        let mut tokens = encoded(text, true)?;
        let mut kinds = vec![];
        if let Some(pair) = pair {
            let first = tokens.len();
            tokens.extend(encoded(pair, false)?);
            if !self.ids {
                tokens.extend(self.tokenizer.iter().flat_map(Tokenizer::after));
            }
            if types {
                kinds = (0..tokens.len()).map(|i| u8::from(i >= first)).collect();
            }
        }
        let most = self.stack.context;
        ensure!(!tokens.is_empty(), "the text is empty");
        ensure!(
            tokens.len() <= most,
            "the text has {} tokens, but the model reads at most {most}: shorten it",
            tokens.len()
        );
        Ok(Given::Tokens(tokens, kinds))
    }
}

/// The outputs for each of what is given, of a model that only reads.
pub(crate) struct Outputs<'g, 'a> {
    pub(crate) model: Model<'a>,
    pub(crate) given: &'g [Given],
}

impl Work for Outputs<'_, '_> {
    type Output = Vec<Vec<f32>>;

    fn run<P: Parallel>(self, isa: Isa, parallel: P) -> Result<Self::Output> {
        let Self { model, given } = self;
        let stack = model.stack(0)?;
        let rows = given.iter().map(|given| given.rows(&stack)).max().unwrap_or(1).max(1);
        let options = match model.is_decoder() {
            true => Options {
                context: rows,
                prefill: rows.min(64),
                logits: rows.min(64),
                ..Options::DECODE
            },
            false if model.pooling() == Pooling::None => {
                Options { source: rows, logits: rows, ..Options::of(&model)? }
            }
            false => Options { source: rows, ..Options::of(&model)? },
        };
        let mut memory = Memory::new(Plan::new(&model, options)?.bytes())?;
        let mut session = Session::with(&model, options, memory.bytes(), isa, parallel)?;
        // States of a decoder become one vector here.
        let pooled = Pooled::of(&model);
        let mut one = |given: &Given| match (model.is_decoder(), given) {
            (true, Given::Tokens(tokens, _)) => {
                let mut states = vec![];
                session.rewind(0)?;
                session.feed_each(tokens, |_, state| states.extend_from_slice(state))?;
                Ok(pooled.pool(&states, model.outputs()))
            }
            _ => Ok(session.encode(given.source())?.to_vec()),
        };
        given.iter().map(&mut one).collect()
    }
}
