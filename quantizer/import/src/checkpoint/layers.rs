//! From settings and tensors to blocks.
//!
//! Every tensor that the settings imply is looked up by name and its shape
//! compared; every tensor of the files must then have been used, but for a few
//! that are known to mean nothing. So a checkpoint that computes something else
//! than its settings say cannot pass for an ordinary one.

use super::architecture::Order;
use super::config::Config;
use super::finder::Finder;
use super::names::Names;
use super::tensors::Tensors;
use super::{
    Architecture, AttentionBranch, Block, Branch, CheckpointError, FeedForwardBranch, Input, Mask,
    Norm, NormKind, Output, Pooling, Product, Residual, Stack,
};

/// Describes the model; fails unless settings and tensors agree entirely.
pub(super) fn describe(
    config: Config,
    tensors: &Tensors,
    names: &'static Names,
) -> Result<Architecture, CheckpointError> {
    let mut layers =
        Layers { finder: Finder::new(tensors, names.incomplete), names, config: &config };
    let embed = layers.finder.matrix(names.embed, config.vocab, config.width)?;
    // Not reserved in advance: the tensors have yet to show that the layers exist.
    let mut blocks = Vec::new();
    for layer in 0..config.layers {
        blocks.push(layers.attention(layer)?);
        blocks.push(layers.feed_forward(layer)?);
    }
    let norm = layers.norm(names.final_norm, config.width)?;
    let head = match config.tied {
        true => embed.clone(),
        false => layers.finder.find(names.head, &[config.vocab, config.width], names.headless)?,
    };
    // The rotation is among the settings; tied files may store the head once more, which the
    // reference ignores as well.
    layers.finder.refuse_extra(|name| {
        name.ends_with(names.rotation) || (config.tied && name == names.head)
    })?;
    let stack = Stack {
        width: config.width,
        context: config.context,
        input: Input::Tokens { embedding: embed.into(), scale: 1.0, types: None },
        positions: None,
        blocks,
        norm: Some(norm),
    };
    let head = Some(Product { weight: head, bias: None }.into());
    Ok(Architecture {
        family: config.family.name.to_owned(),
        stacks: vec![stack],
        output: Output { pooling: Pooling::None, dense: None, head, normalize: false },
        bos: config.bos,
        eos: config.eos,
        start: None,
        labels: vec![],
    })
}

struct Layers<'a> {
    finder: Finder<'a>,
    names: &'static Names,
    config: &'a Config,
}

impl Layers<'_> {
    fn attention(&mut self, layer: usize) -> Result<Block, CheckpointError> {
        let (config, names) = (self.config, self.names);
        let at = |part: &str| format!("{}{layer}.{part}", names.layer);
        let width = config.width;
        // No tensor has a row count that saturates.
        let inner = config.heads.saturating_mul(config.head_dim);
        let kv_inner = config.kv_heads.saturating_mul(config.head_dim);
        let bias = config.input_bias;
        let (mut query_norm, mut key_norm) = (None, None);
        if config.family.head_norms {
            query_norm = Some(self.norm(&at(names.query_norm), config.head_dim)?);
            key_norm = Some(self.norm(&at(names.key_norm), config.head_dim)?);
        }
        let norm = Some(self.norm(&at(names.attention_norm), width)?);
        let attention = AttentionBranch {
            query: self.turning(&at(names.query), inner, width, bias)?,
            key: self.turning(&at(names.key), kv_inner, width, bias)?,
            value: self.linear(&at(names.value), kv_inner, width, bias)?,
            output: self.linear(&at(names.output), width, inner, config.output_bias)?,
            heads: config.heads,
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
            score_scale: (1.0 / (config.head_dim as f64).sqrt()) as f32,
            query_norm,
            key_norm,
            rope: Some(config.rope.clone()),
            mask: config.masks.get(layer).copied().unwrap_or(Mask::Causal),
            relative: None,
        };
        Ok(Branch::Attention(attention).block(layer, norm, Residual::Pre))
    }

    fn feed_forward(&mut self, layer: usize) -> Result<Block, CheckpointError> {
        let (config, names) = (self.config, self.names);
        let at = |part: &str| format!("{}{layer}.{part}", names.layer);
        let (width, hidden, bias) = (config.width, config.hidden, config.feed_forward_bias);
        let norm = Some(self.norm(&at(names.feed_forward_norm), width)?);
        let feed_forward = FeedForwardBranch {
            gate: Some(self.linear(&at(names.gate), hidden, width, bias)?),
            up: self.linear(&at(names.up), hidden, width, bias)?,
            down: self.linear(&at(names.down), width, hidden, bias)?,
            activation: config.activation,
        };
        Ok(Branch::FeedForward(feed_forward).block(layer, norm, Residual::Pre))
    }

    fn norm(&mut self, name: &str, len: usize) -> Result<Norm, CheckpointError> {
        let weight = self.finder.vector(name, len)?.into();
        Ok(Norm { kind: NormKind::Rms, weight, bias: None, eps: self.config.eps })
    }

    /// A product whose outputs turn with their position.
    fn turning(
        &mut self,
        name: &str,
        rows: usize,
        cols: usize,
        bias: bool,
    ) -> Result<Product, CheckpointError> {
        let mut linear = self.linear(name, rows, cols, bias)?;
        if self.names.interleaved {
            linear.weight.order = Order::Interleaved(self.config.head_dim);
            linear
                .bias
                .iter_mut()
                .for_each(|bias| bias.order = Order::Interleaved(self.config.head_dim));
        }
        Ok(linear)
    }

    fn linear(
        &mut self,
        name: &str,
        rows: usize,
        cols: usize,
        bias: bool,
    ) -> Result<Product, CheckpointError> {
        let weight = self.finder.matrix(&format!("{name}.weight"), rows, cols)?;
        let bias = match bias {
            true => Some(self.finder.vector(&format!("{name}.bias"), rows)?),
            false => None,
        };
        Ok(Product { weight, bias })
    }
}
