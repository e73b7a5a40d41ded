"""Hyperparameters reach the job's config unchanged, and its files are where SageMaker expects them."""

import json
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dogbreed.errors import UserError
from launch.container.entry import folder_overrides
from launch.spec.contract import encode, job_overrides
from launch.spec.settings import compose


def hyperparameters(fixed=(), keys=None, **own):
    return {"overrides": json.dumps(list(fixed)), "keys": json.dumps(keys or {}), **own}


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-05", 1e-05), ("0.00389", 0.00389), ("3", 3), ("1.0", 1.0)],
)
def test_numbers_stay_numbers(text, value):
    assert compose("train", job_overrides(hyperparameters(lr=text))).lr == value


words = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=12).filter(lambda w: "${" not in w)


@given(st.one_of(words, st.booleans(), st.none(), st.integers(-999, 999)))
def test_any_value_round_trips_as_override_and_hyperparameter(value):
    text = encode(value)
    keys = {"model_kwargs_x": "+model.kwargs.x"}
    trip = job_overrides(hyperparameters([f"+model.kwargs.y={text}"], keys, model_kwargs_x=text))
    kwargs = compose("train", trip).model.kwargs
    assert kwargs.x == value and type(kwargs.x) is type(value)
    assert kwargs.y == value and type(kwargs.y) is type(value)


def test_groups_are_chosen_and_sagemaker_keys_are_skipped():
    trip = job_overrides(
        hyperparameters(
            ["epochs=2"], model="resnet34", _tuning_objective_metric="val/accuracy", sagemaker_program="x.py"
        )
    )
    assert trip == ["epochs=2", "model=resnet34"]
    cfg = compose("train", trip)
    assert (cfg.model.name, cfg.epochs) == ("resnet34", 2)


def test_files_go_to_sagemaker_folders_and_job_resumes(tmp_path):
    environ = {"TRAINING_JOB_NAME": "a-001", "SM_MODEL_DIR": "/opt/ml/model", "SM_OUTPUT_DATA_DIR": "/o/it's d"}
    cfg = compose("train", folder_overrides(tmp_path, environ))
    assert (cfg.name, cfg.model_dir, cfg.output_dir) == ("a-001", "/opt/ml/model", "/o/it's d")
    assert cfg.resume_from is None
    other, own = tmp_path / "checkpoints" / "a-002", tmp_path / "checkpoints" / "a-001"
    other.mkdir(parents=True)
    (other / "last.ckpt").touch()
    assert compose("train", folder_overrides(tmp_path, environ)).resume_from is None  # another trial's checkpoint
    own.mkdir()
    (own / "last.ckpt").touch()
    assert compose("train", folder_overrides(tmp_path, environ)).resume_from == f"{own}/last.ckpt"


def test_channel_folder_replaces_its_uri(tmp_path):
    for file in ("data/train/pug/1.jpg", "weights/resnet18.safetensors"):
        (tmp_path / "input" / "data" / file).parent.mkdir(parents=True)
        (tmp_path / "input" / "data" / file).touch()
    typed = [
        "data=s3",
        "data.url=s3://b/dogs",
        "data.endpoint_url=http://x",
        "model.weights=s3://b/resnet18.safetensors",
    ]
    channels = {f"SM_CHANNEL_{name.upper()}": f"{tmp_path}/input/data/{name}" for name in ("data", "weights")}
    cfg = compose("train", [*typed, *folder_overrides(tmp_path, channels)])
    assert cfg.data.url == f"{tmp_path}/input/data/data" and cfg.data.endpoint_url is None
    assert cfg.model.weights == f"{tmp_path}/input/data/weights/resnet18.safetensors"


def test_empty_channel_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"channel data: .* is empty"):
        folder_overrides(tmp_path, {"SM_CHANNEL_DATA": str(tmp_path)})


def test_user_error_in_job_is_one_line_in_failure_file(tmp_path):
    config = tmp_path / "input" / "config"
    config.mkdir(parents=True)
    (config / "hyperparameters.json").write_text(
        json.dumps(hyperparameters(["data=folder", "data.url=/no/such/place"]))
    )
    done = subprocess.run(
        [sys.executable, "-m", "launch.container.entry"],
        env=os.environ | {"SAGEMAKER_BASE_DIR": str(tmp_path)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    reason = (tmp_path / "output" / "failure").read_text()
    assert "/no/such/place" in reason
    assert "Traceback" not in done.stderr


def test_weights_are_the_named_file_of_the_channel(tmp_path):
    for name in ("w.pth", "w.pth.sha256", "a.txt"):
        (tmp_path / name).touch()
    found = folder_overrides(tmp_path, {"SM_CHANNEL_WEIGHTS": str(tmp_path)}, "s3://b/dogs/w.pth")
    assert compose("train", found).model.weights == f"{tmp_path}/w.pth"
