//! The golden sequence: the finished file is opened and run as a device would, and its answer is
//! put into it.

use std::path::Path;

use kinglet::tokenizer::Tokenizer;
use kinglet::{
    Golden, Isa, LogitsHash, Map, Model, Plan, Progress, Serial, Session, Source, argmax,
};

use crate::{Options, QuantizeError};

use kinglet::Memory;
use kinglet_import::checkpoint::{Architecture, Block, Input, embedding};
use kinglet_model::write::Finished;

/// What the model is given, and how long its answer is.
#[derive(Debug, Default)]
pub struct Question {
    /// Rows of the source, and its tokens if it reads tokens.
    rows: usize,
    source: Vec<u32>,
    /// Tokens of the target; those of a lone decoder begin with the text.
    prompt: Vec<u32>,
    answer: usize,
}

impl From<&Golden<'_>> for Question {
    /// The question that a file was asked before.
    fn from(of: &Golden<'_>) -> Self {
        let (source, prompt) = (of.source.to_vec(), of.prompt.to_vec());
        Self { rows: of.rows, source, prompt, answer: of.answer.len() }
    }
}

impl Question {
    /// Tokens of the golden sequence; 0: there is none.
    pub fn tokens(&self) -> usize {
        self.source.len() + self.prompt.len() + self.answer
    }

    fn is_empty(&self) -> bool {
        self.rows == 0 && self.prompt.is_empty()
    }
}

/// The text of the options or, without a tokenizer, the first few tokens of the vocabulary; a
/// pattern where the model reads no tokens. Empty when no golden sequence is wanted or fits.
pub(crate) fn question(
    tokenizer: &[u8],
    architecture: &Architecture,
    options: &Options,
) -> Option<Question> {
    let (first, last) = (architecture.first(), architecture.last());
    let causal = |block: &Block| block.attention().is_some_and(|a| a.mask.is_causal());
    let alone = architecture.stacks.len() == 1;
    let answers = embedding(last).is_some() && (!alone || last.blocks.iter().any(causal));
    let mut question = Question::default();
    let text = |vocab: usize, most: usize| {
        let encoded = Tokenizer::parse(tokenizer)
            .ok()
            .and_then(|t| kinglet_import::encode(&t, &options.prompt, true).ok());
        let mut tokens = encoded.unwrap_or_else(|| (0..5).map(|i| i % vocab as u32).collect());
        tokens.retain(|&t| (t as usize) < vocab);
        tokens.truncate(most);
        tokens
    };
    if options.golden == 0 {
        return None;
    }
    if !(alone && answers) {
        match &first.input {
            Input::Tokens { embedding, .. } => {
                question.source = text(embedding.rows(), first.context);
                question.rows = question.source.len();
            }
            Input::Features { picture: Some(picture), .. } => question.rows = picture.patches(),
            Input::Features { class, .. } => {
                question.rows = first.context - usize::from(class.is_some())
            }
            Input::Queries(_) | Input::States => {}
        }
    }
    if answers {
        if last.context < 2 {
            return None;
        }
        question.prompt = match alone {
            true => text(architecture.vocab(), last.context / 2),
            false => vec![architecture.start.or(architecture.bos).unwrap_or(0)],
        };
        question.answer = options.golden.min(last.context - question.prompt.len());
    }
    (!question.is_empty()).then_some(question)
}

/// Multiply-accumulates between two releases of the map: some 100 MB of weights for one token.
const PIECE: u64 = 1 << 27;

/// Runs the file and adds its answers.
///
/// # Errors
///
/// When the file cannot be opened or run, and when the answers cannot be written.
pub fn add(file: &mut Finished, questions: &[Question]) -> Result<(), QuantizeError> {
    let path = file.path().to_path_buf();
    let fail = |what: &dyn std::fmt::Display| QuantizeError::check(&path, what);
    let answers = answers(&path, questions).map_err(|e| fail(&e))?;
    let goldens = questions.iter().zip(&answers).map(
        |(Question { rows, source, prompt, .. }, (answer, hash))| Golden {
            rows: *rows,
            source,
            prompt,
            answer,
            hash: *hash,
        },
    );
    Ok(file.golden(&goldens.collect::<Vec<_>>())?)
}

/// The answers of a file that was written to the end.
#[allow(unsafe_code, reason = "the file may be larger than what can be had of memory")]
fn answers(path: &Path, questions: &[Question]) -> Result<Vec<(Vec<u32>, u64)>, String> {
    // SAFETY: nobody changes the file as long as the map exists. This process made it, under a name
    // that the system chose at random and with permissions for its own user alone; it has no other
    // name before it is renamed; and what `Finished` adds to it is added when this function has
    // returned and the map is gone.
    let map = unsafe { Map::open(path) }.map_err(said)?;
    let model = Model::open(&map).map_err(said)?;
    questions.iter().map(|of| answer(&map, &model, of)).collect()
}

/// The answer to a question, and the hash of its logits.
fn answer(map: &Map, model: &Model<'_>, question: &Question) -> Result<(Vec<u32>, u64), String> {
    let options = kinglet::Options::of(model).map_err(said)?;
    let options = kinglet::Options {
        context: (question.prompt.len() + question.answer).max(1),
        prefill: question.prompt.len().max(1),
        ..options
    };
    let mut memory = Memory::new(Plan::new(model, options).map_err(said)?.bytes()).map_err(said)?;
    let session = Session::with(model, options, memory.bytes(), Isa::detect(), Serial);
    let mut session = session.map_err(said)?;
    // In pieces, so that the weights of a large model are not all in memory at once.
    let run = |session: &mut Session<'_, '_>| {
        while session.resume(PIECE)? == Progress::Pending {
            map.release();
        }
        Ok::<(), kinglet::RunError>(())
    };
    let (mut tokens, mut hash) = (vec![], LogitsHash::default());
    if question.rows > 0 {
        let source = match &question.source[..] {
            [] => Source::Pattern(question.rows),
            tokens => Source::Tokens(tokens),
        };
        session.begin_source(source).and_then(|()| run(&mut session)).map_err(said)?;
        hash.update(session.logits());
    }
    let mut next = question.prompt.clone();
    for _ in 0..question.answer {
        session.begin(&next, 1).and_then(|()| run(&mut session)).map_err(said)?;
        let logits = session.logits();
        hash.update(logits);
        tokens.push(argmax(logits));
        next = tokens[tokens.len() - 1..].to_vec();
    }
    Ok((tokens, hash.value()))
}

fn said(error: impl std::fmt::Display) -> String {
    error.to_string()
}
