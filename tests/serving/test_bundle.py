"""Writing of model folders: content, and independence of the copied code."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from dogbreed import ImageClassifier
from dogbreed.cli.config import compose, resolve_defaults
from dogbreed.errors import UserError
from dogbreed.run.train import train
from dogbreed.serving.classifier import Classifier
from dogbreed.serving.model_folder import read_card
from tests.serving.running_endpoint import CLASSES, make_model
from tests.serving.sample_images import jpeg


def test_train_writes_best_model_with_complete_card(tmp_path):
    own = ["model=timm", "model.name=test_resnet", "trainer=cpu", "epochs=2", "batch_size=8", "tta=true",
           "debugger=off", "data.url='demo://?classes=3&train=12&valid=6&test=6&size=32'",
           "data.image_size=48", "+trainer.max_steps=6"]  # fmt: skip
    overrides = [*own, f"output_dir={tmp_path}"]
    results = train(resolve_defaults(compose("train", overrides)), overrides)
    model = tmp_path / "model"
    card = read_card(model)
    assert card.architecture == "test_resnet" and card.input_size == [3, 48, 48]
    assert (card.labels[0], card.names[0], card.classes[0]) == ("001", "Spotted_terrier", "001.Spotted_terrier")
    assert card.metrics["test/accuracy"] == pytest.approx(results["test"]["test/accuracy"])
    assert card.overrides == own  # without output_dir
    assert str(tmp_path) not in (model / "model.json").read_text()
    best = ImageClassifier.load_from_checkpoint(tmp_path / "checkpoints" / "best.ckpt").eval()
    pixels = torch.randint(0, 256, (2, 3, 48, 48), dtype=torch.uint8)
    expected = best(((pixels / 255) - 0.5) / 0.5).softmax(-1).detach().numpy()
    np.testing.assert_allclose(Classifier(model)(pixels), expected, atol=1e-4)
    np.testing.assert_allclose(Classifier(model)(pixels.flip(-1)), expected, atol=1e-4)  # TTA, as in the test
    pickled = [path for path in model.rglob("*") if path.suffix in (".ckpt", ".pt", ".pth", ".pkl", ".pyc")]
    assert not pickled


STANDALONE = """
import sys
code, photo = sys.argv[1:]
sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in repr(finder).lower()]
sys.modules.update(dict.fromkeys(["hydra", "omegaconf", "pytorch_lightning", "torchmetrics", "boto3", "obstore"]))
import inference
model = inference.model_fn(code + "/..")
request = inference.input_fn(open(photo, "rb").read(), "image/jpeg")
print(inference.output_fn(inference.predict_fn(request, model), "text/csv")[0].decode())
ours = [module.__file__ for name, module in sys.modules.items() if name.partition(".")[0] in ("dogbreed", "inference")]
assert ours and all(path.startswith(code) for path in ours), ours
"""
"""Uses the copied code with the checkout's import finder removed and heavy dependencies made unimportable."""


def test_copied_code_runs_without_checkout(model_folder, tmp_path):
    folder = shutil.copytree(model_folder, tmp_path / "m")
    (tmp_path / "photo.jpg").write_bytes(jpeg())
    done = subprocess.run(
        [sys.executable, "-c", STANDALONE, str(folder / "code"), "photo.jpg"],
        env=os.environ | {"PYTHONPATH": str(folder / "code"), "OMP_NUM_THREADS": "1"},
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.strip().split(",")) >= 3
    pins = dict(line.split("==") for line in (folder / "code" / "requirements.txt").read_text().split())
    assert pins.keys() == {"safetensors", "simplejpeg", "timm"}


def test_copied_code_excludes_writing_side(model_folder):
    copied = {path.relative_to(model_folder / "code").as_posix() for path in (model_folder / "code").rglob("*.py")}
    assert {"inference.py", "dogbreed/serving/inference.py", "dogbreed/serving/model_folder.py"} <= copied
    assert not {f"dogbreed/{name}.py" for name in ("serving/bundle", "serving/code_closure", "data/classes")} & copied


def test_write_model_replaces_earlier_model(tmp_path):
    folder = make_model(tmp_path / "m")
    (folder / "code" / "old.py").touch()
    make_model(folder, classes=[*CLASSES, "more"])
    assert read_card(folder).classes == [*CLASSES, "more"] and not (folder / "code" / "old.py").exists()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file/m cannot be written"):
        make_model(Path(tmp_path / "file" / "m"))


def test_weights_are_readable_like_the_other_files(tmp_path):
    """safetensors writes files that only their owner can read, and a container may run as another user."""
    folder = make_model(tmp_path / "model")
    modes = {path.stat().st_mode & 0o777 for path in folder.rglob("*") if path.is_file()}
    assert len(modes) == 1
