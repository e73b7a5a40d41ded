"""The notebooks run with tiny settings, and the saved ones match their scripts."""

import json
import re
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.paths import ROOT

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("nbclient")
pytest.importorskip("jupytext")

sys.path.insert(0, str(ROOT / "notebooks"))
import build  # noqa: E402

TINY = "demo://?classes=3&train=8&valid=4&test=4&size=32"
PARAMETERS = {
    "01_quickstart": {"EPOCHS": 1, "DATA": TINY},
    "02_sweep": {"JOBS": 1, "EPOCHS": 1, "DATA": TINY},
    "03_debug": {"EPOCHS": 1, "DATA": TINY},
    "04_deploy_and_predict": {"EPOCHS": 1, "DATA": TINY},
    "05_bring_your_own_data": {"EPOCHS": 1},
}
SHOWN = {
    "01_quickstart": ("image/png", "image/png"),
    "02_sweep": ("text/html",),
    "03_debug": ("text/html",),
    "05_bring_your_own_data": ("image/png",),
}
"""Kinds of outputs that each notebook shows at least."""


def kinds(notebook):
    return [kind for cell in notebook.cells for output in cell.get("outputs", []) for kind in output.get("data", {})]


def printed(notebook):
    return "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))


def test_every_script_is_covered():
    assert [source.stem for source in build.sources()] == sorted(PARAMETERS)


@pytest.mark.parametrize("name", PARAMETERS)
def test_saved_notebook_is_its_script_with_outputs(name):
    source = ROOT / "notebooks" / f"{name}.py"
    text = source.with_suffix(".ipynb").read_text()
    kept = nbformat.reads(text, 4)
    assert [cell.source for cell in kept.cells] == [cell.source for cell in build.read(source).cells], "make notebooks"
    assert build.problems(text, ROOT) == []
    assert not re.search(r"/(home|root|tmp|work|Users)/", text)
    assert all(cell.execution_count for cell in kept.cells if cell.cell_type == "code")
    for kind in SHOWN.get(name, ()):
        assert kind in kinds(kept)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Runs the notebooks in parallel, because most of their time is process start-up."""

    def run(name):
        notebook = build.read(ROOT / "notebooks" / f"{name}.py", PARAMETERS[name])
        return build.run(notebook, tmp_path_factory.mktemp(name))

    with ThreadPoolExecutor(3) as threads:
        yield {name: threads.submit(run, name) for name in reversed(PARAMETERS)}


@pytest.mark.slow
@pytest.mark.parametrize("name", PARAMETERS)
def test_notebook_runs(name, runs):
    notebook = runs[name].result()
    for kind in SHOWN.get(name, ()):
        assert kind in kinds(notebook)
    assert "error:" not in printed(notebook), printed(notebook)
    assert "Traceback" not in json.dumps(notebook)


def test_paths_of_this_machine_are_reported(tmp_path):
    assert build.problems(f"a line\nin {tmp_path}/x", tmp_path) == [f"folder {tmp_path}"]
    assert build.problems("x" * (build.MAX_BYTES + 1), tmp_path) == ["1,000,001 bytes, at most 1,000,000"]


def test_notebooks_contain_no_logic():
    """Notebooks have neither functions nor loops; they use the library."""
    for source in build.sources():
        for cell in build.read(source).cells:
            if cell.cell_type == "code":
                assert not re.search(r"^\s*(def|class|for|while|if|try) ", cell.source, re.MULTILINE), cell.source
