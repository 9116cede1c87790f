"""DuckDB and Spark on one log: whether the tables are the same, row for row, and what each takes.

    python tests/benchmarks/engines.py --log impressions.parquet --items items.csv --out results/benchmarks/engines.json

The pictures are left out: they have nothing to do with the engine.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import polars as pl
from report import Ratio, finish
from rich.console import Console

from data_tools.common.cli import parse_settings, run_command
from data_tools.dataset.rules import Rules
from data_tools.dataset.schema import open_dataset
from data_tools.dataset.write import write_dataset
from data_tools.reading.item_list import read_items

TABLES = ("items", "impressions", "clicks")


@dataclass(frozen=True)
class Settings:
    """The benchmark.

    Attributes
    ----------
    log : str
        Log of impressions.
    items : str
        List of items.
    out : str, optional
        File for the figures.
    """

    log: str
    items: str
    out: str | None = None


def main() -> None:
    settings = parse_settings(Settings, __doc__)
    with tempfile.TemporaryDirectory() as folder:
        work, seconds, datasets = Path(folder), {}, {}
        (work / "list").mkdir()
        items = read_items(settings.items, {}, work / "list").items
        for engine in ("duckdb", "spark"):
            started = time.perf_counter()
            rules = Rules(engine=engine, max_bad_share=0.5, new_item_share=0.1)
            out = write_dataset(work / engine, settings.log, items.drop("image"), None, rules=rules)
            seconds[engine], datasets[engine] = round(time.perf_counter() - started, 2), open_dataset(out)
        one, other = datasets.values()
        equal = {name: getattr(one, name).equals(getattr(other, name)) for name in TABLES}
        aside = [pl.read_parquet(dataset.folder / "set_aside.parquet") for dataset in datasets.values()]
        record = {
            "rows_read": one.info["counts"]["rows_read"],
            "rows": {name: len(getattr(one, name)) for name in TABLES} | {"set_aside": len(aside[0])},
            "equal": equal | {"set_aside": aside[0].equals(aside[1])},
            "seconds": seconds,
        }
    Console().print(record)
    finish(settings, record, [Ratio("seconds", seconds["duckdb"], seconds["spark"], "Spark")])


if __name__ == "__main__":
    run_command(main)
