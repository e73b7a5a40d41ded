"""Searches hyperparameters: a Hydra sweep as one SageMaker tuning job, on this machine or on AWS.

    python -m launch.tune model=resnet34 lr=range                            generated pictures, on this machine
    python -m launch.tune model=resnet18,resnet34 'lr=tag(log,interval(1e-4,1e-1))' 'batch_size=choice(32,64)'
    python -m launch.tune lr=range data=folder data.url=PATH                 your own class folders
    python -m launch.tune ... dry_run=true                                   the exact request, checked, not sent
    python -m launch.tune resume=NAME                                        go on with a stopped sweep

KEY=VALUE fixes a key of conf/train.yaml, KEY=RANGE searches it: a,b  choice()  interval()  range()  glob()
tag(log,...), or the word range for what conf/search declares. tuner=bayesian, tuner.max_jobs=12 and
tuner.max_parallel_jobs=4 steer the search. Ctrl-C stops the running trials and keeps the finished ones.
What a sweep did lies in outputs/NAME.
"""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.console import Console

from dogbreed.config import compose, run_cli
from dogbreed.errors import UserError
from launch.client import make_client
from launch.errors import api_errors
from launch.limits import check_request
from launch.plan import Plan, make_plan
from launch.request import LOCAL_SITE, OVERRIDES, resume_request, tuning_request
from launch.results import Sweep, learning_curve, read_sweep, write_results
from launch.show import console, plan_table, sweep_table

OPERATION = "CreateHyperParameterTuningJob"
POLL_S = 0.5
"""Seconds between two looks at a sweep on this machine."""


def main(overrides: list[str]) -> int:
    """Runs one sweep; returns 0, 1 where no trial gave a result, or 128 + the signal that stopped it."""
    out = console()
    resumed = next((o.partition("=")[2] for o in overrides if o.startswith("resume=")), None)
    if resumed:
        cfg = compose("tune", overrides)
        request = _resume(cfg, resumed, any(o.startswith("tuner.max_jobs=") for o in overrides))
    else:
        plan = make_plan(overrides)
        cfg, request = plan.cfg, tuning_request(plan, LOCAL_SITE)
        _print_plan(plan, out)
        if not cfg.dry_run:
            _check_files(cfg, out)
    if problems := check_request(OPERATION, request):
        raise UserError("\n       ".join(problems))
    if cfg.dry_run:
        print(json.dumps(request, indent=2))
        return 0
    with api_errors():
        return _run(make_client(cfg.backend.name, Path(cfg.backend.root)), cfg, request, out)


def _print_plan(plan: Plan, out: Console) -> None:
    """Shows the plan; with dry_run the request alone goes to standard output, so that it can be piped."""
    if plan.cfg.dry_run:
        out = Console(stderr=True, highlight=False)
    out.print(plan_table(plan))


def _check_files(cfg: DictConfig, out: Console) -> None:
    """Looks at what every trial would need of this machine's files: better one error here than one a trial."""
    from dogbreed.data.index import SPLITS, build_index
    from dogbreed.data.store import open_store

    url, weights = str(cfg.data.url), str(cfg.model.weights)
    if weights not in ("hub", "random") and "://" not in weights and not Path(weights).expanduser().is_file():
        raise UserError(f"model.weights={weights}: no such file (or type hub or random)")
    if url.startswith("s3://"):
        return  # the job lists it, with the job's own credentials
    parts = {"valid_fraction": cfg.data.valid_fraction, "test_fraction": cfg.data.test_fraction}
    index = build_index(open_store(url).entries(), url, seed=0, **parts)
    counts = ", ".join(f"{len(index.splits.get(name, ()))} {name}" for name in SPLITS)
    out.print(f"{len(index.classes)} classes; pictures: {counts}", soft_wrap=True)


def _resume(cfg: DictConfig, name: str, more: bool) -> dict[str, Any]:
    """Returns the request that goes on with sweep `name`, `more`: to a new number of trials in all."""
    with api_errors():
        client = make_client(cfg.backend.name, Path(cfg.backend.root))
        sweep = read_sweep(client, name)
        described = client.describe_hyper_parameter_tuning_job(HyperParameterTuningJobName=name)
    if not sweep.ended:
        raise UserError(f"sweep {name} is still {sweep.status}: wait, or stop it with Ctrl-C where it runs")
    finished = sum(trial.is_finished(sweep.early_stopping) for trial in sweep.trials)
    left = (int(cfg.tuner.max_jobs) if more else sweep.max_jobs) - finished
    if left < 1:
        raise UserError(f"sweep {name} has its {finished} trials: ask for more with tuner.max_jobs={finished + 4}")
    base, _, number = name.partition("-r") if re.search(r"-r\d+$", name) else (name, "", "1")
    return resume_request(described, f"{base[:27]}-r{int(number) + 1}", left)


def _run(client: Any, cfg: DictConfig, request: dict[str, Any], out: Console) -> int:
    from launch.follow import follow

    name = request["HyperParameterTuningJobName"]
    client.create_hyper_parameter_tuning_job(**request)
    out.print(f"\nstarted {name}; look from elsewhere with: python -m launch.status {name}", soft_wrap=True)
    _, stopped = follow(client, name, out, POLL_S)
    sweep = read_sweep(client, name, metrics=True)
    _finish(sweep, cfg, request, out)
    if stopped:
        out.print(f"stopped; go on with: python -m launch.tune resume={name}", soft_wrap=True)
        return 128 + stopped
    return 0 if sweep.best else 1


def _finish(sweep: Sweep, cfg: DictConfig, request: dict[str, Any], out: Console) -> None:
    """Writes the results, draws them, prints the table and the command that trains the best."""
    from launch.plot import plot_sweep

    folder = Path(cfg.backend.root) / sweep.name
    folder.mkdir(parents=True, exist_ok=True)
    fixed = json.loads(request["TrainingJobDefinition"]["StaticHyperParameters"][OVERRIDES])
    best = sweep.best
    found = [] if best is None else [f"{key}={value}" for key, value in best.hyperparameters.items()]
    command = ["python", "-m", "dogbreed.train", *fixed, *found] if best else []
    write_results(sweep, folder, command)
    out.print()
    out.print(sweep_table(sweep))
    if sweep.reason:
        out.print(f"{sweep.status}: {sweep.reason}", soft_wrap=True)
    if best is None:
        out.print(f"no trial gave a result; their logs are in {folder}/*/log.txt", soft_wrap=True)
        return
    plot_sweep(sweep, _curves(sweep, Path(cfg.backend.root)), folder / "sweep.png")
    out.print(f"best: {best.name}  {sweep.metric}={best.objective:.4f}  {' '.join(found)}", soft_wrap=True)
    out.print(f"train it alone: {shlex.join(command)}", soft_wrap=True)
    out.print(f"results.csv, results.json and sweep.png are in {folder}", soft_wrap=True)


def _curves(sweep: Sweep, root: Path) -> dict[str, dict[int, float]]:
    """Returns trial to epoch to objective, from the logs of the trials."""
    curves = {}
    for trial in sweep.trials:
        log = root / trial.name.rsplit("-", 2)[0] / trial.name / "log.txt"
        if log.is_file():
            with log.open(errors="replace") as lines:
                curves[trial.name] = learning_curve(lines, sweep.metric)
    return curves


if __name__ == "__main__":
    run_cli(main, __doc__)
