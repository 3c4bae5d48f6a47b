//! `kinglet report`: measures a file beside its checkpoint, and writes the page.

mod facts;
mod prompts;
mod speed;

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use kinglet::Model;
use kinglet_evaluate::Protocol;
use kinglet_import::regular::{self, Kind};
use kinglet_quantize::record_path;
use kinglet_reference::Reference;
use kinglet_report::{Agreed, Quality, Record, Report, Text, html};

use crate::eval::{Files, cannot_import, measure, open_reference};
use crate::model::with_threads;
use crate::outputs;
use crate::protocol::On;
use crate::task::Task;

/// Write a page about a file: what was done to it, and what that cost
///
/// Measures FILE (and the files given with --against) as `kinglet eval` does, continues ten prompts
/// with the f32 checkpoint and with FILE, and times decoding once the file's golden answer has been
/// reproduced bit for bit. What the quantizer recorded is read from the .json beside the file. The
/// page is a single HTML file without scripts or external resources.
///
/// For all but language models, --text names a file with one input per line (see `kinglet eval
/// --help`), and the page shows how close the outputs are to the checkpoint's.
///
/// FILE may also be a report in JSON, as --json prints it, which is rendered as is.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The .kinglet file, or a report as .json
    file: PathBuf,
    #[command(flatten)]
    on: On,
    /// The checkpoint that the file was made from
    #[arg(long, value_name = "DIR")]
    reference: Option<PathBuf>,
    /// Another file to show for comparison; may be repeated
    #[arg(long, value_name = "FILE")]
    against: Vec<PathBuf>,
    /// The page to write; by default report.html, or none with --json
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Prompts to continue, one per line; by default the first words of ten passages of the text
    #[arg(long, value_name = "FILE")]
    prompts: Option<PathBuf>,
    /// Words in each prompt taken from the text
    #[arg(long, value_name = "N", default_value_t = 8)]
    words: usize,
    /// Tokens to add to each prompt; 0 for no prompts
    #[arg(long, value_name = "N", default_value_t = 48)]
    continuation: usize,
    /// Timed rounds of decoding; 0 for none
    #[arg(long, value_name = "N", default_value_t = 5)]
    repeat: usize,
    /// Threads to decode with; 0 chooses by the model's size
    #[arg(long, value_name = "N", default_value_t = 0)]
    threads: usize,
    /// Name of the model; by default that of the file
    #[arg(long)]
    name: Option<String>,
    /// Print all of the report as JSON
    #[arg(long)]
    json: bool,
}

impl Args {
    pub(crate) fn run(self) -> Result<()> {
        let mut report = if self.file.extension().is_some_and(|e| e == "json") {
            read(&self.file)?
        } else {
            self.measure()?
        };
        if let Some(name) = &self.name {
            report.name.clone_from(name);
        }
        if self.json {
            say!("{}", serde_json::to_string_pretty(&report)?);
        }
        let usual = (!self.json).then(|| PathBuf::from("report.html"));
        if let Some(path) = self.output.or(usual) {
            write(&path, html(&report).as_bytes())
                .with_context(|| format!("cannot write {}", path.display()))?;
            warn!("{}", path.display());
        }
        Ok(())
    }

    fn measure(&self) -> Result<Report> {
        let (Some(text_file), Some(dir)) = (&self.on.text, &self.reference) else {
            bail!(
                "--text and --reference are required, to measure on and against; only the .json \
                 of a report needs neither"
            );
        };
        let files = Files::open(&self.file, &self.against)?;
        let models = files.models()?;
        if Task::of(&models[0])? != Task::Run {
            return self.outputs(text_file, dir, &files.names, &models);
        }
        let (text, tokens, protocol) = self.on.prepare(&files.names, &models)?;
        let checkpoint = open_reference(dir, &models)?;
        let reference = Reference::new(&checkpoint).with_context(|| cannot_import(dir))?;
        let architecture = checkpoint.architecture();
        let protocol =
            Protocol { window: protocol.window.min(architecture.last().context), ..protocol };

        let evaluations = measure(&models, vec![], &tokens, protocol, Some(&reference))?;
        let named = files.names.iter().zip(&models).zip(evaluations);
        let mut speeds = vec![];
        for &model in &models {
            let task = speed::Measure { model, tokens: 64, rounds: self.repeat };
            speeds.push(if self.repeat == 0 {
                None
            } else {
                with_threads(&model, self.threads, task)?
            });
        }
        let quality = named.zip(&speeds).map(|(((name, model), evaluation), speed)| {
            Ok(Quality {
                name: short(Path::new(name)),
                bytes: model.bytes().len() as u64,
                means: Some(facts::means(model, &checkpoint)?),
                tokens_per_second: speed.as_ref().map(|speed| speed.tokens_per_second),
                evaluation,
            })
        });
        let quality = quality.collect::<Result<Vec<_>>>()?;
        let model = models[0];
        let prompts = match &self.prompts {
            Some(path) => prompts::from_file(path)?,
            None => prompts::from_text(&text, self.words),
        };
        Ok(Report {
            name: short(&self.file),
            model: Some(facts::model(&model, architecture)),
            size: Some(facts::size(&model, &checkpoint)?),
            speed: speeds.into_iter().next().flatten(),
            text: Some(Text { name: short(text_file), protocol }),
            quality,
            components: facts::components(&model)?,
            record: record(&self.file, &model)?,
            prompts: prompts::run(&model, &reference, &prompts, self.continuation)?,
            agreement: vec![],
        })
    }

    /// The report of a model that does not continue texts: no perplexity, no prompts, no speed of
    /// decoding.
    fn outputs(
        &self,
        inputs: &Path,
        dir: &Path,
        names: &[String],
        models: &[Model<'_>],
    ) -> Result<Report> {
        let checkpoint = open_reference(dir, models)?;
        let reference = Reference::new(&checkpoint).with_context(|| cannot_import(dir))?;
        let samples = outputs::samples(&models[0], &reference, inputs, &self.on)?;
        let agreed = names.iter().zip(models).map(|(name, model)| {
            let agreement = outputs::agreement(model, &reference, &samples)?;
            Ok(Agreed {
                name: short(Path::new(name)),
                bytes: model.bytes().len() as u64,
                on: short(inputs),
                agreement,
            })
        });
        let model = &models[0];
        Ok(Report {
            name: short(&self.file),
            model: Some(facts::model(model, checkpoint.architecture())),
            size: Some(facts::size(model, &checkpoint)?),
            agreement: agreed.collect::<Result<_>>()?,
            components: facts::components(model)?,
            record: record(&self.file, model)?,
            ..Report::default()
        })
    }
}

/// The last part of a path, without the extension of our own files.
fn short(path: &Path) -> String {
    let own = path.extension().is_some_and(|e| e == "kinglet");
    let name = if own { path.file_stem() } else { path.file_name() };
    name.unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

fn read(path: &Path) -> Result<Report> {
    let bytes = regular::read(path, Kind::Record)
        .with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_slice(&bytes).with_context(|| format!("{} is not a report", path.display()))
}

/// What the quantizer wrote beside the file; of the tensors at least what can be seen.
fn record(path: &Path, model: &kinglet::Model<'_>) -> Result<Record> {
    let beside = record_path(path);
    let mut record: Record = match regular::read(&beside, Kind::Record) {
        Ok(json) => serde_json::from_slice(&json).with_context(|| {
            format!(
                "{} is not a record of quantization; quantize again, or remove it",
                beside.display()
            )
        })?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Record::default(),
        Err(error) => {
            return Err(error).with_context(|| format!("cannot read {}", beside.display()));
        }
    };
    if record.tensors.is_empty() {
        record.tensors = facts::tensors(model)?;
    }
    Ok(record)
}

/// Writes beside the target and renames: a reader finds the old page or the new one, never half of
/// one.
fn write(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let directory = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    builder.prefix(".kinglet-").suffix(".partial");
    // Temporary files are private; a page is an ordinary file.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644));
    let mut file = builder.tempfile_in(directory)?;
    file.write_all(bytes)?;
    file.persist(path)?;
    Ok(())
}
