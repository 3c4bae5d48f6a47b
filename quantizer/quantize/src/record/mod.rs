//! What was done and why, for the report: written beside the file, as it would weigh on a board's
//! flash.

mod notes;
mod products;

use std::path::{Path, PathBuf};

pub use self::notes::TAKEN;
use self::products::{Context, names};
use crate::Options;
use crate::blocks::Done;
use crate::fit::FitOutcome;
use crate::plan::{Figures, Plan, Rounding};
use crate::resume::as_name::name;
use crate::rounding::rounded::RoundedBlock;
use kinglet_evaluate::Place;
use kinglet_evaluate::record::{BlockFigures, Record, Sensitivity};
use kinglet_import::checkpoint::{Block, Checkpoint};

/// Where the record of a file is.
pub fn record_path(file: &Path) -> PathBuf {
    let mut path = file.as_os_str().to_owned();
    path.push(".json");
    path.into()
}

/// A record in the making.
pub(super) struct Recorder<'a> {
    context: Context<'a>,
    record: Record,
}

impl<'a> Recorder<'a> {
    /// Writes down what is known before the blocks are seen again.
    pub(super) fn begin(
        checkpoint: &'a Checkpoint,
        options: &'a Options,
        plan: &'a Plan,
        done: &[Done],
        fit: Option<FitOutcome>,
    ) -> Self {
        let architecture = checkpoint.architecture();
        let notes = notes::notes(checkpoint, options, plan, done, fit);
        let mut record = Record { notes, ..Record::default() };
        let blocks = Place::all(architecture).zip(architecture.blocks());
        for ((place, block), figures) in blocks.zip(&plan.figures) {
            record.sensitivity.extend(sensitivity(place, block, figures));
            record.blocks.extend(block_figures(place, figures));
        }
        Self { context: Context { architecture, options, plan }, record }
    }

    /// Writes down the products of a block, which is the `number`th of the checkpoint.
    pub(super) fn block(&mut self, number: usize, block: &RoundedBlock, done: &Done) {
        self.record.tensors.extend(self.context.tensors(number, block, done));
    }

    /// The whole record, with the bits of a weight over all products.
    pub(super) fn finish(mut self) -> Record {
        self.record.notes.extend(notes::size(&self.record.tensors));
        self.record
    }
}

/// The measured damage of rounding each product of a block alone.
fn sensitivity(place: Place, block: &Block, figures: &Figures) -> Vec<Sensitivity> {
    let products = names(place, block).into_iter().zip(&figures.rounding);
    let of_product = |(product, roundings): (String, &Vec<Rounding>)| -> Vec<Sensitivity> {
        let of_format = |rounding: &Rounding| Sensitivity {
            name: product.clone(),
            format: name(rounding.format).to_owned(),
            mean_kl: rounding.damage,
        };
        roundings.iter().map(of_format).collect()
    };
    products.flat_map(of_product).collect()
}

/// What was measured of a block, if it was.
fn block_figures(place: Place, figures: &Figures) -> Option<BlockFigures> {
    let [plasticity, on_embeddings, influence] = figures.profile?;
    let worst = |roundings: &Vec<_>| roundings.iter().map(|r: &Rounding| r.damage).reduce(f64::max);
    Some(BlockFigures {
        place,
        plasticity: Some(plasticity),
        plasticity_on_embeddings: Some(on_embeddings),
        influence: Some(influence),
        damage: figures.without,
        rounding: figures.rounding.iter().filter_map(worst).reduce(|a, b| a + b),
    })
}
