#!/usr/bin/env python3
"""Answer `kinglet bench --compare` for a text encoder in onnxruntime.

  kinglet bench minilm.kinglet --threads 1 --prompt 128 --compare "python3 bench/onnx.py minilm-int8.onnx"

The file takes `input_ids` and `attention_mask`. Made from a Hugging Face BERT by torch.onnx.export, fused by
onnxruntime.transformers.optimizer (model_type bert) and quantized by onnxruntime.quantization.quantize_dynamic per
channel, it is what onnxruntime is fastest with.
"""

import argparse
import sys
import time

import numpy as np
import onnxruntime

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("model")
parser.add_argument("--threads", type=int, default=1)
arguments = parser.parse_args()

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = arguments.threads
options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
session = onnxruntime.InferenceSession(arguments.model, options, providers=["CPUExecutionProvider"])
print(f"onnxruntime {onnxruntime.__version__}, {arguments.threads} thread(s)", flush=True)
for line in sys.stdin:
    work, count = line.split()
    assert work == "source", f"an encoder has no {work}"
    ids = (np.arange(int(count), dtype=np.int64) * 7919 % 30000)[None]
    feed = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    start = time.perf_counter()
    session.run(None, feed)
    print(time.perf_counter() - start, flush=True)
