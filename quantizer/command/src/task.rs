//! What a model is for, and which command has it do that.

use anyhow::{Result, bail};
use kinglet::Model;
use kinglet_model::{Input, Pooling};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Task {
    Run,
    Translate,
    Caption,
    Embed,
    Classify,
}

impl Task {
    pub(crate) fn of(model: &Model<'_>) -> Result<Self> {
        let output = model.output()?;
        let reads_text = matches!(model.stack(0)?.input, Input::Tokens { .. });
        Ok(match (model.is_decoder(), model.stacks()) {
            (true, 1) if output.head.is_none() => Self::Embed,
            (true, 1) => Self::Run,
            (true, _) if reads_text => Self::Translate,
            (true, _) => Self::Caption,
            (false, _) if output.head.is_some() && output.pooling != Pooling::None => {
                Self::Classify
            }
            (false, _) => Self::Embed,
        })
    }

    /// Refuses a model that is for something else.
    pub(crate) fn expect(self, model: &Model<'_>, name: &str) -> Result<()> {
        let (what, command) = match Self::of(model)? {
            found if found == self => return Ok(()),
            Self::Run => ("continues texts", "run"),
            Self::Translate => ("turns one text into another", "translate"),
            Self::Caption => ("describes pictures or recordings in words", "caption"),
            Self::Embed => ("turns inputs into vectors", "embed"),
            Self::Classify => ("classifies its input", "classify"),
        };
        bail!("{name} is a model that {what}: use `kinglet {command}`");
    }
}
