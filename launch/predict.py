"""Classifies images with an endpoint, on this machine or on AWS.

    python -m launch.predict NAME photo.jpg [more.png ...]      prints a table; with --json for programs
    python -m launch.predict NAME FOLDER                        writes predictions.csv for every image in it
    python -m launch.predict NAME s3://BUCKET/PREFIX output=dogs.csv in_flight=32
    python -m launch.predict NAME photo.jpg backend=sagemaker   with an endpoint on AWS

Images that are already in the CSV file are skipped, so after Ctrl-C the same command resumes. An unreadable image gets
a row with the reason. If the folders are classes, the accuracy is printed. The exit status is 0 if every image has an
outcome, 1 if a named image has no prediction or the endpoint failed on images, 130 after Ctrl-C.
"""

from __future__ import annotations

import json
from pathlib import Path

from dogbreed.cli.command import run_cli
from dogbreed.errors import UserError
from launch.backends import open_backend
from launch.backends.aws.errors import api_errors
from launch.hosting.predict import is_folder, predict_folder, predict_images
from launch.spec.settings import SCHEMAS, compose
from launch.views.predictions import predictions_table
from launch.views.text import console


def main(argv: list[str]) -> int:
    """Classifies images or a folder; returns 0, 1 if images have no prediction, or 128 + the signal received."""
    as_json = "--json" in argv
    overrides = [word for word in argv if "=" in word and not Path(word).exists()]
    names = [word for word in argv if word not in overrides and word != "--json"]
    if len(names) < 2:
        raise UserError(
            "give an endpoint and images or a folder: python -m launch.predict NAME photo.jpg; "
            "python -m launch.endpoints lists the endpoints"
        )
    cfg, out = compose("predict", overrides), console()
    name, *targets = names
    folders = [target for target in targets if is_folder(target)]
    if folders and (len(targets) > 1 or as_json):
        raise UserError(f"{folders[0]} is a folder, its predictions go to a CSV file: give it alone, without --json")
    if missing := [target for target in targets if "://" not in target and not Path(target).exists()]:
        raise UserError(f"{missing[0]}: there is no such image or folder")
    backend = open_backend(cfg)
    if folders:
        return predict_folder(cfg, backend, name, folders[0], out)
    with api_errors(cfg):
        predictions = predict_images(backend, name, targets, int(cfg.in_flight))
    if as_json:
        rows = [({"error": p} if isinstance(p, str) else p.to_json()) for p in predictions.values()]
        print(json.dumps([{"image": image} | row for image, row in zip(predictions, rows, strict=True)], indent=2))
    else:
        out.print(predictions_table(predictions))
    return int(any(isinstance(prediction, str) for prediction in predictions.values()))


if __name__ == "__main__":
    run_cli(main, __doc__, SCHEMAS["predict"], "predict")
