"""Criteo-style logs: columns of hashed ids, no pixels.

Formats: https://ailab.criteo.com/ressources/. The attribution data set, ``criteo_attribution_dataset.tsv.gz``, has a
header: timestamp (seconds from 0), uid, campaign, conversion, conversion_timestamp, conversion_id, attribution, click,
click_pos, click_nb, cost, cpo, time_since_last_click, cat1 to cat9. The display advertising logs (``train.txt`` of
Kaggle, ``day_N`` of the terabyte) have none: label, I1 to I13, C1 to C26, tabs, in order of time; their
owners do not say which of the hashed columns stand for the user and for the item, so the caller does.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from data_tools.common.checks import Checked
from data_tools.common.errors import UserError
from data_tools.common.parquet import engine_path
from data_tools.converters.common import Converter, Source, find, query
from data_tools.dataset.read_log import Log
from data_tools.reading.columns import parse_columns
from data_tools.reading.form import Form
from data_tools.reading.opened import below

HASHED = tuple(f"C{n}" for n in range(1, 27))
DISPLAY = ("label", *(f"I{n}" for n in range(1, 14)), *HASHED)
LICENCE = "the terms that come with the file: no commercial use"


def _distinct(path: Path, column: str, work: Path, names: tuple[str, ...] | None) -> pl.DataFrame:
    """The values of a column as an item list."""
    columns = f", names = {list(names)}" if names else ""
    options = f"delim = '\t', header = {names is None}, all_varchar = true, quote = '', hive_partitioning = false"
    read = f"read_csv(?, {options}{columns})"
    sql = f'SELECT DISTINCT "{column}" AS item_id FROM {read} WHERE "{column}" IS NOT NULL ORDER BY 1'
    return query(sql, work, [engine_path(path)])


class Criteo(Converter):
    """Criteo: the attribution data set or a display advertising log, no pictures."""

    @dataclass(frozen=True)
    class Settings(Checked):
        """Options of Criteo.

        Attributes
        ----------
        columns : str
            For display logs: which of the hashed columns C1 to C26 stand for the user and the item, as in
            user_id=C5,item_id=C10.
        """

        columns: str = ""

    def read(self, files: Path, work: Path) -> Source:
        if below(files, "criteo_attribution_dataset.tsv*"):
            path = find(files, "criteo_attribution_dataset.tsv*", "attribution log")
            items = _distinct(path, "campaign", work, None)
            log = Log(path, {"user_id": "uid", "item_id": "campaign"})
            return Source(log, items, None, "Criteo attribution", LICENCE)
        path = find(files, ["train.txt", "train.txt.gz", "day_*"], "display log")
        columns = parse_columns(self.options.columns, "--criteo.columns", ("user_id", "item_id"))
        if len(columns) < 2 or not set(columns.values()) <= set(HASHED):
            raise UserError(
                f"{path} does not say which columns are user and item; set --criteo.columns user_id=C5,item_id=C10, "
                f"each one of C1 to C26 (found: {self.options.columns!r})"
            )
        log = Log(path, {**columns, "click": "label"}, Form("\t", DISPLAY, quoted=False))
        # Rows without a user or an item are common, and set aside.
        rules = {"time_unit": "order", "max_bad_share": 0.5}
        return Source(
            log, _distinct(path, columns["item_id"], work, DISPLAY), None, "Criteo display advertising", LICENCE, rules
        )
