#!/usr/bin/env python3
"""llama.cpp as the peer of `kinglet bench --compare`.

usage: llama.py MODEL.gguf --threads N [--context N]

Says its name, then answers lines "prefill N" and "decode DEPTH N" on standard input with the seconds that it took. Logits are computed
for the last token of a prompt and for each decoded token, as in Kinglet. Needs the package llama-cpp-python.
"""

import argparse
import os
import sys
import time


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--context", type=int, default=1024)
    args = parser.parse_args()
    import llama_cpp as llama

    # The library writes its log to standard error; only the answers may come on standard output.
    llama.llama_backend_init()
    params = llama.llama_model_default_params()
    model = llama.llama_model_load_from_file(args.model.encode(), params)
    if not model:
        sys.exit(f"{args.model}: llama.cpp cannot load it")
    options = llama.llama_context_default_params()
    options.n_ctx = args.context
    options.n_batch = options.n_ubatch = 512
    options.n_threads = options.n_threads_batch = args.threads
    context = llama.llama_init_from_model(model, options)
    if not context:
        sys.exit(f"{args.model}: llama.cpp made no context")
    vocab = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model))
    memory = llama.llama_get_memory(context)
    batch = llama.llama_batch_init(512, 0, 1)

    def run(start, count):
        """Runs `count` tokens from position `start`, with the logits of the last."""
        while count:
            n = min(count, 512)
            batch.n_tokens = n
            for i in range(n):
                batch.token[i] = (start + i) * 7919 % vocab
                batch.pos[i] = start + i
                batch.n_seq_id[i] = 1
                batch.seq_id[i][0] = 0
                batch.logits[i] = i == n - 1 and n == count
            if llama.llama_decode(context, batch):
                sys.exit("llama_decode failed")
            start, count = start + n, count - n
        # Waits for the result, and proves that there is one.
        logits = llama.llama_get_logits_ith(context, -1)
        if not logits or logits[0] != logits[0]:
            sys.exit("llama.cpp computed no logits")

    print(f"llama.cpp (llama-cpp-python {llama.__version__}), {os.path.basename(args.model)}, {args.threads} thread(s)", flush=True)
    for line in sys.stdin:
        work, *numbers = line.split()
        numbers = [int(n) for n in numbers]
        llama.llama_memory_clear(memory, True)
        if work == "prefill":
            begin = time.perf_counter()
            run(0, numbers[0])
        elif work == "decode":
            depth, count = numbers
            if depth:
                run(0, depth)
            begin = time.perf_counter()
            for i in range(count):
                run(depth + i, 1)
        else:
            sys.exit(f"unknown request: {line}")
        print(time.perf_counter() - begin, flush=True)


if __name__ == "__main__":
    main()
