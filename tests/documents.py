"""Commands and code blocks of the README and the documentation."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from tests.paths import ROOT

PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md")))
"""Every hand-written page."""


def blocks(language: str, *pages: Path) -> list[str]:
    """Returns the fenced code blocks of a language in all pages, or in the given ones."""
    texts = (page.read_text(encoding="utf-8") for page in pages or PAGES)
    return [block for text in texts for block in re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)]


def commands(*pages: Path) -> list[str]:
    """Returns the lines of the bash blocks, without comments, each once and in order."""
    lines = (line for block in blocks("bash", *pages) for line in block.replace("\\\n", " ").splitlines())
    stripped = (line.split("  #")[0].strip() for line in lines)
    return list(dict.fromkeys(line for line in stripped if line and not line.startswith("#")))


def arguments(module: str, *pages: Path) -> list[list[str]]:
    """Returns the argv of each `python -m MODULE ...` line."""
    return [shlex.split(line)[3:] for line in commands(*pages) if line.split()[:3] == ["python", "-m", module]]
