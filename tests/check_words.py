"""Lists words that have a plainer or more standard term, and test names that are too long.

    python -m tests.check_words [PATH ...]

Reads docstrings, comments and string literals of Python, all of Markdown, YAML comments, HTML, and names of tests.
Exits with 1 if a word is found outside `ALLOWED`, or a test's name has more than `MAX_TEST_NAME` characters.
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
    r"gives? back|gave back|giving back": "return, restore",
    r"goes by|go by": "depends on, uses",
    r"shall|ought": "must",
    r"hears? of": "receives, is called with",
    r"for ever": "forever",
    r"comes? to|came to": "results in, returns",
    r"beside": "next to, in addition to",
    r"borne|in vain|what (lies|is|was) there": "plain words",
    r"(?<!there )(is|are|was|were) no (?!longer|better|more|less|issue)\w+": "is not a",
    r"had failed|had begun": "failed earlier, has started",
}
"""Pattern of the word and the term to write instead."""

ALLOWED = {
    ("README.md", "who"): "states for whom the project is",
    ("launch/local/tuning/completion.py", "look at"): "a message of SageMaker, word by word",
    ("dogbreed/debugger/report/templates/report.html", "beside"): "a CSS class",
}
"""(file, word in lower case) that may stay, with the reason."""

MAX_TEST_NAME = 60
"""Characters of a test's name, `test_` included."""

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
        yield from ((line, name.replace("_", " ")) for line, name in _test_names(content))


def _test_names(content: str) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(content)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
            yield node.lineno, node.name


def findings(paths: list[Path]) -> Iterator[str]:
    """Yields a line for each word that is not allowed, and for each test name that is too long."""
    for path in paths:
        name = path.relative_to(ROOT).as_posix()
        if path.suffix == ".py" and "tests" in path.parts:
            for number, test in _test_names(path.read_text(encoding="utf-8")):
                if len(test) > MAX_TEST_NAME:
                    yield f"{name}:{number}: {len(test)} characters, at most {MAX_TEST_NAME}: {test}"
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
    print(*lines, f"{len(lines)} words or names to replace in {len(paths)} files", sep="\n")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
