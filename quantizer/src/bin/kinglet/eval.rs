//! `kinglet eval`.

use std::path::PathBuf;

use anyhow::{Context, Result};
use kinglet_quantizer::checkpoint::Checkpoint;
use kinglet_quantizer::encode;
use kinglet_quantizer::evaluate::{Evaluation, Protocol, evaluate};
use kinglet_quantizer::reference::Reference;

use crate::model::{Source, bar, isa};

/// Measure perplexity, and the distance from the f32 checkpoint
///
/// Protocol: the text's tokens are cut into windows that do not overlap; each is run on its own behind a begin-of-sequence token, and
/// all its tokens are scored. Perplexity is the exponential of the mean negative log-likelihood. KL divergence is that of
/// the model's next-token distribution from the checkpoint's, in nats, at each scored position; the checkpoint is run in f32.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The .kinglet file
    file: PathBuf,
    /// A UTF-8 text
    #[arg(long, value_name = "FILE")]
    text: PathBuf,
    /// The checkpoint that the file was made from
    #[arg(long, value_name = "DIR")]
    reference: Option<PathBuf>,
    /// Use the first N tokens of the text only
    #[arg(long, value_name = "N")]
    tokens: Option<usize>,
    /// Tokens of a window
    #[arg(long, value_name = "N", default_value_t = 255)]
    window: usize,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Args {
    pub(crate) fn run(self) -> Result<()> {
        let source = Source::open(Some(&self.file))?;
        let model = source.model(Some(&self.file))?;
        let tokenizer = model.tokenizer().context("the file carries no tokenizer")?;
        let tokenizer = tokenizer.context("cannot read the file's tokenizer")?;
        let text = std::fs::read(&self.text).with_context(|| format!("cannot read {}", self.text.display()))?;
        let text = String::from_utf8(text).with_context(|| format!("{} is not UTF-8 text", self.text.display()))?;
        let mut tokens = encode(&tokenizer, &text, false).context("cannot encode the text")?;
        tokens.truncate(self.tokens.unwrap_or(usize::MAX));

        let protocol = Protocol { window: self.window.min(model.context()), bos: tokenizer.bos() };
        let progress = bar(tokens.len() as u64, "tokens").with_message("evaluating");
        let step = |n: usize| progress.inc(n as u64);
        let result = match &self.reference {
            None => evaluate(&model, isa()?, &tokens, protocol, None, &step)?,
            Some(dir) => {
                let import = || format!("cannot import {}", dir.display());
                let checkpoint = Checkpoint::open(dir).with_context(import)?;
                let reference = Reference::new(&checkpoint).with_context(import)?;
                evaluate(&model, isa()?, &tokens, protocol, Some(&reference), &step)?
            }
        };
        progress.finish_and_clear();
        self.print(&result, protocol)
    }

    fn print(&self, result: &Evaluation, protocol: Protocol) -> Result<()> {
        if self.json {
            println!("{}", serde_json::to_string_pretty(result)?);
            return Ok(());
        }
        let bos =
            if protocol.bos.is_some() { "each behind a begin-of-sequence token" } else { "without a begin token" };
        println!("perplexity        {:.4}", result.perplexity);
        if let Some(d) = result.divergence {
            println!(
                "  of the f32 model {:.4} ({:+.2}%)",
                d.reference_perplexity,
                (result.perplexity / d.reference_perplexity - 1.0) * 100.0
            );
            println!("KL divergence     mean {:.5}, largest {:.4} nats", d.mean_kl, d.max_kl);
            println!("same top token    {:.2}%", d.top1_agreement * 100.0);
        }
        println!("{} tokens scored, in windows of {}, {bos}", result.tokens, protocol.window);
        Ok(())
    }
}
