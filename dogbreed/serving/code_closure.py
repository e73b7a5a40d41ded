"""Finds the modules that one module imports from its own package, from the source alone.

A model folder carries a copy of the code that serves it; deriving the list from the imports keeps it complete.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path


def module_files(name: str, root: Path) -> list[Path]:
    """Returns the files of module `name` and of everything it imports below `root`, sorted.

    Imports inside functions count. Imports under `if TYPE_CHECKING` do not, because they never run.

    Raises:
        ModuleNotFoundError: there is no such module.
    """
    if _file(name, root) is None:
        raise ModuleNotFoundError(f"no module {name} in {root}")
    pending, files = [name], set[Path]()
    while pending:
        module = pending.pop()
        for parent in _with_parents(module):
            path = _file(parent, root)
            if path is not None and path not in files:
                files.add(path)
                pending += _imports(ast.parse(path.read_text(encoding="utf-8")))
    return sorted(files)


def _file(name: str, root: Path) -> Path | None:
    path = root.joinpath(*name.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


def _with_parents(name: str) -> Iterator[str]:
    parts = name.split(".")
    return (".".join(parts[:end]) for end in range(1, len(parts) + 1))


def _imports(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module:
        yield node.module
        yield from (f"{node.module}.{alias.name}" for alias in node.names)
    else:
        for child in _executed_children(node):
            yield from _imports(child)


def _executed_children(node: ast.AST) -> Iterable[ast.AST]:
    if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
        return node.orelse
    return ast.iter_child_nodes(node)
