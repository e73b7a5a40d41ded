"""The sweep and the training of test_sdk_parity.py, written with the SageMaker SDK; the test runs it as a program."""

import json
import sys

from sagemaker.core.helper.session_helper import Session
from sagemaker.core.parameter import ContinuousParameter
from sagemaker.core.shapes import (
    BestObjectiveNotImproving,
    HyperParameterTuningJobWarmStartConfig,
    MetricDefinition,
    RetryStrategy,
    Tag,
    TuningJobCompletionCriteria,
)
from sagemaker.core.training.configs import (
    CheckpointConfig,
    Compute,
    InputData,
    Networking,
    OutputDataConfig,
    SourceCode,
    StoppingCondition,
)
from sagemaker.train import ModelTrainer
from sagemaker.train.tuner import HyperparameterTuner

what, source, role, image, bucket = sys.argv[1:6]
names, regexes = map(json.loads, sys.argv[6:])
metrics = [{"Name": n, "Regex": r} for n, r in zip(names, regexes, strict=True)]
trainer = (
    ModelTrainer(
        training_image=image,
        role=role,
        sagemaker_session=Session(default_bucket=bucket),
        base_job_name="dogs",
        source_code=SourceCode(source_dir=source, entry_script="run_job.py"),
        compute=Compute(
            instance_type="ml.m5.xlarge",
            instance_count=1,
            volume_size_in_gb=30,
            volume_kms_key_id="k2",
            enable_managed_spot_training=True,
        ),
        stopping_condition=StoppingCondition(max_runtime_in_seconds=7200, max_wait_time_in_seconds=14400),
        networking=Networking(
            subnets=["subnet-1"], security_group_ids=["sg-1"], enable_inter_container_traffic_encryption=True
        ),
        checkpoint_config=CheckpointConfig(
            s3_uri=f"s3://{bucket}/dogbreed/dogs/checkpoints", local_path="/opt/ml/checkpoints"
        ),
        output_data_config=OutputDataConfig(s3_output_path=f"s3://{bucket}/dogbreed/dogs", kms_key_id="k1"),
        environment={"A": "1"},
        tags=[Tag(key="team", value="dogs")],
        training_input_mode="File",
        hyperparameters={
            "overrides": json.dumps(["model=resnet34", "data=s3", "data.url=s3://b/dogs"]),
            "pretrained": True,
        },
    )
    .with_retry_strategy(RetryStrategy(maximum_retry_attempts=2))
    .with_metric_definitions([MetricDefinition(name=m["Name"], regex=m["Regex"]) for m in metrics])
)
data = [InputData(channel_name="data", data_source="s3://b/dogs/")]
try:
    if what == "train":
        trainer.train(input_data_config=data, wait=False, logs=False)
    else:
        HyperparameterTuner(
            trainer,
            "val/accuracy",
            {"lr": ContinuousParameter(0.0001, 0.1, scaling_type="Logarithmic")},
            metrics,
            strategy="Bayesian",
            objective_type="Maximize",
            max_jobs=6,
            max_parallel_jobs=2,
            max_runtime_in_seconds=7200,
            tags=[Tag(key="team", value="dogs")],
            early_stopping_type="Auto",
            random_seed=0,
            warm_start_config=HyperParameterTuningJobWarmStartConfig(
                warm_start_type="TransferLearning",
                parent_hyper_parameter_tuning_jobs=[{"hyper_parameter_tuning_job_name": "earlier"}],
            ),
            completion_criteria_config=TuningJobCompletionCriteria(
                best_objective_not_improving=BestObjectiveNotImproving(max_number_of_training_jobs_not_improving=3)
            ),
        ).tune(inputs=data, job_name="dogs", wait=False)
except Exception as error:  # noqa: BLE001 - this machine rejects the S3 channel; only the request matters
    print(type(error).__name__, str(error)[:300], file=sys.stderr)
