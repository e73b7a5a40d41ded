"""The part of the machine that each of several parallel jobs gets."""

import pytest

from launch.local.jobs.container import Share, job_environment, prepare_ml
from tests.launch.local_jobs import training_request


@pytest.mark.parametrize(
    ("devices", "parallel", "shares"),
    [
        ("0,1,2,3", 1, ["0,1,2,3"]),
        ("0,1,2,3", 2, ["0,1", "2,3"]),
        ("0,1,2,3", 4, ["0", "1", "2", "3"]),
        ("4,6,7", 2, ["4", "6"]),
        ("0,1", 3, ["0", "1", "0"]),
        ("0", 2, ["0", "0"]),
        ("", 2, ["", ""]),
    ],
)
def test_environment_divides_gpus_among_parallel_jobs(tmp_path, monkeypatch, devices, parallel, shares):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", devices)
    request = training_request("dogs")
    ml = prepare_ml(tmp_path, request, tmp_path)
    for slot, share in enumerate(shares):
        environment = job_environment(ml, request, "arn", Share(parallel, slot))
        assert environment["CUDA_VISIBLE_DEVICES"] == share
        assert environment["SM_NUM_GPUS"] == str(len([device for device in share.split(",") if device]))
