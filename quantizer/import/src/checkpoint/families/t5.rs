//! T5 and T5 1.1: no positions but relative ones, no biases, scores that are not divided.
//!
//! The relative numbers are those of a stack's first layer. Where T5 has its head in common with
//! the embedding, it multiplies the states by the root of the width's reciprocal, which goes into
//! the last norm.

use super::super::fields::{Fields, MAX_SIZE};
use super::super::settings::{self, ACTIVATIONS, MAX_LAYERS, named_activation};
use super::super::{
    Activation, Architecture, AttentionBranch, Branch, CheckpointError, FeedForwardBranch, Product,
    TensorRef, special_tokens,
};
use super::super::{Input, Mask, Output, Pooling, Relative, Stack};
use super::parts::{Chain, Parts, attention, unbiased};
use super::source::Source;

/// The farthest distance that makes a difference, at most.
const MAX_DISTANCE: usize = 1 << 16;
const HEAD: &str = "lm_head.weight";

/// An encoder and a decoder.
pub(super) fn import(source: Source<'_>) -> Result<Architecture, CheckpointError> {
    let settings = Settings::read(source.config, source.context)?;
    let (width, vocab) = (settings.width, settings.vocab);
    let mut parts =
        Parts::new(source.tensors, settings::eps(source.config, "layer_norm_epsilon", 1e-6)?);
    let embed = parts.finder.matrix("shared.weight", vocab, width)?;
    let encoder = settings.stack(&mut parts, "encoder", &embed, settings.layers)?;
    let mut decoder = settings.stack(&mut parts, "decoder", &embed, settings.decoder_layers)?;
    if settings.scaled {
        let factor = (1.0 / (width as f64).sqrt()) as f32;
        let weight = decoder.norm.as_mut().and_then(|norm| norm.weight.tensor_mut());
        weight.into_iter().for_each(|weight| *weight = weight.clone().times(factor));
    }
    let head = match !settings.tied && parts.finder.has(HEAD) {
        true => parts.finder.matrix(HEAD, vocab, width)?,
        false => embed,
    };
    // The embedding under other names; numbers that the library never reads.
    let harmless = ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight", HEAD];
    let unread = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight";
    parts.finder.refuse_extra(|name| harmless.contains(&name) || name == unread)?;
    let (config, generation) = (source.config, source.generation);
    Ok(Architecture {
        family: "t5".to_owned(),
        stacks: vec![encoder, decoder],
        output: Output {
            pooling: Pooling::None,
            dense: None,
            head: Some(unbiased(head).into()),
            normalize: false,
        },
        bos: special_tokens::bos(config, generation, None, vocab)?,
        eos: special_tokens::eos(config, generation, Some(1), vocab)?,
        start: special_tokens::start(config, generation, Some(0), vocab)?,
        labels: vec![],
    })
}

struct Settings {
    width: usize,
    vocab: usize,
    context: usize,
    layers: usize,
    decoder_layers: usize,
    heads: usize,
    head_dim: usize,
    hidden: usize,
    activation: Activation,
    gated: bool,
    buckets: usize,
    max_distance: usize,
    tied: bool,
    /// Whether states are scaled in front of the head.
    scaled: bool,
}

impl Settings {
    fn read(fields: Fields<'_>, context: Option<usize>) -> Result<Self, CheckpointError> {
        settings::refuse(fields, &[("is_decoder", "encoders with a decoder are supported")])?;
        if fields.flag("is_encoder_decoder")? == Some(false) {
            return Err(
                fields.unsupported("is_encoder_decoder", "encoders with a decoder are supported")
            );
        }
        let layers = fields.required_size("num_layers", MAX_LAYERS)?;
        let (activation, gated) = feed_forward(fields)?;
        let buckets = fields.size("relative_attention_num_buckets", MAX_DISTANCE)?.unwrap_or(32);
        let max_distance =
            fields.size("relative_attention_max_distance", MAX_DISTANCE)?.unwrap_or(128);
        if buckets < 4 || max_distance <= buckets / 2 {
            let expected =
                "a number above half of relative_attention_num_buckets, which are 4 or more";
            return Err(fields.bad("relative_attention_max_distance", expected));
        }
        let longest = fields.size("n_positions", MAX_SIZE)?.unwrap_or(settings::DEFAULT_CONTEXT);
        let tied = fields.flag("tie_word_embeddings")?.unwrap_or(true);
        let scaled = fields.flag("scale_decoder_outputs")?.unwrap_or(tied);
        Ok(Self {
            width: fields.required_size("d_model", MAX_SIZE)?,
            vocab: fields.required_size("vocab_size", MAX_SIZE)?,
            context: settings::free_context(context, longest)?,
            layers,
            decoder_layers: fields.size("num_decoder_layers", MAX_LAYERS)?.unwrap_or(layers),
            heads: fields.required_size("num_heads", MAX_SIZE)?,
            head_dim: fields.required_size("d_kv", MAX_SIZE)?,
            hidden: fields.required_size("d_ff", MAX_SIZE)?,
            activation,
            gated,
            buckets,
            max_distance,
            // A head of its own does not scale; newer files say so in these words, too.
            tied: tied && scaled,
            scaled,
        })
    }

    fn stack(
        &self,
        parts: &mut Parts<'_>,
        name: &str,
        embed: &TensorRef,
        layers: usize,
    ) -> Result<Stack, CheckpointError> {
        let (width, decodes) = (self.width, name == "decoder");
        let table = format!("{name}.block.0.layer.0.SelfAttention.relative_attention_bias.weight");
        let table = parts.finder.matrix(&table, self.buckets, self.heads)?;
        let relative = Relative { table, max_distance: self.max_distance, bidirectional: !decodes };
        let mut chain = Chain::before();
        for number in 0..layers {
            let at = |part: usize| format!("{name}.block.{number}.layer.{part}.");
            let norm = |parts: &mut Parts<'_>, part| {
                parts.rms_norm(&format!("{}layer_norm", at(part)), width)
            };
            let mask = if decodes { Mask::Causal } else { Mask::Full };
            let mut own = self.attention(parts, &format!("{}SelfAttention.", at(0)), mask)?;
            own.relative = Some(relative.clone());
            chain.push(number, norm(parts, 0)?, Branch::Attention(own));
            if decodes {
                let cross =
                    self.attention(parts, &format!("{}EncDecAttention.", at(1)), Mask::Cross)?;
                chain.push(number, norm(parts, 1)?, Branch::Attention(cross));
            }
            let part = if decodes { 2 } else { 1 };
            let feed_forward = self.feed_forward(parts, &format!("{}DenseReluDense.", at(part)))?;
            chain.push(number, norm(parts, part)?, Branch::FeedForward(feed_forward));
        }
        let (blocks, norm) =
            chain.finish(Some(parts.rms_norm(&format!("{name}.final_layer_norm"), width)?));
        let input = Input::Tokens { embedding: embed.clone().into(), scale: 1.0, types: None };
        Ok(Stack { width, context: self.context, input, positions: None, blocks, norm })
    }

    fn attention(
        &self,
        parts: &mut Parts<'_>,
        at: &str,
        mask: Mask,
    ) -> Result<AttentionBranch, CheckpointError> {
        // No tensor has a row count that saturates.
        let (width, inner) = (self.width, self.heads.saturating_mul(self.head_dim));
        let mut inward = |name: &str| parts.linear(&format!("{at}{name}"), inner, width, false);
        let [query, key, value] = [inward("q")?, inward("k")?, inward("v")?];
        let output: Product = parts.linear(&format!("{at}o"), width, inner, false)?;
        let mut found = attention([query, key, value, output], self.heads, mask);
        found.score_scale = 1.0;
        Ok(found)
    }

    fn feed_forward(
        &self,
        parts: &mut Parts<'_>,
        at: &str,
    ) -> Result<FeedForwardBranch, CheckpointError> {
        let mut up =
            |name: &str| parts.linear(&format!("{at}{name}"), self.hidden, self.width, false);
        let (gate, up) = match self.gated {
            true => (Some(up("wi_0")?), up("wi_1")?),
            false => (None, up("wi")?),
        };
        let down = parts.linear(&format!("{at}wo"), self.width, self.hidden, false)?;
        Ok(FeedForwardBranch { gate, up, down, activation: self.activation })
    }
}

/// The activation, and whether there is a gate.
fn feed_forward(fields: Fields<'_>) -> Result<(Activation, bool), CheckpointError> {
    const KEY: &str = "feed_forward_proj";
    let name = fields.text(KEY)?.unwrap_or("relu");
    let found = match name.strip_prefix("gated-") {
        // As the library has it.
        Some("gelu") => Some((Activation::GeluTanh, true)),
        Some(name) => named_activation(name).map(|activation| (activation, true)),
        None => named_activation(name).map(|activation| (activation, false)),
    };
    found.ok_or_else(|| {
        fields.unsupported(KEY, &format!("{ACTIVATIONS}, each with gated- in front or without"))
    })
}
