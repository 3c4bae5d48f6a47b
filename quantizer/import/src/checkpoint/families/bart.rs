//! Marian, BART and mBART: the original Transformer in three orders.
//!
//! | | norms | positions | norm of the input |
//! |---|---|---|---|
//! | Marian | after the branches | sinusoids | none |
//! | BART | after the branches | learned | that of the first block |
//! | mBART | before the branches | learned | one more, in front of a branch that is zero |

use super::super::fields::{Fields, MAX_SIZE};
use super::super::settings::{self, MAX_LAYERS};
use super::super::{
    Activation, Architecture, Branch, CheckpointError, Norm, Product, TensorRef, Values,
    special_tokens,
};
use super::super::{Input, Mask, Output, Pooling, Stack};
use super::parts::{Chain, Parts, attention, plain};
use super::source::Source;

/// Rows in front of the learned positions that stand for none.
const OFFSET: usize = 2;
const HEAD: &str = "lm_head.weight";
const BIAS: &str = "final_logits_bias";
/// The norm after the last block of models whose norms come before.
const LAST: &str = "layer_norm";

/// What a family is, beside its settings.
#[derive(PartialEq)]
struct Family {
    name: &'static str,
    sinusoids: bool,
    norms_first: bool,
    input_norm: bool,
    start: Option<u32>,
    bos: Option<u32>,
    eos: Option<u32>,
}

pub(super) fn marian(source: Source<'_>) -> Result<Architecture, CheckpointError> {
    let family = Family {
        name: "marian",
        sinusoids: true,
        norms_first: false,
        input_norm: false,
        start: Some(58_100),
        bos: None,
        eos: Some(0),
    };
    import(&family, source)
}

pub(super) fn bart(source: Source<'_>) -> Result<Architecture, CheckpointError> {
    let family = Family {
        name: "bart",
        sinusoids: false,
        norms_first: false,
        input_norm: true,
        start: Some(2),
        bos: Some(0),
        eos: Some(2),
    };
    import(&family, source)
}

pub(super) fn mbart(source: Source<'_>) -> Result<Architecture, CheckpointError> {
    let family = Family {
        name: "mbart",
        sinusoids: false,
        norms_first: true,
        input_norm: true,
        start: None,
        bos: Some(0),
        eos: Some(2),
    };
    import(&family, source)
}

/// Settings of models from which these were made, which their code no longer reads but their files
/// may state.
fn refuse(family: &Family, fields: Fields<'_>) -> Result<(), CheckpointError> {
    settings::refuse(fields, &[("is_decoder", "encoders with a decoder are supported")])?;
    for (key, expected) in [
        ("is_encoder_decoder", true),
        ("normalize_before", family.norms_first),
        ("add_final_layer_norm", family.norms_first),
        ("normalize_embedding", family.input_norm),
        ("static_position_embeddings", family.sinusoids),
        ("add_bias_logits", false),
    ] {
        if fields.flag(key)?.is_some_and(|found| found != expected) {
            return Err(fields.unsupported(
                key,
                &format!("{expected} is supported in models of type {}", family.name),
            ));
        }
    }
    match fields.get("extra_pos_embeddings") {
        Some(rows) if !family.sinusoids && rows.as_u64() != Some(OFFSET as u64) => {
            Err(fields.unsupported("extra_pos_embeddings", "2 is supported"))
        }
        _ => Ok(()),
    }
}

fn import(family: &Family, source: Source<'_>) -> Result<Architecture, CheckpointError> {
    let fields = source.config;
    refuse(family, fields)?;
    let model = Model::read(family, source)?;
    let mut parts = Parts::new(source.tensors, 1e-5);
    let (embeds, names) = model.embeddings(fields, &mut parts)?;
    let [source_embed, target_embed] = embeds;
    let encoder = model.stack(&mut parts, "encoder", &source_embed)?;
    let decoder = model.stack(&mut parts, "decoder", &target_embed)?;
    let vocab = target_embed.rows();
    let tied = fields.flag("tie_word_embeddings")?.unwrap_or(true);
    let weight = match tied {
        true => target_embed,
        false => parts.finder.matrix(HEAD, vocab, model.width)?,
    };
    let bias = match parts.finder.has(BIAS) {
        true => Some(parts.finder.vector(BIAS, vocab)?),
        false => None,
    };
    parts.finder.refuse_extra(|name| names.contains(&name) || tied && name == HEAD)?;
    let generation = source.generation;
    Ok(Architecture {
        family: family.name.to_owned(),
        stacks: vec![encoder, decoder],
        output: Output {
            pooling: Pooling::None,
            dense: None,
            head: Some(Product { weight, bias }.into()),
            normalize: false,
        },
        bos: special_tokens::bos(fields, generation, family.bos, vocab)?,
        eos: special_tokens::eos(fields, generation, family.eos, vocab)?,
        start: special_tokens::start(fields, generation, family.start, vocab)?,
        labels: vec![],
    })
}

struct Model<'f> {
    family: &'f Family,
    width: usize,
    context: usize,
    longest: usize,
    scale: f32,
    activation: Activation,
    encoder: Side,
    decoder: Side,
}

/// The sizes of a stack.
struct Side {
    layers: usize,
    heads: usize,
    hidden: usize,
}

impl Side {
    fn read(fields: Fields<'_>, name: &str, width: usize) -> Result<Self, CheckpointError> {
        Ok(Self {
            layers: fields.required_size(&format!("{name}_layers"), MAX_LAYERS)?,
            heads: settings::heads(fields, &format!("{name}_attention_heads"), width)?,
            hidden: fields.required_size(&format!("{name}_ffn_dim"), MAX_SIZE)?,
        })
    }
}

impl<'f> Model<'f> {
    fn read(family: &'f Family, source: Source<'_>) -> Result<Self, CheckpointError> {
        let fields = source.config;
        let width = fields.required_size("d_model", MAX_SIZE)?;
        let longest = fields.size("max_position_embeddings", MAX_SIZE)?.unwrap_or(1024);
        let scaled = fields.flag("scale_embedding")?.unwrap_or(false);
        Ok(Self {
            family,
            width,
            context: settings::context(source.context, longest)?,
            longest,
            scale: if scaled { (width as f64).sqrt() as f32 } else { 1.0 },
            activation: settings::activation(fields, "activation_function", "gelu")?,
            encoder: Side::read(fields, "encoder", width)?,
            decoder: Side::read(fields, "decoder", width)?,
        })
    }

    /// The tables of source and target, and other names under which files may have them.
    fn embeddings(
        &self,
        fields: Fields<'_>,
        parts: &mut Parts<'_>,
    ) -> Result<([TensorRef; 2], Vec<&'static str>), CheckpointError> {
        const SHARED: &str = "model.shared.weight";
        const OWN: [&str; 2] =
            ["model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight"];
        let vocab = fields.required_size("vocab_size", MAX_SIZE)?;
        if self.family.sinusoids && fields.flag("share_encoder_decoder_embeddings")? == Some(false)
        {
            let target = fields.size("decoder_vocab_size", MAX_SIZE)?.unwrap_or(vocab);
            let source = parts.finder.matrix(OWN[0], vocab, self.width)?;
            return Ok(([source, parts.finder.matrix(OWN[1], target, self.width)?], vec![]));
        }
        if let Some(other) =
            fields.size("decoder_vocab_size", MAX_SIZE)?.filter(|other| *other != vocab)
        {
            let expected = format!(
                "vocab_size, {vocab}, unless share_encoder_decoder_embeddings is false, not {other}"
            );
            return Err(fields.bad("decoder_vocab_size", &expected));
        }
        // Files name one of those that are the same.
        let name = [SHARED, OWN[0], OWN[1]]
            .into_iter()
            .find(|name| parts.finder.has(name))
            .unwrap_or(SHARED);
        let shared = parts.finder.matrix(name, vocab, self.width)?;
        Ok(([shared.clone(), shared], vec![SHARED, OWN[0], OWN[1]]))
    }

    fn positions(&self, parts: &mut Parts<'_>, name: &str) -> Result<Values, CheckpointError> {
        let name = format!("model.{name}.embed_positions.weight");
        let (width, used) = (self.width, self.context);
        if !self.family.sinusoids {
            let rows = self.longest.saturating_add(OFFSET);
            return Ok(parts.positions(&name, rows, width, OFFSET..OFFSET + used)?.into());
        }
        // Older files store them.
        if parts.finder.has(&name) {
            return Ok(parts.positions(&name, self.longest, width, 0..used)?.into());
        }
        settings::sinusoids(used, width, 0, |pair| {
            10_000_f64.powf(-2.0 * pair as f64 / width as f64)
        })
    }

    fn stack(
        &self,
        parts: &mut Parts<'_>,
        name: &str,
        embed: &TensorRef,
    ) -> Result<Stack, CheckpointError> {
        let (width, decodes) = (self.width, name == "decoder");
        let side = if decodes { &self.decoder } else { &self.encoder };
        let positions = Some(self.positions(parts, name)?);
        let input = match self.family.input_norm {
            true => Some(parts.layer_norm(&format!("model.{name}.layernorm_embedding"), width)?),
            false => None,
        };
        let mut chain = match self.family.norms_first {
            true => Chain::before(),
            false => Chain::behind(input.clone()),
        };
        for number in 0..side.layers {
            let at = format!("model.{name}.layers.{number}.");
            let mut layer = Layer { parts: &mut *parts, width, side, at };
            let mask = if decodes { Mask::Causal } else { Mask::Full };
            let (middle, norm) = layer.attention("self_attn", mask)?;
            chain.push(number, norm, middle);
            if decodes {
                let (middle, norm) = layer.attention("encoder_attn", Mask::Cross)?;
                chain.push(number, norm, middle);
            }
            let (middle, norm) = layer.feed_forward(self.activation)?;
            chain.push(number, norm, middle);
        }
        let last = match self.family.norms_first {
            true => Some(parts.layer_norm(&format!("model.{name}.{LAST}"), width)?),
            false => None,
        };
        if let Some(input) = input.filter(|_| self.family.norms_first) {
            chain.norm_input(input);
        }
        let (blocks, norm) = chain.finish(last);
        let input =
            Input::Tokens { embedding: embed.clone().into(), scale: self.scale, types: None };
        Ok(Stack { width, context: self.context, input, positions, blocks, norm })
    }
}

struct Layer<'s, 'a> {
    parts: &'s mut Parts<'a>,
    width: usize,
    side: &'s Side,
    at: String,
}

impl Layer<'_, '_> {
    fn norm(&mut self, of: &str) -> Result<Norm, CheckpointError> {
        self.parts.layer_norm(&format!("{}{of}_layer_norm", self.at), self.width)
    }

    fn attention(&mut self, name: &str, mask: Mask) -> Result<(Branch, Norm), CheckpointError> {
        let (at, width) = (&self.at, self.width);
        let mut square =
            |part: &str| self.parts.linear(&format!("{at}{name}.{part}"), width, width, true);
        let products =
            [square("q_proj")?, square("k_proj")?, square("v_proj")?, square("out_proj")?];
        let middle = Branch::Attention(attention(products, self.side.heads, mask));
        Ok((middle, self.norm(name)?))
    }

    fn feed_forward(&mut self, activation: Activation) -> Result<(Branch, Norm), CheckpointError> {
        let (width, hidden) = (self.width, self.side.hidden);
        let up = self.parts.linear(&format!("{}fc1", self.at), hidden, width, true)?;
        let down = self.parts.linear(&format!("{}fc2", self.at), width, hidden, true)?;
        Ok((plain(up, down, activation), self.norm("final")?))
    }
}
