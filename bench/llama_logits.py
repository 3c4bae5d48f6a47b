#!/usr/bin/env python3
"""llama.cpp as a peer of `kinglet eval --peer`.

usage: llama_logits.py MODEL.gguf --window N --threads N [--exact]

Says its name, then answers each line of token numbers with the logits after each of them, as
little-endian f32. With --exact the cache is in f32, too, which is for files that are.
"""

import argparse
import os
import sys


def main():
    summary = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=summary)
    parser.add_argument("model")
    parser.add_argument("--window", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--exact", action="store_true")
    args = parser.parse_args()
    from llama_model import Model

    model = Model(args.model, args.window, args.threads, args.exact)
    print(os.path.basename(args.model), flush=True)
    for line in sys.stdin:
        model.rewind()
        logits = model.feed([int(token) for token in line.split()], each=True)
        sys.stdout.buffer.write(logits.astype("<f4", copy=False).data)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
