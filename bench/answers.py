"""Answers to questions: how many equal those of the f32 weights, and where the others part.

An answer is greedy. It is given as token numbers to both sides, so that special tokens of the chat
form are the same tokens everywhere. Where an answer parts from f32's, the margin is the gap between
the f32 logits of the token that f32 takes and of the one that was taken instead: a small margin is
a coin toss, a large one an error.
"""

import json
import subprocess
import sys

import llama_model

SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
TOKENS = 24


def form(system, question):
    return (
        f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{question}<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def greedy(model, prompt):
    """The answer's tokens, with one that ends it, and the logits that each was taken from."""
    model.rewind()
    tokens, rows, following = [], [], prompt
    while len(tokens) < TOKENS:
        logits = model.feed(following)[0].copy()
        token = int(logits.argmax())
        tokens.append(token)
        rows.append(logits)
        if model.is_end(token):
            break
        following = [token]
    return tokens, rows


def kinglet(command, path, prompt):
    ids = ",".join(map(str, prompt))
    call = [command, "run", path, ids, "--ids", "-t", "0", "-n", str(TOKENS), "--json"]
    done = subprocess.run([str(part) for part in call], stdout=subprocess.PIPE)
    if done.returncode:
        sys.exit(f"kinglet cannot answer with {path}")
    answer = json.loads(done.stdout)
    # Which token ended the answer is not told; None equals none of the others.
    return answer["tokens"] + ([None] if answer["ended"] else [])


def parting(exact, tokens, is_end):
    """The first place where two answers differ, or None."""
    same = lambda a, b: a == b or (b is None and is_end(a))
    length = max(len(exact), len(tokens))
    at = lambda all, i: all[i] if i < len(all) else -1
    return next((i for i in range(length) if not same(at(exact, i), at(tokens, i))), None)


def shown(model, token):
    return "the end" if token is None or model.is_end(token) else repr(model.decode([token]))


def compare(args, exact_path, peer_path, files):
    questions = [line for line in args.questions.read_text().splitlines() if line.strip()]
    exact = llama_model.Model(exact_path, 512, args.threads, exact=True)
    peer = llama_model.Model(peer_path, 512, args.threads)
    sides = [(f"llama.cpp {peer_path.stem.upper()}", lambda prompt: greedy(peer, prompt)[0])]
    for text, path in files:
        name = f"kinglet {text.removeprefix('--weights ')}"
        sides.append((name, lambda prompt, path=path: kinglet(args.kinglet_command, path, prompt)))
    equal = {name: 0 for name, _ in sides}
    partings = []
    ends = [i for i in range(exact.size) if exact.is_end(i)]
    for number, question in enumerate(questions):
        prompt = exact.encode(form(args.system, question))
        wanted, rows = greedy(exact, prompt)
        for name, answer in sides:
            found = answer(prompt)
            at = parting(wanted, found, exact.is_end)
            if at is None:
                equal[name] += 1
                continue
            token = found[at] if at < len(found) else None
            instead = rows[at][ends].max() if token is None else rows[at][token]
            margin = float(rows[at][wanted[at]] - instead)
            cells = [question, name, str(at + 1), shown(exact, wanted[at]), shown(exact, token)]
            partings.append((margin, cells + [f"{margin:.2f}"]))
        print(f"\r{number + 1} of {len(questions)} questions", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    print("| file | answers equal to f32's |\n|---|---|")
    for name, _ in sides:
        print(f"| {name} | {equal[name]} of {len(questions)} |")
    print("\n| question | file | token | f32 | instead | margin |\n|---|---|---|---|---|---|")
    for _, cells in sorted(partings, key=lambda parting: -parting[0]):
        print("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    print(
        "\nThe margin is the gap between the f32 logits of f32's own token and of the one taken"
        f" instead. Greedy, up to {TOKENS} tokens, f32 as llama.cpp runs it."
    )
