"""The modules that one module imports from its own package, read from the source.

A model folder carries a copy of the code that serves it. Deriving the list from the imports keeps it complete.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path


def module_files(name: str, root: Path) -> list[Path]:
    """Returns the files of module `name` and of everything it imports below `root`, sorted.

    Imports inside functions count. Imports under `if TYPE_CHECKING` do not, because they never run.

    Args:
        name: dotted module name, such as `dogbreed.serving.inference`.
        root: folder that contains the package.

    Raises:
        ModuleNotFoundError: there is no such module.
    """
    start = _file(name, root)
    if start is None:
        raise ModuleNotFoundError(f"no module {name} in {root}")
    pending, found = [name], set[Path]()
    while pending:
        module = pending.pop()
        for parent in _with_parents(module):
            path = _file(parent, root)
            if path is not None and path not in found:
                found.add(path)
                pending += _imports(ast.parse(path.read_text(encoding="utf-8")))
    return sorted(found)


def _file(name: str, root: Path) -> Path | None:
    place = root.joinpath(*name.split("."))
    return next((path for path in (place.with_suffix(".py"), place / "__init__.py") if path.is_file()), None)


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
        for child in _running_children(node):
            yield from _imports(child)


def _running_children(node: ast.AST) -> Iterable[ast.AST]:
    if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
        return node.orelse
    return ast.iter_child_nodes(node)
