"""Inside a job: `/opt/ml` and `SM_*` to Hydra overrides, then `dogbreed.train`.

    python -m launch.container.entry

Runs in SageMaker's container and, unchanged, as a process on this machine under the same contract
(https://docs.aws.amazon.com/sagemaker/latest/dg/amazon-sagemaker-toolkits.html). Where the job has several GPUs or
hosts it starts itself again under torchrun, one process a GPU. A job that tries another Hydra application
(`hydra/sweeper=sagemaker`) runs that application's script instead.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from omegaconf import DictConfig

from dogbreed.cli.command import enable_huge_pages
from dogbreed.cli.config import compose
from dogbreed.errors import UserError
from dogbreed.train import run
from launch.spec.contract import APP, DATA, TUNING_METRIC, WEIGHTS, encode, job_overrides

RENDEZVOUS_PORT = 29500
"""Where the processes of the hosts find each other: torch's own default."""


def folder_overrides(base: Path, environ: Mapping[str, str]) -> list[str]:
    """Returns the overrides that put a training's files where SageMaker collects them, and take what it brought.

    Checkpoints lie in a folder of the job's own: the trials of a sweep share one place in S3. What one goes on from is
    for the time until the end.

    Raises:
        UserError: a channel is empty.
    """
    name = environ.get("TRAINING_JOB_NAME", "job")
    checkpoints = base / "checkpoints" / name
    places: dict[str, str | bool | None] = {
        "name": name,
        "output_dir": environ.get("SM_OUTPUT_DATA_DIR", str(base / "output" / "data")),
        "model_dir": environ.get("SM_MODEL_DIR", str(base / "model")),
        "checkpoint_dir": str(checkpoints),
        "checkpoint_at_end": False,
    }
    if f"SM_CHANNEL_{DATA.upper()}" in environ:
        places |= {"data.url": str(_channel(DATA, environ)), "++data.endpoint_url": None}
    if f"SM_CHANNEL_{WEIGHTS.upper()}" in environ:
        places["model.weights"] = str(next(_channel(WEIGHTS, environ).iterdir()))
    if (checkpoints / "last.ckpt").is_file():  # a spot instance was taken away: go on where it stopped
        places["resume_from"] = str(checkpoints / "last.ckpt")
    return [f"{key}={encode(value)}" for key, value in places.items()]


def _channel(name: str, environ: Mapping[str, str]) -> Path:
    """Returns the folder into which SageMaker mounted or copied what the request's channel `name` names.

    Raises:
        UserError: nothing is in it.
    """
    folder = Path(environ[f"SM_CHANNEL_{name.upper()}"])
    if not folder.is_dir() or not any(folder.iterdir()):
        raise UserError(f"channel {name}: nothing is in {folder}; is anything below the S3 address in the request?")
    return folder


class Processes(NamedTuple):
    """How many processes train together."""

    hosts: list[str]
    this_host: str
    per_host: int

    @property
    def overrides(self) -> list[str]:
        """The trainer's settings for them; none where there is one process."""
        if len(self.hosts) * self.per_host == 1:
            return []
        return [
            f"trainer.devices={self.per_host}",
            f"++trainer.num_nodes={len(self.hosts)}",
            "++trainer.strategy=ddp",
        ]

    @property
    def command(self) -> list[str]:
        """torchrun, one process a GPU on this host, each of them this module."""
        place = ["--standalone"]  # a name like algo-1 need not be known on this machine, where trials share the ports
        if len(self.hosts) > 1:
            place = [
                f"--nnodes={len(self.hosts)}", f"--node-rank={self.hosts.index(self.this_host)}",
                f"--master-addr={self.hosts[0]}", f"--master-port={RENDEZVOUS_PORT}",
            ]  # fmt: skip
        workers = f"--nproc-per-node={self.per_host}"
        return [sys.executable, "-m", "torch.distributed.run", *place, workers, "-m", "launch.container.entry"]


def find_processes(cfg: DictConfig, environ: Mapping[str, str]) -> Processes:
    """Returns the processes for the job's hosts and GPUs, as far as the config's trainer wants them."""
    hosts = json.loads(environ.get("SM_HOSTS", "[]")) or ["localhost"]
    devices, gpus = cfg.trainer.devices, int(environ.get("SM_NUM_GPUS", "0"))
    if cfg.trainer.accelerator == "cpu" or gpus == 0:
        per_host = devices if isinstance(devices, int) and devices > 0 else 1
    else:
        per_host = devices if isinstance(devices, int) and devices > 0 else gpus
    return Processes(hosts, environ.get("SM_CURRENT_HOST", hosts[0]), per_host)


def base_dir() -> Path:
    """Returns `/opt/ml`, or the folder that stands for it on this machine."""
    return Path(os.environ.get("SAGEMAKER_BASE_DIR", "/opt/ml"))


def main() -> int:
    """Runs the job; returns its exit status. A failure's reason goes to output/failure, where SageMaker reads it."""
    enable_huge_pages()
    base = base_dir()
    try:
        hyperparameters = json.loads((base / "input" / "config" / "hyperparameters.json").read_text())
        overrides = job_overrides(hyperparameters)
        if APP in hyperparameters:
            return _run_app(hyperparameters[APP], overrides, base)
        if TUNING_METRIC in hyperparameters:
            # The trials of a sweep see the same images: looking for doubles once, in a training, is enough.
            overrides.insert(0, "debugger.images.enabled=false")
        overrides += folder_overrides(base, os.environ)
        cfg = compose("train", overrides)
        processes = find_processes(cfg, os.environ)
        if processes.overrides and "TORCHELASTIC_RUN_ID" not in os.environ:
            sys.stdout.flush()
            os.execv(sys.executable, processes.command)
        if processes.overrides:
            overrides += processes.overrides
            cfg = compose("train", overrides)
        status = run(cfg, overrides)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return report_failure(base, str(error))
    except Exception as error:  # noqa: BLE001 - whatever it is, SageMaker must be told
        traceback.print_exc()
        last = (str(error).strip().splitlines() or [""])[-1]
        return report_failure(base, f"{type(error).__name__}: {last}")
    if status == 0:  # nothing is left to go on with, and the optimizer's state is twice the size of the model
        name = os.environ.get("TRAINING_JOB_NAME", "job")
        (base / "checkpoints" / name / "last.ckpt").unlink(missing_ok=True)
    return status


def _run_app(script: str, overrides: list[str], base: Path) -> int:
    """Becomes another Hydra application, which prints what it returns as the objective."""
    from launch.container.hydra_callback import CALLBACK

    output = os.environ.get("SM_OUTPUT_DATA_DIR", str(base / "output" / "data"))
    places = ["hydra.mode=RUN", f"hydra.run.dir={encode(output)}", CALLBACK]
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, script, *overrides, *places])


def report_failure(base: Path, reason: str) -> int:
    """Leaves why the job failed where SageMaker reads it, in one paragraph; returns the exit status."""
    failure = base / "output" / "failure"
    failure.parent.mkdir(parents=True, exist_ok=True)
    failure.write_text(" ".join(reason.split())[:1024])
    return 1


if __name__ == "__main__":
    sys.exit(main())
