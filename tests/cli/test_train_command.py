"""The command `python -m dogbreed.train` does not overwrite the results of an earlier run."""

from pathlib import Path

import pytest

import dogbreed.train as command
from dogbreed.errors import UserError


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Stands in for trainings; returns the configs that would run."""
    started = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setattr(command, "run", lambda cfg, overrides: started.append(cfg) or 0)
    return started


def write(path):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text("{}")


@pytest.mark.parametrize("file", ["results.json", "checkpoints/best.ckpt", "checkpoints/last.ckpt", "request.json"])
def test_train_with_a_used_name_is_refused(runs, file):
    write(f"outputs/dogs/{file}")
    with pytest.raises(UserError, match="outputs/dogs has the results of another run"):
        command.main(["name=dogs"])
    assert runs == []


def test_train_after_a_failed_start_runs(runs):
    write("outputs/dogs/config.yaml")
    assert command.main(["name=dogs"]) == 0
    assert runs[0].output_dir == "outputs/dogs"


def test_train_resumes_in_a_used_folder(runs):
    write("outputs/dogs/checkpoints/last.ckpt")
    assert command.main(["name=dogs", "resume_from=outputs/dogs/checkpoints/last.ckpt"]) == 0


def test_train_in_another_process_of_a_run_is_not_refused(runs, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    write("outputs/dogs/results.json")
    assert command.main(["name=dogs"]) == 0
