"""DuckDB and Spark on one log: whether the tables are the same, row for row, and what each takes.

python tests/benchmarks/engines.py --log impressions.parquet --items items.csv --out results/benchmarks/engines.json

The pictures are left out: they have nothing to do with the engine.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import polars as pl

from data_tools.common.files import write_json
from data_tools.common.provenance import made_by
from data_tools.dataset.rules import Rules
from data_tools.dataset.schema import open_dataset
from data_tools.dataset.write import write_dataset
from data_tools.reading.item_list import read_items

TABLES = ("items", "impressions", "clicks")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--log", required=True)
    parser.add_argument("--items", required=True)
    parser.add_argument("--out", type=Path)
    settings = parser.parse_args()
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
    print(record)
    if settings.out:
        settings.out.parent.mkdir(parents=True, exist_ok=True)
        write_json(settings.out, record | made_by())


if __name__ == "__main__":
    main()
