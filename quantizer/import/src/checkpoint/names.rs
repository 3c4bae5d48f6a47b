//! What tensors are called, as tables: one for Hugging Face directories and
//! two for GGUF files, which differ in the order of some rows.

/// The names of one kind of checkpoint. Those of a layer follow `layer` and its
/// number; products have a `.weight` and perhaps a `.bias`.
#[derive(Debug)]
pub(super) struct Names {
    pub(super) embed: &'static str,
    pub(super) final_norm: &'static str,
    pub(super) head: &'static str,
    pub(super) layer: &'static str,
    pub(super) attention_norm: &'static str,
    pub(super) query: &'static str,
    pub(super) key: &'static str,
    pub(super) value: &'static str,
    pub(super) output: &'static str,
    pub(super) query_norm: &'static str,
    pub(super) key_norm: &'static str,
    pub(super) feed_forward_norm: &'static str,
    pub(super) gate: &'static str,
    pub(super) up: &'static str,
    pub(super) down: &'static str,
    /// Ends the names of tensors that say nothing more than the settings.
    pub(super) rotation: &'static str,
    /// Whether the rows of query and key are in the order of the interleaved
    /// pairing, where `2 i` and `2 i + 1` of a head turn together.
    pub(super) interleaved: bool,
    /// What to do when a tensor is missing.
    pub(super) incomplete: &'static str,
    /// What to do when the head is missing.
    pub(super) headless: &'static str,
}

/// As `transformers` saves them.
pub(super) const HUGGING_FACE: Names = Names {
    embed: "model.embed_tokens.weight",
    final_norm: "model.norm.weight",
    head: "lm_head.weight",
    layer: "model.layers.",
    attention_norm: "input_layernorm.weight",
    query: "self_attn.q_proj",
    key: "self_attn.k_proj",
    value: "self_attn.v_proj",
    output: "self_attn.o_proj",
    query_norm: "self_attn.q_norm.weight",
    key_norm: "self_attn.k_norm.weight",
    feed_forward_norm: "post_attention_layernorm.weight",
    gate: "mlp.gate_proj",
    up: "mlp.up_proj",
    down: "mlp.down_proj",
    // Old files store the plain rotation, which follows from the settings.
    rotation: ".rotary_emb.inv_freq",
    interleaved: false,
    incomplete: "the files are incomplete, or config.json belongs to another model",
    headless: "the files are incomplete; \
               or, if the head is the embedding, set tie_word_embeddings to true in config.json",
};

/// As GGUF has them.
pub(super) const GGUF: Names = Names {
    embed: "token_embd.weight",
    final_norm: "output_norm.weight",
    head: "output.weight",
    layer: "blk.",
    attention_norm: "attn_norm.weight",
    query: "attn_q",
    key: "attn_k",
    value: "attn_v",
    output: "attn_output",
    query_norm: "attn_q_norm.weight",
    key_norm: "attn_k_norm.weight",
    feed_forward_norm: "ffn_norm.weight",
    gate: "ffn_gate",
    up: "ffn_up",
    down: "ffn_down",
    // Read with the settings.
    rotation: "rope_freqs.weight",
    interleaved: false,
    incomplete: "the file is incomplete, or its metadata belongs to another model; convert the \
                 model again",
    headless: "the file is incomplete; convert the model again",
};

/// As GGUF has them for `llama`, whose converter reorders query and key.
pub(super) const GGUF_LLAMA: Names = Names { interleaved: true, ..GGUF };
