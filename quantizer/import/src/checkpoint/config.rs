//! config.json, as values; and what says the same in its words.
//!
//! Reads what the importer needs with the defaults of the family, and refuses
//! what it cannot compute. After this, only the tensors can be wrong.

use serde_json::Value;

use super::family::{Bias, FAMILIES, Family};
use super::fields::{Fields, MAX_SIZE};
use super::rope_settings::RopeSettings;
use super::settings::{MAX_LAYERS, UNQUANTIZED, activation, eps, refuse_switched_on};
use super::{Activation, CheckpointError, Mask, Rope, special_tokens, window};
/// Wider than any head; bounds the tables of rotations.
const MAX_HEAD_DIM: usize = 1 << 16;

/// Settings that, unless off, change the computation beyond what blocks can say.
const MUST_BE_OFF: &[(&str, &str)] = &[
    ("quantization_config", UNQUANTIZED),
    ("compression_config", UNQUANTIZED),
    ("is_encoder_decoder", "decoders are supported"),
    ("add_cross_attention", "decoders without an encoder are supported"),
    ("attention_chunk_size", "attention over the whole context is supported"),
    ("attn_logit_softcapping", "plain softmax attention is supported"),
    ("final_logit_softcapping", "logits without a cap are supported"),
    ("clip_qkv", "projections without clipping are supported"),
    ("alibi", "rotary positions are supported"),
    ("no_rope_layers", "rotary positions in every layer are supported"),
    ("use_qk_norm", "norms of query and key are supported as in Qwen3ForCausalLM"),
    ("num_local_experts", "dense feed-forward layers are supported"),
    ("num_experts", "dense feed-forward layers are supported"),
];

/// What config.json says, checked and with defaults filled in.
pub(super) struct Config {
    pub(super) family: &'static Family,
    pub(super) width: usize,
    pub(super) vocab: usize,
    pub(super) context: usize,
    pub(super) layers: usize,
    /// What the queries of each layer see.
    pub(super) masks: Vec<Mask>,
    pub(super) hidden: usize,
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    pub(super) head_dim: usize,
    pub(super) eps: f32,
    pub(super) activation: Activation,
    pub(super) tied: bool,
    pub(super) input_bias: bool,
    pub(super) output_bias: bool,
    pub(super) feed_forward_bias: bool,
    pub(super) rope: Rope,
    pub(super) bos: Option<u32>,
    pub(super) eos: Vec<u32>,
}

impl Config {
    /// Reads config.json, and generation_config.json where there is one; `supported` names all
    /// architectures, for messages.
    pub(super) fn read_json(
        fields: Fields<'_>,
        generation: Option<Fields<'_>>,
        context: Option<usize>,
        supported: &str,
    ) -> Result<Self, CheckpointError> {
        let family = family(fields, supported)?;
        refuse_unsupported(fields)?;
        Self::read(family, fields, generation, context)
    }

    /// Reads settings of this family, in the words of config.json.
    pub(super) fn read(
        family: &'static Family,
        fields: Fields<'_>,
        generation: Option<Fields<'_>>,
        context: Option<usize>,
    ) -> Result<Self, CheckpointError> {
        let width = fields.required_size("hidden_size", MAX_SIZE)?;
        let vocab = fields.required_size("vocab_size", MAX_SIZE)?;
        let layers = fields.required_size("num_hidden_layers", MAX_LAYERS)?;
        let heads = fields.required_size("num_attention_heads", MAX_SIZE)?;
        let head_dim = head_dim(fields, family, width, heads)?;
        let longest = fields.size("max_position_embeddings", MAX_SIZE)?.unwrap_or(family.context);
        let settings = RopeSettings::read(fields, head_dim, longest)?;
        let context = settings.context(context)?;
        let masks = window::masks(fields, family.window, layers, context)?;
        Ok(Self {
            family,
            width,
            vocab,
            context,
            layers,
            masks,
            hidden: fields.required_size("intermediate_size", MAX_SIZE)?,
            heads,
            kv_heads: kv_heads(fields, family, heads)?,
            head_dim,
            eps: eps(fields, "rms_norm_eps", 1e-6)?,
            activation: activation(fields, "hidden_act", "silu")?,
            tied: fields.flag("tie_word_embeddings")?.unwrap_or(false),
            input_bias: bias(fields, family.input_bias)?,
            output_bias: bias(fields, family.output_bias)?,
            feed_forward_bias: bias(fields, family.feed_forward_bias)?,
            rope: settings.rope(context)?,
            bos: special_tokens::bos(fields, generation, family.bos, vocab)?,
            eos: special_tokens::eos(fields, generation, family.eos, vocab)?,
        })
    }
}

fn family(fields: Fields<'_>, supported: &str) -> Result<&'static Family, CheckpointError> {
    const KEY: &str = "architectures";
    let expected = || format!("a list of one name; {supported}");
    let value = fields.get(KEY).ok_or_else(|| fields.missing(KEY, &expected()))?;
    let names = value.as_array().map(Vec::as_slice);
    let Some([Value::String(name)]) = names else {
        return Err(fields.bad(KEY, &expected()));
    };
    let family = FAMILIES.iter().find(|family| family.architecture == name);
    let family = family.ok_or_else(|| fields.unsupported(KEY, supported))?;
    // The reference takes defaults from one and layers from the other.
    match fields.text("model_type")? {
        Some(kind) if kind != family.name => {
            Err(fields
                .bad("model_type", &format!("{:?}, as architectures says {name}", family.name)))
        }
        _ => Ok(family),
    }
}

fn refuse_unsupported(fields: Fields<'_>) -> Result<(), CheckpointError> {
    refuse_switched_on(fields, MUST_BE_OFF)?;
    if fields.flag("is_causal")? == Some(false) {
        return Err(fields.unsupported("is_causal", "causal attention is supported"));
    }
    if fields.get("auto_map").is_some_and(|map| map.get("AutoModelForCausalLM").is_some()) {
        let supported = "models without code of their own are supported; \
                         remove the field if the layers are the plain ones";
        return Err(fields.unsupported("auto_map", supported));
    }
    Ok(())
}

fn head_dim(
    fields: Fields<'_>,
    family: &Family,
    width: usize,
    heads: usize,
) -> Result<usize, CheckpointError> {
    let head_dim = match fields.size("head_dim", MAX_HEAD_DIM)?.or(family.head_dim) {
        Some(head_dim) => head_dim,
        None if width.is_multiple_of(heads) => width / heads,
        None => {
            let expected = format!("a divisor of hidden_size, {width}, unless head_dim is given");
            return Err(fields.bad("num_attention_heads", &expected));
        }
    };
    if !head_dim.is_multiple_of(2) || head_dim > MAX_HEAD_DIM {
        let expected =
            format!("an even number up to {MAX_HEAD_DIM} for rotary positions, not {head_dim}");
        return Err(fields.bad("head_dim", &expected));
    }
    Ok(head_dim)
}

fn kv_heads(fields: Fields<'_>, family: &Family, heads: usize) -> Result<usize, CheckpointError> {
    const KEY: &str = "num_key_value_heads";
    let default = match fields.is_null(KEY) {
        true => heads,
        false => family.kv_heads.unwrap_or(heads),
    };
    let kv_heads = fields.size(KEY, MAX_SIZE)?.unwrap_or(default);
    match heads.is_multiple_of(kv_heads) {
        true => Ok(kv_heads),
        false => {
            Err(fields
                .bad(KEY, &format!("a divisor of num_attention_heads, {heads}, not {kv_heads}")))
        }
    }
}

fn bias(fields: Fields<'_>, bias: Bias) -> Result<bool, CheckpointError> {
    match bias {
        Bias::Never => Ok(false),
        Bias::Always => Ok(true),
        Bias::Setting(key) => Ok(fields.flag(key)?.unwrap_or(false)),
    }
}
