"""Make a dataset of a public data set, from the files that its owners publish.

python -m data_tools.convert --source movielens --files ml-1m/ --out DATASET

Sources: movielens, amazon_reviews, hm, pixelrec, microlens, taobao_mm, alibaba_ads, criteo. Which files each needs,
where their columns go and which licence to heed: data_tools/converters/README.md. FILES is the folder they are in, at
any depth. Settings that a data set needs (a threshold of ratings, unclicked items drawn for clicks alone) are set for
it unless given here. Where the owners publish embeddings in place of pictures, they go to DATASET_table.
"""

from __future__ import annotations

import dataclasses
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_tools.common.cli import UserError, parse_settings, run_command
from data_tools.converters import SOURCES
from data_tools.dataset.write import Rules, write_dataset
from data_tools.prepare import console, show
from data_tools.tables.table import write_table


@dataclass(kw_only=True)
class Settings(Rules):
    """Which data set, and where its files are.

    Attributes:
        source: Name of the data set.
        files: The folder of its files, as the owners publish them.
        out: The dataset folder to make.
        user_column: For Criteo's display logs, which hashed column (C1 to C26) stands for the user.
        item_column: For Criteo's display logs, which hashed column stands for the item.
    """

    source: str
    files: Path
    out: Path
    user_column: str = ""
    item_column: str = ""


def _rules(settings: Settings, needed: dict[str, Any]) -> Rules:
    """The settings, and what the data set needs where they are left at their defaults."""
    given = {field.name: getattr(settings, field.name) for field in dataclasses.fields(Rules)}
    default = Rules()
    return Rules(**given | {name: value for name, value in needed.items() if given[name] == getattr(default, name)})


def convert(settings: Settings) -> Path:
    """Make the dataset that the settings ask for, with :func:`data_tools.dataset.write.write_dataset`.

    Raises
    ------
    UserError
        If the source is unknown, or its files are missing or not as their owners describe them.
    """
    if settings.source not in SOURCES:
        raise UserError(f"--source {settings.source!r} is unknown; one of {', '.join(SOURCES)} is expected")
    if not settings.files.is_dir():
        raise UserError(f"the folder {settings.files} does not exist")
    settings.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=settings.out.parent, prefix=f".{settings.out.name}.files-") as work:
        options = {"user_column": settings.user_column, "item_column": settings.item_column}
        source = SOURCES[settings.source](settings.files, Path(work), options)
        info = {"source": source.name, "licence": source.licence}
        rules = _rules(settings, dict(source.rules))
        out = write_dataset(
            settings.out, source.log, source.items, source.images, rules, info=info, broken_items=source.broken
        )
        if source.table is not None:
            ids, vectors, known = source.table
            write_table(out.with_name(f"{out.name}_table"), ids.tolist(), vectors, known)
    return out


def main() -> None:
    settings = parse_settings(Settings, __doc__)
    out = convert(settings)
    show(out)
    if (table := out.with_name(f"{out.name}_table")).exists():
        console.print(f"embeddings of the owners: {table}")


if __name__ == "__main__":
    run_command(main)
