"""The model folder: what is in it, that it stands alone, and what is said of a bad one."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from dogbreed import ImageClassifier
from dogbreed.cli.config import compose, resolve_defaults
from dogbreed.errors import UserError
from dogbreed.run.train import train
from dogbreed.serving.bundle import read_card
from dogbreed.serving.classifier import Classifier
from tests.serving.endpoints import CLASSES, make_model


def test_a_training_leaves_its_best_model_with_all_that_is_to_be_known(tmp_path):
    typed = ["model=timm", "model.name=test_resnet", "trainer=cpu", "epochs=2", "batch_size=8", "tta=true",
             "debugger=off", "data.url='demo://?classes=3&train=12&valid=6&test=6&size=32'",
             "data.image_size=48"]  # fmt: skip
    overrides = [*typed, f"output_dir={tmp_path}", "+trainer.max_steps=6"]
    results = train(resolve_defaults(compose("train", overrides)), overrides)
    model = tmp_path / "model"
    card = read_card(model)
    assert card.architecture == "test_resnet" and card.input_size == [3, 48, 48]
    assert (card.labels[0], card.names[0], card.classes[0]) == ("001", "Spotted_terrier", "001.Spotted_terrier")
    assert card.metrics["test/accuracy"] == pytest.approx(results["test"]["test/accuracy"])
    assert card.overrides == [*typed, "+trainer.max_steps=6"]  # not where it lay
    assert str(tmp_path) not in (model / "model.json").read_text()
    best = ImageClassifier.load_from_checkpoint(tmp_path / "checkpoints" / "best.ckpt").eval()
    pixels = torch.randint(0, 256, (2, 3, 48, 48), dtype=torch.uint8)
    expected = best(((pixels / 255) - 0.5) / 0.5).softmax(-1).detach().numpy()
    np.testing.assert_allclose(Classifier(model)(pixels), expected, atol=1e-4)
    np.testing.assert_allclose(Classifier(model)(pixels.flip(-1)), expected, atol=1e-4)  # by tta, as in the test
    pickled = [path for path in model.rglob("*") if path.suffix in (".ckpt", ".pt", ".pth", ".pkl", ".pyc")]
    assert not pickled


ALONE = """
import sys
sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in repr(finder)]
sys.modules.update(dict.fromkeys(["hydra", "omegaconf", "pytorch_lightning", "torchmetrics", "boto3", "obstore"]))
import inference, dogbreed
assert dogbreed.__file__.startswith(sys.argv[1]), dogbreed.__file__
model = inference.model_fn(sys.argv[1] + "/..")
request = inference.input_fn(open(sys.argv[2], "rb").read(), "image/jpeg")
print(inference.output_fn(inference.predict_fn(request, model), "text/csv")[0].decode())
"""


def test_its_code_needs_nothing_of_the_checkout(model_folder, tmp_path):
    from tests.serving.sample_images import jpeg

    folder = shutil.copytree(model_folder, tmp_path / "m")
    (tmp_path / "photo.jpg").write_bytes(jpeg())
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(folder / "code"), "photo.jpg"],
        env=os.environ | {"PYTHONPATH": str(folder / "code"), "OMP_NUM_THREADS": "1"},
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.strip().split(",")) >= 3
    pins = dict(line.split("==") for line in (folder / "code" / "requirements.txt").read_text().split())
    assert pins.keys() == {"safetensors", "simplejpeg", "timm"}


def spoiled_card(**changes):
    def spoil(folder):
        card = json.loads((folder / "model.json").read_text()) | changes
        (folder / "model.json").write_text(json.dumps({key: value for key, value in card.items() if value is not None}))

    return spoil


def spoiled_weights(change):
    def spoil(folder):
        state = load_file(folder / "model.safetensors")
        change(state)
        save_file(state, folder / "model.safetensors")

    return spoil


def no_numbers(state):
    state["fc.bias"] = torch.full_like(state["fc.bias"], float("nan"))


MORE = [*CLASSES, "more"]
SPOILED = {
    "does not exist: a training leaves one in outputs/NAME/model": shutil.rmtree,
    "has no model.json": lambda folder: (folder / "model.json").unlink(),
    "model.json cannot be read: Expecting": lambda folder: (folder / "model.json").write_text('{"format": 1,'),
    "no card of a model": lambda folder: (folder / "model.json").write_text("[]"),
    "has format 2, this dogbreed reads up to 1": spoiled_card(format=2),
    "mean missing or of another type": spoiled_card(mean=None),
    "3 classes, 2 labels, 3 names": spoiled_card(labels=["1", "2"]),
    "cannot be read: not enough values": spoiled_card(input_size=[3]),
    "test_resnot is not a timm model; did you mean": spoiled_card(architecture="test_resnot"),
    r"does not fit model.json: .* \(4 classes are on the card, 3 in the weights\)":
        spoiled_card(classes=MORE, labels=MORE, names=MORE),
    "does not fit model.json: 1 of": spoiled_weights(lambda state: state.pop("conv1.0.weight")),
    "safetensors cannot be read as weights": lambda folder: os.truncate(folder / "model.safetensors", 5000),
    "safetensors cannot be read as weights: No such file": lambda folder: (folder / "model.safetensors").unlink(),
    "the network's answers are no numbers": spoiled_weights(no_numbers),
}  # fmt: skip


@pytest.mark.parametrize("message", SPOILED)
def test_a_folder_that_can_not_be_served_is_refused_in_one_line(message, model_folder, tmp_path):
    folder = shutil.copytree(model_folder, tmp_path / "m")
    SPOILED[message](folder)
    with pytest.raises(UserError, match=message) as refused:
        Classifier(folder)
    assert "\n" not in str(refused.value) and str(folder) in str(refused.value)


def test_a_folder_is_written_anew_and_a_place_that_can_not_be_written_is_named(tmp_path):
    folder = make_model(tmp_path / "m")
    (folder / "code" / "old.py").touch()
    make_model(folder, classes=MORE)
    assert read_card(folder).classes == MORE and not (folder / "code" / "old.py").exists()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file/m cannot be written"):
        make_model(Path(tmp_path / "file" / "m"))
