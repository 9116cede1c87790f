"""The layout's rule: commands on top, one folder a stage below, imports that go one way and stand at the top."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.import_graph import PACKAGES, Source, circles, import_graph, on_top, read_sources, within

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {"data_tools": set(), "pretrain": {"data_tools"}, "downstream": {"data_tools"}}
# Imported where they are used, and why.
LATE = {
    "aiohttp": "an extra",
    "pyspark": "an extra",
    "ibis.backends.pyspark": "an extra",
    "faiss": "its threads are unwelcome in training",
}


def _may_be_late(target: str) -> bool:
    return any(target == name or target.startswith(f"{name}.") for name in LATE)


def _of_file(source: Source, sources: dict[str, Source]) -> Iterator[str]:
    """What is wrong with the imports of one file."""
    package = source.name.split(".")[0]
    for one in source.imports:
        target = within(sources, one.target)
        where = f"{source.name}, line {one.line}"
        if one.place == "guard":
            yield f"{where}: {one.target} is imported below TYPE_CHECKING"
        if one.place == "function" and not _may_be_late(one.target):
            yield f"{where}: {one.target} is imported inside a function"
        if target and sources[target].is_command:
            yield f"{where}: imports the command {target}"
        if target and (other := target.split(".")[0]) not in {package, *MAY_IMPORT[package]}:
            yield f"{where}: {package} may not import {other}"


def faults(root: Path) -> list[str]:
    """Where the packages below a folder break the rule, a line each."""
    sources = read_sources(root)
    found = [
        f"{one.name} stands on top of its package and is neither a command nor settings.py"
        for one in on_top(sources)
        if one.path.name not in ("__init__.py", "settings.py") and not one.is_command
    ]
    for source in sources.values():
        found += _of_file(source, sources)
    found += [f"import circle: {' '.join(group)}" for group in circles(import_graph(sources))]
    return list(dict.fromkeys(found))


def test_the_layout_holds():
    assert not (found := faults(ROOT)), "\n".join(found)


def test_every_late_import_is_still_there():
    late = [one.target for source in read_sources(ROOT).values() for one in source.imports if one.place == "function"]
    assert not [name for name in LATE if not any(f"{target}.".startswith(f"{name}.") for target in late)]


COMMAND = 'from data_tools.common.cli import run_command\n\nif __name__ == "__main__":\n    run_command(main)\n'
PLANTED = {
    "data_tools/prepare.py": "from data_tools.common.cli import run_command\nfrom data_tools.log import read\n\n"
    + COMMAND,
    "data_tools/common/cli.py": "def run_command(main): ...\n",
    "data_tools/log/read.py": "from data_tools.common import cli\n\n\ndef f():\n    import faiss\n",
    "pretrain/settings.py": "",
    "pretrain/train.py": "from pretrain import settings\n" + COMMAND,
    "pretrain/data/stream.py": "from pretrain.settings import Settings\n",
    "downstream/train.py": "from downstream.models import base\n" + COMMAND,
    "downstream/models/base.py": "import data_tools.log.read\n",
    "downstream/models/din.py": "from downstream.models.base import Model\n",
}
BREAKS = {
    "downstream/models/base.py": [
        ("from downstream.train import main\n", "imports the command downstream.train"),
        ("from downstream import train\n", "imports the command downstream.train"),
        ("from .. import train\n", "imports the command downstream.train"),
        ("from downstream.models.din import DIN\n", "import circle: downstream.models.base downstream.models.din"),
        ("from .din import DIN\n", "import circle: downstream.models.base downstream.models.din"),
        ("def f():\n    from data_tools.log import read\n", "data_tools.log.read is imported inside a function"),
        ("def f():\n    import scipy\n", "scipy is imported inside a function"),
        ("class A:\n    def f(self):\n        import json\n", "json is imported inside a function"),
        ("if TYPE_CHECKING:\n    from data_tools.log import read\n", "is imported below TYPE_CHECKING"),
        ("if typing.TYPE_CHECKING:\n    import json\n", "json is imported below TYPE_CHECKING"),
        ("import pretrain.settings\n", "downstream may not import pretrain"),
    ],
    "pretrain/data/stream.py": [
        ("from downstream.models import base\n", "pretrain may not import downstream"),
        ("from pretrain import train\n", "imports the command pretrain.train"),
    ],
    "data_tools/log/read.py": [
        ("from pretrain import settings\n", "data_tools may not import pretrain"),
        ("from data_tools.prepare import main\n", "imports the command data_tools.prepare"),
    ],
    "downstream/lonely.py": [("x = 1\n", "downstream.lonely stands on top of its package")],
}


@pytest.fixture
def tree(tmp_path):
    """A small tree that keeps the rule."""
    for package in PACKAGES:
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").touch()
    for name, text in PLANTED.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_a_tree_that_keeps_the_rule_has_no_faults(tree):
    assert faults(tree) == []


@pytest.mark.parametrize(("file", "text", "said"), [(file, *one) for file, ones in BREAKS.items() for one in ones])
def test_what_breaks_the_rule_is_found(tree, file, text, said):
    with open(tree / file, "a") as written:
        written.write(text)
    assert any(said in fault for fault in faults(tree)), faults(tree)


def test_what_is_planted_in_this_project_is_found(tmp_path):
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    before = set(faults(tmp_path))
    file = tmp_path / "downstream" / "statistics" / "metrics.py"
    planted = "from downstream.compare import main\n\n\ndef f():\n    from downstream.statistics import intervals\n"
    file.write_text(file.read_text(encoding="utf-8") + planted)
    new = "\n".join(sorted(set(faults(tmp_path)) - before))
    assert "imports the command downstream.compare" in new
    assert "downstream.statistics.intervals is imported inside a function" in new
    assert "import circle" in new
