//! `kinglet cut`.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use kinglet::Model;
use kinglet_evaluate::cosine;
use kinglet_import::regular::{self, Kind};
use kinglet_quantize::cut::{self, Cut, Pool, Pooled};
use kinglet_report::correlation;

use crate::inputs::{Given, Outputs, Reader};
use crate::model::{Source, bytes, with_threads};
use crate::task::Task;

/// Truncate a model after some of its blocks, to make a smaller embedding model
///
/// The head and all blocks after the N-th are removed (attention and feed-forward are separate
/// blocks; `kinglet inspect` numbers them), and the states are pooled to one vector. --score shows
/// the effect: Spearman's rank correlation of cosines with the scores in a file whose lines hold
/// score, text and text, separated by tabs. With --after all, it is shown for every N and nothing
/// is written.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// A .kinglet file; if it has several stacks, the first is cut
    file: PathBuf,
    /// Blocks to keep, or `all` to try each number
    #[arg(long, value_name = "N", value_parser = parse_after)]
    after: After,
    /// The file to write
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// How the states are pooled
    #[arg(long, value_enum, default_value_t = By::Mean)]
    pool: By,
    /// Normalize vectors to unit length
    #[arg(long)]
    normalize: bool,
    /// Score the model on these pairs, before and after
    #[arg(long, value_name = "PAIRS")]
    score: Option<PathBuf>,
    /// Read texts as token ids, separated by commas
    #[arg(long)]
    ids: bool,
    /// Threads; 0 chooses by the model's size
    #[arg(long, value_name = "N", default_value_t = 0)]
    threads: usize,
}

#[derive(Clone, Copy)]
enum After {
    All,
    Blocks(u32),
}

fn parse_after(text: &str) -> Result<After, String> {
    match text {
        "all" => Ok(After::All),
        number => number
            .parse()
            .map(After::Blocks)
            .map_err(|_| "expected a number of blocks, or all".to_owned()),
    }
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum By {
    Mean,
    First,
    Max,
}

/// Scores, and the two texts of each.
pub(crate) struct Pairs {
    pub(crate) scores: Vec<f64>,
    pub(crate) texts: Vec<String>,
}

/// What a model does with pairs.
struct Judged {
    spearman: Option<f64>,
    seconds: f64,
}

impl Args {
    pub(crate) fn run(self) -> Result<()> {
        let path = Some(self.file.as_path());
        let source = Source::open(path)?;
        let model = source.model(path)?;
        let most = cut::blocks(&model)?;
        let pairs = self.score.as_deref().map(Pairs::read).transpose()?;
        match (self.after, &self.output) {
            (After::Blocks(after), Some(output)) => {
                self.cut(&model, after, output)?;
                let smaller = Source::open(Some(output))?;
                let smaller = smaller.model(Some(output))?;
                let (old, new) = (model.bytes().len() as u64, smaller.bytes().len() as u64);
                say!(
                    "{}: {after} of {most} blocks, {} of {}",
                    output.display(),
                    bytes(new),
                    bytes(old)
                );
                if let Some(pairs) = &pairs {
                    let before = self.whole(&model, pairs)?;
                    say!("before  {}", before.line());
                    say!("after   {}", self.judge(&smaller, pairs)?.line());
                }
            }
            (After::All, None) => {
                let pairs =
                    pairs.context("--after all needs pairs to compare on: pass --score PAIRS")?;
                say!("  blocks       bytes");
                for after in 1..=most {
                    match self.tried(&model, after, &pairs) {
                        Ok((size, judged)) => {
                            say!("{after:8}  {:>10}  {}", bytes(size), judged.line())
                        }
                        Err(error) => say!("{after:8}  {error:#}"),
                    }
                }
                say!(
                    "{:>8}  {:>10}  {}",
                    "whole",
                    bytes(model.bytes().len() as u64),
                    self.whole(&model, &pairs)?.line()
                );
            }
            (After::Blocks(_), None) => bail!("no output file given: pass -o FILE"),
            (After::All, Some(_)) => {
                bail!("--after all writes nothing: omit -o, or choose a number of blocks")
            }
        }
        Ok(())
    }

    fn cut(&self, model: &Model<'_>, after: u32, output: &Path) -> Result<u64> {
        let pool = match self.pool {
            By::Mean => Pool::Mean,
            By::First => Pool::First,
            By::Max => Pool::Max,
        };
        let pooled = Pooled { pool, normalize: self.normalize };
        cut::cut(model, output, Cut { after, pooled })
            .with_context(|| format!("cannot cut {}", self.file.display()))
    }

    /// The bytes of a model that ends there, and what it does.
    fn tried(&self, model: &Model<'_>, after: u32, pairs: &Pairs) -> Result<(u64, Judged)> {
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("cut.kinglet");
        let size = self.cut(model, after, &path)?;
        let source = Source::open(Some(&path))?;
        Ok((size, self.judge(&source.model(Some(&path))?, pairs)?))
    }

    /// What the model does as it is; of a model that gives no vectors, its states after the last
    /// block.
    fn whole(&self, model: &Model<'_>, pairs: &Pairs) -> Result<Judged> {
        match Task::of(model)? {
            Task::Embed => self.judge(model, pairs),
            _ => Ok(self.tried(model, cut::blocks(model)?, pairs)?.1),
        }
    }

    fn judge(&self, model: &Model<'_>, pairs: &Pairs) -> Result<Judged> {
        let given: Vec<Given> = Reader::new(model, self.ids)?.all(&pairs.texts)?;
        let start = Instant::now();
        let vectors = with_threads(model, self.threads, Outputs { model: *model, given: &given })?;
        let seconds = start.elapsed().as_secs_f64() / given.len() as f64;
        let cosines = vectors.chunks_exact(2).map(|pair| cosine(&pair[0], &pair[1]));
        let both: Vec<(f64, f64)> = cosines.zip(pairs.scores.iter().copied()).collect();
        Ok(Judged { spearman: correlation(&both), seconds })
    }
}

impl Judged {
    fn line(&self) -> String {
        let spearman = self.spearman.map_or("none".to_owned(), |s| format!("{s:.4}"));
        format!("Spearman {spearman}, {:.3} ms a text", self.seconds * 1e3)
    }
}

impl Pairs {
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let name = path.display();
        let text = regular::read_to_string(path, Kind::Text)
            .with_context(|| format!("cannot read {name}"))?;
        let mut pairs = Self { scores: vec![], texts: vec![] };
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.is_empty()) {
            let fields: Vec<&str> = line.split('\t').collect();
            let [score, a, b] = fields[..] else {
                bail!(
                    "line {} of {name} does not hold score, text and text, separated by tabs",
                    number + 1
                )
            };
            let score = score.parse().with_context(|| {
                format!("line {} of {name}: '{score}' is not a number", number + 1)
            })?;
            pairs.scores.push(score);
            pairs.texts.extend([a.to_owned(), b.to_owned()]);
        }
        ensure!(
            pairs.scores.len() >= 3,
            "{name} has {} pairs; at least 3 are needed",
            pairs.scores.len()
        );
        Ok(pairs)
    }
}
