//! `kinglet embed`.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use kinglet_evaluate::cosine;
use serde_json::json;

use crate::inputs::{Outputs, Reader};
use crate::model::{Source, with_threads};
use crate::task::Task;

/// Turn texts or pictures into vectors
///
/// One line of numbers for each (of a model without pooling, one for each token). Texts that mean
/// the same have vectors of a high cosine: --similarity prints it for each two of them.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Texts; or pictures or recordings, for models that read these
    #[arg(value_name = "TEXT | FILE")]
    inputs: Vec<String>,
    /// A .kinglet file that holds an encoder
    #[arg(short, long, value_name = "FILE")]
    model: PathBuf,
    /// A file with a text on each line
    #[arg(long, value_name = "LINES")]
    file: Option<PathBuf>,
    /// Print the cosine of each two
    #[arg(long)]
    similarity: bool,
    /// Texts are token numbers with commas between them
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
            let text = std::fs::read_to_string(path)
                .with_context(|| format!("cannot read {}", path.display()))?;
            inputs.extend(text.lines().map(str::to_owned));
        }
        ensure!(!inputs.is_empty(), "nothing to embed: give texts, or --file LINES");
        let given = Reader::new(&model, self.ids)?.all(&inputs)?;
        let vectors = with_threads(&model, self.threads, Outputs { model, given: &given })?;
        if self.similarity {
            let width = model.outputs();
            ensure!(
                vectors.iter().all(|v| v.len() == width),
                "this model has a vector for each token and none for a text"
            );
            let matrix: Vec<Vec<f64>> =
                vectors.iter().map(|a| vectors.iter().map(|b| cosine(a, b)).collect()).collect();
            if self.json {
                println!("{}", json!({ "inputs": inputs, "similarity": matrix }));
            } else {
                matrix.iter().for_each(|row| {
                    println!("{}", line(row.iter().map(|cosine| format!("{cosine:7.4}"))))
                });
            }
        } else if self.json {
            let each = inputs
                .iter()
                .zip(&vectors)
                .map(|(input, vector)| json!({ "input": input, "vector": vector }));
            println!("{}", serde_json::Value::from_iter(each));
        } else {
            let rows = vectors.iter().flat_map(|vector| vector.chunks(model.outputs()));
            rows.for_each(|row| println!("{}", line(row.iter().map(f32::to_string))));
        }
        Ok(())
    }
}

fn line(numbers: impl Iterator<Item = String>) -> String {
    numbers.collect::<Vec<_>>().join(" ")
}
