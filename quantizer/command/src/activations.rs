//! `kinglet inspect --activations`.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use kinglet::Memory;
use kinglet::{Isa, Model, Options, Parallel, Plan, Sampler, Sampling, Session};
use kinglet_evaluate::activations::{EVEN, Shape, bimodality};
use kinglet_import::regular::{self, Kind};
use kinglet_model::Input;
use serde::Serialize;

use crate::generate::sampled;
use crate::inputs::{Given, Reader};
use crate::model::{Work, with_threads};

/// The most tokens of an answer whose states are looked at.
const ANSWER: usize = 64;

/// A hidden state: means over the texts.
#[derive(Serialize)]
struct Row {
    state: usize,
    stack: u32,
    /// The block before it; nothing for what enters the stack.
    after: Option<u32>,
    texts: usize,
    entropy: f64,
    normalized_entropy: f64,
    effective_rank: f64,
    curvature: Option<f64>,
    /// Sarle's coefficient of the texts' entropies.
    bimodality: Option<f64>,
}

/// Where a state is, and its width.
struct Place {
    stack: u32,
    after: Option<u32>,
    width: usize,
}

/// Shows the states of a text, of each line of a file, or of a picture or recording.
pub(crate) fn show(model: &Model<'_>, input: &str, json: bool) -> Result<()> {
    let reader = Reader::new(model, false)?;
    let reads_text = matches!(model.stack(0)?.input, Input::Tokens { .. });
    let path = Path::new(input);
    let inputs: Vec<String> = match reads_text && path.is_file() {
        true => {
            let text = regular::read_to_string(path, Kind::Text)
                .with_context(|| format!("cannot read {input}"))?;
            text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
        }
        false => vec![input.to_owned()],
    };
    ensure!(!inputs.is_empty(), "{input} has no lines");
    let given = reader.all(&inputs)?;
    let places = places(model)?;
    let shapes = with_threads(model, 0, Shapes { model, given: &given, places: &places })?;
    let rows: Vec<Row> =
        places.iter().enumerate().map(|(state, place)| row(state, place, &shapes)).collect();
    if json {
        say!("{}", serde_json::to_string_pretty(&rows)?);
        return Ok(());
    }
    say!("state  stack  after    entropy  of most  eff. rank  curvature  modes");
    for row in &rows {
        let after = row.after.map_or("input".to_owned(), |block| format!("block {block}"));
        let curvature = row.curvature.map_or("-".to_owned(), |c| format!("{c:.3}"));
        let modes = row
            .bimodality
            .map_or("-".to_owned(), |b| format!("{b:.3}{}", if b > EVEN { " two?" } else { "" }));
        say!(
            "{:5}  {:5}  {after:8} {:7.3}  {:7.3}  {:9.2}  {curvature:>9}  {modes}",
            row.state,
            row.stack,
            row.entropy,
            row.normalized_entropy,
            row.effective_rank
        );
    }
    Ok(())
}

fn places(model: &Model<'_>) -> Result<Vec<Place>> {
    let mut places = vec![];
    for index in 0..model.stacks() {
        let stack = model.stack(index)?;
        places.push(Place { stack: index, after: None, width: stack.width });
        for block in stack.blocks.0..stack.blocks.1 {
            places.push(Place {
                stack: index,
                after: Some(block),
                width: model.block(block)?.output.matrix.rows(),
            });
        }
    }
    Ok(places)
}

fn row(state: usize, place: &Place, texts: &[Vec<Option<Shape>>]) -> Row {
    let shapes: Vec<Shape> = texts.iter().filter_map(|shapes| shapes[state]).collect();
    let mean = |of: &dyn Fn(&Shape) -> Option<f64>| {
        let all: Vec<f64> = shapes.iter().filter_map(of).collect();
        (!all.is_empty()).then(|| all.iter().sum::<f64>() / all.len() as f64)
    };
    let entropies: Vec<f64> = shapes.iter().map(|shape| shape.entropy).collect();
    Row {
        state,
        stack: place.stack,
        after: place.after,
        texts: shapes.len(),
        entropy: mean(&|s| Some(s.entropy)).unwrap_or(0.0),
        normalized_entropy: mean(&|s| Some(s.normalized)).unwrap_or(0.0),
        effective_rank: mean(&|s| Some(s.effective_rank)).unwrap_or(0.0),
        curvature: mean(&|s| s.curvature),
        bimodality: bimodality(&entropies),
    }
}

/// For each text the shapes of all states.
struct Shapes<'s, 'a> {
    model: &'s Model<'a>,
    given: &'s [Given],
    places: &'s [Place],
}

impl Work for Shapes<'_, '_> {
    type Output = Vec<Vec<Option<Shape>>>;

    fn run<P: Parallel>(self, isa: Isa, parallel: P) -> Result<Self::Output> {
        let Self { model, given, places } = self;
        let stack = model.stack(0)?;
        let rows = given.iter().map(|given| given.rows(&stack)).max().unwrap_or(1);
        let alone = model.is_decoder() && model.stacks() == 1;
        let of = Options::of(model)?;
        let context = if alone { rows } else { ANSWER.min(of.context) };
        // All positions in one run, so that each state is seen whole.
        let options =
            Options { source: if alone { 0 } else { rows }, context, prefill: context, ..of };
        let mut memory = Memory::new(Plan::new(model, options)?.bytes())?;
        let mut session = Session::with(model, options, memory.bytes(), isa, parallel)?;
        let ends: Vec<u32> = match model.target_tokenizer() {
            Some(tokenizer) => tokenizer?.eos().collect(),
            None => vec![],
        };
        let mut texts = vec![];
        for given in given {
            let mut shapes = vec![None; places.len()];
            let mut tap = |state: u32, rows: &[f32]| {
                let state = state as usize;
                shapes[state] = Shape::of(rows, places[state].width);
            };
            let target = match given {
                Given::Tokens(tokens, _) if alone => {
                    session.rewind(0)?;
                    tokens.clone()
                }
                _ => {
                    session.begin_source(given.source())?;
                    session.resume_tapped(u64::MAX, &mut tap)?;
                    vec![]
                }
            };
            let target = match model.is_decoder() && !alone {
                // The states of a decoder are those of the answer.
                true => {
                    let start = model.start().unwrap_or(0);
                    let answer = sampled(
                        &mut session,
                        &mut Sampler::new(Sampling::GREEDY, 0),
                        start,
                        &ends,
                    )?;
                    session.rewind(0)?;
                    [&[start], &answer[..answer.len().min(context - 1)]].concat()
                }
                false => target,
            };
            if !target.is_empty() {
                session.begin(&target, 1)?;
                session.resume_tapped(u64::MAX, &mut tap)?;
            }
            texts.push(shapes);
        }
        Ok(texts)
    }
}
