#!/usr/bin/env python3
"""Models of random weights: speed does not depend on which they are.

usage: random_model.py SHAPE DIR

Writes, for the Llama SHAPE (15m, 135m or 1.1b), DIR/hf (a Hugging Face directory in f16, for `kinglet quantize`), DIR/q4_0.gguf and
DIR/q8_0.gguf. Files that exist are left. Needs the packages numpy, safetensors and gguf.
"""

import json
import pathlib
import sys

#         width, layers, heads, key/value heads, feed-forward, vocabulary, tied
SHAPES = {
    "15m": (288, 6, 6, 6, 768, 32000, True),
    "135m": (576, 30, 9, 3, 1536, 49152, True),
    "1.1b": (2048, 22, 32, 4, 5632, 32000, False),
}
CONTEXT = 1024


def tensors(shape):
    """Names of Hugging Face and of GGUF, and rows and columns."""
    width, layers, heads, kv, inner, vocab, tied = shape
    dim = width // heads
    yield "model.embed_tokens", "token_embd", vocab, width
    if not tied:
        yield "lm_head", "output", vocab, width
    for i in range(layers):
        hf, gguf = f"model.layers.{i}.", f"blk.{i}."
        yield hf + "self_attn.q_proj", gguf + "attn_q", heads * dim, width
        yield hf + "self_attn.k_proj", gguf + "attn_k", kv * dim, width
        yield hf + "self_attn.v_proj", gguf + "attn_v", kv * dim, width
        yield hf + "self_attn.o_proj", gguf + "attn_output", width, heads * dim
        yield hf + "mlp.gate_proj", gguf + "ffn_gate", inner, width
        yield hf + "mlp.up_proj", gguf + "ffn_up", inner, width
        yield hf + "mlp.down_proj", gguf + "ffn_down", width, inner


def norms(shape):
    yield "model.norm", "output_norm"
    for i in range(shape[1]):
        yield f"model.layers.{i}.input_layernorm", f"blk.{i}.attn_norm"
        yield f"model.layers.{i}.post_attention_layernorm", f"blk.{i}.ffn_norm"


def write_hf(shape, folder):
    import numpy as np
    from safetensors.numpy import save_file

    width, layers, heads, kv, inner, vocab, tied = shape
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": width, "intermediate_size": inner,
        "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": kv, "vocab_size": vocab,
        "max_position_embeddings": CONTEXT, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu",
        "tie_word_embeddings": tied,
    }
    random = np.random.default_rng(0)
    weights = {}
    for name, _, rows, cols in tensors(shape):
        weights[name + ".weight"] = (random.standard_normal((rows, cols), dtype=np.float32) / cols**0.5).astype(np.float16)
    for name, _ in norms(shape):
        weights[name + ".weight"] = np.ones(width, np.float16)
    save_file(weights, folder / "model.safetensors")
    # Last, as the mark of a complete folder.
    (folder / "config.json").write_text(json.dumps(config, indent=1))


def write_gguf(shape, path, kind):
    import gguf
    import numpy as np

    width, layers, heads, kv, inner, vocab, tied = shape
    partial = path.with_suffix(".partial")
    writer = gguf.GGUFWriter(partial, "llama")
    writer.add_block_count(layers)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(width // heads)
    writer.add_vocab_size(vocab)
    writer.add_tokenizer_model("no_vocab")
    random = np.random.default_rng(0)
    # llama.cpp's own quantizer keeps the head of a Q4_0 file in more bits; here every matrix is of one kind, the smallest and fastest.
    block = {"q4_0": (gguf.GGMLQuantizationType.Q4_0, 16), "q8_0": (gguf.GGMLQuantizationType.Q8_0, 32)}[kind]
    for _, name, rows, cols in tensors(shape):
        blocks = rows * cols // 32
        data = np.empty((blocks, 2 + block[1]), np.uint8)
        data[:, :2] = np.frombuffer(np.float16(0.003).tobytes(), np.uint8)
        data[:, 2:] = random.integers(0, 256, (blocks, block[1]), np.uint8)
        writer.add_tensor(name + ".weight", data.reshape(rows, -1), raw_dtype=block[0])
    for _, name in norms(shape):
        writer.add_tensor(name + ".weight", np.ones(width, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    partial.rename(path)


def main():
    if len(sys.argv) != 3 or sys.argv[1] not in SHAPES:
        sys.exit(__doc__)
    shape, folder = SHAPES[sys.argv[1]], pathlib.Path(sys.argv[2])
    if not (folder / "hf/config.json").exists():
        write_hf(shape, folder / "hf")
    for kind in ("q4_0", "q8_0"):
        if not (folder / f"{kind}.gguf").exists():
            write_gguf(shape, folder / f"{kind}.gguf", kind)


if __name__ == "__main__":
    main()
