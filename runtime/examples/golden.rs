//! Repeats a file's golden answers with every instruction set of this machine.
//!
//! `cargo run --example golden --features std -- model.kinglet` prints a line for each, with the
//! hash of the logits; `kinglet check` does so in many divisions of the work as well.

use std::error::Error;

use kinglet::{Isa, Memory, Model, Options, Plan, Serial, Session};

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args_os().nth(1).ok_or("usage: golden model.kinglet")?;
    let file = Memory::read(path)?;
    let model = Model::open(&file)?;
    model.verify(|_| {})?;
    for (index, golden) in model.golden().enumerate() {
        let context = (golden.prompt.len() + golden.answer.len()).clamp(1, model.context());
        let options = Options { context, prefill: context.min(16), ..Options::of(&model)? };
        for isa in Isa::available() {
            let mut memory = Memory::new(Plan::new(&model, options)?.bytes())?;
            let mut session = Session::with(&model, options, memory.bytes(), isa, Serial)?;
            session.check_golden(&golden)?;
            println!(
                "golden {index}: {} tokens, logits hash {:016x} ok ({})",
                golden.answer.len(),
                golden.hash,
                isa.name()
            );
        }
    }
    Ok(())
}
