//! `kinglet classify`.

use std::path::PathBuf;

use anyhow::{Context, Result};
use kinglet::Model;
use kinglet_quantize::LABELS;
use serde::Serialize;

use crate::inputs::{Outputs, Reader};
use crate::model::{Source, with_threads};
use crate::task::Task;

/// Classify a text, a picture or a recording
///
/// Prints labels and their probabilities, the most probable first. Labels without a name in the
/// file are numbered.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// A text, a picture (PNG, JPEG, BMP) or a recording (WAV, or its features as JSON rows),
    /// depending on the model
    #[arg(value_name = "TEXT | FILE", required = true)]
    inputs: Vec<String>,
    /// A .kinglet file with a classifier
    #[arg(short, long, value_name = "FILE")]
    model: PathBuf,
    /// A second text, for models that compare two
    #[arg(long, value_name = "TEXT")]
    pair: Option<String>,
    /// Number of labels to print
    #[arg(long, value_name = "N", default_value_t = 5)]
    top: usize,
    /// Read texts as token ids, separated by commas
    #[arg(long)]
    ids: bool,
    /// Threads; 0 chooses by the model's size
    #[arg(long, value_name = "N", default_value_t = 0)]
    threads: usize,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Answer<'a> {
    input: &'a str,
    labels: Vec<Label<'a>>,
}

#[derive(Serialize)]
struct Label<'a> {
    label: &'a str,
    index: usize,
    probability: f64,
}

impl Args {
    pub(crate) fn run(self) -> Result<()> {
        let source = Source::open(Some(&self.model))?;
        let model = source.model(Some(&self.model))?;
        Task::Classify.expect(&model, &source.name(Some(&self.model)))?;
        let names = names(&model)?;
        let reader = Reader::new(&model, self.ids)?;
        let given = self.inputs.iter().map(|input| reader.read(input, self.pair.as_deref()));
        let given = given.collect::<Result<Vec<_>>>()?;
        let logits = with_threads(&model, self.threads, Outputs { model, given: &given })?;
        let answers = self.inputs.iter().zip(&logits);
        let answers: Vec<_> = answers
            .map(|(input, l)| Answer { input, labels: ranked(l, &names, self.top) })
            .collect();
        if self.json {
            say!("{}", serde_json::to_string_pretty(&answers)?);
            return Ok(());
        }
        for answer in &answers {
            if answers.len() > 1 {
                say!("{}", answer.input);
            }
            answer.labels.iter().for_each(|l| say!("{:8.4}  {}", l.probability, l.label));
        }
        Ok(())
    }
}

/// The names of the outputs.
fn names(model: &Model<'_>) -> Result<Vec<String>> {
    let mut names = match model.metadata().find(|(key, _)| *key == LABELS) {
        Some((_, list)) => {
            serde_json::from_str(list).context("the file's labels are not a JSON list of names")?
        }
        None => vec![],
    };
    names.extend((names.len()..model.outputs()).map(|index| format!("label {index}")));
    Ok(names)
}

/// The most probable, first those.
fn ranked<'a>(logits: &[f32], names: &'a [String], top: usize) -> Vec<Label<'a>> {
    let largest = logits.iter().fold(f64::NEG_INFINITY, |m, &x| m.max(x.into()));
    let weights: Vec<f64> = logits.iter().map(|&x| (f64::from(x) - largest).exp()).collect();
    let sum: f64 = weights.iter().sum();
    let each = weights.iter().zip(names).enumerate();
    let mut labels: Vec<_> = each
        .map(|(index, (weight, label))| Label { label, index, probability: weight / sum })
        .collect();
    labels.sort_by(|a, b| b.probability.total_cmp(&a.probability));
    labels.truncate(top);
    labels
}
