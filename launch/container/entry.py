"""Entry point of a job: turns `/opt/ml` and `SM_*` into Hydra overrides and runs `dogbreed.train`.

    python -m launch.container.entry

Runs in SageMaker's container and, unchanged, as a process on this machine under the same contract
(https://docs.aws.amazon.com/sagemaker/latest/dg/amazon-sagemaker-toolkits.html). If the job has several GPUs or
hosts, it restarts itself under torchrun, with one process per GPU. A trial of another Hydra application
(`hydra/sweeper=sagemaker`) runs that application's script instead.
"""

from __future__ import annotations

import json
import os
import re
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from omegaconf import DictConfig

from dogbreed.cli.config import compose
from dogbreed.errors import UserError
from dogbreed.system.memory import enable_huge_pages
from dogbreed.train import run
from launch.spec.contract import APP, DATA, TUNING_METRIC, WEIGHTS, app_program, encode, job_overrides

RENDEZVOUS_PORT = 29500
"""Port of the rendezvous between hosts; torch's default."""


def folder_overrides(base: Path, environ: Mapping[str, str], weights: str = "") -> list[str]:
    """Returns overrides for the folders that SageMaker collects, and for the channels and checkpoints that it provides.

    Each job has a separate checkpoint folder, because the trials of a sweep share one S3 prefix. The checkpoint to
    resume from is removed when the job completes.

    Args:
        base: `/opt/ml`.
        environ: Environment variables of the job.
        weights: URI of the weights; the channel has all objects whose keys begin with it.

    Raises:
        UserError: A channel is empty.
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
        folder = _channel(WEIGHTS, environ)
        exact = folder / weights.rpartition("/")[2]
        places["model.weights"] = str(exact if exact.is_file() else min(folder.iterdir()))
    if (checkpoints / "last.ckpt").is_file():  # the spot instance was interrupted: resume
        places["resume_from"] = str(checkpoints / "last.ckpt")
    return [f"{key}={encode(value)}" for key, value in places.items()]


def _channel(name: str, environ: Mapping[str, str]) -> Path:
    """Returns the folder where SageMaker mounted or copied the content of channel `name`.

    Raises:
        UserError: The folder is empty.
    """
    folder = Path(environ[f"SM_CHANNEL_{name.upper()}"])
    if not folder.is_dir() or not any(folder.iterdir()):
        raise UserError(f"channel {name}: {folder} is empty; check that the S3 URI in the request has objects below it")
    return folder


class Processes(NamedTuple):
    """The processes of a distributed training."""

    hosts: list[str]
    this_host: str
    per_host: int

    @property
    def overrides(self) -> list[str]:
        """Returns the trainer's overrides for them; none for a single process."""
        if len(self.hosts) * self.per_host == 1:
            return []
        return [
            f"trainer.devices={self.per_host}",
            f"++trainer.num_nodes={len(self.hosts)}",
            "++trainer.strategy=ddp",
        ]

    @property
    def command(self) -> list[str]:
        """Returns the torchrun command that runs this module in one process per GPU of this host."""
        place = ["--standalone"]  # algo-1 may not resolve, and trials share ports
        if len(self.hosts) > 1:
            place = [
                f"--nnodes={len(self.hosts)}", f"--node-rank={self.hosts.index(self.this_host)}",
                f"--master-addr={self.hosts[0]}", f"--master-port={RENDEZVOUS_PORT}",
            ]  # fmt: skip
        workers = f"--nproc-per-node={self.per_host}"
        return [sys.executable, "-m", "torch.distributed.run", *place, workers, "-m", "launch.container.entry"]


def find_processes(cfg: DictConfig, environ: Mapping[str, str]) -> Processes:
    """Returns the processes for the job's hosts and GPUs, limited by the config's trainer settings."""
    hosts = json.loads(environ.get("SM_HOSTS", "[]")) or ["localhost"]
    devices, gpus = cfg.trainer.devices, int(environ.get("SM_NUM_GPUS", "0"))
    if cfg.trainer.accelerator == "cpu" or gpus == 0:
        per_host = devices if isinstance(devices, int) and devices > 0 else 1
    else:
        per_host = devices if isinstance(devices, int) and devices > 0 else gpus
    return Processes(hosts, environ.get("SM_CURRENT_HOST", hosts[0]), per_host)


def base_dir() -> Path:
    """Returns `/opt/ml`, or the folder that replaces it on this machine."""
    return Path(os.environ.get("SAGEMAKER_BASE_DIR", "/opt/ml"))


def main() -> int:
    """Runs the job and returns its exit status; writes the reason of a failure to output/failure for SageMaker."""
    enable_huge_pages()
    base = base_dir()
    try:
        hyperparameters = json.loads((base / "input" / "config" / "hyperparameters.json").read_text())
        overrides = job_overrides(hyperparameters)
        if APP in hyperparameters:
            return _run_app(hyperparameters[APP], overrides, base)
        if TUNING_METRIC in hyperparameters:
            # All trials of a sweep use the same images, so a single training checks for duplicates, not every trial.
            overrides.insert(0, "debugger.images.enabled=false")
        given = [word.partition("=")[2].strip("'") for word in overrides if word.startswith("model.weights=")]
        overrides += folder_overrides(base, os.environ, next(iter(given), ""))
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
    except Exception as error:  # noqa: BLE001 - every failure must be reported to SageMaker
        traceback.print_exc()
        last = (str(error).strip().splitlines() or [""])[-1]
        return report_failure(base, f"{type(error).__name__}: {last}")
    if status == 0:  # no resume is needed any more, and the optimizer's state is twice the size of the model
        name = os.environ.get("TRAINING_JOB_NAME", "job")
        (base / "checkpoints" / name / "last.ckpt").unlink(missing_ok=True)
    return status


def _run_app(script: str, overrides: list[str], base: Path) -> int:
    """Replaces this process with another Hydra application, which prints its return value as the objective."""
    from launch.container.hydra_callback import CALLBACK

    output = os.environ.get("SM_OUTPUT_DATA_DIR", str(base / "output" / "data"))
    places = ["hydra.mode=RUN", f"hydra.run.dir={encode(output)}", CALLBACK]
    name = os.environ.get("TRAINING_JOB_NAME", "job")
    if number := re.search(r"-(\d{3,})-[0-9a-f]{8}$", name):  # as in a multirun of Hydra
        places += [f"hydra.job.num={int(number[1]) - 1}", f"hydra.job.id={encode(name)}"]
    sys.stdout.flush()
    os.execve(sys.executable, [sys.executable, *app_program(script), *overrides, *places], _module_path(script))


def _module_path(app: str) -> dict[str, str]:
    """Returns the environment in which the modules in an application's folder can be imported."""
    paths = [path for path in (app.partition("@")[2], os.environ.get("PYTHONPATH", "")) if path]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)} if app.startswith("-m ") else dict(os.environ)


def report_failure(base: Path, reason: str) -> int:
    """Writes the reason of the failure where SageMaker reads it, in one paragraph; returns the exit status."""
    failure = base / "output" / "failure"
    failure.parent.mkdir(parents=True, exist_ok=True)
    failure.write_text(" ".join(reason.split())[:1024])
    return 1


if __name__ == "__main__":
    sys.exit(main())
