//! What can be moved between the products of attention without a change of what it computes, so
//! that less is lost when queries, keys and values are rounded. None of it costs the runtime
//! anything.

use crate::rounding::rounded::RoundedLinear;
use kinglet_import::checkpoint::Mask;
use kinglet_reference::{BlockWeights, Inputs, LinearWeights, Operation, Site, ops};

/// Factors for the rows of the first product that share the size of keys with their queries: a
/// channel of the keys is divided by what the same channel of the queries is multiplied with, and
/// no score changes.
///
/// The keys of some models (Qwen2) have biases in a few channels that are a hundred times larger
/// than all else. Such a channel sets the scale of every key. It turns slowly, so it adds nearly
/// the same to all scores of a query; most of its size can go over to the query, whose rounding
/// then does not matter to the softmax either. Half of it does, by magnitude. Both channels of a
/// pair that is rotated together have one factor. Factors are powers of two, so the function is the
/// same bit for bit.
pub(super) fn key_factors(block: &BlockWeights) -> Option<Vec<f32>> {
    let (Operation::Attention(heads), Some(of)) = (&block.operation, &block.input) else {
        return None;
    };
    let (rope, bias) = (heads.rope.as_ref()?, of.bias.as_ref()?);
    let normed = heads.query_norm.is_some() || heads.key_norm.is_some();
    if normed || heads.mask == Mask::Cross || bias[heads.keys()].iter().all(|bias| *bias == 0.0) {
        return None;
    }
    let size = sizes(block, of, bias);
    let (dim, pairs) = (heads.head_dim, rope.frequencies.len());
    let mut factors = vec![1.0; of.rows()];
    for kv in 0..heads.kv_heads {
        let key = heads.keys().start + kv * dim;
        let queries = (kv * heads.group()..(kv + 1) * heads.group()).map(|head| head * dim);
        for channel in 0..dim {
            let pair = match channel {
                low if low < pairs => [low, low + pairs],
                high if high < 2 * pairs => [high - pairs, high],
                alone => [alone, alone],
            };
            let together = |first: usize| size[first + pair[0]].hypot(size[first + pair[1]]);
            let of_queries = queries.clone().map(together).fold(0.0, f32::max);
            let half = (0.5 * (together(key) / of_queries).log2()).round();
            let factor = if half.is_finite() { half.exp2() } else { 1.0 };
            factors[key + channel] = 1.0 / factor;
            queries.clone().for_each(|first| factors[first + channel] = factor);
        }
    }
    Some(factors)
}

/// The size of each output for inputs of unit size after the norm.
fn sizes(block: &BlockWeights, of: &LinearWeights, bias: &[f32]) -> Vec<f32> {
    let norm = block.norm.as_ref().map(|norm| &norm.weight);
    let of_row = |row: &[f32]| -> f32 {
        match norm {
            Some(norm) => row.iter().zip(norm).map(|(w, n)| (w * n) * (w * n)).sum(),
            None => row.iter().map(|w| w * w).sum(),
        }
    };
    of.weight
        .chunks(of.cols)
        .zip(bias)
        .map(|(row, bias)| (of_row(row) + bias * bias).sqrt())
        .collect()
}

/// [`key_factors`] for weights.
pub(super) fn balance_keys(block: &mut BlockWeights) {
    let Some(factors) = key_factors(block) else { return };
    let Some(LinearWeights { weight, bias: Some(bias), cols, .. }) = &mut block.input else {
        return;
    };
    for ((row, bias), factor) in weight.chunks_mut(*cols).zip(bias).zip(factors) {
        row.iter_mut().for_each(|w| *w *= factor);
        *bias *= factor;
    }
}

/// The same for rows that were taken over.
pub(super) fn balance_taken(factors: &[f32], of: &mut RoundedLinear) {
    for (row, factor) in of.rows.iter_mut().zip(factors) {
        row.scale *= factor;
        row.offset_scale *= factor;
    }
    for (bias, factor) in of.bias.iter_mut().flatten().zip(factors) {
        *bias *= factor;
    }
}

/// Transforms the values of heads whose queries and keys are transformed, and the columns that read
/// them: the same function, with values that share a scale better. Values are not rotated, so this
/// costs the runtime nothing.
pub(super) fn turn_values(block: &mut BlockWeights) {
    let (dim, values, site) = match &block.operation {
        Operation::Attention(heads) if heads.head_inputs == Inputs::Transformed => {
            let site = if heads.mask == Mask::Cross { Site::States } else { Site::Input };
            (heads.head_dim, heads.values(), site)
        }
        _ => return,
    };
    let Some(of) = block.product_mut(site) else { return };
    for first in values.step_by(dim) {
        let rows = &mut of.weight[first * of.cols..(first + dim) * of.cols];
        let columns: Vec<f32> =
            (0..of.cols).flat_map(|c| rows[c..].iter().step_by(of.cols).copied()).collect();
        for (c, column) in ops::transformed(&columns, dim).chunks(dim).enumerate() {
            rows[c..].iter_mut().step_by(of.cols).zip(column).for_each(|(to, v)| *to = *v);
        }
        if let Some(bias) = &mut of.bias {
            let turned = ops::transformed(&bias[first..first + dim], dim);
            bias[first..first + dim].copy_from_slice(&turned);
        }
    }
    block.output.weight = ops::transformed(&block.output.weight, dim);
}

#[cfg(test)]
mod tests {
    use super::*;
    use kinglet_import::checkpoint::Rope;
    use kinglet_reference::testing::{self, numbers};
    use kinglet_reference::{Forward, Heads, Sequences};

    const WIDTH: usize = 16;
    const DIM: usize = 8;
    const TOKENS: usize = 12;

    /// Four query heads, two of keys, the third channel of whose keys is large.
    fn block() -> BlockWeights {
        let heads = Heads {
            heads: 4,
            kv_heads: 2,
            head_dim: DIM,
            score_scale: 0.3,
            query_norm: None,
            key_norm: None,
            // The last two channels are not rotated.
            rope: Some(Rope { frequencies: vec![1.0, 0.1, 0.001], magnitude: 1.0 }),
            mask: Mask::Causal,
            relative: None,
            head_inputs: Inputs::Transformed,
        };
        let rows = (4 + 2 + 2) * DIM;
        let mut bias = numbers(rows, 2);
        heads.keys().step_by(DIM).for_each(|key| bias[key + 2] = 300.0);
        let input = LinearWeights {
            weight: numbers(rows * WIDTH, 1),
            bias: Some(bias),
            cols: WIDTH,
            inputs: None,
        };
        let output = LinearWeights {
            weight: numbers(WIDTH * 4 * DIM, 3),
            bias: None,
            cols: 4 * DIM,
            inputs: None,
        };
        testing::block(vec![1.0; WIDTH], input, Operation::Attention(heads), output)
    }

    #[test]
    fn keys_become_small_and_attention_stays() {
        let (before, mut after) = (block(), block());
        balance_keys(&mut after);
        let stream = numbers(TOKENS * WIDTH, 4);
        let run = |block: &BlockWeights| block.advance(Sequences::alone(&[TOKENS]), &stream);
        assert_eq!(run(&before), run(&after));
        let Operation::Attention(heads) = &before.operation else { panic!("it is attention") };
        let largest = |block: &BlockWeights| {
            let bias = block.input.as_ref().and_then(|of| of.bias.as_ref()).unwrap();
            bias[heads.keys()].iter().fold(0.0f32, |most, b| most.max(b.abs()))
        };
        assert_eq!(largest(&before), 300.0);
        assert!(largest(&after) < 60.0, "{}", largest(&after));
    }

    #[test]
    fn what_has_no_such_biases_is_left_alone() {
        let mut of = block();
        if let Some(bias) = of.input.as_mut().and_then(|of| of.bias.as_mut()) {
            bias.fill(0.0);
        }
        assert_eq!(key_factors(&of), None);
        let Operation::Attention(heads) = &mut of.operation else { panic!("it is attention") };
        *heads = Heads { rope: None, ..heads.clone() };
        assert_eq!(key_factors(&of), None);
    }
}
