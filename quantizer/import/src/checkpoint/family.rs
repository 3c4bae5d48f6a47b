//! The families, as a table.
//!
//! Everything in which Llama, Mistral, Qwen2 and Qwen3 differ is a value here:
//! the rest of the importer reads values and knows no names. The defaults are
//! those of the configuration classes of `transformers`, which apply when a
//! setting is absent from config.json.

/// Which projections carry a bias.
#[derive(Debug, Clone, Copy)]
pub(super) enum Bias {
    Never,
    Always,
    /// As the named setting says; absent means no.
    Setting(&'static str),
}

/// How a family spells its sliding window.
#[derive(Debug, Clone, Copy)]
pub(super) enum Window {
    /// None: the library of the family does not look at `sliding_window`.
    Ignored,
    /// `sliding_window` holds for every layer; the value when absent.
    Plain(Option<usize>),
    /// Off unless `use_sliding_window`; then for the layers from
    /// `max_window_layers` on, or as `layer_types` says.
    Switched { window: usize, full_layers: usize },
}

/// One family.
#[derive(Debug)]
pub(super) struct Family {
    /// `model_type`.
    pub(super) name: &'static str,
    /// The one entry of `architectures`.
    pub(super) architecture: &'static str,
    /// Of query, key and value.
    pub(super) input_bias: Bias,
    /// Of the attention's output.
    pub(super) output_bias: Bias,
    /// Of gate, up and down.
    pub(super) feed_forward_bias: Bias,
    /// Whether each query and key head has a norm.
    pub(super) head_norms: bool,
    /// `head_dim` when absent; none means `hidden_size / num_attention_heads`.
    pub(super) head_dim: Option<usize>,
    /// `num_key_value_heads` when absent; none means as many as query heads.
    pub(super) kv_heads: Option<usize>,
    /// `max_position_embeddings` when absent.
    pub(super) context: usize,
    /// Its sliding window.
    pub(super) window: Window,
    /// `bos_token_id` when absent.
    pub(super) bos: Option<u32>,
    /// `eos_token_id` when absent.
    pub(super) eos: Option<u32>,
}

const QWEN_WINDOW: Window = Window::Switched { window: 4096, full_layers: 28 };

/// All of them.
pub(super) const FAMILIES: &[Family] = &[
    Family {
        name: "llama",
        architecture: "LlamaForCausalLM",
        input_bias: Bias::Setting("attention_bias"),
        output_bias: Bias::Setting("attention_bias"),
        feed_forward_bias: Bias::Setting("mlp_bias"),
        head_norms: false,
        head_dim: None,
        kv_heads: None,
        context: 2048,
        window: Window::Ignored,
        bos: Some(1),
        eos: Some(2),
    },
    Family {
        name: "mistral",
        architecture: "MistralForCausalLM",
        input_bias: Bias::Never,
        output_bias: Bias::Never,
        feed_forward_bias: Bias::Never,
        head_norms: false,
        head_dim: None,
        kv_heads: Some(8),
        context: 131_072,
        window: Window::Plain(Some(4096)),
        bos: Some(1),
        eos: Some(2),
    },
    Family {
        name: "qwen2",
        architecture: "Qwen2ForCausalLM",
        input_bias: Bias::Always,
        output_bias: Bias::Never,
        feed_forward_bias: Bias::Never,
        head_norms: false,
        head_dim: None,
        kv_heads: Some(32),
        context: 32_768,
        window: QWEN_WINDOW,
        bos: None,
        eos: None,
    },
    Family {
        name: "qwen3",
        architecture: "Qwen3ForCausalLM",
        input_bias: Bias::Setting("attention_bias"),
        output_bias: Bias::Setting("attention_bias"),
        feed_forward_bias: Bias::Never,
        head_norms: true,
        head_dim: Some(128),
        kv_heads: Some(32),
        context: 32_768,
        window: QWEN_WINDOW,
        bos: None,
        eos: None,
    },
];

/// A family as GGUF describes it: without defaults of its own, and with the
/// biases that the file has.
const PLAIN: Family = Family {
    name: "llama",
    architecture: "llama",
    input_bias: Bias::Setting("input_bias"),
    output_bias: Bias::Setting("output_bias"),
    feed_forward_bias: Bias::Setting("feed_forward_bias"),
    head_norms: false,
    head_dim: None,
    kv_heads: None,
    context: 0,
    window: Window::Ignored,
    bos: None,
    eos: None,
};

/// Those of GGUF, by `general.architecture`; Mistral goes by the name of Llama.
pub(super) const GGUF_FAMILIES: &[Family] = &[
    PLAIN,
    Family { name: "qwen2", architecture: "qwen2", ..PLAIN },
    Family { name: "qwen3", architecture: "qwen3", head_norms: true, ..PLAIN },
];

/// The supported architectures, for messages.
pub(super) fn supported(families: &[Family]) -> String {
    let names: Vec<&str> = families.iter().map(|family| family.architecture).collect();
    format!("supported are {}", names.join(", "))
}
