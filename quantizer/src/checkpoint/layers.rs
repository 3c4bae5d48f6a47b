//! From settings and tensors to blocks.
//!
//! Every tensor that the settings imply is looked up by name and its shape
//! compared; every tensor of the files must then have been used, but for a few
//! that are known to mean nothing. So a checkpoint that computes something else
//! than its settings say cannot pass for an ordinary one.

use std::collections::BTreeSet;

use super::architecture::Order;
use super::config::Config;
use super::names::Names;
use super::tensors::Tensors;
use super::{Architecture, Attention, Block, CheckpointError, FeedForward, Linear, Norm, TensorRef};

/// Extra tensors listed in the error.
const LISTED: usize = 8;

/// Describes the model; fails unless settings and tensors agree entirely.
pub(super) fn describe(
    config: Config,
    tensors: &Tensors,
    names: &'static Names,
) -> Result<Architecture, CheckpointError> {
    let mut finder = Finder { tensors, names, config: &config, used: BTreeSet::new() };
    let embed = finder.matrix(names.embed, config.vocab, config.width)?;
    // Not reserved in advance: the tensors have yet to show that the layers exist.
    let mut blocks = Vec::new();
    for layer in 0..config.layers {
        blocks.push(Block::Attention(finder.attention(layer)?));
        blocks.push(Block::FeedForward(finder.feed_forward(layer)?));
    }
    let final_norm = finder.norm(names.final_norm, config.width)?;
    let head = match config.tied {
        true => embed.clone(),
        false => finder.head()?,
    };
    finder.refuse_extra()?;
    Ok(Architecture {
        family: config.family.name.to_owned(),
        width: config.width,
        vocab: config.vocab,
        context: config.context,
        embed,
        blocks,
        final_norm,
        head,
        bos: config.bos,
        eos: config.eos,
    })
}

struct Finder<'a> {
    tensors: &'a Tensors,
    names: &'static Names,
    config: &'a Config,
    used: BTreeSet<String>,
}

impl Finder<'_> {
    fn attention(&mut self, layer: usize) -> Result<Attention, CheckpointError> {
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
        Ok(Attention {
            layer,
            norm: self.norm(&at(names.attention_norm), width)?,
            query: self.turning(&at(names.query), inner, width, bias)?,
            key: self.turning(&at(names.key), kv_inner, width, bias)?,
            value: self.linear(&at(names.value), kv_inner, width, bias)?,
            output: self.linear(&at(names.output), width, inner, config.output_bias)?,
            heads: config.heads,
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
            scale: (1.0 / (config.head_dim as f64).sqrt()) as f32,
            query_norm,
            key_norm,
            rope: config.rope.clone(),
        })
    }

    fn feed_forward(&mut self, layer: usize) -> Result<FeedForward, CheckpointError> {
        let (config, names) = (self.config, self.names);
        let at = |part: &str| format!("{}{layer}.{part}", names.layer);
        let (width, hidden, bias) = (config.width, config.hidden, config.feed_forward_bias);
        Ok(FeedForward {
            layer,
            norm: self.norm(&at(names.feed_forward_norm), width)?,
            gate: self.linear(&at(names.gate), hidden, width, bias)?,
            up: self.linear(&at(names.up), hidden, width, bias)?,
            down: self.linear(&at(names.down), width, hidden, bias)?,
            activation: config.activation,
        })
    }

    fn head(&mut self) -> Result<TensorRef, CheckpointError> {
        self.find(self.names.head, &[self.config.vocab, self.config.width], self.names.headless)
    }

    fn norm(&mut self, name: &str, len: usize) -> Result<Norm, CheckpointError> {
        Ok(Norm { weight: self.find(name, &[len], self.names.incomplete)?, eps: self.config.eps })
    }

    /// A product whose outputs turn with their position.
    fn turning(&mut self, name: &str, rows: usize, cols: usize, bias: bool) -> Result<Linear, CheckpointError> {
        let mut linear = self.linear(name, rows, cols, bias)?;
        if self.names.interleaved {
            linear.weight.order = Order::Interleaved(self.config.head_dim);
            linear.bias.iter_mut().for_each(|bias| bias.order = Order::Interleaved(self.config.head_dim));
        }
        Ok(linear)
    }

    fn linear(&mut self, name: &str, rows: usize, cols: usize, bias: bool) -> Result<Linear, CheckpointError> {
        let weight = self.matrix(&format!("{name}.weight"), rows, cols)?;
        let bias = match bias {
            true => Some(self.find(&format!("{name}.bias"), &[rows], self.names.incomplete)?),
            false => None,
        };
        Ok(Linear { weight, bias })
    }

    fn matrix(&mut self, name: &str, rows: usize, cols: usize) -> Result<TensorRef, CheckpointError> {
        self.find(name, &[rows, cols], self.names.incomplete)
    }

    /// Looks a tensor up and checks its shape and type.
    fn find(&mut self, name: &str, shape: &[usize], hint: &'static str) -> Result<TensorRef, CheckpointError> {
        let Some(stored) = self.tensors.get(name) else {
            return Err(CheckpointError::MissingTensor { tensor: name.to_owned(), shape: shape.to_owned(), hint });
        };
        if stored.shape != shape {
            return Err(CheckpointError::WrongShape {
                tensor: name.to_owned(),
                expected: shape.to_owned(),
                found: stored.shape.clone(),
            });
        }
        if let Err(found) = &stored.element {
            return Err(CheckpointError::WrongDtype { tensor: name.to_owned(), found: found.clone() });
        }
        self.used.insert(name.to_owned());
        let (rows, cols) = match shape {
            [rows, cols] => (*rows, *cols),
            _ => (1, shape.iter().product()),
        };
        Ok(TensorRef { name: name.to_owned(), rows, cols, order: Order::Stored })
    }

    fn refuse_extra(&self) -> Result<(), CheckpointError> {
        let mut names = Vec::new();
        let mut count = 0;
        for name in self.tensors.names() {
            if self.used.contains(name) || self.harmless(name) {
                continue;
            }
            count += 1;
            if names.len() < LISTED {
                names.push(name.to_owned());
            }
        }
        match count {
            0 => Ok(()),
            _ => Err(CheckpointError::ExtraTensors { names, count }),
        }
    }

    /// The rotation is among the settings; tied files may store the head once
    /// more, which the reference ignores as well.
    fn harmless(&self, name: &str) -> bool {
        name.ends_with(self.names.rotation) || (self.config.tied && name == self.names.head)
    }
}
