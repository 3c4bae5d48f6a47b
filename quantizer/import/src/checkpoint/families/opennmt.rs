//! The original Transformer, as OpenNMT trains it and CTranslate2 names its tensors.
//!
//! Queries, keys and values are one product, so are keys and values of the memory. Sinusoids begin
//! with position 1. A vocabulary may have one row more than `vocab.json`: that of all unknown
//! tokens.

use super::super::fields::{Fields, MAX_SIZE};
use super::super::settings::{self, MAX_LAYERS};
use super::super::{
    Activation, Architecture, Branch, CheckpointError, Norm, Product, TensorRef, Values,
    special_tokens,
};
use super::super::{Input, Mask, Output, Pooling, Stack};
use super::parts::{Chain, Parts, attention, plain, rows};
use super::source::Source;

/// The one layout of sinusoids, said at length or in a word.
const SINUSOIDS: [&str; 2] = [
    "sinusoidal, first position = 1, layout [sin | cos], inv_freq = exp(-i*ln(10000)/(d/2-1))",
    "sinusoidal",
];
const LEARNED: &str = "learned";
const HEAD: &str = "decoder.projection.weight";
const HEAD_BIAS: &str = "decoder.projection.bias";

pub(super) fn import(source: Source<'_>) -> Result<Architecture, CheckpointError> {
    let fields = source.config;
    let settings = Settings::read(fields, source.context)?;
    let width = settings.width;
    let mut parts = Parts::new(source.tensors, settings::eps(fields, "layer_norm_eps", 1e-5)?);
    let source_embed = settings.embedding(fields, &mut parts, "encoder", "source_vocab_size")?;
    let target_embed = settings.embedding(fields, &mut parts, "decoder", "target_vocab_size")?;
    let vocab = target_embed.rows();
    let encoder = settings.stack(&mut parts, "encoder", source_embed, settings.layers[0])?;
    let decoder =
        settings.stack(&mut parts, "decoder", target_embed.clone(), settings.layers[1])?;
    let tied = fields.flag("tie_word_embeddings")?.unwrap_or(false);
    let weight = match tied {
        true => target_embed,
        false => parts.finder.matrix(HEAD, vocab, width)?,
    };
    let bias = match parts.finder.has(HEAD_BIAS) {
        true => Some(parts.finder.vector(HEAD_BIAS, vocab)?),
        false => None,
    };
    parts.finder.refuse_extra(|name| tied && name == HEAD)?;
    // An answer begins as a text does.
    let bos = special_tokens::bos(fields, source.generation, Some(1), vocab)?;
    Ok(Architecture {
        family: "opennmt_transformer".to_owned(),
        stacks: vec![encoder, decoder],
        output: Output {
            pooling: Pooling::None,
            dense: None,
            head: Some(Product { weight, bias }.into()),
            normalize: false,
        },
        bos,
        eos: special_tokens::eos(fields, source.generation, Some(2), vocab)?,
        start: special_tokens::start(fields, source.generation, bos, vocab)?,
        labels: vec![],
    })
}

struct Settings {
    width: usize,
    context: usize,
    layers: [usize; 2],
    heads: usize,
    hidden: usize,
    activation: Activation,
    norms_first: bool,
    /// Whether there is a norm after the last block of norms that come first.
    last_norm: bool,
    sinusoids: bool,
    scale: f32,
}

impl Settings {
    fn read(fields: Fields<'_>, context: Option<usize>) -> Result<Self, CheckpointError> {
        let switches = [
            ("relative_positions", "positions that are added are supported"),
            ("gated_ffn", "plain layers are supported"),
        ];
        settings::refuse(fields, &switches)?;
        let width = fields.required_size("d_model", MAX_SIZE)?;
        let norms_first = fields.flag("pre_norm")?.unwrap_or(true);
        let last_norm = fields.flag("final_layer_norm")?.unwrap_or(norms_first);
        if last_norm && !norms_first {
            let supported = "a norm after the last block is supported where pre_norm is true";
            return Err(fields.unsupported("final_layer_norm", supported));
        }
        Ok(Self {
            width,
            context: settings::free_context(context, settings::DEFAULT_CONTEXT)?,
            layers: [
                fields.required_size("encoder_layers", MAX_LAYERS)?,
                fields.required_size("decoder_layers", MAX_LAYERS)?,
            ],
            heads: settings::heads(fields, "num_heads", width)?,
            hidden: fields.required_size("ffn_dim", MAX_SIZE)?,
            activation: settings::activation(fields, "activation", "relu")?,
            norms_first,
            last_norm,
            sinusoids: sinusoids(fields)?,
            scale: scale(fields, width)?,
        })
    }

    fn embedding(
        &self,
        fields: Fields<'_>,
        parts: &mut Parts<'_>,
        stack: &str,
        key: &str,
    ) -> Result<TensorRef, CheckpointError> {
        let name = format!("{stack}.embeddings.weight");
        let vocab = fields.required_size(key, MAX_SIZE)?;
        let rows = parts.finder.rows(&name).filter(|rows| *rows == vocab + 1).unwrap_or(vocab);
        parts.finder.matrix(&name, rows, self.width)
    }

    fn positions(
        &self,
        parts: &mut Parts<'_>,
        stack: &str,
    ) -> Result<(Values, usize), CheckpointError> {
        let width = self.width;
        if self.sinusoids {
            let step = 10_000_f64.ln() / ((width / 2) as f64 - 1.0).max(1.0);
            let table =
                settings::sinusoids(self.context, width, 1, |pair| (-(pair as f64) * step).exp())?;
            return Ok((table, self.context));
        }
        let name = format!("{stack}.position_encodings.encodings");
        let longest = parts.finder.rows(&name).unwrap_or(self.context);
        let context = self.context.min(longest);
        Ok((parts.positions(&name, longest, width, 0..context)?.into(), context))
    }

    fn stack(
        &self,
        parts: &mut Parts<'_>,
        name: &str,
        embed: TensorRef,
        layers: usize,
    ) -> Result<Stack, CheckpointError> {
        let (positions, context) = self.positions(parts, name)?;
        let decodes = name == "decoder";
        let mut chain = if self.norms_first { Chain::before() } else { Chain::behind(None) };
        for number in 0..layers {
            let mut layer =
                Layer { settings: self, parts: &mut *parts, at: format!("{name}.layer_{number}.") };
            let (middle, norm) =
                layer.attention(if decodes { Mask::Causal } else { Mask::Full })?;
            chain.push(number, norm, middle);
            if decodes {
                let (middle, norm) = layer.cross()?;
                chain.push(number, norm, middle);
            }
            let (middle, norm) = layer.feed_forward()?;
            chain.push(number, norm, middle);
        }
        let last = match self.last_norm {
            true => Some(norm(parts, &format!("{name}.layer_norm"), self.width)?),
            false => None,
        };
        let (blocks, norm) = chain.finish(last);
        let input = Input::Tokens { embedding: embed.into(), scale: self.scale, types: None };
        Ok(Stack { width: self.width, context, input, positions: Some(positions), blocks, norm })
    }
}

fn norm(parts: &mut Parts<'_>, name: &str, width: usize) -> Result<Norm, CheckpointError> {
    parts.layer_norm_of([&format!("{name}.gamma"), &format!("{name}.beta")], width)
}

struct Layer<'s, 'a> {
    settings: &'s Settings,
    parts: &'s mut Parts<'a>,
    at: String,
}

impl Layer<'_, '_> {
    fn linear(&mut self, name: &str, rows: usize, cols: usize) -> Result<Product, CheckpointError> {
        self.parts.linear(&format!("{}{name}", self.at), rows, cols, true)
    }

    fn norm(&mut self, part: &str) -> Result<Norm, CheckpointError> {
        norm(self.parts, &format!("{}{part}.layer_norm", self.at), self.settings.width)
    }

    fn attention(&mut self, mask: Mask) -> Result<(Branch, Norm), CheckpointError> {
        let width = self.settings.width;
        let fused = self.linear("self_attention.linear_0", 3 * width, width)?;
        let output = self.linear("self_attention.linear_1", width, width)?;
        let part = |number: usize| rows(&fused, number * width, width);
        let products = [part(0), part(1), part(2), output];
        let middle = Branch::Attention(attention(products, self.settings.heads, mask));
        Ok((middle, self.norm("self_attention")?))
    }

    fn cross(&mut self) -> Result<(Branch, Norm), CheckpointError> {
        let width = self.settings.width;
        let query = self.linear("attention.linear_0", width, width)?;
        let fused = self.linear("attention.linear_1", 2 * width, width)?;
        let output = self.linear("attention.linear_2", width, width)?;
        let products = [query, rows(&fused, 0, width), rows(&fused, width, width), output];
        let middle = Branch::Attention(attention(products, self.settings.heads, Mask::Cross));
        Ok((middle, self.norm("attention")?))
    }

    fn feed_forward(&mut self) -> Result<(Branch, Norm), CheckpointError> {
        let (width, hidden) = (self.settings.width, self.settings.hidden);
        let up = self.linear("ffn.linear_0", hidden, width)?;
        let down = self.linear("ffn.linear_1", width, hidden)?;
        Ok((plain(up, down, self.settings.activation), self.norm("ffn")?))
    }
}

/// Whether positions are sinusoids, or else learned.
fn sinusoids(fields: Fields<'_>) -> Result<bool, CheckpointError> {
    const KEY: &str = "positions";
    match fields.text(KEY)?.unwrap_or(SINUSOIDS[1]) {
        text if SINUSOIDS.contains(&text) => Ok(true),
        LEARNED => Ok(false),
        _ => {
            Err(fields
                .unsupported(KEY, &format!("supported are {:?} and {LEARNED:?}", SINUSOIDS[1])))
        }
    }
}

/// The factor of embeddings.
fn scale(fields: Fields<'_>, width: usize) -> Result<f32, CheckpointError> {
    const KEY: &str = "scale_embeddings";
    let root = (width as f64).sqrt() as f32;
    match fields.get(KEY) {
        None => Ok(root),
        Some(value) if value == true || value == "sqrt(d_model)" => Ok(root),
        Some(value) if value == false => Ok(1.0),
        Some(_) => {
            Err(fields.unsupported(KEY, "supported are true (or \"sqrt(d_model)\") and false"))
        }
    }
}
