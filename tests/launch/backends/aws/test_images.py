"""The newest image that the SDK knows, and the end of its patches."""

from datetime import date

import pytest

from dogbreed.errors import UserError
from launch.backends.aws.images import END_OF_PATCH, image_note, newest_image

HOST = "763104351884.dkr.ecr.us-east-1.amazonaws.com"
OLD = f"{HOST}/pytorch-training:2.10.0-gpu-py313"
NEW = f"{HOST}/pytorch:2.13-cu133-amzn2023-sagemaker"


@pytest.mark.parametrize(
    ("uri", "today", "note"),
    [
        (OLD, date(2026, 11, 20), "PyTorch 2.10, Python 3.13, patched until 2027-01-21"),
        (OLD, date(2026, 11, 22), "PyTorch 2.10, Python 3.13, patched until 2027-01-21; warning: in 60 days"),
        (OLD, date(2027, 1, 21), "PyTorch 2.10, Python 3.13, patched until 2027-01-21; warning: in 0 days"),
        (NEW, date(2026, 11, 29), "PyTorch 2.13, Python 3.12, CUDA 13.3, patched until 2027-07-20"),
        (f"{HOST}/pytorch:9.9-cpu", date(2026, 11, 29), "PyTorch 9.9, end of patches unknown"),
        ("mine", date(2026, 11, 29), ""),
    ],
)
def test_image_note_shows_versions_and_end_of_patches(uri, today, note):
    assert image_note(uri, "training", today, chosen=False) == note


def test_image_after_end_of_patches_is_error_unless_chosen():
    late = date(2027, 1, 22)
    with pytest.raises(UserError, match=r"patches ended on 2027-01-21: upgrade the SDK .* or type backend\.image=URI"):
        image_note(OLD, "training", late, chosen=False)
    assert "has not patched it since" in image_note(OLD, "training", late, chosen=True)
    assert "has not patched it since" in image_note(f"{HOST}/p:2.6.0-cpu-py312", "inference", late, chosen=False)


def test_newest_image_is_of_the_newer_line():
    uris = pytest.importorskip("sagemaker.core.image_uris", reason="the SageMaker SDK is not installed")
    newest = list(uris.config_for_framework("pytorch-amzn2023")["training"]["versions"])[-1]
    assert newest_image("us-east-1", "ml.g5.xlarge", "training").startswith(f"{HOST}/pytorch:{newest}-cu")
    assert newest_image("us-east-1", "ml.m5.xlarge", "training").startswith(f"{HOST}/pytorch:{newest}-cpu")
    older = newest_image("us-gov-west-1", "ml.m5.xlarge", "training")  # the newest version is not in this region
    assert "/pytorch" in older and newest not in older
    assert newest in END_OF_PATCH["training"] or float(newest) > 2.13
    for instance_type in ("ml.trn1.2xlarge", "ml.m8g.large", "ml.c6gn.large"):
        with pytest.raises(UserError, match=r"no PyTorch image of AWS runs on it: type backend\.image=URI"):
            newest_image("us-east-1", instance_type, "training")
    assert "gpu" in newest_image("us-east-1", "ml.g4dn.xlarge", "inference")
