#!/usr/bin/env python3
"""Checks that modules do not depend on each other in circles.

usage: tools/arrows.py [--list]

An arrow runs from a file to each file that defines an item it names; a re-export is followed to
the definition. In every crate, no circle may tie files together, nor the files and folders that
lie side by side in one folder. Unit tests are not looked at. `--list` prints all arrows.

Rust is read as text: `use` trees, and paths that begin with a name in scope. What a macro writes
is not seen.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ITEM = re.compile(
    r"^(?:pub(?:\([^)]*\))? )?(?:(?:const|async|unsafe|extern \"C\") )*"
    r"(fn|struct|enum|trait|type|const|static|union|macro_rules!) (?:mut )?(\w+)",
    re.M,
)
USE = re.compile(r"(?:^|(?<=[\n{;])) *(?:pub(?:\([^)]*\))? )?use ([^;]+);")
KEYWORDS = ("crate", "super", "self")
PATH = re.compile(r"(?<![\w:.])(\w+(?:::\w+)+)")


def stripped(text):
    """Source without comments, strings and unit tests."""
    text = re.sub(r"//[^\n]*", "", text)
    text = re.sub(r'"(?:\\.|[^"\\])*"', '""', text, flags=re.S)
    return re.sub(r"#\[cfg\(test\)\]\s*(?:#\[[^\n]*\]\s*)?mod \w+ \{.*\Z", "", text, flags=re.S)


def leaves(tree, prefix=()):
    """(path, alias) of each name that a `use` tree brings into scope."""
    tree = tree.strip()
    brace = tree.find("{")
    if brace < 0:
        path, _, alias = tree.partition(" as ")
        parts = prefix + tuple(part.strip() for part in path.strip().split("::") if part.strip())
        if parts[-1] == "self":
            parts = parts[:-1]
        yield parts, alias.strip() or parts[-1]
        return
    head = tuple(part for part in tree[:brace].strip().split("::") if part)
    depth, start, inner = 0, 0, tree[brace + 1 : tree.rfind("}")] + ","
    for at, char in enumerate(inner):
        depth += (char == "{") - (char == "}")
        if char == "," and depth == 0:
            if inner[start:at].strip():
                yield from leaves(inner[start:at], prefix + head)
            start = at + 1


class Crate:
    def __init__(self, folder):
        self.source = folder
        self.modules = {}
        roots = {"lib.rs", "main.rs"}
        for file in sorted(folder.rglob("*.rs")):
            parts = file.relative_to(folder).with_suffix("").parts
            if file.parent == folder and file.name in roots:
                parts = ()
            elif parts[-1] == "mod":
                parts = parts[:-1]
            self.modules[parts] = Module(file, parts)

    def resolve(self, module, path, seen=frozenset()):
        """The file that defines what a path names, seen from a module; None if it is elsewhere."""
        at, scope = module, path
        if path[0] == "crate":
            at, scope = (), path[1:]
        while scope and scope[0] in ("super", "self"):
            at, scope = at[:-1] if scope[0] == "super" else at, scope[1:]
        if at not in self.modules or (at, scope) in seen or not 0 < len(scope) < 10:
            return None
        name, rest = scope[0], scope[1:]
        here = self.modules[at]
        if name in here.items:
            return here.file
        if at + (name,) in self.modules:
            return self.resolve(at + (name,), ("self", *rest), seen | {(at, scope)}) if rest else None
        for target, alias in here.uses:
            found = None
            if alias == name:
                found = self.resolve(at, target + rest, seen | {(at, scope)})
            elif alias == "*" and (target[0] in KEYWORDS or at + target[:1] in self.modules):
                found = self.resolve(at, target[:-1] + scope, seen | {(at, scope)})
            if found:
                return found
        return None

    def arrows(self):
        """Files that each file names, and what it takes from them."""
        all_arrows = {}
        for parts, module in self.modules.items():
            paths = [t for t, alias in module.uses if alias != "*"] + module.paths
            for path in paths:
                target = self.resolve(parts, path)
                # A facade that only passes a name on does not depend on it.
                if target and target != module.file and path not in module.passed_on:
                    all_arrows.setdefault(module.file, {}).setdefault(target, set()).add(path[-1])
        return all_arrows


class Module:
    def __init__(self, file, parts):
        text = stripped(file.read_text())
        self.file = file
        self.items = {name for _, name in ITEM.findall(text)}
        self.uses = [leaf for tree in USE.findall(text) for leaf in leaves(" ".join(tree.split()))]
        self.passed_on = {
            leaf[0]
            for tree in re.findall(r"^pub(?:\([^)]*\))? use ([^;]+);", text, re.M)
            for leaf in leaves(" ".join(tree.split()))
        }
        body = re.sub(r"^(?:pub(?:\([^)]*\))? )?mod \w+;", "", USE.sub("", text), flags=re.M)
        self.passed_on = {
            path for path in self.passed_on if not re.search(rf"\b{path[-1]}\b", body)
        }
        self.paths = [tuple(path.split("::")) for path in PATH.findall(body)]


def circles(graph):
    """Strongly connected sets of more than one node (Tarjan 1972)."""
    index, low, stack, found = {}, {}, [], []

    def visit(node):
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in graph.get(node, ()):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            circle = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(circle) > 1:
                found.append(sorted(circle))

    sys.setrecursionlimit(10000)
    for node in sorted(graph):
        if node not in index:
            visit(node)
    return found


def neighbours(arrows, folder):
    """Arrows between the files and folders that lie side by side in one folder."""
    graph = {}
    for source, targets in arrows.items():
        for target in targets:
            if folder in source.parents and folder in target.parents:
                a, b = (folder / x.relative_to(folder).parts[0] for x in (source, target))
                if a != b:
                    graph.setdefault(a, set()).add(b)
    return graph


def main():
    wrong = 0
    manifests = [m for m in ROOT.glob("**/Cargo.toml") if "target" not in m.parts]
    for source in sorted(m.parent / "src" for m in manifests if (m.parent / "src").is_dir()):
        arrows = Crate(source).arrows()
        if "--list" in sys.argv:
            for file, targets in sorted(arrows.items()):
                for target, names in sorted(targets.items()):
                    print(f"{file.relative_to(ROOT)} -> {target.relative_to(ROOT)}: {', '.join(sorted(names))}")
            continue
        folders = {source} | {f for f in source.rglob("*") if f.is_dir()}
        tied = {tuple(c) for folder in folders for c in circles(neighbours(arrows, folder))}
        tied |= {tuple(c) for c in circles({f: set(t) for f, t in arrows.items()})}
        for circle in sorted(tied):
            wrong += 1
            print(f"circle: {' '.join(str(p.relative_to(ROOT)) for p in circle)}")
            for file, targets in sorted(arrows.items()):
                for target, names in sorted(targets.items()):
                    inside = lambda x: next((c for c in circle if c == x or c in x.parents), None)
                    a, b = inside(file), inside(target)
                    if a and b and a != b:
                        print(f"  {file.relative_to(ROOT)} -> {target.relative_to(ROOT)}: {', '.join(sorted(names))}")
    if wrong:
        sys.exit(f"{wrong} circles")


main()
