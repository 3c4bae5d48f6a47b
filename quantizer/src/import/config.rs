//! From config.json to the stack of blocks.

use serde_json::{Map, Value};

use super::CheckpointError;
use super::architecture::{Activation, Architecture, Attention, Block, FeedForward, Linear, Norm, TensorRef};
use super::family::{Bias, FAMILIES, Family, Window, supported};
use super::fields::{Fields, MAX_SIZE};
use super::rope::{self, Positions};

/// The most layers accepted.
const MAX_LAYERS: usize = 2048;

/// Reads the settings. Every tensor named in the result has the shape that config.json implies; whether it exists is for
/// the caller to see.
pub(super) fn read(config: &Map<String, Value>, context: Option<usize>) -> Result<Architecture, CheckpointError> {
    let config = Fields::new(config, "");
    let family = family(config)?;
    refuse(config)?;
    let shape = Shape::read(config, family)?;
    let longest = config.size("max_position_embeddings", MAX_SIZE)?.unwrap_or(family.context);
    let positions = rope::read(config, shape.head_dim, longest, context)?;
    window(config, family, shape.layers, positions.context)?;
    let vocab = config.required_size("vocab_size", MAX_SIZE)?;
    let embed = tensor("model.embed_tokens.weight", vocab, shape.width)?;
    let tied = config.flag("tie_word_embeddings")?.unwrap_or(false);
    let head = if tied { embed.clone() } else { tensor("lm_head.weight", vocab, shape.width)? };
    let mut blocks = Vec::with_capacity(2 * shape.layers);
    for layer in 0..shape.layers {
        blocks.push(Block::Attention(Box::new(shape.attention(layer, &positions)?)));
        blocks.push(Block::FeedForward(Box::new(shape.feed_forward(layer)?)));
    }
    Ok(Architecture {
        family: family.name.to_owned(),
        width: shape.width,
        vocab,
        context: positions.context,
        embed,
        blocks,
        final_norm: Norm { weight: tensor("model.norm.weight", 1, shape.width)?, eps: shape.eps },
        head,
        bos: tokens(config, "bos_token_id", family.bos)?.first().copied(),
        eos: tokens(config, "eos_token_id", family.eos)?,
    })
}

fn family(config: Fields<'_>) -> Result<&'static Family, CheckpointError> {
    let Some(architectures) = config.get("architectures") else {
        return Err(config.missing("architectures", &supported()));
    };
    let names = architectures.as_array().map_or(&[][..], Vec::as_slice);
    let [Value::String(name)] = names else {
        return Err(config.unsupported("architectures", &supported()));
    };
    let found = FAMILIES.iter().find(|family| family.architecture == name);
    found.ok_or_else(|| config.unsupported("architectures", &supported()))
}

/// Settings that change what is computed and that have no place in a block.
fn refuse(config: Fields<'_>) -> Result<(), CheckpointError> {
    if config.get("quantization_config").is_some() {
        let wanted = "quantize from the original checkpoint in f32, f16 or bf16";
        return Err(config.unsupported("quantization_config", wanted));
    }
    if config.get("hidden_act").is_some() && activation(config).is_err() {
        return Err(config.unsupported("hidden_act", "supported are silu, gelu, gelu_pytorch_tanh and relu"));
    }
    Ok(())
}

fn activation(config: Fields<'_>) -> Result<Activation, CheckpointError> {
    match config.text("hidden_act")?.unwrap_or("silu") {
        "silu" | "swish" => Ok(Activation::Silu),
        "gelu" => Ok(Activation::Gelu),
        "gelu_pytorch_tanh" | "gelu_new" => Ok(Activation::GeluTanh),
        "relu" => Ok(Activation::Relu),
        _ => Err(config.bad("hidden_act", "an activation")),
    }
}

/// A window no shorter than the context has no effect; a shorter one is refused.
fn window(config: Fields<'_>, family: &Family, layers: usize, context: usize) -> Result<(), CheckpointError> {
    let given = config.size("sliding_window", usize::MAX)?;
    let window = match family.window {
        Window::Plain(default) if !config.is_null("sliding_window") => given.or(default),
        Window::Plain(_) => None,
        Window::Switched { window, full_layers } => {
            let full = config.number("max_window_layers")?.unwrap_or(full_layers as f64);
            let on = config.flag("use_sliding_window")?.unwrap_or(false) && full < layers as f64;
            on.then_some(given.unwrap_or(window))
        }
    };
    match window {
        Some(window) if window < context => Err(config.unsupported(
            "sliding_window",
            &format!("attention over the whole context is supported: ask for a context of {window} or less"),
        )),
        _ => Ok(()),
    }
}

/// A token id, or several.
fn tokens(config: Fields<'_>, key: &str, default: Option<u32>) -> Result<Vec<u32>, CheckpointError> {
    let one = |value: &Value| value.as_u64().and_then(|n| u32::try_from(n).ok());
    let found = match config.get(key) {
        None if config.is_null(key) => Some(vec![]),
        None => Some(default.into_iter().collect()),
        Some(Value::Array(values)) => values.iter().map(one).collect(),
        Some(value) => one(value).map(|token| vec![token]),
    };
    found.ok_or_else(|| config.bad(key, "a token id or a list of them"))
}

/// A tensor of this name and shape, if its size can be counted.
fn tensor(name: &str, rows: usize, cols: usize) -> Result<TensorRef, CheckpointError> {
    if rows.checked_mul(cols).and_then(|n| n.checked_mul(4)).is_none() {
        return Err(CheckpointError::BadField {
            field: name.to_owned(),
            value: format!("{rows} x {cols}"),
            expected: "sizes whose product fits this machine's memory".to_owned(),
        });
    }
    Ok(TensorRef { name: name.to_owned(), rows, cols })
}

/// The sizes that all layers share, and which parts they have.
struct Shape {
    layers: usize,
    width: usize,
    inner: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    eps: f32,
    activation: Activation,
    head_norms: bool,
    input_bias: bool,
    output_bias: bool,
    feed_forward_bias: bool,
}

impl Shape {
    fn read(config: Fields<'_>, family: &Family) -> Result<Self, CheckpointError> {
        let width = config.required_size("hidden_size", MAX_SIZE)?;
        let heads = config.required_size("num_attention_heads", MAX_SIZE)?;
        let kv_heads = match config.size("num_key_value_heads", MAX_SIZE)? {
            Some(n) => n,
            None if config.is_null("num_key_value_heads") => heads,
            None => family.kv_heads.unwrap_or(heads),
        };
        if !heads.is_multiple_of(kv_heads) {
            return Err(config.bad("num_key_value_heads", "a divisor of num_attention_heads"));
        }
        let head_dim = match config.size("head_dim", MAX_SIZE)?.or(family.head_dim) {
            Some(dim) => dim,
            None if width.is_multiple_of(heads) => width / heads,
            None => return Err(config.bad("num_attention_heads", "a divisor of hidden_size, or a head_dim beside it")),
        };
        if !head_dim.is_multiple_of(2) {
            return Err(config.bad("head_dim", "an even number, so that pairs can rotate"));
        }
        let bias = |bias| match bias {
            Bias::Never => Ok(false),
            Bias::Always => Ok(true),
            Bias::Setting(key) => Ok(config.flag(key)?.unwrap_or(false)),
        };
        Ok(Self {
            layers: config.required_size("num_hidden_layers", MAX_LAYERS)?,
            width,
            inner: config.required_size("intermediate_size", MAX_SIZE)?,
            heads,
            kv_heads,
            head_dim,
            eps: config.positive("rms_norm_eps")?.unwrap_or(1e-6) as f32,
            activation: activation(config)?,
            head_norms: family.head_norms,
            input_bias: bias(family.input_bias)?,
            output_bias: bias(family.output_bias)?,
            feed_forward_bias: bias(family.feed_forward_bias)?,
        })
    }

    fn linear(
        &self,
        layer: usize,
        part: &str,
        rows: Option<usize>,
        cols: Option<usize>,
        bias: bool,
    ) -> Result<Linear, CheckpointError> {
        let name = |what: &str| format!("model.layers.{layer}.{part}.{what}");
        // A product of heads and dimensions that overflows cannot be a tensor's.
        let (rows, cols) = (rows.unwrap_or(usize::MAX), cols.unwrap_or(usize::MAX));
        let bias = bias.then(|| tensor(&name("bias"), 1, rows)).transpose()?;
        Ok(Linear { weight: tensor(&name("weight"), rows, cols)?, bias })
    }

    fn norm(&self, layer: usize, part: &str, len: usize) -> Result<Norm, CheckpointError> {
        Ok(Norm { weight: tensor(&format!("model.layers.{layer}.{part}.weight"), 1, len)?, eps: self.eps })
    }

    fn attention(&self, layer: usize, positions: &Positions) -> Result<Attention, CheckpointError> {
        let queries = self.heads.checked_mul(self.head_dim);
        let keys = self.kv_heads.checked_mul(self.head_dim);
        let width = Some(self.width);
        let head_norm = |part: &str| {
            self.head_norms.then(|| self.norm(layer, &format!("self_attn.{part}"), self.head_dim)).transpose()
        };
        Ok(Attention {
            layer,
            norm: self.norm(layer, "input_layernorm", self.width)?,
            query: self.linear(layer, "self_attn.q_proj", queries, width, self.input_bias)?,
            key: self.linear(layer, "self_attn.k_proj", keys, width, self.input_bias)?,
            value: self.linear(layer, "self_attn.v_proj", keys, width, self.input_bias)?,
            output: self.linear(layer, "self_attn.o_proj", width, queries, self.output_bias)?,
            heads: self.heads,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            scale: (1.0 / (self.head_dim as f64).sqrt()) as f32,
            query_norm: head_norm("q_norm")?,
            key_norm: head_norm("k_norm")?,
            rope: positions.rope.clone(),
        })
    }

    fn feed_forward(&self, layer: usize) -> Result<FeedForward, CheckpointError> {
        let (width, inner) = (Some(self.width), Some(self.inner));
        let bias = self.feed_forward_bias;
        Ok(FeedForward {
            layer,
            norm: self.norm(layer, "post_attention_layernorm", self.width)?,
            gate: self.linear(layer, "mlp.gate_proj", inner, width, bias)?,
            up: self.linear(layer, "mlp.up_proj", inner, width, bias)?,
            down: self.linear(layer, "mlp.down_proj", width, inner, bias)?,
            activation: self.activation,
        })
    }
}
