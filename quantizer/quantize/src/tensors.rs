//! The numbers of a file's tensors, from the checkpoint and from the blocks in the store.

use std::ops::Range;

use kinglet::Format;
use kinglet_kernels::layout::PANEL;
use rayon::prelude::*;

use crate::blocks::Done;
use crate::lowering::Source;
use crate::resume::Store;
use crate::rounding::codebook;
use crate::rounding::levels::{Levels, Row};
use crate::rounding::linear::{codebook_step, nearest};
use crate::rounding::pack::{self, Packer};
use crate::rounding::round::round;
use crate::rounding::rounded::RoundedBlock;
use crate::{Options, QuantizeError, taken};
use kinglet_import::checkpoint::{Architecture, Checkpoint, CheckpointError, TensorRef};
use kinglet_model::Site;
use kinglet_model::write::{Kind, WriteError};
use kinglet_reference::{Inputs, LinearWeights, ops};

/// f32 values read at a time, over all threads.
const BATCH: usize = 4 << 20;

/// The finished blocks in a store.
#[derive(Clone, Copy)]
pub(super) struct Blocks<'s> {
    store: &'s Store,
    first: usize,
}

impl<'s> Blocks<'s> {
    /// Those from the `first` one on.
    pub(super) fn new(store: &'s Store, first: usize) -> Self {
        Self { store, first }
    }

    pub(super) fn get(&self, index: usize) -> Result<RoundedBlock, QuantizeError> {
        let block = self.store.get::<Done>(self.first + index).map(|(block, _)| block);
        block.ok_or_else(|| self.lost(index))
    }

    fn lost(&self, index: usize) -> QuantizeError {
        QuantizeError::Lost { block: self.first + index, dir: self.store.dir().to_path_buf() }
    }
}

/// Writes one tensor after the other.
pub(super) struct Tensors<'a> {
    checkpoint: &'a Checkpoint,
    options: &'a Options,
    blocks: Blocks<'a>,
    /// The block whose products were written last, with its index.
    loaded: Option<(usize, RoundedBlock)>,
}

type Put<'p> = &'p mut dyn FnMut(&[u8]) -> Result<(), WriteError>;

impl<'a> Tensors<'a> {
    pub(super) fn new(
        checkpoint: &'a Checkpoint,
        options: &'a Options,
        blocks: Blocks<'a>,
    ) -> Self {
        Self { checkpoint, options, blocks, loaded: None }
    }

    /// That of the model they are of.
    pub(super) fn architecture(&self) -> &'a Architecture {
        self.checkpoint.architecture()
    }

    /// Hands the bytes of a tensor to `put`; `progress` is called with the weights of tables that
    /// were written.
    pub(super) fn write(
        &mut self,
        source: Source,
        put: Put<'_>,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), QuantizeError> {
        match source {
            Source::Phases(phases) => {
                put(&phases.iter().flat_map(|p| p.to_le_bytes()).collect::<Vec<_>>())?;
            }
            Source::Vector(vector) => {
                put(&vector.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>())?;
            }
            Source::Table(of, format, inputs) => {
                let taken = inputs != Inputs::Transformed
                    && taken::of_table(self.checkpoint, &of, format, self.options).is_some();
                table(self.checkpoint, (&of, format, inputs, taken), put, progress)?;
            }
            Source::Rows(weight, cols, format) => {
                let inputs = Some(Inputs::Rounded);
                let weights = LinearWeights { weight, bias: None, cols, inputs };
                pack::write(&nearest(&weights, format, &vec![1.0; cols]), put)?;
            }
            Source::Product { block, site } => self.product(block, site, put)?,
        }
        Ok(())
    }

    fn product(&mut self, index: usize, site: Site, put: Put<'_>) -> Result<(), QuantizeError> {
        let block = match &mut self.loaded {
            Some((at, block)) if *at == index => block,
            other => &mut other.insert((index, self.blocks.get(index)?)).1,
        };
        let product = block.product(site).ok_or_else(|| self.blocks.lost(index))?;
        Ok(pack::write(product, put)?)
    }
}

/// Reads, rounds and writes a table with a row for each token, a batch of rows at a time. One that
/// is taken over keeps its codes.
fn table(
    checkpoint: &Checkpoint,
    (of, format, inputs, taken): (&TensorRef, Format, Inputs, bool),
    put: Put<'_>,
    progress: &mut dyn FnMut(u64),
) -> Result<(), QuantizeError> {
    let (rows, cols) = (of.rows(), of.cols());
    let importance = vec![1.0; cols];
    let read = |rows| -> Result<Vec<f32>, CheckpointError> {
        let values = read(checkpoint, of, rows)?;
        Ok(if inputs == Inputs::Transformed { ops::transformed(&values, cols) } else { values })
    };
    let levels = match format {
        Format::Int4Codebook => {
            let step = codebook_step(rows, cols);
            let sample: Result<Vec<_>, _> =
                (0..rows).step_by(step).map(|row| read(row..row + 1)).collect();
            codebook::fit(&sample?.iter().map(Vec::as_slice).collect::<Vec<_>>(), &importance)
        }
        _ => Levels::of(format),
    };
    let too_large = || WriteError::TooLarge { what: format!("{} ({rows} x {cols})", of.name()) };
    let mut packer =
        Packer::new(Kind::Matrix(format), rows, cols, &levels).ok_or_else(too_large)?;
    put(&packer.start())?;
    let panels = rows.div_ceil(PANEL);
    let batch = (BATCH / (PANEL * cols)).max(rayon::current_num_threads());
    for first in (0..panels).step_by(batch) {
        let last = panels.min(first + batch);
        let rounded = (first..last).into_par_iter().map(|panel| {
            let of_panel = panel * PANEL..rows.min((panel + 1) * PANEL);
            let kept = match taken {
                true => taken::rows(&checkpoint.coded_rows(of, of_panel.clone())?, cols, &levels),
                false => None,
            };
            let values = read(of_panel)?;
            let round = || {
                values.chunks(cols).map(|row| round(format, row, &importance, &levels)).collect()
            };
            let rows: Vec<Row> = kept.unwrap_or_else(round);
            let codes = packer.codes(&rows);
            Ok((rows, codes))
        });
        let rounded: Result<Vec<_>, CheckpointError> = rounded.collect();
        for (rows, codes) in rounded? {
            put(&codes)?;
            packer.scales(&rows, codes.len());
        }
        progress(((last - first) * PANEL * cols) as u64);
    }
    Ok(put(&packer.end())?)
}

fn read(
    checkpoint: &Checkpoint,
    of: &TensorRef,
    rows: Range<usize>,
) -> Result<Vec<f32>, CheckpointError> {
    let mut values = vec![0.0; rows.len() * of.cols()];
    checkpoint.read_rows(of, rows, &mut values)?;
    Ok(values)
}
