"""The closure of a module's imports."""

import pytest

from dogbreed.serving.code_closure import module_files

MODULES = {
    "p/__init__.py": "",
    "p/a.py": "import os\nfrom typing import TYPE_CHECKING\n"
    "if TYPE_CHECKING:\n    from p import hidden\nelse:\n    import p.b",
    "p/b.py": "def f():\n    from p.q import c, NAME",
    "p/q/__init__.py": "NAME = 1",
    "p/q/c.py": "from p import a",
    "p/hidden.py": "",
    "p/unused.py": "",
}


def test_module_files_follow_imports_that_run(tmp_path):
    for name, text in MODULES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    files = [path.relative_to(tmp_path).as_posix() for path in module_files("p.a", tmp_path)]
    assert files == ["p/__init__.py", "p/a.py", "p/b.py", "p/q/__init__.py", "p/q/c.py"]


def test_module_files_unknown_module_rejected(tmp_path):
    with pytest.raises(ModuleNotFoundError, match=r"no module p\.x"):
        module_files("p.x", tmp_path)
