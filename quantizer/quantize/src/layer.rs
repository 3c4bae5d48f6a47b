//! Rounded blocks of a layer between rounding and the store: with `--learn` their codes are learned
//! together first.
//!
//! The blocks of a layer are kept together. The first is written last, and without it the others do
//! not count: an interrupted command begins the layer again, and comes to the same bits.

use crate::blocks::{Done, Streams};
use crate::fit::Aims;
use crate::fit::layers::learn;
use crate::resume::Store;
use crate::rounding::packed;
use crate::rounding::rounded::RoundedBlock;
use crate::{Options, QuantizeError};
use kinglet_reference::{Batch, Site};

/// Blocks that are not in the store yet.
#[derive(Default)]
pub(super) struct Layer {
    blocks: Vec<RoundedBlock>,
    done: Vec<Done>,
    aims: Vec<Aims>,
    /// The rounded model's stream before the first of them, if they are to be learned.
    before: Option<Batch>,
}

impl Layer {
    /// Blocks in it.
    pub(super) fn len(&self) -> usize {
        self.blocks.len()
    }

    /// Whether the block of a layer is none of its own.
    pub(super) fn ends_before(&self, layer: usize) -> bool {
        self.blocks.first().is_some_and(|first| first.layer != layer)
    }

    /// Remembers where its first block begins.
    pub(super) fn begin(&mut self, options: &Options, streams: Option<&Streams>) {
        if options.learn > 0 && self.before.is_none() {
            self.before = streams.map(|streams| streams.own.clone());
        }
    }

    /// Adds a block.
    pub(super) fn push(&mut self, (block, done, aims): (RoundedBlock, Done, Aims)) {
        self.blocks.push(block);
        self.done.push(done);
        self.aims.push(aims);
    }

    /// Learns its codes, if that is wanted, keeps its blocks after `all`, and is empty again.
    pub(super) fn finish(
        &mut self,
        options: &Options,
        store: &Store,
        streams: Option<&mut Streams>,
        all: &mut Vec<Done>,
    ) -> Result<(), QuantizeError> {
        let Self { mut blocks, mut done, mut aims, before } = std::mem::take(self);
        // Codes that were taken over stay.
        let taken = done.iter().any(|done| done.taken.iter().any(Option::is_some));
        if let (Some(Streams { own, exact: Some(exact) }), Some(before), false) =
            (streams, before, taken)
        {
            let learned = learn(&mut blocks, &mut aims, &before, exact, options.learn);
            done.iter_mut().for_each(|done| done.learned = learned);
            *own = before;
            blocks.iter().for_each(|block| packed::advance(block, own));
        }
        for (i, (block, done)) in blocks.iter().zip(&done).enumerate().rev() {
            if options.learn > 0 && options.fit.steps > 0 {
                keep(store, all.len() + i, &aims[i])?;
            }
            store.put(all.len() + i, block, done)?;
        }
        all.append(&mut done);
        Ok(())
    }
}

fn name(block: usize, site: Site) -> String {
    format!("aims{block:04}.{}", site as usize)
}

/// Keeps what the weights of a block would be without rounding.
fn keep(store: &Store, block: usize, aims: &Aims) -> Result<(), QuantizeError> {
    for (site, aim) in Site::OF_BLOCK.into_iter().zip(aims) {
        if let Some(aim) = aim {
            store.keep_numbers(&name(block, site), aim)?;
        }
    }
    Ok(())
}

/// What was kept; nothing where codes are not learned.
pub(super) fn kept(store: &Store, block: usize) -> Aims {
    Site::OF_BLOCK.map(|site| store.kept_numbers(&name(block, site)))
}
