"""A network behind an endpoint, no stand-in: the same classes as the network itself gives."""

import csv
from pathlib import Path

import pytest
import torch
from local_jobs import end_endpoints

from launch import deploy, predict, undeploy

KINDS = ("001.Red", "002.Green", "003.Blue")


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    end_endpoints("outputs")


def test_a_network_answers_as_it_does_without_an_endpoint(home, capsys):
    import numpy as np
    import simplejpeg

    from dogbreed.train import main as train

    for number, kind in enumerate(KINDS):
        for picture in range(6):
            colour = np.full((40, 40, 3), 30, np.uint8)
            colour[:, :, number] = 150 + 10 * picture
            for split in ("train", "test"):
                path = Path("pets") / split / kind / f"{picture}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(simplejpeg.encode_jpeg(colour))
    torch.manual_seed(0)
    words = [
        "model=timm",
        "model.name=test_resnet",
        "model.weights=random",
        "data=folder",
        "data.url=pets",
        "name=tiny",
    ]
    assert train([*words, "epochs=3", "lr=0.01", "finetune=full", "debugger=off", "data.num_workers=0"]) == 0
    import json

    tested = json.loads(Path("outputs/tiny/results.json").read_text())["test"]["test/accuracy"]
    assert deploy.main(["from_training=tiny"]) == 0
    capsys.readouterr()
    assert predict.main(["tiny", "pets/test"]) == 0
    right = round(tested * 18)
    assert f"({right} of 18)" in capsys.readouterr().out
    with Path("predictions.csv").open() as file:
        assert {row["class_name"] for row in csv.DictReader(file)} <= {"Red", "Green", "Blue"}
    assert undeploy.main(["tiny"]) == 0
