# PYTHON_ARGCOMPLETE_OK
"""Make a dataset of a public data set, from the files that its owners publish.

python -m data_tools.convert --source movielens --files ml-1m/ --out DATASET

FILES is the folder that holds the owners' files, at any depth; data_tools/converters/README.md lists which ones each
data set needs, its columns and its licence. Settings that a data set needs (a threshold of ratings, unclicked items
drawn for clicks alone) are set for it unless given here. Embeddings that the owners publish go to DATASET_table.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_tools.common.cli import parse_settings, run_command
from data_tools.common.errors import UserError
from data_tools.common.files import work_folder
from data_tools.common.plugins import options_of, refuse_unused, with_plugins
from data_tools.converters import CONVERTERS
from data_tools.dataset.rules import Rules
from data_tools.dataset.show import console, show
from data_tools.dataset.write import write_dataset
from data_tools.tables.table import write_table


@dataclass(frozen=True, kw_only=True)
class Settings(Rules):
    """Which data set, where its files are, and how its log becomes a dataset.

    Attributes
    ----------
    source : str
        Name of the data set.
    files : Path
        Folder of the owners' files.
    out : Path
        Dataset folder to make.
    """

    source: str
    files: Path
    out: Path

    def __post_init__(self) -> None:
        super().__post_init__()
        CONVERTERS[self.source]
        refuse_unused(self, "", {self.source})


Settings = with_plugins(Settings, __name__, source=CONVERTERS)


def _rules(settings: Settings, needed: Mapping[str, Any]) -> Rules:
    """The settings, and what the data set needs where they are left at their defaults."""
    given = {field.name: getattr(settings, field.name) for field in dataclasses.fields(Rules)}
    default = Rules()
    return Rules(**given | {name: value for name, value in needed.items() if given[name] == getattr(default, name)})


def convert(settings: Settings) -> Path:
    """Make the dataset that the settings ask for, with :func:`data_tools.dataset.write.write_dataset`.

    Raises
    ------
    UserError
        If the data set's files are missing or not as their owners describe them.
    """
    if not settings.files.is_dir():
        raise UserError(f"the folder {settings.files} does not exist")
    with work_folder(settings.out) as work:
        converter = CONVERTERS[settings.source](options_of(settings, settings.source))
        source = converter.read(settings.files, work)
        out = write_dataset(
            settings.out,
            source.log,
            source.items,
            source.images,
            rules=_rules(settings, source.rules),
            info={"source": source.name, "licence": source.licence},
            broken_items=source.broken,
        )
        if source.table is not None:
            ids, vectors, known = source.table
            write_table(out.with_name(f"{out.name}_table"), ids.tolist(), vectors, known)
    return out


def main() -> None:
    out = convert(parse_settings(Settings, __doc__))
    show(out)
    if (table := out.with_name(f"{out.name}_table")).exists():
        console.print(f"published embeddings: {table}")


if __name__ == "__main__":
    run_command(main)
