//! Embeddings from the middle of a model: the first stack of a file ends after some of its blocks,
//! and its states are pooled.
//!
//! What describes a text best often lies in the middle of a model and not at its end (Skean et al.,
//! arXiv 2502.02013), so the rest costs bytes and time for nothing. The weights stay as they are,
//! byte for byte:
//!
//! ```text
//! input -> block 1 -> ... -> block N -> norm -> pooling        N + 1 and all that follows is left out
//! ```
//!
//! The norm is the stack's own. Where norms follow the branches, block N's is the one that the
//! stream gets in the block after it, which becomes the norm of the stack.
//!
//! The runtime pools what reads all positions at once. A decoder's states come out one by one, so
//! its pooling is written into the metadata ([`Pooled::KEY`]) for the caller, who can apply it with
//! [`Pooled::pool`].

use std::path::Path;
use std::str::FromStr;

use kinglet::{Golden, Model};
use kinglet_model::OpenError;
use kinglet_model::Pooling;
use kinglet_model::layout::{ModelRecord, NONE, join, section};
use kinglet_model::lowering::pooling_code;

use crate::{LABELS, QuantizeError, Question, add_golden};
use kinglet_model::write::{Outline, WriteError, Writer, folder};

/// What becomes of the states.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pool {
    /// Their mean.
    #[default]
    Mean,
    /// The first of them.
    First,
    /// The largest of each column.
    Max,
}

/// How states become one vector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pooled {
    /// What is taken of them.
    pub pool: Pool,
    /// Whether the vector is divided by its length.
    pub normalize: bool,
}

/// Where a model ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Blocks of the first stack that stay.
    pub after: u32,
    /// What follows them.
    pub pooled: Pooled,
}

/// Why a model was not cut. The target is as it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CutError {
    /// There are no such blocks.
    #[error(
        "a model cannot end after {asked} blocks: its first stack has {most}, give 1 to {most}"
    )]
    Blocks {
        /// Asked for.
        asked: u32,
        /// Blocks of the first stack.
        most: u32,
    },
    /// The norm after the stack belongs to another width.
    #[error(
        "after {after} blocks the stream has width {width}, and the norm after them {norm}: cut \
         elsewhere"
    )]
    Width {
        /// Blocks.
        after: u32,
        /// Width after them.
        width: usize,
        /// Width of the norm.
        norm: usize,
    },
    /// The model's bytes.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The file cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The finished file was not what it should be.
    #[error(transparent)]
    Check(#[from] QuantizeError),
}

impl Pooled {
    /// Where a decoder's pooling stands in a file's metadata, such as `mean` or `max normalized`.
    pub const KEY: &'static str = "pooling";

    /// That of a model's metadata.
    pub fn of(model: &Model<'_>) -> Self {
        let found = model.metadata().find(|(key, _)| *key == Self::KEY);
        found.and_then(|(_, value)| value.parse().ok()).unwrap_or_default()
    }

    /// One row of `states`, which are rows of `width`.
    ///
    /// # Panics
    /// If `width` is 0.
    pub fn pool(&self, states: &[f32], width: usize) -> Vec<f32> {
        let mut rows = states.chunks_exact(width);
        let mut pooled = rows.next().unwrap_or_default().to_vec();
        let count = states.len() / width;
        for row in rows {
            match self.pool {
                Pool::First => break,
                Pool::Mean => pooled.iter_mut().zip(row).for_each(|(sum, x)| *sum += x),
                Pool::Max => pooled.iter_mut().zip(row).for_each(|(most, x)| *most = most.max(*x)),
            }
        }
        let length =
            |x: &[f32]| x.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt() as f32;
        let divisor = match (self.normalize, self.pool) {
            // The length does not depend on the count.
            (true, _) => length(&pooled),
            (false, Pool::Mean) => count as f32,
            (false, _) => 1.0,
        };
        if divisor > 0.0 {
            pooled.iter_mut().for_each(|x| *x /= divisor);
        }
        pooled
    }
}

impl std::fmt::Display for Pooled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.pool {
            Pool::Mean => "mean",
            Pool::First => "first",
            Pool::Max => "max",
        })?;
        f.write_str(if self.normalize { " normalized" } else { "" })
    }
}

impl FromStr for Pooled {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (pool, normalize) = match text.strip_suffix(" normalized") {
            Some(pool) => (pool, true),
            None => (text, false),
        };
        let pool = match pool {
            "mean" => Pool::Mean,
            "first" => Pool::First,
            "max" => Pool::Max,
            _ => return Err(()),
        };
        Ok(Self { pool, normalize })
    }
}

/// Blocks of a model's first stack.
///
/// # Errors
/// The model changed since it was opened.
pub fn blocks(model: &Model<'_>) -> Result<u32, OpenError> {
    Ok(model.stack(0)?.blocks.1)
}

/// Writes the beginning of `model` as a file of its own, and returns its bytes.
///
/// # Errors
/// There is no such place to cut, or the file cannot be written.
pub fn cut(model: &Model<'_>, target: &Path, cut: Cut) -> Result<u64, CutError> {
    let mut copy = Copy { model, outline: Outline::new(ModelRecord::EMPTY), taken: vec![] };
    copy.stack(cut)?;
    let causal = model.is_decoder() && model.stacks() == 1;
    copy.outline.model.pooling = pooling_code(match cut.pooled.pool {
        _ if causal => Pooling::None,
        Pool::Mean => Pooling::Mean,
        Pool::First => Pooling::First,
        Pool::Max => Pooling::Max,
    });
    copy.outline.model.normalize = u8::from(cut.pooled.normalize && !causal);
    copy.outline.tokenizer = model.section(section::TOKENIZER).to_vec();
    let kept = model.metadata().filter(|(key, _)| ![LABELS, Pooled::KEY, CUT].contains(key));
    let mut metadata: Vec<_> =
        kept.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    metadata.push((CUT.to_owned(), format!("after block {} of {}", cut.after, blocks(model)?)));
    if causal {
        metadata.push((Pooled::KEY.to_owned(), cut.pooled.to_string()));
    }
    copy.outline.metadata = metadata;
    // The source of the old golden answer gives the new one.
    let golden = model.golden().find(|golden| golden.rows > 0 && !causal);
    let asked = golden.map(|golden| Question::from(&Golden { prompt: &[], answer: &[], ..golden }));
    let questions: Vec<Question> = asked.into_iter().collect();
    copy.outline.golden = questions.iter().map(Question::tokens).collect();
    let Copy { outline, taken, .. } = copy;
    let mut writer = Writer::create(target, folder(target), outline)?;
    for index in taken {
        let bytes = model.tensor(index)?.bytes;
        writer.tensor::<WriteError>(|put| put(bytes))?;
    }
    let mut finished = writer.finish()?;
    add_golden(&mut finished, &questions)?;
    let bytes = std::fs::metadata(finished.path()).map_or(0, |meta| meta.len());
    finished.persist()?;
    Ok(bytes)
}

/// Where the metadata say that a model was cut.
const CUT: &str = "cut";

/// A new file's outline, and the old numbers of its tensors.
struct Copy<'m> {
    model: &'m Model<'m>,
    outline: Outline,
    taken: Vec<u32>,
}

impl Copy<'_> {
    fn stack(&mut self, cut: Cut) -> Result<(), CutError> {
        let mut record = self.model.record_of_stack(0)?;
        let most = record.blocks;
        if cut.after == 0 || cut.after > most {
            return Err(CutError::Blocks { asked: cut.after, most });
        }
        let width = self.model.block(cut.after - 1)?.output.matrix.rows();
        if cut.after < most {
            let next = self.model.record_of_block(cut.after)?;
            if next.join == join::POST {
                (record.norm_kind, record.norm_eps) = (next.norm_kind, next.norm_eps);
                (record.norm, record.norm_bias) = (next.stream_norm, next.stream_norm_bias);
            }
        }
        if record.norm != NONE {
            let norm = self.model.tensor(record.norm)?.record.cols as usize;
            if norm != width {
                return Err(CutError::Width { after: cut.after, width, norm });
            }
        }
        (record.out, record.blocks) = (width as u32, cut.after);
        record.tensors_mut().into_iter().try_for_each(|tensor| self.take(tensor))?;
        self.outline.stacks.push(record);
        for index in 0..cut.after {
            let mut block = self.model.record_of_block(index)?;
            block.tensors_mut().into_iter().try_for_each(|tensor| self.take(tensor))?;
            self.outline.blocks.push(block);
        }
        Ok(())
    }

    /// Gives a tensor its number in the new file.
    fn take(&mut self, index: &mut u32) -> Result<(), CutError> {
        if *index == NONE {
            return Ok(());
        }
        if let Some(place) = self.taken.iter().position(|taken| taken == index) {
            *index = place as u32;
            return Ok(());
        }
        self.taken.push(*index);
        *index = self.outline.tensor_of(self.model, &self.model.tensor(*index)?)?;
        Ok(())
    }
}
