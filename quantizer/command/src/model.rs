//! What the commands share: opening a model, sizing a session, threads, and how numbers are shown.

use std::path::Path;

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressStyle};
use kinglet::{Isa, Map, Model, Parallel, Serial, Threads};
use kinglet_model::{Linear, Norm};

/// The models that are part of the command; their names can stand where a file's can.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BuiltIn {
    Storyteller,
    Pronouncer,
    Namer,
}

impl BuiltIn {
    const ALL: [Self; 3] = [Self::Storyteller, Self::Pronouncer, Self::Namer];

    fn name(self) -> &'static str {
        match self {
            Self::Storyteller => "storyteller",
            Self::Pronouncer => "pronouncer",
            Self::Namer => "namer",
        }
    }

    fn bytes(self) -> &'static [u8] {
        match self {
            Self::Storyteller => &kinglet_fixtures::STORYTELLER.0,
            Self::Pronouncer => &kinglet_fixtures::PRONOUNCER.0,
            Self::Namer => &kinglet_fixtures::NAMER.0,
        }
    }
}

/// Where a model's bytes are.
pub(crate) enum Source {
    File(Map),
    BuiltIn(BuiltIn),
}

impl Source {
    /// A file, or the built-in storyteller.
    pub(crate) fn open(path: Option<&Path>) -> Result<Self> {
        Self::open_or(path, BuiltIn::Storyteller)
    }

    /// A file, or the built-in model of that name; without either, this one.
    pub(crate) fn open_or(path: Option<&Path>, without: BuiltIn) -> Result<Self> {
        let Some(path) = path else { return Ok(Self::BuiltIn(without)) };
        let named = BuiltIn::ALL.into_iter().find(|model| path == Path::new(model.name()));
        if let Some(model) = named.filter(|_| !path.exists()) {
            return Ok(Self::BuiltIn(model));
        }
        let map = map(path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Self::File(map))
    }

    /// The model in it.
    pub(crate) fn model(&self, path: Option<&Path>) -> Result<Model<'_>> {
        let bytes: &[u8] = match self {
            Self::File(map) => map,
            Self::BuiltIn(model) => model.bytes(),
        };
        Model::open(bytes).with_context(|| format!("cannot open {}", self.name(path)))
    }

    /// What to call it.
    pub(crate) fn name(&self, path: Option<&Path>) -> String {
        match self {
            Self::File(_) => path.map_or(String::new(), |path| path.display().to_string()),
            Self::BuiltIn(model) => format!("the built-in {}", model.name()),
        }
    }
}

/// The file as memory: large models start at once, and several commands share one copy.
#[allow(unsafe_code, reason = "the one place where the command maps a file")]
fn map(path: &Path) -> std::io::Result<Map> {
    // SAFETY: nothing in this process writes to a model that it reads: what it makes is a file of
    // its own that is renamed into place when it is whole. That no other process changes the file
    // is what `--help` asks of the person who names it, whose files they are; no program can keep
    // others from it and still share the pages.
    unsafe { Map::open(path) }
}

/// Bytes of weights that one decode step reads; of an encoder, all that its last stack has.
pub(crate) fn bytes_per_token(model: &Model<'_>) -> Result<u64> {
    let linear =
        |linear: &Linear<'_>| linear.matrix.bytes() + linear.bias.map_or(0, |bias| bias.len() * 4);
    let norm = |norm: Option<Norm<&[f32]>>| {
        norm.map_or(0, |norm| 4 * (norm.weight.len() + norm.bias.map_or(0, <[f32]>::len)))
    };
    let stack = model.last()?;
    let mut bytes = model.output()?.head.as_ref().map_or(0, linear) + norm(stack.norm);
    for index in stack.blocks.0..stack.blocks.1 {
        let block = model.block(index)?;
        bytes += block.input.as_ref().map_or(0, linear) + linear(&block.output) + norm(block.norm);
    }
    Ok(bytes as u64)
}

/// Something that needs a way to divide work.
pub(crate) trait Work {
    type Output: Send;
    fn run<P: Parallel>(self, isa: Isa, parallel: P) -> Result<Self::Output>;
}

/// Runs `work` on `threads` threads; 0 chooses by the model's size.
pub(crate) fn with_threads<W: Work + Send>(
    model: &Model<'_>,
    threads: usize,
    work: W,
) -> Result<W::Output> {
    // Measured with two cores: at 0.9 MB a token a second thread wins nothing, at 12.6 MB half as
    // much again.
    const ALONE: u64 = 4 << 20;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = match threads {
        0 if bytes_per_token(model)? < ALONE => 1,
        0 => cores,
        n => n,
    };
    let isa = isa()?;
    if threads == 1 {
        return work.run(isa, Serial);
    }
    let pool = Threads::new(threads).context("cannot start threads")?;
    pool.enter(|| work.run(isa, &pool))
}

/// The instruction set: the fastest, or the one that `KINGLET_ISA` names.
pub(crate) fn isa() -> Result<Isa> {
    match std::env::var("KINGLET_ISA") {
        Ok(name) => Isa::by_name(&name).with_context(|| {
            let names: Vec<_> = Isa::available().map(Isa::name).collect();
            format!(
                "KINGLET_ISA={name} is not an instruction set of this machine; it has: {}",
                names.join(", ")
            )
        }),
        Err(_) => Ok(Isa::detect()),
    }
}

/// Bytes for people.
pub(crate) fn bytes(n: u64) -> String {
    match n {
        0..10_000 => format!("{n} B"),
        10_000..10_000_000 => format!("{:.1} kB", n as f64 / 1e3),
        10_000_000..10_000_000_000 => format!("{:.1} MB", n as f64 / 1e6),
        _ => format!("{:.1} GB", n as f64 / 1e9),
    }
}

/// A progress bar on the terminal; silent where there is none.
pub(crate) fn bar(total: u64, unit: &str) -> ProgressBar {
    let template =
        format!("{{msg}} {{wide_bar}} {{human_pos}} / {{human_len}} {unit}, {{eta}} left");
    let style =
        ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(total).with_style(style)
}
