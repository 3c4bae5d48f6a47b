//! `kinglet embed`.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use kinglet_evaluate::cosine;
use kinglet_import::regular::{self, Kind};
use serde_json::json;

use crate::inputs::{Outputs, Reader};
use crate::model::{Source, with_threads};
use crate::task::Task;

/// Turn texts or pictures into vectors
///
/// Prints one line of numbers per input (for a model without pooling, one per token). Texts with
/// the same meaning have vectors with a high cosine: --similarity prints it for every pair.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Texts, or the paths of pictures or recordings, depending on the model
    #[arg(value_name = "TEXT | FILE")]
    inputs: Vec<String>,
    /// A .kinglet file with an encoder
    #[arg(short, long, value_name = "FILE")]
    model: PathBuf,
    /// A file with one text per line
    #[arg(long, value_name = "LINES")]
    file: Option<PathBuf>,
    /// Print the cosine of every pair of inputs
    #[arg(long)]
    similarity: bool,
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

impl Args {
    pub(crate) fn run(self) -> Result<()> {
        let source = Source::open(Some(&self.model))?;
        let model = source.model(Some(&self.model))?;
        Task::Embed.expect(&model, &source.name(Some(&self.model)))?;
        let mut inputs = self.inputs;
        if let Some(path) = &self.file {
            let text = regular::read_to_string(path, Kind::Text)
                .with_context(|| format!("cannot read {}", path.display()))?;
            inputs.extend(text.lines().map(str::to_owned));
        }
        ensure!(!inputs.is_empty(), "nothing to embed: pass texts, or --file LINES");
        let given = Reader::new(&model, self.ids)?.all(&inputs)?;
        let vectors = with_threads(&model, self.threads, Outputs { model, given: &given })?;
        if self.similarity {
            let width = model.outputs();
            ensure!(
                vectors.iter().all(|v| v.len() == width),
                "this model gives a vector per token, not one per text"
            );
            let matrix: Vec<Vec<f64>> =
                vectors.iter().map(|a| vectors.iter().map(|b| cosine(a, b)).collect()).collect();
            if self.json {
                say!("{}", json!({ "inputs": inputs, "similarity": matrix }));
            } else {
                matrix.iter().for_each(|row| {
                    say!("{}", line(row.iter().map(|cosine| format!("{cosine:7.4}"))))
                });
            }
        } else if self.json {
            let each = inputs
                .iter()
                .zip(&vectors)
                .map(|(input, vector)| json!({ "input": input, "vector": vector }));
            say!("{}", serde_json::Value::from_iter(each));
        } else {
            let rows = vectors.iter().flat_map(|vector| vector.chunks(model.outputs()));
            rows.for_each(|row| say!("{}", line(row.iter().map(f32::to_string))));
        }
        Ok(())
    }
}

fn line(numbers: impl Iterator<Item = String>) -> String {
    numbers.collect::<Vec<_>>().join(" ")
}
