//! The command `kinglet`: makes, shows, runs, evaluates and measures `.kinglet` files.

#![deny(unsafe_code)]

#[macro_use]
mod output;

mod activations;
mod adapt;
mod bench;
mod check;
mod classify;
mod cut;
mod embed;
mod eval;
mod generate;
mod hub;
mod inputs;
mod inspect;
mod memory;
mod model;
mod outputs;
mod predictor;
mod protocol;
mod pull;
mod quantize;
mod report;
mod run;
mod sampling;
mod task;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Transformers for the smallest machine that can hold them.
#[derive(Parser)]
#[command(
    version,
    propagate_version = true,
    after_help = "\
Examples:
  kinglet run                                    a story from the built-in model
  kinglet run \"Tom had a red ball.\"              the same, from your own beginning
  kinglet translate hello                        its pronunciation; -m FILE names another model
  kinglet caption picture.png                    a description by the built-in model
  kinglet embed -m FILE \"one text\" \"another\"    vectors; --similarity compares them
  kinglet classify -m FILE picture.png           its most probable labels; also for text and sound
  kinglet pull OWNER/NAME                        fetch a model from the Hugging Face Hub
  kinglet quantize DIR -o model.kinglet          convert a Hugging Face checkpoint or a GGUF file
  kinglet adapt model.kinglet pairs.tsv -o new.kinglet   train what joins encoder and decoder
  kinglet inspect model.kinglet --context 512    its contents, and the memory it needs
  kinglet eval model.kinglet --text T --reference DIR
  kinglet report model.kinglet --text T --reference DIR -o page.html
  kinglet cut model.kinglet --after 6 -o e.kinglet   a smaller embedding model; --score rates it
  kinglet check model.kinglet                    verify checksums and golden answers
  kinglet bench model.kinglet

KINGLET_ISA=scalar|avx2|... selects the instruction set; the results are bit-identical.
Model files are mapped into memory: do not change one in place while a command reads it."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// The most memory for a model's work, such as 200M or 1.5G; by default the machine's memory
    #[arg(long, global = true, value_name = "SIZE", value_parser = memory::size)]
    max_memory: Option<u64>,
}

#[derive(Subcommand)]
enum Command {
    Pull(pull::Args),
    Quantize(quantize::Args),
    Adapt(adapt::Args),
    Inspect(inspect::Args),
    Run(run::Args),
    Translate(generate::Translate),
    Caption(generate::Caption),
    Embed(embed::Args),
    Classify(classify::Args),
    Cut(cut::Args),
    Eval(eval::Args),
    Report(report::Args),
    Check(check::Args),
    Bench(bench::Args),
}

fn main() -> ExitCode {
    let Cli { command, max_memory } = Cli::parse();
    memory::limit(max_memory);
    let result = match command {
        Command::Pull(args) => args.run(),
        Command::Quantize(args) => args.run(),
        Command::Adapt(args) => args.run(),
        Command::Inspect(args) => args.run(),
        Command::Run(args) => args.run(),
        Command::Translate(args) => args.run(),
        Command::Caption(args) => args.run(),
        Command::Embed(args) => args.run(),
        Command::Classify(args) => args.run(),
        Command::Cut(args) => args.run(),
        Command::Eval(args) => args.run(),
        Command::Report(args) => args.run(),
        Command::Check(args) => args.run(),
        Command::Bench(args) => args.run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            warn!("kinglet: {}", told(&error));
            ExitCode::FAILURE
        }
    }
}

/// An error and its causes; one that the sentence before it names already is not repeated.
fn told(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |told, cause| {
        match (told.is_empty(), told.ends_with(&cause)) {
            (true, _) => cause,
            (false, true) => told,
            (false, false) => format!("{told}: {cause}"),
        }
    })
}
