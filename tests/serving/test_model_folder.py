"""Reading of model folders, damaged ones included."""

import json
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from dogbreed.errors import UserError
from dogbreed.serving.classifier import Classifier
from dogbreed.serving.model_folder import read_card
from tests.serving.running_endpoint import CLASSES


def test_read_card_of_older_version_fills_defaults(model_folder, tmp_path):
    card = json.loads((model_folder / "model.json").read_text())
    for key in ("tta", "versions"):
        del card[key]
    (tmp_path / "model.json").write_text(json.dumps(card | {"unknown": 1}))
    assert (read_card(tmp_path).tta, read_card(tmp_path).versions) == (False, {})


def with_card(**changes):
    def edit(folder):
        card = json.loads((folder / "model.json").read_text()) | changes
        (folder / "model.json").write_text(json.dumps({key: value for key, value in card.items() if value is not None}))

    return edit


def with_weights(change):
    def edit(folder):
        state = load_file(folder / "model.safetensors")
        change(state)
        save_file(state, folder / "model.safetensors")

    return edit


def set_nan(state):
    state["fc.bias"] = torch.full_like(state["fc.bias"], float("nan"))


MORE = [*CLASSES, "more"]
DAMAGED = {
    "does not exist: a training writes one to outputs/NAME/model": shutil.rmtree,
    "has no model.json": lambda folder: (folder / "model.json").unlink(),
    "model.json cannot be read: Expecting": lambda folder: (folder / "model.json").write_text('{"format": 1,'),
    "not a model card": lambda folder: (folder / "model.json").write_text("[]"),
    "has format 2, this version reads up to 1": with_card(format=2),
    "mean missing or of another type": with_card(mean=None),
    "3 classes, 2 labels, 3 names": with_card(labels=["1", "2"]),
    "cannot be read: not enough values": with_card(input_size=[3]),
    "test_resnot is not a timm model; did you mean": with_card(architecture="test_resnot"),
    r"does not match model.json: .* \(4 classes on the card, 3 in the weights\)":
        with_card(classes=MORE, labels=MORE, names=MORE),
    "does not match model.json: 1 of": with_weights(lambda state: state.pop("conv1.0.weight")),
    "safetensors cannot be read as weights": lambda folder: os.truncate(folder / "model.safetensors", 5000),
    "safetensors cannot be read as weights: No such file": lambda folder: (folder / "model.safetensors").unlink(),
    "the network outputs NaN": with_weights(set_nan),
}  # fmt: skip


@pytest.mark.parametrize("message", DAMAGED)
def test_classifier_damaged_folder_rejected_in_one_line(message, model_folder, tmp_path):
    folder = shutil.copytree(model_folder, tmp_path / "m")
    DAMAGED[message](folder)
    with pytest.raises(UserError, match=message) as raised:
        Classifier(folder)
    assert "\n" not in str(raised.value) and str(folder) in str(raised.value)
