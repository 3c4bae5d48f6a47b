//! GPT-2, alone or attending to the states of another stack.

use super::super::fields::{Fields, MAX_SIZE};
use super::super::settings::{self, MAX_LAYERS};
use super::super::{
    Activation, Architecture, AttentionBranch, Block, Branch, CheckpointError, Norm, Product,
    special_tokens,
};
use super::super::{Input, Mask, Output, Pooling, Residual, Stack};
use super::parts::{Parts, attention, plain, unbiased};
use super::source::Source;

/// The token that begins and ends texts when nothing else is said.
const END: u32 = 50256;

/// A language model.
pub(super) fn import(source: Source<'_>) -> Result<Architecture, CheckpointError> {
    let fields = source.config;
    settings::refuse_switched_on(
        fields,
        &[("add_cross_attention", "decoders without an encoder are supported")],
    )?;
    let settings = Settings::read(fields, source.context)?;
    let mut parts = Parts::new(source.tensors, settings.eps);
    let prefix = parts.prefix("transformer.", "wte.weight");
    let (stack, head) = settings.stack(&mut parts, prefix, "lm_head.weight", false)?;
    parts.finder.refuse_extra(|name| settings.is_harmless(name, "lm_head.weight"))?;
    let vocab = settings.vocab;
    Ok(Architecture {
        family: "gpt2".to_owned(),
        stacks: vec![stack],
        output: Output {
            pooling: Pooling::None,
            dense: None,
            head: Some(head.into()),
            normalize: false,
        },
        bos: special_tokens::bos(fields, source.generation, Some(END), vocab)?,
        eos: special_tokens::eos(fields, source.generation, Some(END), vocab)?,
        start: None,
        labels: vec![],
    })
}

/// What the configuration says.
pub(super) struct Settings {
    pub(super) width: usize,
    pub(super) vocab: usize,
    pub(super) eps: f32,
    context: usize,
    longest: usize,
    layers: usize,
    heads: usize,
    hidden: usize,
    activation: Activation,
    tied: bool,
    /// Whether scores are divided by the root of a head's size.
    scaled: bool,
    /// Whether they are divided by the number of the layer, too, from 1 on.
    by_layer: bool,
}

impl Settings {
    pub(super) fn read(
        fields: Fields<'_>,
        context: Option<usize>,
    ) -> Result<Self, CheckpointError> {
        settings::refuse(fields, &[("is_encoder_decoder", "decoders are supported")])?;
        let width = fields.required_size("n_embd", MAX_SIZE)?;
        let longest = fields.size("n_positions", MAX_SIZE)?.unwrap_or(1024);
        Ok(Self {
            width,
            vocab: fields.required_size("vocab_size", MAX_SIZE)?,
            eps: settings::eps(fields, "layer_norm_epsilon", 1e-5)?,
            context: settings::context(context, longest)?,
            longest,
            layers: fields.required_size("n_layer", MAX_LAYERS)?,
            heads: settings::heads(fields, "n_head", width)?,
            hidden: fields.size("n_inner", MAX_SIZE)?.unwrap_or(4 * width),
            activation: settings::activation(fields, "activation_function", "gelu_new")?,
            tied: fields.flag("tie_word_embeddings")?.unwrap_or(true),
            scaled: fields.flag("scale_attn_weights")?.unwrap_or(true),
            by_layer: fields.flag("scale_attn_by_inverse_layer_idx")?.unwrap_or(false),
        })
    }

    /// Causal masks, which old files store, and the head where it is the embedding.
    pub(super) fn is_harmless(&self, name: &str, head: &str) -> bool {
        let mask = name.ends_with("attn.bias") || name.ends_with("attn.masked_bias");
        mask || name.ends_with("crossattention.bias") || self.tied && name == head
    }

    /// The stack and its head. With `cross`, each layer attends to a memory of the same width.
    pub(super) fn stack(
        &self,
        parts: &mut Parts<'_>,
        prefix: &str,
        head: &str,
        cross: bool,
    ) -> Result<(Stack, Product), CheckpointError> {
        let (width, vocab) = (self.width, self.vocab);
        let embed = parts.finder.matrix(&format!("{prefix}wte.weight"), vocab, width)?;
        let positions = parts.positions(
            &format!("{prefix}wpe.weight"),
            self.longest,
            width,
            0..self.context,
        )?;
        let mut blocks = vec![];
        for number in 0..self.layers {
            let mut layer = Layer {
                settings: self,
                parts: &mut *parts,
                at: format!("{prefix}h.{number}."),
                number,
            };
            layer.push("ln_1", &mut blocks, |layer| layer.attention())?;
            if cross {
                layer.push("ln_cross_attn", &mut blocks, |layer| layer.cross())?;
            }
            layer.push("ln_2", &mut blocks, |layer| layer.feed_forward())?;
        }
        let norm = Some(parts.layer_norm(&format!("{prefix}ln_f"), width)?);
        let head = match self.tied {
            true => embed.clone(),
            false => parts.finder.matrix(head, vocab, width)?,
        };
        let input = Input::Tokens { embedding: embed.into(), scale: 1.0, types: None };
        let positions = Some(positions.into());
        Ok((Stack { width, context: self.context, input, positions, blocks, norm }, unbiased(head)))
    }
}

struct Layer<'s, 'a> {
    settings: &'s Settings,
    parts: &'s mut Parts<'a>,
    at: String,
    number: usize,
}

impl Layer<'_, '_> {
    fn push(
        &mut self,
        norm: &str,
        blocks: &mut Vec<Block>,
        middle: impl FnOnce(&mut Self) -> Result<Branch, CheckpointError>,
    ) -> Result<(), CheckpointError> {
        let norm: Norm =
            self.parts.layer_norm(&format!("{}{norm}", self.at), self.settings.width)?;
        blocks.push(middle(self)?.block(self.number, Some(norm), Residual::Pre));
        Ok(())
    }

    /// Some outputs of a product of this many inputs and outputs.
    fn product(
        &mut self,
        name: &str,
        shape: [usize; 2],
        first: usize,
        count: usize,
    ) -> Result<Product, CheckpointError> {
        self.parts.columns(&format!("{}{name}", self.at), shape, first, count)
    }

    fn attention(&mut self) -> Result<Branch, CheckpointError> {
        let width = self.settings.width;
        let fused = [width, 3 * width];
        let products = [
            self.product("attn.c_attn", fused, 0, width)?,
            self.product("attn.c_attn", fused, width, width)?,
            self.product("attn.c_attn", fused, 2 * width, width)?,
            self.product("attn.c_proj", [width, width], 0, width)?,
        ];
        Ok(self.scaled(products, Mask::Causal))
    }

    fn cross(&mut self) -> Result<Branch, CheckpointError> {
        let width = self.settings.width;
        let fused = [width, 2 * width];
        let products = [
            self.product("crossattention.q_attn", [width, width], 0, width)?,
            self.product("crossattention.c_attn", fused, 0, width)?,
            self.product("crossattention.c_attn", fused, width, width)?,
            self.product("crossattention.c_proj", [width, width], 0, width)?,
        ];
        Ok(self.scaled(products, Mask::Cross))
    }

    fn scaled(&self, products: [Product; 4], mask: Mask) -> Branch {
        let mut found: AttentionBranch = attention(products, self.settings.heads, mask);
        if !self.settings.scaled {
            found.score_scale = 1.0;
        }
        if self.settings.by_layer {
            found.score_scale /= (self.number + 1) as f32;
        }
        Branch::Attention(found)
    }

    fn feed_forward(&mut self) -> Result<Branch, CheckpointError> {
        let (width, hidden) = (self.settings.width, self.settings.hidden);
        let up = self.product("mlp.c_fc", [width, hidden], 0, hidden)?;
        let down = self.product("mlp.c_proj", [hidden, width], 0, width)?;
        Ok(plain(up, down, self.settings.activation))
    }
}
