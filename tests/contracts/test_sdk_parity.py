"""Compares our requests field by field with those of the SageMaker SDK's tuner and trainer.

Every difference has a reason below, and every reason has a difference. This command prints the table:

    python -m pytest -s tests/contracts/test_sdk_parity.py
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from dogbreed.cli.config import resolve_defaults
from launch.spec.requests.training import Target, training_request
from launch.spec.requests.tuning import tuning_request
from launch.spec.settings import compose
from tests.launch.cloud import BUCKET, IMAGE, ROLE
from tests.launch.plans import plan_of

OURS = [
    "model=resnet34", "lr=tag(log,interval(1e-4,1e-1))", "name=dogs", "tuner=bayesian", "tuner.max_hours=2",
    "tuner.early_stopping=true", "tuner.seed=0", "tuner.warm_start=[earlier]", "tuner.patience=3",
    "backend=sagemaker", "backend.input_mode=File", "backend.kms_key=k1", "backend.volume_kms_key=k2",
    "backend.subnets=[subnet-1]", "backend.security_groups=[sg-1]", "backend.encrypt_traffic=true",
    "+backend.environment.A=1", "+backend.tags.team=dogs", "instance.spot=true", "instance.retries=2",
    "data=s3", "data.url=s3://b/dogs",
]  # fmt: skip
SITE = Target(ROLE, IMAGE, f"s3://{BUCKET}/dogbreed", region="us-east-1", code_uri=f"s3://{BUCKET}/c/sourcedir.tar.gz")


def flat(value, path=""):
    """Returns path to value of every leaf; list items are labelled by their name if they have one."""
    if isinstance(value, dict) and value:
        return {k: v for key, item in value.items() for k, v in flat(item, f"{path}.{key}" if path else key).items()}
    if isinstance(value, list) and value:
        return {
            k: v for number, item in enumerate(value) for k, v in flat(item, f"{path}[{label(item, number)}]").items()
        }
    return {path: value}


def label(item, number):
    """Returns the name of a list's item, or its number."""
    names = ("Name", "ChannelName", "Key")
    return next((item[name] for name in names if isinstance(item, dict) and name in item), number)


def differences(ours, theirs):
    a, b = flat(ours), flat(theirs)
    return {path: (a.get(path), b.get(path)) for path in sorted({*a, *b}) if a.get(path) != b.get(path)}


def check(title, found, reasons):
    rows, used = [], set()
    for path, (ours, theirs) in found.items():
        key = next((key for key in reasons if path.startswith(key)), None)
        used.add(key)
        cells = [json.dumps(v, ensure_ascii=False)[:60] if v is not None else "-" for v in (ours, theirs)]
        rows.append(f"| {path} | {cells[0]} | {cells[1]} | {reasons.get(key, '**no reason**')} |")
    print(f"\n{title}\n| field | ours | SDK 3.27 | reason |\n|---|---|---|---|\n" + "\n".join(rows))
    assert None not in used, [path for path in found if not any(path.startswith(key) for key in reasons)]
    assert used == set(reasons), set(reasons) - used


def sdk_request(aws, operation, what, tmp_path):
    pytest.importorskip("sagemaker.core", reason="the SageMaker SDK is not installed: pip install -e .[sagemaker]")
    source = tmp_path / "source"
    source.mkdir()
    (source / "run_job.py").write_text("print('hello')\n")
    metrics = ours_tuning()["TrainingJobDefinition"]["AlgorithmSpecification"]["MetricDefinitions"]
    lists = [json.dumps([m["Name"] for m in metrics]), json.dumps([m["Regex"] for m in metrics])]
    words = [what, str(source), ROLE, IMAGE, BUCKET, *lists]
    program = Path(__file__).with_name("sdk_sweep.py")
    done = subprocess.run([sys.executable, str(program), *words], capture_output=True, text=True, check=False)
    assert aws.sent(operation), done.stderr
    return aws.sent(operation)[0]


def ours_tuning():
    return tuning_request(plan_of(OURS), SITE)


def ours_training():
    words = [w for w in OURS if not w.startswith(("tuner", "lr="))]
    return training_request(
        resolve_defaults(compose("training", words)), ["model=resnet34", "data=s3", "data.url=s3://b/dogs"], SITE
    )


DEFINITION = "TrainingJobDefinition"
DRIVERS = "the SDK's start script is uploaded as a channel; ours is launch/container/entry.py in the archive"
LEVEL = "the SDK keeps the toolkit's log level; INFO shows what it unpacks and installs"
GZIP = "AWS's default, written out by the SDK"
OWNER = "marks what the launcher created: it updates, stops or deletes nothing else"
ASKED = "a setting of the SDK's side of the comparison, to show how it writes a boolean"
TUNING = {
    "HyperParameterTuningJobConfig.RandomSeed": "lost by the SDK: it drops seed 0 (`if self.random_seed`)",
    f"{DEFINITION}.EnableInterContainerTrafficEncryption": "lost by the SDK: its tuner copies no networking flags",
    f"{DEFINITION}.InputDataConfig[data].InputMode": "the SDK leaves it to the job's TrainingInputMode; the same here",
    f"{DEFINITION}.InputDataConfig[sm_drivers]": f"{DRIVERS}; a tuning job never runs it",
    f"{DEFINITION}.OutputDataConfig.CompressionType": GZIP,
    f"{DEFINITION}.ResourceConfig.VolumeKmsKeyId": "lost by the SDK: its tuner copies no key of the disks",
    f"{DEFINITION}.StaticHyperParameters.pretrained": f'{ASKED}: "True" here, "true" in a training job; ours are text',
    f"{DEFINITION}.StaticHyperParameters.sagemaker_container_log_level": LEVEL,
    f"{DEFINITION}.StaticHyperParameters.sagemaker_region": "the toolkit needs it to download the code from S3",
    f"{DEFINITION}.StaticHyperParameters.sagemaker_submit_directory": "ours is named by its content, uploaded once",
    "Tags[dogbreed:": OWNER,
}
TRAINING = {
    "AlgorithmSpecification.Container": f"{DRIVERS}, and the toolkit starts it, as in a sweep's trials",
    "HyperParameters.pretrained": ASKED,
    "HyperParameters.sagemaker_": "the toolkit's own settings: the same way to start as a sweep's trials",
    "InputDataConfig[code]": "the SDK copies the code as a channel; ours is downloaded by the toolkit",
    "InputDataConfig[sm_drivers]": DRIVERS,
    "OutputDataConfig.CompressionType": GZIP,
    "OutputDataConfig.S3OutputPath": "the SDK's test sets a folder; AWS appends the job's name",
    "Tags[dogbreed:": OWNER,
    "TrainingJobName": "the SDK adds the second; our names are unique within one",
}


def test_every_difference_from_the_sdk_tuner_has_a_reason(aws, tmp_path, monkeypatch):
    monkeypatch.setenv("SAGEMAKER_VALIDATE_ROLE", "false")
    check(
        "Tuning job",
        differences(ours_tuning(), sdk_request(aws, "CreateHyperParameterTuningJob", "tune", tmp_path)),
        TUNING,
    )


def test_every_difference_from_the_sdk_trainer_has_a_reason(aws, tmp_path, monkeypatch):
    monkeypatch.setenv("SAGEMAKER_VALIDATE_ROLE", "false")
    check(
        "Training job", differences(ours_training(), sdk_request(aws, "CreateTrainingJob", "train", tmp_path)), TRAINING
    )
