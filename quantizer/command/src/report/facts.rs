//! What can be read off a file and its checkpoint.

use anyhow::Result;
use kinglet::{Matrix, Model};
use kinglet_evaluate::size::Matrices;
use kinglet_import::checkpoint::{Architecture, Checkpoint, Kept, TensorRef, weights};
use kinglet_model::{Input, Values};
use kinglet_report::{Component, Means, ModelFacts, Size, Tensor};

pub(super) fn model(model: &Model<'_>, architecture: &Architecture) -> ModelFacts {
    ModelFacts {
        family: architecture.family.clone(),
        width: model.last().map_or(0, |stack| stack.width),
        vocab: model.outputs(),
        context: model.context(),
        blocks: model.blocks() as usize,
        checkpoint_blocks: Some(architecture.count()),
    }
}

/// Matrices only; a pruned checkpoint's are those of the whole one.
fn checkpoint_weights(checkpoint: &Checkpoint) -> u64 {
    let architecture = checkpoint.architecture();
    let blocks = architecture.blocks().map(|block| weights(block) as u64);
    let left = architecture.vocab();
    let vocab = checkpoint.kept().map_or(left, Kept::of);
    let whole = |table: &&TensorRef| if table.rows() == left { vocab } else { table.rows() };
    let tables =
        architecture.tables().iter().map(|table| (whole(table) * table.cols()) as u64).sum::<u64>();
    tables + blocks.sum::<u64>()
}

pub(super) fn size(model: &Model<'_>, checkpoint: &Checkpoint) -> Result<Size> {
    Ok(Size {
        f32_bytes: Some(4 * checkpoint_weights(checkpoint)),
        file_bytes: model.bytes().len() as u64,
        weights: Matrices::of_file(model)?.weights,
        bits_per_weight: Matrices::of_blocks(model)?.bits(),
    })
}

/// What was done to a file, as far as its shapes and formats tell.
pub(super) fn means(model: &Model<'_>, checkpoint: &Checkpoint) -> Result<Means> {
    let (mut sum, mut int8) = (Matrices::default(), true);
    for index in 0..model.tensors() {
        if let Values::Matrix(matrix) = model.tensor(index)?.values {
            sum.add(&matrix);
            int8 &= matrix.format().is_int8();
        }
    }
    let pruned = sum.weights < checkpoint_weights(checkpoint);
    Ok(match (pruned, int8) {
        (false, _) => Means::Quantized,
        (true, true) => Means::Pruned,
        (true, false) => Means::Both,
    })
}

pub(super) fn components(model: &Model<'_>) -> Result<Vec<Component>> {
    let [mut embedding, mut head, mut attention, mut feed_forward] = [Matrices::default(); 4];
    let tied = model.is_tied();
    let mut tables: Vec<Matrix<'_>> = vec![];
    for index in 0..model.stacks() {
        let table = match &model.stack(index)?.input {
            Input::Tokens { embedding: table, .. } | Input::Queries(table) => table.matrix,
            Input::Features { linear, .. } => linear.matrix,
            Input::States => continue,
        };
        // Stacks may share one.
        if !tables.contains(&table) {
            tables.push(table);
        }
    }
    tables.iter().for_each(|table| embedding.add(table));
    let output = model.output()?;
    for linear in
        output.dense.iter().map(|(dense, _)| dense).chain(output.head.as_ref().filter(|_| !tied))
    {
        head.add(&linear.matrix);
    }
    for index in 0..model.blocks() {
        let block = model.block(index)?;
        let sum = match block.attention() {
            Some(_) => &mut attention,
            None => &mut feed_forward,
        };
        block.products().for_each(|(_, product)| sum.add(&product.matrix));
    }
    let matrices = [
        (if tied { "embedding and head" } else { "embedding" }, embedding),
        ("head", head),
        ("attention", attention),
        ("feed-forward", feed_forward),
    ];
    let known: u64 = matrices.iter().map(|(_, sum)| sum.bytes).sum();
    let rest = Matrices { bytes: (model.bytes().len() as u64).saturating_sub(known), weights: 0 };
    let all = matrices
        .into_iter()
        .chain([("norms, tokenizer, tables", rest)])
        .filter(|(_, sum)| sum.bytes > 0);
    Ok(all
        .map(|(name, Matrices { bytes, weights })| Component {
            name: name.to_owned(),
            bytes,
            weights,
        })
        .collect())
}

/// The matrices as they lie.
pub(super) fn tensors(model: &Model<'_>) -> Result<Vec<Tensor>> {
    let mut tensors = vec![];
    for index in 0..model.tensors() {
        let tensor = model.tensor(index)?;
        let Values::Matrix(matrix) = tensor.values else { continue };
        let weights = matrix.rows() as f64 * matrix.cols() as f64;
        tensors.push(Tensor {
            name: model.tensor_name(&tensor.record).to_owned(),
            rows: matrix.rows(),
            cols: matrix.cols(),
            format: format!("{:?}", matrix.format()).to_lowercase(),
            bits: matrix.bytes() as f64 * 8.0 / weights,
            sparsity: Some(zeros(&matrix) as f64 / weights),
            ..Tensor::default()
        });
    }
    Ok(tensors)
}

fn zeros(matrix: &Matrix<'_>) -> usize {
    let mut row = vec![0.0; matrix.cols()];
    let mut zeros = |index| {
        matrix.dequantize_row(index, &mut row);
        row.iter().filter(|&&weight| weight == 0.0).count()
    };
    (0..matrix.rows()).map(&mut zeros).sum()
}
