"""The model folder in SageMaker's inference toolkit, run as its PyTorch containers run it.

The toolkit needs a separate environment, named by DOGBREED_INFERENCE:

    python -m venv /tmp/inference && /tmp/inference/bin/pip install sagemaker-inference sagemaker-pytorch-inference
    DOGBREED_INFERENCE=/tmp/inference python -m pytest tests/contracts/test_inference_toolkit.py
"""

import base64
import json
import os
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.serving.conftest import endpoint, model_folder  # noqa: F401 - fixtures
from tests.serving.running_endpoint import CLASSES
from tests.serving.sample_images import as_json, encoded, jpeg, png_of_size, scene, variants

CONTAINER = """
import base64, json, sys
from types import SimpleNamespace
from sagemaker_inference.transformer import Transformer
from sagemaker_pytorch_serving_container.default_pytorch_inference_handler import DefaultPytorchInferenceHandler

transformer = Transformer(default_inference_handler=DefaultPytorchInferenceHandler())
answers = []
for request in json.load(sys.stdin):
    answer = {"status": 200}
    context = SimpleNamespace(
        model_name="model", system_properties={"model_dir": sys.argv[1]},
        request_processor=[SimpleNamespace(get_request_properties=lambda: request["headers"])],
        set_response_status=lambda code, phrase: answer.update(status=code, phrase=phrase),
        set_response_content_type=lambda index, kind: answer.update(kind=kind),
    )
    (body,) = transformer.transform([{"body": bytearray(base64.b64decode(request["body"]))}], context)
    answer["body"] = base64.b64encode(body if isinstance(body, bytes) else body.encode()).decode()
    answers.append(answer)
import dogbreed
assert dogbreed.__file__.startswith(sys.argv[1] + "/code/"), dogbreed.__file__
json.dump(answers, sys.stdout)
"""
"""Handles each request as the model server does, in the toolkit's environment."""


@pytest.fixture(scope="module")
def container(model_folder, tmp_path_factory):  # noqa: F811
    """Answers requests `(body, content type, accept)` with the toolkit from a model.tar.gz, without the checkout."""
    home = os.environ.get("DOGBREED_INFERENCE")
    if not home:
        pytest.skip(
            "DOGBREED_INFERENCE does not name an environment with sagemaker-inference; see the docstring of this file"
        )
    python = Path(home) / "bin" / "python"
    code = "import sysconfig; print(sysconfig.get_paths()['purelib'])"
    site = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    borrowed = tmp_path_factory.mktemp("borrowed")  # the image contains PyTorch but not dogbreed
    for package in Path(torch.__file__).parents[1].iterdir():
        if (
            "dogbreed" not in package.name
            and "editable" not in package.name
            and not (Path(site) / package.name).exists()
        ):
            (borrowed / package.name).symlink_to(package)
    folder = tmp_path_factory.mktemp("container")
    with tarfile.open(folder / "model.tar.gz", "w:gz") as archive:
        archive.add(model_folder, ".")
    model = folder / "ml" / "model"
    with tarfile.open(folder / "model.tar.gz") as archive:
        archive.extractall(model, filter="data")

    def answer(*requests, **environ):
        asked = [
            {"body": base64.b64encode(body).decode(), "headers": {"Content-Type": kind, "Accept": accept}}
            for body, kind, accept in requests
        ]
        done = subprocess.run(
            [python, "-c", CONTAINER, model], input=json.dumps(asked), capture_output=True, text=True, check=False,
            cwd=folder, env={
                "PATH": os.environ["PATH"], "SAGEMAKER_BASE_DIR": str(folder / "ml"), "OMP_NUM_THREADS": "1",
                "SAGEMAKER_PROGRAM": "inference.py", "SAGEMAKER_SUBMIT_DIRECTORY": str(model / "code"),
                "PYTHONPATH": f"{model / 'code'}:{borrowed}", **environ,
            },
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return [(a["status"], a.get("kind"), base64.b64decode(a["body"])) for a in json.loads(done.stdout)]

    return answer


def test_toolkit_answers_equal_local_server(container, endpoint):  # noqa: F811
    images = [(content, "application/x-image", "application/json") for content in variants().values()]
    images += [(variants()[kind], f"image/{kind}", "*/*") for kind in ("jpeg", "png", "webp")]
    one = json.dumps({"image": base64.b64encode(jpeg()).decode()}).encode()
    several = as_json(jpeg(), encoded(scene(), "PNG")).encode()
    texts = [(one, "application/json", "application/json"), (several, "application/json", "application/json")]
    others = [(several, "application/json", accept) for accept in ("text/csv", "application/x-npy")]
    asked = [*images, *texts, *others]
    for request, (status, kind, body) in zip(asked, container(*asked), strict=True):
        assert status == 200, body
        ours = endpoint.invoke(*request[:2], Accept=request[2])  # the local server gives the same answer
        assert kind == ours.headers["content-type"].partition(";")[0]
        if kind == "application/json":
            found, wanted = json.loads(body), ours.json
            for a, b in zip(found.get("predictions", [found]), wanted.get("predictions", [wanted]), strict=True):
                assert a["predicted_label"] == b["predicted_label"] and len(a["top_k"]) == len(CLASSES)
                assert a["confidence"] == pytest.approx(b["confidence"], abs=1e-3)
        elif kind == "application/x-npy":
            import io

            np.testing.assert_allclose(*(np.load(io.BytesIO(raw)) for raw in (body, ours.body)), atol=1e-3)
    indices = container(*asked[:1], *texts[1:], *others[:1], DOGBREED_ANSWER="index")
    assert [json.loads(indices[0][2]) in range(3), len(json.loads(indices[1][2])["predictions"])] == [True, 2]
    assert all(int(line) in range(3) for line in indices[2][2].decode().split())


def test_toolkit_errors_carry_status_and_reason(container):
    asked = [
        (415, "'text/plain'; allowed", b"x", "text/plain", "*/*"),
        (400, "not a readable image", b"hello", "image/png", "*/*"),
        (400, "Premature end", jpeg()[:-900], "image/jpeg", "*/*"),
        (400, "not valid JSON", b"{", "application/json", "*/*"),
        (413, "at most 26,214,400", bytes(25 * 2**20 + 1), "image/jpeg", "*/*"),
        (413, "3600000000 pixels", png_of_size(60_000, 60_000), "image/png", "*/*"),
        (406, "possible: application/json", jpeg(), "image/jpeg", "text/html"),
    ]
    answers = container(*[line[2:] for line in asked])
    for (status, reason, *_), (found, _, body) in zip(asked, answers, strict=True):
        assert found == status and reason in body.decode().splitlines()[0]
