"""Counts words that have a plainer or more standard term. Run it as `python -m tests.check_words [PATH ...]`.

Reads docstrings, comments and string literals of Python, all of Markdown, YAML comments, HTML, and names of tests.
Exits with 1 if a word is found outside `ALLOWED`.
"""

from __future__ import annotations

import ast
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

WORDS = {
    r"can not": "cannot",
    r"pictures?": "image",
    r"anew|once more": "again, re-create",
    r"mend(s|ed|ing)?": "fix, repair",
    r"left out|leaves? out|leaving out": "skipped, excluded, omitted",
    r"go(es)? on|went on|going on": "continue, resume",
    r"(is|are|was|were|be|been) (said|told)": "logged, printed, reported",
    r"say(s|ing)?|said|tell(s|ing)?|told": "log, print, report, document, state",
    r"(be|to be) had": "is available",
    r"lie(s)?|lay": "is in, is stored in",
    r"looks? at|looked at|looking at": "reads, polls, inspects",
    r"whole or not at all|as a whole": "atomically",
    r"of (its|their|his|one's) own": "separate, custom",
    r"by itself|by themselves": "automatically",
    r"at once": "immediately",
    r"at last": "finally",
    r"by and by|little by little": "gradually",
    r"who(ever|m)?|nobody|whatever|whichever": "name the thing",
    r"thereof|therein|hitherto|whence|herein": "plain words",
}
"""Pattern of the word and the term to write instead."""

ALLOWED = {
    ("README.md", "who"): "says for whom the project is",
}
"""(file, word in lower case) that may stay, with the reason."""

SUFFIXES = (".py", ".md", ".yaml", ".html", ".cfg", ".toml")
SKIPPED = ("tests/check_words.py", "docs/CHANGELOG.md", "CHANGELOG.md")
_PATTERN = re.compile(r"(?<![\w-])(" + "|".join(WORDS) + r")(?![\w-])", re.IGNORECASE)


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """Yields line number and text of everything in `path` that a person reads."""
    content = path.read_text(encoding="utf-8")
    if path.suffix in (".yaml", ".cfg", ".toml"):
        yield from ((n, line.partition("#")[2]) for n, line in enumerate(content.splitlines(), 1) if "#" in line)
    elif path.suffix != ".py":
        yield from enumerate(content.splitlines(), 1)
    else:
        yield from _python_texts(content, names="tests" in path.parts)


def _python_texts(content: str, names: bool) -> Iterator[tuple[int, str]]:
    for token in tokenize.generate_tokens(io.StringIO(content).readline):
        if token.type == tokenize.COMMENT or token.type == tokenize.STRING:
            for offset, line in enumerate(token.string.splitlines()):
                yield token.start[0] + offset, line
        elif tokenize.tok_name[token.type] == "FSTRING_MIDDLE":
            yield token.start[0], token.string
    if names:
        for node in ast.walk(ast.parse(content)):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                yield node.lineno, node.name.replace("_", " ")


def findings(paths: list[Path]) -> Iterator[str]:
    """Yields `file:line: word -> term` for each word that is not allowed."""
    for path in paths:
        name = path.relative_to(ROOT).as_posix()
        for number, text in texts(path):
            for match in _PATTERN.finditer(text):
                if (name, match[0].lower()) not in ALLOWED:
                    term = next(term for word, term in WORDS.items() if re.fullmatch(word, match[0], re.IGNORECASE))
                    yield f"{name}:{number}: {match[0]!r} -> {term}: {text.strip()[:90]}"


def main(argv: list[str]) -> int:
    """Prints the findings and returns the exit status."""
    listed = subprocess.run(["git", "ls-files", *argv], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    paths = [ROOT / name for name in listed.splitlines() if name.endswith(SUFFIXES) and name not in SKIPPED]
    lines = list(findings([path for path in paths if path.is_file()]))
    print(*lines, f"{len(lines)} words to replace in {len(paths)} files", sep="\n")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
