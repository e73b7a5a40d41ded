"""The source archive is reproducible and contains everything that a job needs to start."""

import io
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from dogbreed.errors import UserError
from launch.backends.aws.source_archive import code_archive, code_key, job_requirements
from tests.paths import ROOT


def members(archive):
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar.getmembers()}


def test_archive_is_reproducible_and_small():
    first = code_archive()
    code = (
        "import sys; from launch.backends.aws.source_archive import code_archive; "
        "sys.stdout.buffer.write(code_archive())"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert first == other.stdout
    assert len(first) < 500_000
    assert code_key(first) == code_key(other.stdout)


def test_archive_has_code_conf_requirements_and_no_outputs():
    files = members(code_archive())
    assert {
        "run_job.py",
        "launch/container/entry.py",
        "dogbreed/models/classifier.py",
        "conf/model/resnet18.yaml",
    } <= set(files)
    assert not [name for name in files if "__pycache__" in name or name.startswith((".", "tests"))]
    for folder in ("dogbreed", "launch", "conf"):  # templates and other files that the code reads, besides modules
        inside = (path for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts)
        assert {path.relative_to(ROOT).as_posix() for path in inside} <= set(files)
    required = files["requirements.txt"].decode().split()
    assert any(line.startswith("timm==") for line in required)
    assert not [line for line in required if line.startswith(("torch==", "torchvision==", "optuna", "matplotlib"))]
    assert "requirements.txt" not in members(code_archive(requirements=False))


def test_extra_is_required_if_the_job_needs_it():
    more = set(job_requirements("debug")) - set(job_requirements())
    assert any(line.startswith("smdebug==") for line in more)


def test_archive_has_other_application_without_its_data(tmp_path, monkeypatch):
    (tmp_path / "my_app.py").write_text("print('hello')")
    (tmp_path / "requirements.txt").write_text("# mine\nnumpy==1.0")
    (tmp_path / "images.bin").touch()
    (tmp_path / "outputs").mkdir()
    (tmp_path / "outputs" / "old.yaml").touch()
    read, read_bytes = [], Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read.append(path.name) or read_bytes(path))
    files = members(code_archive(app=tmp_path))
    assert "my_app.py" in read and "images.bin" not in read
    assert {"my_app.py", "launch/container/entry.py"} <= set(files) and "outputs/old.yaml" not in files
    assert files["requirements.txt"].startswith(b"# mine\nnumpy==1.0\n")


def test_archive_is_enough_to_compose_a_job(tmp_path):
    with tarfile.open(fileobj=io.BytesIO(code_archive())) as tar:
        tar.extractall(tmp_path, filter="data")
    code = (
        "import launch.container.entry as entry, dogbreed.cli.config as c; "
        "print(c.compose('train', ['lr=0.5']).lr, entry.__file__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path, env={"PATH": ""}
    )
    assert done.stdout.split() == ["0.5", f"{tmp_path}/launch/container/entry.py"]


@pytest.mark.parametrize("name", ["run_job.py", "launch.py", "dogbreed/__init__.py"])
def test_archive_of_app_with_a_module_of_the_job_is_rejected(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
    with pytest.raises(UserError, match=r"rename .*: the job's own code has this name"):
        code_archive(app=tmp_path)


def test_archive_takes_long_paths_and_leaves_environments(tmp_path):
    long = tmp_path / ("a" * 120) / ("b" * 120) / "app.py"
    for path in (long, tmp_path / "venv" / "lib.py"):
        path.parent.mkdir(parents=True)
        path.touch()
    names = members(code_archive(app=tmp_path))
    assert long.relative_to(tmp_path).as_posix() in names and "venv/lib.py" not in names
