"""Which settings the messages of each command mention, read from the source: nothing is run.

A command's messages are the texts in what its ``main`` reaches: functions, classes with all of their methods, and
constants, found by name through the imports of the three packages.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.import_graph import PACKAGES


@dataclass
class Definition:
    """A function, class or constant at the top of a module.

    Attributes
    ----------
    texts : list of str
        Its strings but docstrings and those that ``hint`` is given, each as one; what is filled in is "{}", and what
        ``launch`` of a command gives is its name.
    mentions : set of str
        Dotted names of what else it refers to.
    """

    texts: list[str] = field(default_factory=list)
    mentions: set[str] = field(default_factory=set)


def _called(node: ast.AST) -> str:
    """The name of the function that a node calls; empty for others."""
    return getattr(node.func, "id", "") if isinstance(node, ast.Call) else ""


def _joined(node: ast.JoinedStr) -> str:
    filled = [getattr(part, "value", None) for part in node.values]
    return "".join(
        one if isinstance(one, str) else str(one.args[0].value) if _called(one) == "launch" else "{}" for one in filled
    )


def _texts(node: ast.AST) -> Iterator[str]:
    """The strings below a node; one of several parts (+) is one."""
    if isinstance(node, ast.JoinedStr):
        yield _joined(node)
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        yield " ".join([*_texts(node.left), *_texts(node.right)])
    elif _called(node) != "hint" and not (
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    ):  # a docstring
        for child in ast.iter_child_nodes(node):
            yield from _texts(child)


def _names(module: str, tree: ast.Module) -> dict[str, str]:
    """Name -> the dotted name of what it stands for, of imports and of the module's own definitions."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {one.asname or one.name: f"{node.module}.{one.name}" for one in node.names}
        elif isinstance(node, ast.Import):
            names |= {one.asname or one.name: one.name for one in node.names if one.asname}
    return names | {name: f"{module}.{name}" for name, _ in _top(tree)}


def _top(tree: ast.Module) -> Iterator[tuple[str, ast.stmt]]:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name, node
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                yield from ((one.id, node) for one in ast.walk(target) if isinstance(one, ast.Name))


def _mentions(node: ast.AST, names: dict[str, str]) -> Iterator[str]:
    for one in ast.walk(node):
        if isinstance(one, ast.Name) and one.id in names:
            yield names[one.id]
        elif isinstance(one, ast.Attribute) and isinstance(one.value, ast.Name) and one.value.id in names:
            yield f"{names[one.value.id]}.{one.attr}"


def definitions(root: Path) -> dict[str, Definition]:
    """Every definition at the top of a module of the packages, by its dotted name."""
    found: dict[str, Definition] = {}
    for path in (path for package in PACKAGES for path in sorted((root / package).rglob("*.py"))):
        module = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = _names(module, tree)
        for name, node in _top(tree):
            one = found.setdefault(f"{module}.{name}", Definition())
            one.texts += _texts(node)
            one.mentions |= set(_mentions(node, names))
    return found


def reached(start: str, known: dict[str, Definition]) -> set[str]:
    """The dotted names of all definitions that one refers to, directly or not, and its own."""
    done, left = set(), [start]
    while left:
        name = left.pop()
        if name in known and name not in done:
            done.add(name)
            left += known[name].mentions
    return done
