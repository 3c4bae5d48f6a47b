//! The metadata in the words of config.json.
//!
//! One table says which key stands for which setting. Where the file says
//! something by what it holds (biases, a head of its own, the vocabulary), that
//! becomes a setting as well. The meaning and its checks are those of config.json.

use serde_json::{Map, Number, Value as Json, json};

use super::super::CheckpointError;
use super::super::config::Config;
use super::super::error::abbreviate;
use super::super::family::{self, Family, GGUF_FAMILIES};
use super::super::fields::{Fields, Spelling};
use super::super::names::Names;
use super::super::settings;
use super::super::tensors::Tensors;
use super::header::{Metadata, Value};

/// Where settings come from, for messages.
const SOURCE: &str = "the file's metadata";
const ARCHITECTURE: &str = "general.architecture";
const TOKENIZER: &str = "tokenizer.";

/// Settings of config.json and the keys that stand for them; without the
/// architecture's name, which goes before all but those of the tokenizer.
const KEYS: &[(&str, &str)] = &[
    ("hidden_size", "embedding_length"),
    ("num_hidden_layers", "block_count"),
    ("intermediate_size", "feed_forward_length"),
    ("num_attention_heads", "attention.head_count"),
    ("num_key_value_heads", "attention.head_count_kv"),
    ("head_dim", "attention.key_length"),
    ("rms_norm_eps", "attention.layer_norm_rms_epsilon"),
    ("max_position_embeddings", "context_length"),
    ("sliding_window", "attention.sliding_window"),
    ("vocab_size", "vocab_size"),
    ("rope_theta", "rope.freq_base"),
    ("bos_token_id", "tokenizer.ggml.bos_token_id"),
    ("eos_token_id", "tokenizer.ggml.eos_token_id"),
];

/// Those of the rotation, which config.json has in an object of their own.
const ROPE_KEYS: &[(&str, &str)] = &[
    ("factor", "rope.scaling.factor"),
    ("rope_type", "rope.scaling.type"),
    ("original_max_position_embeddings", "rope.scaling.original_context_length"),
    ("attention_factor", "rope.scaling.attn_factor"),
    ("beta_fast", "rope.scaling.yarn_beta_fast"),
    ("beta_slow", "rope.scaling.yarn_beta_slow"),
];

/// Ends of a turn and of a message end a generation as well.
const MORE_ENDS: &[&str] = &["tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"];

const NO_FACTOR: &str = "models without this factor are supported";

/// Keys that, unless off, change the computation beyond what blocks can say.
const MUST_BE_OFF: &[(&str, &str)] = &[
    ("expert_count", "dense feed-forward layers are supported"),
    ("use_parallel_residual", "attention before the feed-forward is supported"),
    ("attention.max_alibi_bias", "rotary positions are supported"),
    ("attention.clamp_kqv", "projections without clipping are supported"),
    ("attn_logit_softcapping", "plain softmax attention is supported"),
    ("final_logit_softcapping", "logits without a cap are supported"),
    ("attention.scale", NO_FACTOR),
    ("attention.temperature_scale", NO_FACTOR),
    ("logit_scale", NO_FACTOR),
    ("embedding_scale", NO_FACTOR),
    ("residual_scale", NO_FACTOR),
    ("rope.scaling.yarn_log_multiplier", NO_FACTOR),
    ("rope.dimension_sections", "positions of one dimension are supported"),
];

/// Keys that repeat the width of a head; heads that turn in part would have another number.
const IMPLIED: &[&str] = &["attention.value_length", "rope.dimension_count"];

const CAUSAL: &str = "attention.causal";

/// The family of the file.
pub(super) fn family(metadata: &Metadata) -> Result<&'static Family, CheckpointError> {
    let supported = family::supported(GGUF_FAMILIES);
    match metadata.get(ARCHITECTURE) {
        Some(Value::Text(name)) => {
            let family = GGUF_FAMILIES.iter().find(|family| family.architecture == name);
            family.ok_or_else(|| CheckpointError::Unsupported {
                file: SOURCE,
                field: ARCHITECTURE.to_owned(),
                value: abbreviate(&format!("{name:?}")),
                supported,
            })
        }
        _ => Err(CheckpointError::MissingField {
            file: SOURCE,
            field: ARCHITECTURE.to_owned(),
            expected: format!("a name; {supported}"),
        }),
    }
}

/// Reads the settings of the family.
pub(super) fn read(
    metadata: &Metadata,
    family: &'static Family,
    names: &Names,
    tensors: &Tensors,
    context: Option<usize>,
) -> Result<Config, CheckpointError> {
    let mut map = translated(metadata, family.architecture, KEYS);
    let spelling = move |key: &str| spelled(family.architecture, key);
    let has = |part: &str| tensors.get(&format!("{}0.{part}.bias", names.layer)).is_some();
    map.insert("input_bias".to_owned(), has(names.query).into());
    map.insert("output_bias".to_owned(), has(names.output).into());
    map.insert("feed_forward_bias".to_owned(), has(names.gate).into());
    map.insert("tie_word_embeddings".to_owned(), tensors.get(names.head).is_none().into());
    if let Some([vocab, _]) = tensors.get(names.embed).map(|embed| embed.shape.as_slice()) {
        map.insert("vocab_size".to_owned(), (*vocab).into());
    }
    let own = rotation(metadata, family.architecture, &spelling)?;
    map.extend(own.map(|own| ("rope_scaling".to_owned(), own)));
    ends(metadata, &mut map);
    let fields = Fields::new(&map, SOURCE).spelled(&spelling);
    required(fields)?;
    let config = Config::read(family, fields, None, context)?;
    refuse_others(metadata, family.architecture, config.head_dim, &spelling)?;
    Ok(config)
}

/// Refuses what config.json has no words for, unless it is off or as the rest implies.
fn refuse_others(
    metadata: &Metadata,
    architecture: &str,
    head_dim: usize,
    spelling: &Spelling,
) -> Result<(), CheckpointError> {
    let keys = MUST_BE_OFF.iter().map(|(key, _)| key).chain(IMPLIED).chain([&CAUSAL]);
    let others = keys
        .filter_map(|key| Some(((*key).to_owned(), json(find(metadata, architecture, key)?))))
        .collect();
    let others = Fields::new(&others, SOURCE).spelled(spelling);
    settings::refuse_switched_on(others, MUST_BE_OFF)?;
    if others.flag(CAUSAL)? == Some(false) {
        return Err(others.unsupported(CAUSAL, "causal attention is supported"));
    }
    for key in IMPLIED {
        if others.get(key).is_some_and(|value| value.as_u64() != Some(head_dim as u64)) {
            return Err(others.unsupported(
                key,
                &format!("heads that are {head_dim} wide all through are supported"),
            ));
        }
    }
    Ok(())
}

/// Settings that have a default in config.json, but none in GGUF.
fn required(fields: Fields<'_>) -> Result<(), CheckpointError> {
    for key in ["max_position_embeddings", "rms_norm_eps"] {
        if fields.get(key).is_none() {
            return Err(fields.missing(key, "a number"));
        }
    }
    Ok(())
}

/// The scaling of the rotation, if there is any.
fn rotation(
    metadata: &Metadata,
    architecture: &str,
    spelling: &Spelling,
) -> Result<Option<Json>, CheckpointError> {
    let mut own = translated(metadata, architecture, ROPE_KEYS);
    let fields = Fields::new(&own, SOURCE).spelled(spelling);
    // As the reference has it: linear unless told, and no factor is none.
    let kind = fields.text("rope_type")?.unwrap_or("linear").to_owned();
    let factor = fields.number("factor")?.filter(|factor| *factor != 0.0).unwrap_or(1.0);
    let attention = fields.positive("attention_factor")?.unwrap_or(1.0);
    match kind.as_str() {
        "none" => return Ok(None),
        "linear" if factor == 1.0 => return Ok(None),
        "linear" => own.retain(|key, _| key == "factor"),
        "yarn" => {
            // Here the factor comes on top of what the scaling gives, there in its place.
            let scaled = if factor > 1.0 { 0.1 * factor.ln() + 1.0 } else { 1.0 };
            own.insert("attention_factor".to_owned(), (attention * scaled).into());
        }
        _ => {
            return Err(fields.unsupported(
                "rope_type",
                "supported are none, linear, yarn, and a tensor of factors",
            ));
        }
    }
    own.insert("factor".to_owned(), factor.into());
    own.insert("rope_type".to_owned(), kind.into());
    Ok(Some(Json::Object(own)))
}

/// Where a SentencePiece vocabulary does not say which tokens begin and end a
/// text, they are 1 and 2; all ends are listed.
fn ends(metadata: &Metadata, map: &mut Map<String, Json>) {
    if metadata.get("tokenizer.ggml.model") == Some(&Value::Text("llama".to_owned())) {
        map.entry("bos_token_id").or_insert(1.into());
        map.entry("eos_token_id").or_insert(2.into());
    }
    let more: Vec<Json> = MORE_ENDS.iter().filter_map(|key| metadata.get(*key)).map(json).collect();
    if !more.is_empty() {
        let first = map.remove("eos_token_id");
        map.insert("eos_token_id".to_owned(), first.into_iter().chain(more).collect());
    }
}

fn translated(metadata: &Metadata, architecture: &str, keys: &[(&str, &str)]) -> Map<String, Json> {
    let value = |(name, key): &(&str, &str)| {
        Some(((*name).to_owned(), json(find(metadata, architecture, key)?)))
    };
    keys.iter().filter_map(value).collect()
}

fn find<'m>(metadata: &'m Metadata, architecture: &str, key: &str) -> Option<&'m Value> {
    metadata.get(&spelled(architecture, key))
}

/// The key of a setting, or of itself.
fn spelled(architecture: &str, name: &str) -> String {
    let known = KEYS.iter().chain(ROPE_KEYS).find(|(setting, _)| *setting == name);
    match known.map_or(name, |(_, key)| key) {
        key if key.starts_with(TOKENIZER) => key.to_owned(),
        key => format!("{architecture}.{key}"),
    }
}

fn json(value: &Value) -> Json {
    match value {
        Value::Unsigned(number) => (*number).into(),
        Value::Signed(number) => (*number).into(),
        Value::Float(number) => match Number::from_f64(*number) {
            Some(number) => Json::Number(number),
            None => json!(number.to_string()),
        },
        Value::Flag(flag) => (*flag).into(),
        Value::Text(text) => text.as_str().into(),
        Value::List(list) => json!(format!("a list of {}", list.count)),
    }
}
