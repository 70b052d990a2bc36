"""The code that decides a section's numbers: its modules and all that they import, as one hash."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any


class Module:
    """One source file of a package.

    Attributes:
        name: dotted, from the package on: ``report.fidelity``; "" is the package itself.
    """

    def __init__(self, root: Path, file: Path) -> None:
        self._file, self._root = file, root
        parts = file.relative_to(root).with_suffix("").parts
        self._is_package = parts[-1] == "__init__"
        self._parts = parts[:-1] if self._is_package else parts
        self.name = ".".join(self._parts)

    @cached_property
    def _tree(self) -> ast.Module:
        return ast.parse(self._file.read_text(encoding="utf-8"))

    @cached_property
    def digest(self) -> str:
        """SHA-256 of what the code does: comments, docstrings and layout do not count, nor does Python's version."""
        return hashlib.sha256(repr(_plain(self._tree)).encode()).hexdigest()

    @cached_property
    def imports(self) -> tuple[tuple[str, str], ...]:
        """(module of the package, name taken out of it) of all imports, those in functions too; those for types alone
        do not count.
        """
        return tuple(self._imports())

    def _imports(self) -> Iterator[tuple[str, str]]:
        for node in _running(self._tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    top, _, inner = alias.name.partition(".")
                    if top == self._root.name:
                        yield inner, ""
            elif isinstance(node, ast.ImportFrom):
                origin = self._origin(node)
                if origin is not None:
                    yield from ((origin, alias.name) for alias in node.names)

    def _origin(self, node: ast.ImportFrom) -> str | None:
        """The module that names are taken from, or None for another package's."""
        if node.level:
            up = node.level - 1 if self._is_package else node.level
            return ".".join((*self._parts[: len(self._parts) - up], *filter(None, [node.module])))
        top, _, inner = (node.module or "").partition(".")
        return inner if top == self._root.name else None


class Sources:
    """The modules of a package, each read once.

    Args:
        root: the package's folder; default: this package's.
    """

    def __init__(self, root: Path | None = None) -> None:
        root = root or Path(__file__).parents[1]
        modules = (Module(root, file) for file in root.rglob("*.py"))
        self._modules = {module.name: module for module in modules}

    def closure(self, *names: str) -> set[str]:
        """These modules and those that they import, directly or not. What the package itself hands on, its version
        and names, decides nothing and is left out.

        Raises:
            ValueError: a module that is not there.
        """
        if unknown := [name for name in names if name not in self._modules]:
            raise ValueError(f"there is no module {', '.join(unknown)}; expected names such as report.fidelity.")
        reached: set[str] = set()
        waiting = list(names)
        while waiting:
            name = waiting.pop()
            if name in reached:
                continue
            reached.add(name)
            for origin, taken in self._modules[name].imports:
                inner = f"{origin}.{taken}".strip(".")
                target = inner if inner in self._modules else origin
                if target and target in self._modules:
                    waiting.append(target)
        return reached

    def digest(self, *names: str) -> str:
        """One hash of these modules and all that they import."""
        lines = [f"{name} {self._modules[name].digest}\n" for name in sorted(self.closure(*names))]
        return hashlib.sha256("".join(lines).encode()).hexdigest()


def _running(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those under ``if TYPE_CHECKING:``."""
    yield tree
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING":
            for other in child.orelse:
                yield from _running(other)
        else:
            yield from _running(child)


def _plain(node: Any) -> Any:
    """A tree as nested tuples, without bare strings; empty fields, which Python's versions differ in, are left out."""
    if isinstance(node, ast.AST):
        fields = ((name, _plain(value)) for name, value in ast.iter_fields(node) if value is not None)
        return (type(node).__name__, *((name, value) for name, value in fields if value != ()))
    if isinstance(node, list):
        return tuple(_plain(one) for one in node if not _is_text(one))
    return repr(node)


def _is_text(node: Any) -> bool:
    """A docstring, or another string that stands by itself."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
