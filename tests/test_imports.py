"""Imports follow the direction launch -> dogbreed, and commands start without heavy modules."""

import ast
import subprocess
import sys

import pytest

from tests.paths import ROOT


def imports(folder):
    for path in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
            for name in names:
                yield path.relative_to(ROOT), name.split(".")[0]


def test_library_does_not_import_the_launcher():
    wrong = [(str(path), name) for path, name in imports("dogbreed") if name in ("launch", "sagemaker")]
    assert wrong == []


@pytest.mark.parametrize(
    "module",
    [
        "launch.tune",
        "launch.runs.sweep",
        "launch.train",
        "launch.status",
        "launch.stop",
        "launch.publish",
        "launch.container.entry",
        "launch.deploy",
        "launch.predict",
        "launch.undeploy",
        "launch.endpoints",
        "launch.local.tuning.tuner",
        "launch.local.hosting.endpoint_supervisor",
        "launch.local.server",
        "dogbreed.train",
        "dogbreed.serving.server",
    ],
)
def test_commands_start_without_torch_and_the_sdk(module):
    heavy = ("torch", "torchvision", "pytorch_lightning", "timm", "sagemaker", "smdebug", "matplotlib")
    code = f"import sys, {module}; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_import_of_dogbreed_defers_torch():
    code = (
        "import sys, dogbreed; print('torch' in sys.modules); dogbreed.ImageClassifier; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split() == ["False", "True"]


def test_unknown_name_error_contains_the_name():
    import dogbreed

    with pytest.raises(AttributeError, match="ImageClasifier"):
        dogbreed.ImageClasifier  # noqa: B018


def test_import_of_dogbreed_leaves_the_environment_unchanged():
    code = "import os; before = dict(os.environ); import dogbreed; print(dict(os.environ) == before)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "True"


def test_dir_lists_the_public_names():
    import dogbreed

    assert set(dogbreed.__all__) <= set(dir(dogbreed))


def test_import_of_the_library_needs_no_posix_module():
    """As on Windows and macOS."""
    absent = ("fcntl", "termios")
    code = (
        f"import os, sys\nsys.modules.update(dict.fromkeys({absent}))\n"
        "for name in ('posix_fallocate', 'fork', 'sched_getaffinity'): os.__dict__.pop(name, None)\n"
        "import importlib, pkgutil, dogbreed\n"
        "for found in pkgutil.walk_packages(dogbreed.__path__, 'dogbreed.'):\n"
        "    if 'smdebug' not in found.name: importlib.import_module(found.name)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
