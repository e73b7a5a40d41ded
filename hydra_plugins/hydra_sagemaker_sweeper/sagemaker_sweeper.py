"""Any Hydra application's multirun as one SageMaker tuning job, on this machine or at AWS.

    python my_app.py --multirun hydra/sweeper=sagemaker 'lr=tag(log,interval(1e-4,1e-1))' layers=1,2,3

What the task function returns is the objective. Under `hydra.sweeper.launch` stands what `launch.tune` takes:
`+hydra.sweeper.launch.backend=sagemaker +hydra.sweeper.launch.tuner.max_jobs=8`.
"""

# No `from __future__ import annotations`: Hydra runs this file without naming it in sys.modules, where a dataclass
# would look its annotations up.
import argparse
import inspect
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, RunMode, TaskFunction
from omegaconf import DictConfig, OmegaConf


@dataclass
class SageMakerSweeperConf:
    """What can be set under `hydra.sweeper`."""

    _target_: str = "hydra_plugins.hydra_sagemaker_sweeper.sagemaker_sweeper.SageMakerSweeper"
    goal: str = "maximize"
    """`maximize` or `minimize` what the task function returns."""
    launch: dict[str, Any] = field(default_factory=dict)
    """The launcher's own settings: tuner, backend, instance, name, dry_run."""
    search: dict[str, str] = field(default_factory=dict)
    """What `KEY=range` searches, in Hydra's sweep grammar."""


TYPED = "hydra.sweeper.launch."
"""What the launcher's settings begin with where they are typed."""

ConfigStore.instance().store(group="hydra/sweeper", name="sagemaker", node=SageMakerSweeperConf, provider="dogbreed")


class SageMakerSweeper(Sweeper):
    """Hands the sweep to the launcher of dogbreed; imports it only when there is a sweep."""

    def __init__(self, goal: str, launch: DictConfig, search: DictConfig) -> None:
        self.goal = goal
        self.search = {str(key): str(value) for key, value in search.items()}

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keeps what Hydra hands over."""
        self.hydra_context = hydra_context
        self.task_function = task_function
        self.config = config

    def sweep(self, arguments: list[str]) -> Any:
        """Runs the sweep; leaves with the launcher's exit status where it is not 0."""
        from dogbreed.errors import UserError
        from launch.runs.sweep import run_plan

        try:
            script = Path(inspect.getfile(self.task_function)).resolve()
            status = run_plan(self._plan(arguments, script), script.parent)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            status = 2
        if status:
            sys.exit(status)

    def _plan(self, arguments: list[str], script: Path) -> Any:
        from dogbreed.cli.config import fresh_name
        from launch.backends import open_backend
        from launch.spec.plan import make_app_plan

        assert self.hydra_context is not None and self.config is not None
        loader, config = self.hydra_context.config_loader, self.config
        plan = make_app_plan(
            arguments,
            [*self._settings(), f"objective.goal={self.goal}"],
            str(script),
            declared=self.search,
            options=loader.get_group_options,
            value=lambda key: OmegaConf.select(config, key),
            new_name=fresh_name,
        )
        on_this_machine = open_backend(plan.cfg).jobs_root is not None
        return replace(plan, fixed=(*_flags(on_this_machine), *plan.fixed))

    def _settings(self) -> list[str]:
        """Returns the launcher's settings as overrides: those of the YAML files, then those typed, as they were typed.

        In one tree of settings `tuner.max_jobs=3` would take the place of the choice `tuner=random`.
        """
        assert self.hydra_context is not None and self.config is not None
        words, typed = self.config.hydra.overrides, {}
        for word in words.hydra:
            bare = word.lstrip("+")
            if bare.startswith(TYPED) and "${" not in bare:  # only Hydra knows what that stands for
                typed[word] = bare.removeprefix(TYPED)
        others = [word for word in [*words.hydra, *words.task] if word not in typed]
        loader, name = self.hydra_context.config_loader, self.config.hydra.job.config_name
        plain = loader.load_configuration(name, others, RunMode.MULTIRUN)
        return [*_overrides(plain.hydra.sweeper.launch), *typed.values()]


def _flags(local: bool) -> list[str]:
    """Returns those of Hydra's flags that choose the application's config, for its trials, which run elsewhere.

    Raises:
        UserError: a folder that does not travel to AWS.
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
        raise UserError(f"{far[0]}: only what lies beside the script goes to AWS: put the config there (--config-name)")
    return found


def _overrides(settings: Mapping[Any, Any], prefix: str = "") -> Iterator[str]:
    """Yields nested settings as the overrides that one would type: `tuner.max_jobs=8`."""
    from launch.spec.contract import encode

    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from _overrides(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}={encode(OmegaConf.to_container(value) if OmegaConf.is_config(value) else value)}"
