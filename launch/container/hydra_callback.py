"""Reports the return value of another Hydra application, which runs as a job, as the objective of the sweep.

Hydra's own sweepers take the return value; a tuning job reads the log, so the value is printed as a metric line.
"""

from __future__ import annotations

import io
from contextlib import redirect_stderr
from typing import Any, SupportsFloat

from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from dogbreed.callbacks.metric_line import metric_line
from launch.container.entry import base_dir, report_failure
from launch.spec.contract import RETURN_METRIC

CALLBACK = "++hydra.callbacks.objective._target_=launch.container.hydra_callback.PrintReturned"
"""The override that installs `PrintReturned`."""


class PrintReturned(Callback):
    """Prints the return value of the task function if it is a number, and reports its error if it failed."""

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Prints the metric line of a completed task, or writes the error of a failed one for SageMaker.

        NumPy numbers and tensors of one element count as numbers.
        """
        if job_return.status is JobStatus.UNKNOWN:
            return
        try:
            with redirect_stderr(io.StringIO()):  # Hydra prints the error itself
                value = job_return.return_value
        except BaseException as error:  # noqa: BLE001 - the task may raise anything
            report_failure(base_dir(), f"{type(error).__name__}: {error}")
            return
        try:
            number = float(value) if isinstance(value, SupportsFloat) else None
        except (TypeError, ValueError):  # an array of several elements
            number = None
        if number is None:
            print(f"\nno objective: the task returned {str(value)[:100]!r}, which is not a number", flush=True)
        else:  # on a separate line: the task may have left a progress bar
            print(f"\n{metric_line(0, {RETURN_METRIC: number}, exact=True)}", flush=True)
