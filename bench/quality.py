#!/usr/bin/env python3
"""The work of bench/quality, whose --help says what it is."""

import argparse
import hashlib
import json
import os
import pathlib
import shlex
import subprocess
import sys

import gguf

import answers
import llama_model

HERE = pathlib.Path(__file__).resolve().parent
PEERS = ["q8_0", "q4_k_m", "iq4_nl", "q4_0"]
KINGLET = ["--weights int8", "--weights int4", "--weights int4 --no-take"]
# The folder with models and data that the tests use, too; it is not part of the repository.
SHARED = pathlib.Path(os.environ.get("KINGLET_SHARED", HERE.parent.parent / "shared"))


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("--text", type=pathlib.Path)
    parser.add_argument("--tokens", type=int, default=5000)
    parser.add_argument("--window", type=int, default=255)
    parser.add_argument("--kinglet", action="append", default=[])
    parser.add_argument("--answers", action="store_true")
    parser.add_argument("--questions", type=pathlib.Path, default=HERE / "questions.txt")
    parser.add_argument("--system", default=answers.SYSTEM)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--kinglet-command", required=True)
    parser.add_argument("--work", type=pathlib.Path, required=True)
    return parser.parse_args()


def note(text):
    print(text, file=sys.stderr, flush=True)


def folder(args):
    """Where the files of this source are."""
    if args.model.is_dir():
        sys.exit(
            f"{args.model} is a directory: convert it to GGUF first (llama.cpp's"
            " convert_hf_to_gguf.py --outtype f32), so that both sides have one source"
        )
    if not args.model.is_file():
        sys.exit(f"there is no file {args.model}: name a GGUF file")
    source = args.model.resolve()
    path = args.work / f"{source.stem}-{hashlib.sha256(str(source).encode()).hexdigest()[:8]}"
    path.mkdir(parents=True, exist_ok=True)
    return path


def peer_files(args, place, names):
    """llama.cpp's files; the first is the f32 source of the others."""
    llama_model.quiet()
    exact = place / "f32.gguf"
    note("llama.cpp: f32")
    llama_model.quantize(args.model, exact, "f32", args.threads)
    for name in names:
        note(f"llama.cpp: {name}")
        llama_model.quantize(exact, place / f"{name}.gguf", name, args.threads)
    return exact, [place / f"{name}.gguf" for name in names]


def kinglet_files(args, place, options):
    """Kinglet's files, with what to call them."""
    made = []
    command = pathlib.Path(args.kinglet_command)
    for text in options:
        tag = hashlib.sha256(text.encode()).hexdigest()[:8]
        target = place / f"{tag}.kinglet"
        newest = max(args.model.stat().st_mtime, command.stat().st_mtime)
        if not target.exists() or target.stat().st_mtime < newest:
            note(f"kinglet: {text}")
            call = [command, "quantize", args.model, "-o", target, "--no-verdict"]
            call += shlex.split(text)
            run(call, stdout=subprocess.DEVNULL)
        made.append((text, target))
    return made


def run(call, **options):
    """Runs the command; its own message says what went wrong."""
    done = subprocess.run([str(part) for part in call], **options)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, call))} failed")
    return done.stdout


def bits_of_gguf(path):
    """Bits a weight in the blocks' matrices, and in all."""
    sums = {True: [0, 0], False: [0, 0]}
    for tensor in gguf.GGUFReader(path).tensors:
        if len(tensor.shape) == 2:
            own = sums[tensor.name.startswith("blk.")]
            own[0] += int(tensor.n_bytes)
            own[1] += int(tensor.n_elements)
    blocks, others = sums[True], sums[False]
    return blocks[0] * 8 / blocks[1], (blocks[0] + others[0]) * 8 / (blocks[1] + others[1])


def bits_of_kinglet(args, path):
    """The same of Kinglet's."""
    found = json.loads(run([args.kinglet_command, "inspect", path, "--json"], stdout=subprocess.PIPE))
    return found["bits_per_weight"], found["bits_of_all"]


def evaluate(args, exact, peers, files):
    """Results by file, in one run of `kinglet eval`."""
    peer = lambda path, more: shlex.join(
        [sys.executable, str(HERE / "llama_logits.py"), str(path), "--threads", str(args.threads)]
        + ["--window", str(args.window), *more]
    )
    call = [args.kinglet_command, "eval", files[0][1], "--reference", args.model]
    call += ["--text", args.text, "--tokens", args.tokens, "--window", args.window, "--json"]
    for _, path in files[1:]:
        call += ["--against", path]
    for path, more in [(exact, ["--exact"])] + [(path, []) for path in peers]:
        call += ["--peer", peer(path, more)]
    note(f"evaluating {args.tokens} tokens of {args.text}")
    result = json.loads(run(call, stdout=subprocess.PIPE))
    return result, [result] + result["against"]


def row(name, path, bits, result):
    cells = [name, f"{path.stat().st_size / 1e6:.1f}", f"{bits[0]:.2f}", f"{bits[1]:.2f}"]
    cells += [f"{result['mean_kl']:.4f}", f"{result['p99_kl']:.3f}"]
    cells += [f"{result['top1_agreement']:.1%}", f"{result['perplexity']:.3f}"]
    print("| " + " | ".join(cells) + " |")


def table(args, place):
    exact, peers = peer_files(args, place, PEERS)
    files = kinglet_files(args, place, KINGLET + args.kinglet)
    whole, results = evaluate(args, exact, peers, files)
    own, theirs = results[: len(files)], results[len(files) :]
    print("| file | MB | bits, blocks | bits, all | mean KL | 99% KL | same top token | perplexity |")
    print("|---|---|---|---|---|---|---|---|")
    for path, result in zip(peers, theirs[1:]):
        row(f"llama.cpp {path.stem.upper()}", path, bits_of_gguf(path), result)
    for (text, path), result in zip(files, own):
        row(f"kinglet {text.removeprefix('--weights ')}", path, bits_of_kinglet(args, path), result)
    begin = "each after a begin token" if whole["bos"] is not None else "without a begin token"
    print(
        f"\n{whole['tokens']} tokens of {args.text.name} in windows of {whole['window']}, {begin};"
        f" f32 has a perplexity of {whole['reference_perplexity']:.3f}."
    )
    check = theirs[0]
    print(
        f"The references agree: llama.cpp's F32 is {check['mean_kl']:.2e} from Kinglet's f32 in the"
        f" mean, {check['max_kl']:.2e} at most, and has the same top token in"
        f" {check['top1_agreement']:.2%}."
        if check["mean_kl"] < 1e-3
        else f"BEWARE: the references differ: llama.cpp's F32 is {check['mean_kl']:.4f} from"
        " Kinglet's f32 in the mean. One of the two reads this model wrongly."
    )


def main():
    args = arguments()
    place = folder(args)
    if args.answers:
        exact, peers = peer_files(args, place, PEERS[:1])
        files = kinglet_files(args, place, KINGLET[:1] + args.kinglet)
        answers.compare(args, exact, peers[0], files)
        return
    if args.text is None:
        args.text = SHARED / "data/tinystories/valid.txt"
        if not args.text.exists():
            sys.exit("name a text to predict: --text FILE")
    table(args, place)


if __name__ == "__main__":
    main()
