"""llama.cpp for bench/quality: files in its formats, and the logits of one."""

import ctypes
import os
import pathlib
import sys

import llama_cpp as llama
import numpy as np

# Names on the command line, and what llama.cpp calls them.
FORMATS = {
    "f32": llama.LLAMA_FTYPE_ALL_F32,
    "q8_0": llama.LLAMA_FTYPE_MOSTLY_Q8_0,
    "q4_k_m": llama.LLAMA_FTYPE_MOSTLY_Q4_K_M,
    "iq4_nl": llama.LLAMA_FTYPE_MOSTLY_IQ4_NL,
    "q4_0": llama.LLAMA_FTYPE_MOSTLY_Q4_0,
}

KEPT_LOG = None


def quiet():
    """Keeps llama.cpp's log back, except for errors."""
    global KEPT_LOG

    @llama.llama_log_callback
    def log(level, text, _):
        if level == 4:  # GGML_LOG_LEVEL_ERROR
            sys.stderr.write(text.decode(errors="replace"))

    KEPT_LOG = log  # The library does not keep the callback alive.
    llama.llama_log_set(log, ctypes.c_void_p(0))


def quantize(source, target, name, threads):
    """Writes the GGUF file `target` in a format of FORMATS, unless there is one newer than `source`."""
    source, target = pathlib.Path(source), pathlib.Path(target)
    if target.exists() and target.stat().st_mtime >= source.stat().st_mtime:
        return
    params = llama.llama_model_quantize_default_params()
    params.ftype = FORMATS[name]
    params.nthread = threads
    params.allow_requantize = True
    partial = target.with_suffix(".partial")
    failed = llama.llama_model_quantize(os.fsencode(source), os.fsencode(partial), ctypes.byref(params))
    if failed:
        sys.exit(f"llama.cpp cannot write {source} as {name}")
    partial.rename(target)


class Model:
    """A model that runs texts of up to `context` tokens, each from its beginning."""

    def __init__(self, path, context, threads, exact=False):
        """With `exact`, the cache is in f32, which is for files that are."""
        quiet()
        llama.llama_backend_init()
        self.model = llama.llama_model_load_from_file(os.fsencode(path), llama.llama_model_default_params())
        if not self.model:
            sys.exit(f"{path}: llama.cpp cannot load it")
        options = llama.llama_context_default_params()
        options.n_ctx = context
        options.n_batch = options.n_ubatch = context
        options.n_threads = options.n_threads_batch = threads
        if exact:
            options.type_k = options.type_v = 0  # GGML_TYPE_F32
            options.flash_attn_type = 0  # LLAMA_FLASH_ATTN_TYPE_DISABLED
        self.context = llama.llama_init_from_model(self.model, options)
        if not self.context:
            sys.exit(f"{path}: llama.cpp made no context")
        self.vocab = llama.llama_model_get_vocab(self.model)
        self.size = llama.llama_vocab_n_tokens(self.vocab)
        self.memory = llama.llama_get_memory(self.context)
        self.batch = llama.llama_batch_init(context, 0, 1)
        self.position = 0

    def rewind(self):
        """Begins another text."""
        llama.llama_memory_clear(self.memory, True)
        self.position = 0

    def feed(self, tokens, each=False):
        """Runs tokens; returns the logits after the last, or after each of them."""
        batch = self.batch
        batch.n_tokens = len(tokens)
        for i, token in enumerate(tokens):
            batch.token[i] = token
            batch.pos[i] = self.position + i
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = 0
            batch.logits[i] = each or i == len(tokens) - 1
        if llama.llama_decode(self.context, batch):
            sys.exit("llama_decode failed")
        self.position += len(tokens)
        rows = len(tokens) if each else 1
        logits = llama.llama_get_logits(self.context)
        return np.ctypeslib.as_array(logits, shape=(rows, self.size))

    def encode(self, text):
        """Tokens of a text in which special tokens are written out."""
        data = text.encode()
        room = len(data) + 8
        tokens = (llama.llama_token * room)()
        count = llama.llama_tokenize(self.vocab, data, len(data), tokens, room, False, True)
        if count < 0:
            sys.exit(f"llama.cpp cannot encode {text!r}")
        return list(tokens[:count])

    def is_end(self, token):
        """Whether a token ends an answer."""
        return bool(llama.llama_vocab_is_eog(self.vocab, token))

    def decode(self, tokens):
        """The text of tokens."""
        data = b""
        for token in tokens:
            buffer = ctypes.create_string_buffer(256)
            count = llama.llama_token_to_piece(self.vocab, token, buffer, 256, 0, True)
            data += buffer.raw[: max(count, 0)]
        return data.decode(errors="replace")
