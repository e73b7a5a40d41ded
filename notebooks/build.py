"""Generates the notebooks: runs each script here as a notebook and saves it with its outputs as .ipynb next to it.

    make notebooks
    python notebooks/build.py 01_quickstart 03_debug      only these

The scripts are the source (jupytext's percent format); an .ipynb is never edited.
"""

from __future__ import annotations

import os
import re
import socket
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jupytext
import nbclient
import nbformat

HERE = Path(__file__).resolve().parent
MAX_BYTES = 1_000_000
STAMP = re.compile(r"20\d\d-\d\d-\d\d[ T]\d\d:\d\d(:\d\d)?(\+\d\d:\d\d)?|\b[A-Z][a-z]{2} \d+ 20\d\d \d\d:\d\d")


def sources() -> list[Path]:
    """Returns the scripts, in order."""
    return sorted(HERE.glob("[0-9][0-9]_*.py"))


def read(source: Path, parameters: Mapping[str, Any] | None = None) -> nbformat.NotebookNode:
    """Returns a script as a notebook that was not run; `parameters` replace those of its cell with that tag."""
    notebook = jupytext.read(source)
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
        if parameters and "parameters" in cell.metadata.get("tags", []):
            cell.source = "\n".join(f"{name} = {value!r}" for name, value in parameters.items())
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
    return notebook


def run(notebook: nbformat.NotebookNode, folder: Path) -> nbformat.NotebookNode:
    """Runs a notebook with `folder` as its place, and takes out of its outputs what only this run has."""
    place = {"metadata": {"path": str(folder)}}
    nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3", resources=place).execute(env=_environment())
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = _tidy(cell.outputs)
    return notebook


def _environment() -> dict[str, str]:
    """Returns that of a kernel which finds, as the commands it starts do, this Python and this checkout."""
    python = str(Path(sys.executable).parent)
    return {
        **os.environ,
        "PATH": os.pathsep.join([python, os.environ.get("PATH", "")]),
        "PYTHONPATH": os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")]),
        "COLUMNS": "120",
    }


def _tidy(outputs: list[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """Returns outputs without dates, colours, what was written over, and what went to stderr."""
    kept: list[nbformat.NotebookNode] = []
    for output in outputs:
        if output.output_type != "stream":
            for kind, value in output.get("data", {}).items():
                if kind.startswith("text/") and isinstance(value, str):
                    output.data[kind] = STAMP.sub("", value)
            kept.append(output)
        elif output.name == "stdout" and kept and kept[-1].output_type == "stream":
            kept[-1].text += output.text
        elif output.name == "stdout":
            kept.append(output)
    for output in kept:
        if output.output_type == "stream":
            plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", output.text.replace("\r\n", "\n"))
            output.text = STAMP.sub("", re.sub(r"[^\n]*\r+", "", plain))
    return kept


def problems(text: str, folder: Path) -> list[str]:
    """Returns what must not be in a notebook that others read: names of this machine, or too many bytes."""
    private = {
        "host name": socket.gethostname(),
        "folder": str(folder),
        "checkout": str(HERE.parent),
        "home": str(Path.home()),
    }
    found = [f"{what} {word}" for what, word in private.items() if len(word) > 3 and word in text]
    return found + ([f"{len(text):,} bytes, at most {MAX_BYTES:,}"] if len(text) > MAX_BYTES else [])


def main(names: list[str]) -> int:
    """Runs and writes the notebooks called `names`, or all."""
    for source in sources():
        if names and source.stem not in names:
            continue
        with tempfile.TemporaryDirectory() as folder:
            text = nbformat.writes(run(read(source), Path(folder))) + "\n"
            if wrong := problems(text, Path(folder)):
                print(f"{source.name} is not written: {'; '.join(wrong)}", file=sys.stderr)
                return 1
        source.with_suffix(".ipynb").write_text(text)
        print(f"{source.stem}: {len(text) / 1e3:,.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
