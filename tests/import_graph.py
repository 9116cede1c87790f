"""Who imports whom in the three packages, and how large their functions are: read from the source, nothing is run.

    python -m tests.import_graph [ROOT]

prints for each package, and for all together, the files on top, the levels (files on the longest chain of imports, a
circle counting as one), the circles, imports that run late or never, the longest functions, and those with more than
five parameters (``self`` and ``cls`` not counted). ``tests/test_layout.py`` holds the rules with the same reader.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import networkx as nx

PACKAGES = ("data_tools", "pretrain", "downstream")
MOST_PARAMETERS = 5


@dataclass(frozen=True)
class Function:
    """Size of a function: lines from ``def`` to its end, and parameters, one each for ``*args`` and ``**kwargs``."""

    name: str
    lines: int
    parameters: int


@dataclass(frozen=True)
class Import:
    """One name that a file imports.

    Attributes
    ----------
    target : str
        Dotted, such as "data_tools.common.files.write_json"; of ``import a.b`` "a.b".
    line : int
    place : str
        "module", "function", or "guard" below ``if TYPE_CHECKING``.
    """

    target: str
    line: int
    place: str


@dataclass
class Source:
    """What one file says of itself.

    Attributes
    ----------
    name : str
        Dotted; a package's is that of its folder.
    path : Path
    imports : list of Import
    functions : list of Function
    is_command : bool
        Whether it ends in ``run_command(...)`` below ``if __name__ == "__main__"``.
    """

    name: str
    path: Path
    imports: list[Import] = field(default_factory=list)
    functions: list[Function] = field(default_factory=list)
    is_command: bool = False


class _Reader(ast.NodeVisitor):
    def __init__(self, source: Source) -> None:
        self.source, self.place, self.outer = source, "module", []
        tree = ast.parse(source.path.read_text(encoding="utf-8"))
        source.is_command = bool(tree.body) and _runs_command(tree.body[-1])
        self.visit(tree)

    def _add(self, node: ast.stmt, target: str) -> None:
        self.source.imports.append(Import(target, node.lineno, self.place))

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self._add(node, alias.name)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        base = [node.module] if node.module else []
        if node.level:
            parts = self.source.name.split(".")
            own = len(parts) if self.source.path.name == "__init__.py" else len(parts) - 1
            base = parts[: own - node.level + 1] + base
        for alias in node.names:
            self._add(node, ".".join([*base, alias.name]))

    def visit_If(self, node: ast.If) -> None:
        guard = any(
            "TYPE_CHECKING" in (getattr(one, "id", ""), getattr(one, "attr", "")) for one in ast.walk(node.test)
        )
        before = self.place
        self.place = "guard" if guard else before
        for one in node.body:
            self.visit(one)
        self.place = before
        for one in node.orelse:
            self.visit(one)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self.outer.append(node)
        self.generic_visit(node)
        self.outer.pop()

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        given = node.args
        count = len([*given.posonlyargs, *given.args, *given.kwonlyargs, *filter(None, (given.vararg, given.kwarg))])
        static = any(getattr(one, "id", "") == "staticmethod" for one in node.decorator_list)
        if self.outer and isinstance(self.outer[-1], ast.ClassDef) and not static:
            count -= 1
        name = ".".join([self.source.name, *(one.name for one in self.outer), node.name])
        self.source.functions.append(Function(name, node.end_lineno - node.lineno + 1, count))
        before, self.place = self.place, "function"
        self.outer.append(node)
        self.generic_visit(node)
        self.outer.pop()
        self.place = before

    visit_AsyncFunctionDef = visit_FunctionDef


def _runs_command(last: ast.stmt) -> bool:
    if not isinstance(last, ast.If) or "__name__" not in ast.unparse(last.test):
        return False
    return ast.unparse(last.body[-1]).startswith("run_command(")


def read_sources(root: Path, packages: Sequence[str] = PACKAGES) -> dict[str, Source]:
    """Every file of the packages below a folder, by dotted name."""
    found = {}
    for package in packages:
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            _Reader(source := Source(name, path))
            found[name] = source
    return found


def on_top(sources: dict[str, Source]) -> list[Source]:
    """The files that stand on top of a package, ``__init__.py`` among them."""
    return [one for one in sources.values() if (one.path.name == "__init__.py") + one.name.count(".") == 1]


def within(sources: dict[str, Source], target: str) -> str | None:
    """The file that an imported name comes from; None where it is not one of ours."""
    while target and target not in sources:
        target = target.rpartition(".")[0]
    return target or None


def import_graph(sources: dict[str, Source], places: Sequence[str] = ("module", "function", "guard")) -> nx.DiGraph:
    """An edge from each file to each file that it names in an import; that its parents' ``__init__`` run is none."""
    graph = nx.DiGraph()
    graph.add_nodes_from(sources)
    for source in sources.values():
        targets = {within(sources, one.target) for one in source.imports if one.place in places}
        graph.add_edges_from((source.name, target) for target in sorted(filter(None, targets)) if target != source.name)
    return graph


def circles(graph: nx.DiGraph) -> list[list[str]]:
    """Groups of files that import each other round about, the largest first."""
    groups = [sorted(group) for group in nx.strongly_connected_components(graph) if len(group) > 1]
    return sorted(groups, key=lambda group: (-len(group), group))


def longest_chain(graph: nx.DiGraph) -> list[list[str]]:
    """The files of the longest chain of imports, from the top, those of a circle together."""
    condensed = nx.condensation(graph)
    return [sorted(condensed.nodes[node]["members"]) for node in nx.dag_longest_path(condensed)]


def _report(title: str, sources: dict[str, Source]) -> Iterator[str]:
    graph = import_graph(sources)
    chain, found = longest_chain(graph), circles(graph)
    functions = sorted((one for source in sources.values() for one in source.functions), key=lambda one: -one.lines)
    many = [one for one in functions if one.parameters > MOST_PARAMETERS]
    imports = [one for source in sources.values() for one in source.imports]
    late = [one for one in imports if one.place == "function"]
    own = [one for one in late if one.target.split(".")[0] in PACKAGES]
    yield f"== {title}: {len(sources)} files, {graph.number_of_edges()} imports of each other"
    if title in PACKAGES:
        top = sorted(one.path.stem for one in on_top(sources))
        yield f"  files on top: {len(top)}: {' '.join(top)}"
    yield f"  levels: {len(chain)}: " + " > ".join(f"{{{' '.join(g)}}}" if len(g) > 1 else g[0] for g in chain)
    yield f"  circles: {len(found)}"
    yield from (f"    {len(group)}: {' '.join(group)}" for group in found)
    yield f"  imports inside functions: {len(late)}, of our own files: {len(own)}"
    yield f"  imports below TYPE_CHECKING: {sum(one.place == 'guard' for one in imports)}"
    yield f"  longest function: {functions[0].lines} lines, {functions[0].name}"
    yield f"  functions of more than {MOST_PARAMETERS} parameters: {len(many)}"
    yield from (f"    {one.parameters}: {one.name}" for one in sorted(many, key=lambda one: -one.parameters))


def main() -> None:
    root = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[1])
    sources = read_sources(root)
    for package in PACKAGES:
        own = {name: one for name, one in sources.items() if name.split(".")[0] == package}
        print("\n".join(_report(package, own)))
    print("\n".join(_report("all together", sources)))


if __name__ == "__main__":
    main()
