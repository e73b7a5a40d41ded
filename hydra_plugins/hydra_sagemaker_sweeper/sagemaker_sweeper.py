"""Runs the multirun of any Hydra application as one SageMaker tuning job, on this machine or on AWS.

    python my_app.py --multirun hydra/sweeper=sagemaker 'lr=tag(log,interval(1e-4,1e-1))' layers=1,2,3

The return value of the task function is the objective. Settings of `launch.tune` go under `hydra.sweeper.launch`:
`+hydra.sweeper.launch.backend=sagemaker +hydra.sweeper.launch.tuner.max_jobs=8`.
"""

# No `from __future__ import annotations`: Hydra runs this file without adding it to sys.modules, where a dataclass
# would resolve its annotations.
import argparse
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, RunMode, TaskFunction
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException


@dataclass
class SageMakerSweeperConf:
    """The settings under `hydra.sweeper`."""

    _target_: str = "hydra_plugins.hydra_sagemaker_sweeper.sagemaker_sweeper.SageMakerSweeper"
    goal: str = "maximize"
    """`maximize` or `minimize` the return value of the task function."""
    launch: dict[str, Any] = field(default_factory=dict)
    """The launcher's own settings: tuner, backend, instance, name, dry_run."""
    search: dict[str, str] = field(default_factory=dict)
    """Key to the sweep that `KEY=range` stands for, in Hydra's grammar."""


TYPED = "hydra.sweeper.launch."
"""Prefix of the launcher's settings on the command line."""

PASSED_ON = ("hydra.searchpath=", "hydra.job.chdir=", "hydra.job.env_set.", "hydra.output_subdir=")
"""Hydra's own settings that a trial needs as it was given them."""

ConfigStore.instance().store(group="hydra/sweeper", name="sagemaker", node=SageMakerSweeperConf, provider="dogbreed")


class SageMakerSweeper(Sweeper):
    """Passes the sweep to dogbreed's launcher, which is imported only when a sweep runs."""

    def __init__(self, goal: str, launch: DictConfig, search: DictConfig) -> None:
        self.goal = goal
        self.search = {str(key): str(value) for key, value in search.items()}

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Stores Hydra's arguments."""
        self.hydra_context = hydra_context
        self.task_function = task_function
        self.config = config

    def sweep(self, arguments: list[str]) -> Any:
        """Runs the sweep; exits with the launcher's exit status if it is not 0."""
        from dogbreed.errors import UserError
        from launch.runs.sweep import run_plan

        try:
            app, folder = _program()
            status = run_plan(self._plan(arguments, app), folder)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            status = 2
        if status:
            sys.exit(status)

    def _plan(self, arguments: list[str], app: str) -> Any:
        from dogbreed.cli.config import fresh_name
        from launch.backends import open_backend
        from launch.spec.plan import make_app_plan

        assert self.hydra_context is not None and self.config is not None
        loader, config = self.hydra_context.config_loader, self.config
        plan = make_app_plan(
            arguments,
            [*self._settings(), f"objective.goal={self.goal}"],
            app,
            declared=self.search,
            options=loader.get_group_options,
            value=lambda key: _value(config, key),
            new_name=fresh_name,
        )
        on_this_machine = open_backend(plan.cfg).jobs_root is not None
        own = [word for word in config.hydra.overrides.hydra if word.lstrip("+").startswith(PASSED_ON)]
        return replace(plan, fixed=(*_flags(on_this_machine), *own, *plan.fixed))

    def _settings(self) -> list[str]:
        """Returns the launcher's settings as overrides: from the YAML files, then unchanged from the command line.

        Merged into one tree of settings, `tuner.max_jobs=3` would replace the choice `tuner=random`.
        """
        assert self.hydra_context is not None and self.config is not None
        words, typed = self.config.hydra.overrides, {}
        for word in words.hydra:
            bare = word.lstrip("+")
            if bare.startswith(TYPED) and "${" not in bare:  # only Hydra can resolve it
                typed[word] = bare.removeprefix(TYPED)
        others = [word for word in [*words.hydra, *words.task] if word not in typed]
        loader, name = self.hydra_context.config_loader, self.config.hydra.job.config_name
        plain = loader.load_configuration(name, others, RunMode.MULTIRUN)
        return [*_overrides(plain.hydra.sweeper.launch), *typed.values()]


def _program() -> tuple[str, Path]:
    """Returns the program that a trial runs, and the folder to upload to AWS.

    That is what this process was started with, not the file of the task function, which may be decorated or imported:
    a script, or `-m MODULE@FOLDER`.
    """
    main = sys.modules["__main__"]
    script = Path(str(main.__file__)).resolve()
    if main.__spec__ is None:
        return str(script), script.parent
    module = main.__spec__.name
    folder = script.parents[module.removesuffix(".__main__").count(".") + (script.stem == "__main__")]
    return f"-m {module}@{folder}", folder


def _value(config: DictConfig, key: str) -> object:
    """Returns the value of a key; None if only a trial can resolve it."""
    try:
        return OmegaConf.select(config, key)
    except OmegaConfBaseException:
        return None


def _flags(local: bool) -> list[str]:
    """Returns Hydra's flags that select the application's config, for the trials, which run in other processes.

    Raises:
        UserError: The config is in a folder that is not uploaded to AWS.
    """
    from dogbreed.errors import UserError

    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for flag, short in (("--config-name", "-cn"), ("--config-path", "-cp"), ("--config-dir", "-cd")):
        parser.add_argument(flag, short)
    args, _ = parser.parse_known_args()
    config_dir = args.config_dir and str(Path(args.config_dir).absolute())
    given = {"--config-name": args.config_name, "--config-path": args.config_path, "--config-dir": config_dir}
    found = [f"{flag}={value}" for flag, value in given.items() if value]
    if not local and (far := [flag for flag in found if Path(flag.partition("=")[2]).is_absolute()]):
        raise UserError(
            f"{far[0]}: only files next to the script are uploaded to AWS: put the config there (--config-name)"
        )
    return found


def _overrides(settings: Mapping[Any, Any], prefix: str = "") -> Iterator[str]:
    """Yields nested settings as command-line overrides: `tuner.max_jobs=8`."""
    from launch.spec.contract import encode

    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from _overrides(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}={encode(OmegaConf.to_container(value) if OmegaConf.is_config(value) else value)}"
