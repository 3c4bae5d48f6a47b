//! BERT in f32: an encoder's forward pass, whose linear layers may be rounded ones.

use std::path::Path;

use kinglet_quantizer::reference::LinearWeights;
use ndarray::{Array2, ArrayView2, s};
use rayon::prelude::*;
use safetensors::SafeTensors;
use tokenizers::Tokenizer;

/// Numbers in a head.
const HEAD: usize = 32;

/// A norm over the channels of a token.
#[derive(Clone)]
pub(crate) struct LayerNorm {
    pub(crate) weight: Vec<f32>,
    pub(crate) bias: Vec<f32>,
}

impl LayerNorm {
    const EPS: f64 = 1e-12;

    /// Of `x + y`.
    pub(crate) fn apply(&self, x: &[f32], y: &[f32]) -> Vec<f32> {
        let width = self.weight.len();
        let mut out: Vec<f32> = x.iter().zip(y).map(|(x, y)| x + y).collect();
        out.par_chunks_mut(width).for_each(|row| {
            let mean = row.iter().map(|&v| f64::from(v)).sum::<f64>() / width as f64;
            let variance = row.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / width as f64;
            let scale = 1.0 / (variance + Self::EPS).sqrt();
            for ((v, weight), bias) in row.iter_mut().zip(&self.weight).zip(&self.bias) {
                *v = ((f64::from(*v) - mean) * scale) as f32 * weight + bias;
            }
        });
        out
    }
}

/// `x <- norm(x + output(attend(input(x))))`, then `x <- norm(x + down(gelu(up(x))))`.
#[derive(Clone)]
pub(crate) struct Layer {
    /// Queries, keys, values.
    pub(crate) input: LinearWeights,
    pub(crate) output: LinearWeights,
    pub(crate) attention_norm: LayerNorm,
    pub(crate) up: LinearWeights,
    pub(crate) down: LinearWeights,
    pub(crate) norm: LayerNorm,
}

/// An encoder.
#[derive(Clone)]
pub(crate) struct Bert {
    tokens: Array2<f32>,
    /// With the type of the only segment added.
    positions: Array2<f32>,
    pub(crate) norm: LayerNorm,
    pub(crate) layers: Vec<Layer>,
}

impl Bert {
    pub(crate) fn open(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let read = |name: &str| -> Vec<f32> {
            let (numbers, rest) = tensors.tensor(name).unwrap().data().as_chunks();
            assert!(rest.is_empty());
            numbers.iter().map(|&b| f32::from_le_bytes(b)).collect()
        };
        let norm =
            |name: &str| LayerNorm { weight: read(&format!("{name}.weight")), bias: read(&format!("{name}.bias")) };
        let stacked = |prefix: &str, parts: &[&str]| {
            let all = |what: &str| parts.iter().flat_map(|part| read(&format!("{prefix}.{part}.{what}"))).collect();
            let (weight, bias): (Vec<f32>, Vec<f32>) = (all("weight"), all("bias"));
            LinearWeights { cols: weight.len() / bias.len(), weight, bias: Some(bias), rounds: false }
        };
        let table = |name: &str| {
            let numbers = read(&format!("embeddings.{name}.weight"));
            let width = tensors.tensor("embeddings.LayerNorm.weight").unwrap().shape()[0];
            Array2::from_shape_vec((numbers.len() / width, width), numbers).unwrap()
        };
        let layers = (0..)
            .map(|i| format!("encoder.layer.{i}"))
            .take_while(|name| tensors.tensor(&format!("{name}.output.dense.weight")).is_ok());
        let layer = |name: String| Layer {
            input: stacked(&format!("{name}.attention.self"), &["query", "key", "value"]),
            output: stacked(&format!("{name}.attention.output"), &["dense"]),
            attention_norm: norm(&format!("{name}.attention.output.LayerNorm")),
            up: stacked(&format!("{name}.intermediate"), &["dense"]),
            down: stacked(&format!("{name}.output"), &["dense"]),
            norm: norm(&format!("{name}.output.LayerNorm")),
        };
        Self {
            tokens: table("word_embeddings"),
            positions: table("position_embeddings") + table("token_type_embeddings").row(0),
            norm: norm("embeddings.LayerNorm"),
            layers: layers.map(layer).collect(),
        }
    }

    /// What the first layer sees: rows of all sentences, one below the other, and how many are of each.
    pub(crate) fn embed(&self, sentences: &[Vec<u32>]) -> (Vec<f32>, Vec<usize>) {
        let ids = sentences.iter().flatten();
        let tokens: Vec<f32> = ids.flat_map(|&id| self.tokens.row(id as usize)).copied().collect();
        let positions = sentences.iter().flat_map(|ids| 0..ids.len());
        let positions: Vec<f32> = positions.flat_map(|at| self.positions.row(at)).copied().collect();
        (self.norm.apply(&tokens, &positions), sentences.iter().map(Vec::len).collect())
    }

    /// One vector of length 1 for each sentence: the mean of its tokens.
    pub(crate) fn encode(&self, sentences: &[Vec<u32>]) -> Vec<Vec<f32>> {
        let (mut x, lengths) = self.embed(sentences);
        for layer in &self.layers {
            let mixed = attend(&layer.input.apply(&x), &lengths);
            x = layer.attention_norm.apply(&x, &layer.output.apply(&mixed));
            x = layer.norm.apply(&x, &layer.down.apply(&gelu(layer.up.apply(&x))));
        }
        let width = self.norm.weight.len();
        let mut rows = x.chunks(width);
        let pooled = lengths.iter().map(|&length| {
            let mut sum = vec![0.0; width];
            rows.by_ref().take(length).flat_map(|row| row.iter().enumerate()).for_each(|(k, v)| sum[k] += v);
            let norm = sum.iter().map(|v| v * v).sum::<f32>().sqrt();
            sum.iter().map(|v| v / norm).collect()
        });
        pooled.collect()
    }
}

/// What each head gathers from queries, keys and values.
pub(crate) fn attend(projected: &[f32], lengths: &[usize]) -> Vec<f32> {
    let tokens: usize = lengths.iter().sum();
    let width = projected.len() / tokens / 3;
    let all = ArrayView2::from_shape((tokens, 3 * width), projected).unwrap();
    let starts = lengths.iter().scan(0, |end, length| {
        *end += length;
        Some(*end - length)
    });
    let sequences: Vec<(usize, usize)> = starts.zip(lengths.iter().copied()).collect();
    let of_sequence = |(start, length): (usize, usize)| {
        let mut out = Array2::zeros((length, width));
        for head in (0..width).step_by(HEAD) {
            let part = |first: usize| all.slice(s![start..start + length, first + head..first + head + HEAD]);
            let mut scores = part(0).dot(&part(width).t()) / (HEAD as f32).sqrt();
            for mut row in scores.rows_mut() {
                let top = row.fold(f32::NEG_INFINITY, |top, v| top.max(*v));
                row.mapv_inplace(|v| (v - top).exp());
                row /= row.sum();
            }
            out.slice_mut(s![.., head..head + HEAD]).assign(&scores.dot(&part(2 * width)));
        }
        out.into_raw_vec_and_offset().0
    };
    sequences.into_par_iter().flat_map_iter(of_sequence).collect()
}

/// The exact one.
pub(crate) fn gelu(mut x: Vec<f32>) -> Vec<f32> {
    x.par_iter_mut()
        .with_min_len(4096)
        .for_each(|v| *v *= (1.0 + libm::erff(*v * std::f32::consts::FRAC_1_SQRT_2)) / 2.0);
    x
}

/// The tokens of texts, as the checkpoint's own tokenizer finds them.
pub(crate) fn tokens(folder: &Path, texts: &[String]) -> Vec<Vec<u32>> {
    let mut tokenizer = Tokenizer::from_file(folder.join("tokenizer.json")).unwrap();
    tokenizer.with_padding(None);
    texts.iter().map(|text| tokenizer.encode(text.as_str(), true).unwrap().get_ids().to_vec()).collect()
}
