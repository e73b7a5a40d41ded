"""Every command and snippet in the README and the documentation works."""

import re
import shutil
import subprocess
import sys

import pytest

from dogbreed.cli.config import compose, resolve_defaults
from launch import publish, tune
from tests.documents import PAGES, arguments, blocks, commands
from tests.paths import ROOT

LOCAL_SWEEPS = [argv for argv in arguments("launch.tune") if "backend=sagemaker" not in argv]
NAMED = ("python -m launch", "python -m dogbreed")
MODULES = sorted({line.split()[2] for line in commands() if line.startswith(NAMED)})


@pytest.mark.parametrize("argv", LOCAL_SWEEPS, ids=" ".join)
def test_tune_command_makes_a_valid_request(argv, capsys, tmp_path, monkeypatch):
    assert tune.main([*argv, "dry_run=true"]) == 0
    assert '"HyperParameterTuningJobName"' in capsys.readouterr().out


@pytest.mark.parametrize("argv", arguments("dogbreed.train"), ids=" ".join)
def test_train_command_composes(argv):
    assert resolve_defaults(compose("train", argv)).model.name


@pytest.mark.parametrize("argv", arguments("launch.publish"), ids=" ".join)
def test_publish_command_publishes(argv, write_images, s3_server, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3_server.url)
    (s3_server.root / "BUCKET").mkdir(exist_ok=True)
    write_images(tmp_path / "PATH" / "pets", {f"{split}/{c}": 1 for split in ("train", "valid", "test") for c in "ab"})
    archive = shutil.make_archive("dogImages", "zip", tmp_path / "PATH")
    monkeypatch.setattr(
        "dogbreed.publishing.publish.download", lambda url, folder, on_progress: archive
    )  # no network in tests
    assert publish.main(argv) == 0
    assert "uploaded" in capsys.readouterr().out


@pytest.mark.parametrize("module", MODULES)
def test_module_has_help(module):
    done = subprocess.run(
        [sys.executable, "-m", module, "--help"], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0
    assert f"python -m {module}" in done.stdout


def test_make_target_exists():
    targets = {line.split()[1] for line in commands() if line.startswith("make ")}
    assert {"tune", "test", "contracts", "check", "docs"} <= targets
    makefile = (ROOT / "Makefile").read_text()
    for target in targets:
        assert f"\n{target}:" in makefile


def test_readme_snippet_trains_in_a_plain_session(tmp_path):
    (snippet,) = [block for block in blocks("python", ROOT / "README.md") if "trainer.fit" in block]
    assert len([line for line in snippet.splitlines() if line.strip()]) <= 10
    done = subprocess.run([sys.executable, "-c", snippet], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "test/accuracy" in done.stdout


def test_every_command_is_covered_by_a_test():
    known = (
        "python examples/",
        "python -m launch.",
        "python -m dogbreed.train",
        "python -m dogbreed.serving.server",  # started with these options by tests/serving
        "make ",
        "git clone",
        "cd ",
        "pip install",
        "moto_server",
        "aws ",
    )
    assert [line for line in commands() if not line.startswith(known)] == []


GENERATED = re.compile(r"reference/(configuration|rules)\.md$|(^|tutorial/)\d\d_\w+\.md$")
"""Pages that `docs/hooks.py` generates."""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_within_the_project_exist(page):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists() or GENERATED.search(target), target


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150
