"""Plans for tests, named and placed as the commands do it."""

from pathlib import Path

from dogbreed.cli.config import fresh_name
from launch.spec.plan import make_plan


def plan_of(overrides):
    """Returns the plan of `python -m launch.tune OVERRIDES`."""
    return make_plan(overrides, Path.cwd(), fresh_name)
