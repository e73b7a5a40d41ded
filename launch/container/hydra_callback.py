"""Inside a job of another Hydra application: what its task function returns becomes the objective of the sweep.

Hydra's own sweepers take the return value; a tuning job reads it from the log, so it is printed as a metric line.
"""

from __future__ import annotations

from typing import Any, SupportsFloat

from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from dogbreed.callbacks.metric_line import metric_line
from launch.container.entry import base_dir, report_failure
from launch.spec.contract import RETURN_METRIC

CALLBACK = "++hydra.callbacks.objective._target_=launch.container.hydra_callback.PrintReturned"
"""The override that puts it in place."""


class PrintReturned(Callback):
    """Prints what the task function returned, where it is a number; tells SageMaker why it failed, where it did."""

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Prints the metric line of a task that completed, reports the error of one that did not.

        Whatever can be a float counts: numpy's numbers and tensors of one element too.
        """
        if job_return.status is JobStatus.FAILED:
            error = job_return._return_value
            report_failure(base_dir(), f"{type(error).__name__}: {error}")
        if job_return.status is JobStatus.COMPLETED and isinstance(job_return.return_value, SupportsFloat):
            print(metric_line(0, {RETURN_METRIC: float(job_return.return_value)}), flush=True)
