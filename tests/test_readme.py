"""Everything the README tells people to type works."""

import re
import shlex
import shutil
import subprocess
import sys

import pytest

from dogbreed.cli.config import compose, resolve_defaults
from launch import publish, tune
from tests.paths import ROOT

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)
LINES = [
    line.split("  #")[0].strip()
    for kind, block in BLOCKS
    if kind == "bash"
    for line in block.replace("\\\n", " ").splitlines()
    if line.strip() and not line.strip().startswith("#")
]


def typed(module):
    return [shlex.split(line)[3:] for line in LINES if line.startswith(f"python -m {module}")]


@pytest.mark.parametrize("words", typed("launch.tune"), ids=" ".join)
def test_every_sweep_makes_a_valid_request(words, capsys, tmp_path, monkeypatch):
    if any(word.startswith("resume=") for word in words):
        pytest.skip("resuming is tested on a stopped sweep in test_tune.py")
    if "backend=sagemaker" in words:
        pytest.skip("what goes to AWS is tried word by word in launch/test_readme_aws.py")
    assert tune.main([*words, "dry_run=true"]) == 0
    assert '"HyperParameterTuningJobName"' in capsys.readouterr().out


@pytest.mark.parametrize("words", typed("dogbreed.train"), ids=" ".join)
def test_every_training_composes(words):
    assert resolve_defaults(compose("train", words)).model.name


@pytest.mark.parametrize("words", typed("launch.publish"), ids=" ".join)
def test_everything_published_is_published(words, write_images, s3_server, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3_server.url)
    (s3_server.root / "BUCKET").mkdir(exist_ok=True)
    write_images(tmp_path / "PATH" / "pets", {f"{split}/{c}": 1 for split in ("train", "valid", "test") for c in "ab"})
    archive = shutil.make_archive("dogImages", "zip", tmp_path / "PATH")
    monkeypatch.setattr(publish, "download", lambda url, folder, tell: archive)  # the address cannot be asked here
    assert publish.main(words) == 0
    assert "uploaded" in capsys.readouterr().out


@pytest.mark.parametrize("module", sorted({line.split()[2] for line in LINES if line.startswith("python -m ")}))
def test_every_module_named_has_a_help(module):
    done = subprocess.run(
        [sys.executable, "-m", module, "--help"], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0
    assert f"python -m {module}" in done.stdout


def test_every_make_target_exists():
    targets = {line.split()[1] for line in LINES if line.startswith("make ")}
    assert {"tune", "test", "check"} <= targets
    makefile = (ROOT / "Makefile").read_text()
    for target in targets:
        assert f"\n{target}:" in makefile


def test_the_notebook_snippet_trains_in_a_plain_session(tmp_path):
    (snippet,) = [block for kind, block in BLOCKS if kind == "python" and "trainer.fit" in block]
    assert len([line for line in snippet.splitlines() if line.strip()]) <= 10
    done = subprocess.run([sys.executable, "-c", snippet], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "test/accuracy" in done.stdout


def test_no_command_of_the_readme_goes_unchecked():
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
    assert [line for line in LINES if not line.startswith(known)] == []


def test_every_image_and_link_within_the_project_is_there():
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
