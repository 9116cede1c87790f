"""Criteo-style logs: columns of hashed ids, no pixels.

Formats: https://ailab.criteo.com/ressources/. The attribution data set, ``criteo_attribution_dataset.tsv.gz``, has a
header: timestamp (seconds from 0), uid, campaign, conversion, conversion_timestamp, conversion_id, attribution, click,
click_pos, click_nb, cost, cpo, time_since_last_click, cat1 to cat9. The display advertising logs (``train.txt`` of
Kaggle, ``day_N`` of the terabyte) have none: label, I1 to I13, C1 to C26, tabs, in order of time; which of the hashed
columns stands for the user and which for the item is not told by their owners, so the caller says it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from data_tools.common.cli import UserError
from data_tools.common.parquet import engine_path
from data_tools.converters.common import Source, find, query
from data_tools.dataset.write import Log
from data_tools.reading.form import Form

HASHED = tuple(f"C{n}" for n in range(1, 27))
DISPLAY = ("label", *(f"I{n}" for n in range(1, 14)), *HASHED)
LICENCE = "the terms that come with the file: no commercial use"


def _distinct(path: Path, column: str, work: Path, names: tuple[str, ...] | None) -> Any:
    """The values of a column as an item list."""
    columns = f", names = {list(names)}" if names else ""
    options = f"delim = '\t', header = {names is None}, all_varchar = true, quote = '', hive_partitioning = false"
    read = f"read_csv(?, {options}{columns})"
    sql = f'SELECT DISTINCT "{column}" AS item_id FROM {read} WHERE "{column}" IS NOT NULL ORDER BY 1'
    return query(sql, work, [engine_path(path)])


def criteo(files: Path, work: Path, options: dict[str, Any]) -> Source:
    """The attribution data set: users, campaigns, clicks and conversions; or a display log by the columns named."""
    if list(files.rglob("criteo_attribution_dataset.tsv*")):
        path = find(files, "criteo_attribution_dataset.tsv*", "attribution log")
        items = _distinct(path, "campaign", work, None)
        return Source(Log(path, {"user_id": "uid", "item_id": "campaign"}), items, None, "Criteo attribution", LICENCE)
    path = find(files, ["train.txt", "train.txt.gz", "day_*"], "display log")
    user, item = options.get("user_column"), options.get("item_column")
    if user not in HASHED or item not in HASHED:
        raise UserError(
            f"--user-column and --item-column are to be among C1 to C26 for {path}, not {user!r} and {item!r}"
        )
    log = Log(path, {"user_id": user, "item_id": item, "click": "label"}, Form("\t", DISPLAY, quoted=False))
    # Rows without a user or an item are common, and set aside.
    rules = {"time_unit": "order", "max_bad_share": 0.5}
    return Source(log, _distinct(path, item, work, DISPLAY), None, "Criteo display advertising", LICENCE, rules)
