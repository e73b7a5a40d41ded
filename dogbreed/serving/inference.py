"""SageMaker's inference contract, called by the inference toolkit in its PyTorch containers.

This file is copied to `code/inference.py` of every model folder; what it imports of dogbreed lies beside it there.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dogbreed.serving.classifier import Classifier
from dogbreed.serving.images import Request, RequestError, read_body, read_images
from dogbreed.serving.responses import Prediction, write_answer
from dogbreed.serving.settings import Settings


def model_fn(model_dir: str) -> Classifier:
    """Returns the model of a folder."""
    Settings.from_environment(os.environ)  # what is wrong with it is said at the start, not at the first request
    return Classifier(Path(model_dir))


def input_fn(body: bytes | bytearray | str, content_type: str) -> Request:
    """Returns the images in a request's body, not decoded yet: how large they are wanted the model knows."""
    with _toolkit_errors():
        return read_body(body if isinstance(body, str) else bytes(body), content_type)


def predict_fn(request: Request, model: Classifier) -> Prediction:
    """Returns what the model says of the images."""
    with _toolkit_errors():
        pixels = read_images(request, model.card.input_spec)
    return Prediction(model(pixels), request.several, model.card)


def output_fn(prediction: Prediction, accept: str) -> tuple[bytes, str]:
    """Returns body and content type of the answer."""
    with _toolkit_errors():
        return write_answer(prediction, accept, Settings.from_environment(os.environ))


@contextmanager
def _toolkit_errors() -> Iterator[None]:
    """Turns our error into the toolkit's own, which it answers with our status; all others become a 500."""
    try:
        yield
    except RequestError as error:
        from sagemaker_inference.errors import GenericInferenceToolkitError

        raise GenericInferenceToolkitError(error.status, error.reason) from error
