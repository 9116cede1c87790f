"""A plug-in of data tools: a converter."""

import os
from dataclasses import dataclass
from pathlib import Path

import polars as pl
from jsonargparse.typing import PositiveInt

from data_tools.common.checks import Checked
from data_tools.converters.common import Converter, Source, find
from data_tools.dataset.read_log import Log


class Pairs(Converter):
    """Counts of users and items in pairs.csv, no pictures."""

    @dataclass(frozen=True)
    class Settings(Checked):
        """Options of pairs.

        Attributes
        ----------
        least : int
            Counts from here on are clicks.
        """

        least: PositiveInt = 1

    def read(self, files: Path, work: Path) -> Source:
        with Path(f"{os.environ['SEEN']}-{os.environ['COMMAND']}").open("a") as file:
            file.write(f"Pairs least {self.options.least}\n")
        rows = pl.read_csv(find(files, "pairs.csv", "counts"))
        rows = rows.with_columns(click=(pl.col("count") >= self.options.least).cast(pl.Int8)).drop("count")
        rows.write_parquet(work / "log.parquet")
        items = rows.select(item_id="item").unique(maintain_order=True)
        items = items.with_columns(image=pl.lit(None, dtype=pl.String))
        columns = {"user_id": "user", "item_id": "item", "timestamp": "time"}
        return Source(Log(work / "log.parquet", columns), items, None, "Pairs", "none")
