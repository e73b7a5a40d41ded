"""SageMaker's inference contract, called without its toolkit."""

import json

from dogbreed.serving import inference
from tests.serving.running_endpoint import CLASSES
from tests.serving.sample_images import jpeg


def test_inference_functions_answer_an_image(model_folder):
    model = inference.model_fn(str(model_folder))
    prediction = inference.predict_fn(inference.input_fn(jpeg(), "image/jpeg"), model)
    body, kind = inference.output_fn(prediction, "application/json")
    assert kind == "application/json" and json.loads(body)["predicted_label"] in ("001", "069", CLASSES[2])
