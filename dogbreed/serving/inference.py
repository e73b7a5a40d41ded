"""SageMaker's inference contract, called by the inference toolkit in its PyTorch containers.

A training copies this file to `code/inference.py` of its model folder, with the dogbreed modules that it imports.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dogbreed.serving.classifier import Classifier
from dogbreed.serving.images import decode_images
from dogbreed.serving.request import InferenceRequest, RequestError, parse_request
from dogbreed.serving.responses import Prediction, encode_response
from dogbreed.serving.settings import Settings


def model_fn(model_dir: str) -> Classifier:
    """Returns the model of a model folder."""
    Settings.from_environment(os.environ)  # fails at start-up, not at the first request
    return Classifier(Path(model_dir))


def input_fn(body: bytes | bytearray | str, content_type: str) -> InferenceRequest:
    """Returns the request's images, not decoded yet: the input size is known only to the model."""
    with _toolkit_errors():
        return parse_request(body if isinstance(body, str) else bytes(body), content_type)


def predict_fn(request: InferenceRequest, model: Classifier) -> Prediction:
    """Returns the model's probabilities for the request's images."""
    with _toolkit_errors():
        pixels = decode_images(request, model.card.input_spec)
    return Prediction(model(pixels), request.is_batch, model.card)


def output_fn(prediction: Prediction, accept: str) -> tuple[bytes, str]:
    """Returns body and content type of the response."""
    with _toolkit_errors():
        return encode_response(prediction, accept, Settings.from_environment(os.environ))


@contextmanager
def _toolkit_errors() -> Iterator[None]:
    """Converts `RequestError` to the toolkit's error class; the toolkit answers every other exception with 500."""
    try:
        yield
    except RequestError as error:
        from sagemaker_inference.errors import GenericInferenceToolkitError

        raise GenericInferenceToolkitError(error.status, error.reason) from error
