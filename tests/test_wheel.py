"""A wheel is complete: the launcher runs from any folder without the checkout."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile

import pytest

from tests.paths import ROOT


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    ignored = shutil.ignore_patterns(".venv", ".git", "outputs", "build", "*.egg-info", "__pycache__")
    source = shutil.copytree(ROOT, folder / "source", ignore=ignored)  # an old build/ would be packed into the wheel
    command = [sys.executable, "-m", "build", "--wheel", "--outdir", str(folder), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (found,) = folder.glob("*.whl")
    return found


def test_wheel_contains_exactly_the_modules_and_yaml_files(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    modules = {str(p.relative_to(ROOT)) for package in ("dogbreed", "launch") for p in (ROOT / package).rglob("*.py")}
    yamls = {f"dogbreed/{p.relative_to(ROOT)}" for p in (ROOT / "conf").rglob("*.yaml")}
    assert names >= modules | yamls | {"dogbreed/py.typed"}
    assert not [name for name in names if name.startswith(("tests", "conf/"))]


def test_wheel_runs_from_any_folder(wheel, tmp_path):
    """The new environment uses the large dependencies of this one, and dogbreed from the wheel only."""
    venv.create(tmp_path / "env", with_pip=False)
    python = tmp_path / "env" / "bin" / "python"
    site = next((tmp_path / "env" / "lib").glob("python*/site-packages"))
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    (site / "borrowed.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    environ = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    demo = "data.url='demo://?classes=2&train=6&valid=3&test=3&size=32'"
    command = [
        str(python), "-m", "launch.tune", "model=timm", "model.name=test_resnet", demo, "epochs=1",
        "lr=choice(0.001,0.01)", "tuner.max_jobs=1", "name=wheel",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=elsewhere, env=environ)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((elsewhere / "outputs" / "wheel" / "results.json").read_text())
    assert found["best"]["objective"] is not None
    assert str(ROOT) not in next((elsewhere / "outputs" / "wheel").glob("*/request.json")).read_text()
