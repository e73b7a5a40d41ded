"""Plans for tests, with names and paths as the commands set them."""

from pathlib import Path

from dogbreed.cli.config import fresh_name
from launch.spec.plan import make_plan


def plan_of(overrides):
    """Returns the plan of `python -m launch.tune OVERRIDES`."""
    return make_plan(overrides, Path.cwd(), fresh_name)
