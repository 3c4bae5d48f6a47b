#!/usr/bin/env python3
"""Checks that files which documents and comments name are there.

usage: tools/paths.py

Looked at are links of documents, and words in backticks that begin with a folder of this tree.
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = sorted(p.name for p in ROOT.iterdir() if p.is_dir() and p.name[0] not in ".t") + ["tools"]
NAMED = re.compile(rf"`((?:{'|'.join(FOLDERS)})/[\w./-]*)`")
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")


def main():
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, text=True, capture_output=True, check=True)
    missing = 0
    for name in listed.stdout.splitlines():
        file = ROOT / name
        if file.suffix not in (".md", ".rs", ".py", ".toml") or not file.is_file():
            continue
        text = file.read_text()
        places = [(ROOT, path) for path in NAMED.findall(text)]
        if file.suffix == ".md":
            places += [(file.parent, path) for path in LINK.findall(text) if "/" in path or path.endswith(".md")]
        for folder, path in places:
            # Files that commands make are named as if they were there.
            if not (folder / path).exists() and not path.startswith(("target/", "../shared")):
                missing += 1
                print(f"{name} names {path}, which is not there")
    sys.exit(1 if missing else 0)


main()
