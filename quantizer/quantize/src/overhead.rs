//! Bytes of a file beside its products, known from shapes before anything is measured.

use kinglet_import::checkpoint::{Architecture, Block, Checkpoint};

use kinglet::Format;
use kinglet_import::checkpoint::{Input, Linear, Values};
use kinglet_import::vocabulary;

use crate::{LABELS, Options, QuantizeError};

/// [`overhead`], before anything else is known.
pub(crate) fn overhead_of(
    checkpoint: &Checkpoint,
    options: &Options,
) -> Result<u64, QuantizeError> {
    let tokenizers = checkpoint.tokenizer()?.len() + checkpoint.target_tokenizer()?.len();
    Ok(overhead(checkpoint.architecture(), options, tokenizers, &metadata(checkpoint, options)?))
}

/// Bytes of a file beside its products, a little more rather than less: tables, tokenizer, vectors,
/// and the records of all.
pub(crate) fn overhead(
    architecture: &Architecture,
    options: &Options,
    tokenizers: usize,
    metadata: &[(String, String)],
) -> u64 {
    // A record of 40 bytes, a name, and padding to 64.
    const NAMED: usize = 40 + 40;
    let vector = |len: usize| NAMED + (4 * len).next_multiple_of(64);
    let widest = architecture.stacks.iter().map(|stack| stack.width).max().unwrap_or(0);
    let of_block = |block: &Block| {
        let biased = block.products().filter(|(_, linear)| linear.has_bias());
        let biases: usize = biased.map(|(_, linear)| vector(linear.rows())).sum();
        let heads = block.attention().map_or(0, |a| {
            [&a.query_norm, &a.key_norm].into_iter().flatten().count() * vector(a.head_dim)
        });
        128 + 2 * NAMED + vector(widest) + biases + heads
    };
    let blocks: usize = architecture.blocks().map(of_block).sum();
    let text: usize = metadata.iter().map(|(key, value)| key.len() + value.len() + 8).sum();
    let golden = 4 * (options.golden + options.prompt.len());
    let tables = tables(architecture, options, NAMED);
    (tables + tokenizers + blocks + text + golden + 1536) as u64
}

/// What the file says about itself: where it comes from, and what a caller needs who has no more
/// than the file.
pub(crate) fn metadata(
    checkpoint: &Checkpoint,
    options: &Options,
) -> Result<Vec<(String, String)>, QuantizeError> {
    let mut metadata = vec![("family".to_owned(), checkpoint.architecture().family.clone())];
    metadata.extend(
        checkpoint
            .kept()
            .map(|kept| (vocabulary::KEY.to_owned(), vocabulary::to_ranges(kept.ids()))),
    );
    let labels = &checkpoint.architecture().labels;
    if !labels.is_empty() {
        metadata.push((LABELS.to_owned(), serde_json::Value::from(labels.clone()).to_string()));
    }
    metadata.extend(kinglet_media::prepared(checkpoint)?);
    metadata.extend(options.metadata.iter().cloned());
    Ok(metadata)
}

/// Bytes of the matrices that belong to no block, with so many for the record and name of each.
pub(crate) fn tables(architecture: &Architecture, options: &Options, named: usize) -> usize {
    let matrix = |format: Format, rows, cols| {
        format.bytes(rows, cols).unwrap_or(usize::MAX / 64).saturating_add(named)
    };
    let values = |format, of: &Values| matrix(format, of.rows(), of.cols());
    let product = |format, of: &Linear| matrix(format, of.rows(), of.cols());
    let eight = Format::Int8;
    let mut all = vec![];
    for stack in &architecture.stacks {
        match &stack.input {
            Input::Tokens { embedding, types, .. } => {
                all.push(values(options.embeddings, embedding));
                all.extend(types.as_ref().map(|types| values(eight, types)));
            }
            Input::Features { linear, .. } => all.push(product(eight, linear)),
            Input::Queries(queries) => all.push(values(eight, queries)),
            Input::States => {}
        }
        all.extend(stack.positions.as_ref().map(|positions| values(eight, positions)));
    }
    all.extend(architecture.output.dense.as_ref().map(|(of, _)| product(options.head, of)));
    let head = architecture.output.head.as_ref().filter(|_| !architecture.tied());
    all.extend(head.map(|head| product(options.head, head)));
    all.into_iter().fold(0, usize::saturating_add)
}
