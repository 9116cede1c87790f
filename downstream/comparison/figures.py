"""Everything a comparison found, as polars frames; ``figures.json`` holds them as lists of records.

"slice" is a part of the test split: all, warm (items shown in training) or cold (never shown). Figures are of the test
split unless they say otherwise; an undefined one is null.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
from polars import Boolean, Float64, Int64, List, String

from data_tools.common.errors import UserError
from data_tools.common.files import read_json, write_json
from downstream.comparison.proxies import PROXIES
from downstream.comparison.spec import NO_FORM

METRICS_OF_CELLS = ("auc", "gauc", "log_loss", "ndcg", "ece")
Value = str | int | float | None

_CELL = {"source": String, "form": String, "model": String}
_INTERVAL = {"mean": Float64, "low": Float64, "high": Float64, "spread": Float64}
_METRICS = dict.fromkeys(METRICS_OF_CELLS, Float64)
SCHEMAS = {
    "cells": {**_CELL, "encoder": Int64, "seed": Int64, "slice": String, **_METRICS},
    "differences": {
        **dict.fromkeys(("a", "b", "form", "model", "slice", "metric"), String),
        **_INTERVAL,
        "p": Float64,
        "detectable": Float64,
        "encoders": Int64,
        "trainings": Int64,
        "p_holm": Float64,
        "direction": Int64,
        "primary": Boolean,
    },
    "validation": {**_CELL, "gauc": Float64},
    "chosen": _CELL,
    "ceiling_shares": {
        **dict.fromkeys(("source", "model", "slice"), String),
        **dict.fromkeys(("share", "low", "high"), Float64),
    },
    "oracle": {"slice": String, **_METRICS},
    "attainable": {**_CELL, "slice": String, "metric": String, "share": Float64},
    "segments": {"model": String, "dimension": String, "part": String, "impressions": Int64, **_INTERVAL},
    "calibration": {**_CELL, "bin": Int64, "predicted": Float64, "observed": Float64, "impressions": Int64},
    "tables": {
        "source": String,
        "table": String,
        "size": Int64,
        "items_without_vector": Int64,
        "impressions_without_vector": Float64,
        **dict.fromkeys(PROXIES, Float64),
        "spectrum": List(Float64),
        "gain": Float64,
        "saw_until": String,
        **dict.fromkeys(("auc_before", "auc_on_test"), Float64),
        **dict.fromkeys(("change_correlation", "change_ceiling", "rate_correlation", "rate_ceiling"), Float64),
        "flagged": String,
    },
    "proxy_correlations": {
        "proxy": String,
        **dict.fromkeys(("correlation", "slope", "slope_low", "slope_high"), Float64),
    },
    "cold_recall": {
        "source": String,
        **dict.fromkeys(("k", "clicks", "items"), Int64),
        **dict.fromkeys(("mean", "low", "high", "over", "over_low", "over_high"), Float64),
    },
    "looks": {"time": String, "title": String, "contrasts": Int64, "primary": String},
    "encoder_runs": {
        "source": String,
        "run": String,
        "seed": Int64,
        "commit": String,
        "objective": String,
        **dict.fromkeys(("image_size", "rows", "steps", "best_step"), Int64),
        **dict.fromkeys(("seconds", "images_per_second", "process_memory_mib", "gpu_memory_mib"), Float64),
    },
    "encoder_curves": {"source": String, "run": String, "curve": String, "step": Int64, "value": Float64},
}


def frame(name: str, rows: Sequence[Mapping[str, Any]] = ()) -> pl.DataFrame:
    """The frame ``name`` of :class:`Figures` from records; keys that it does not know are dropped, NaN becomes null."""
    schema = SCHEMAS[name]
    made = pl.DataFrame([[row.get(column) for column in schema] for row in rows], schema=schema, orient="row")
    return made.with_columns(pl.col(Float64).fill_nan(None))


@dataclass(frozen=True)
class Figures:
    """The figures of a comparison.

    Attributes
    ----------
    cells : polars.DataFrame
        Metrics of every cell (``encoder`` is the pre-training seed) and slice: AUC, GAUC, log loss, NDCG@10 of the
        page views, expected calibration error.
    differences : polars.DataFrame
        ``a`` - ``b`` in a metric with its interval (null where there is none). ``spread`` is the standard error,
        ``detectable`` the smallest true difference that would be found four times in five, ``encoders`` and
        ``trainings`` what the interval rests on, ``primary`` whether it was declared before the run. Differences of
        one metric are tested (GAUC; AUC where GAUC is undefined): ``p_holm`` is the p-value after Holm's correction
        over all of them, ``direction`` 1 or -1 for a significant difference, else 0.
    validation : polars.DataFrame
        Mean GAUC (AUC where it is undefined) on validation, by which forms are chosen.
    chosen : polars.DataFrame
        The form of each source that is best on validation.
    ceiling_shares : polars.DataFrame
        GAUC gain of each source as a share of the ceiling's, each in its best form, with interval.
    oracle : polars.DataFrame
        Metrics of the true click probabilities; empty where the dataset does not know them.
    attainable : polars.DataFrame
        Share of the gain that the true click probabilities would bring over the baseline.
    segments : polars.DataFrame
        GAUC gain of the main source in its best form in parts of the test split.
    calibration : polars.DataFrame
        Predicted and observed click rates of each source in its best form, in bins of equal numbers of impressions.
    tables : polars.DataFrame
        Each embedding table by itself: see ``downstream.comparison.tables``.
    proxy_correlations : polars.DataFrame
        Spearman's correlation of each proxy with the gain over the tables, and the exchange rate: the gain for a unit
        of the proxy (least squares) with its interval.
    cold_recall : polars.DataFrame
        Recall of test clicks on cold items by vectors alone, and what the main source has ``over`` it: see
        ``downstream.comparison.cold_recall``.
    encoder_runs, encoder_curves : polars.DataFrame
        How the encoders were trained: see ``downstream.report.encoder_runs``.
    looks : polars.DataFrame
        Other comparisons that scored the same test rows.
    bootstrap : dict
        Settings of the intervals.
    made_by : dict
        Command, commit, versions and machine.
    """

    cells: pl.DataFrame = field(default_factory=partial(frame, "cells"))
    differences: pl.DataFrame = field(default_factory=partial(frame, "differences"))
    validation: pl.DataFrame = field(default_factory=partial(frame, "validation"))
    chosen: pl.DataFrame = field(default_factory=partial(frame, "chosen"))
    ceiling_shares: pl.DataFrame = field(default_factory=partial(frame, "ceiling_shares"))
    oracle: pl.DataFrame = field(default_factory=partial(frame, "oracle"))
    attainable: pl.DataFrame = field(default_factory=partial(frame, "attainable"))
    segments: pl.DataFrame = field(default_factory=partial(frame, "segments"))
    calibration: pl.DataFrame = field(default_factory=partial(frame, "calibration"))
    tables: pl.DataFrame = field(default_factory=partial(frame, "tables"))
    proxy_correlations: pl.DataFrame = field(default_factory=partial(frame, "proxy_correlations"))
    cold_recall: pl.DataFrame = field(default_factory=partial(frame, "cold_recall"))
    encoder_runs: pl.DataFrame = field(default_factory=partial(frame, "encoder_runs"))
    encoder_curves: pl.DataFrame = field(default_factory=partial(frame, "encoder_curves"))
    looks: pl.DataFrame = field(default_factory=partial(frame, "looks"))
    bootstrap: dict[str, Any] = field(default_factory=dict)
    made_by: dict[str, Any] = field(default_factory=dict)

    @property
    def models(self) -> list[str]:
        """The CTR models, in the order of the comparison."""
        return self.chosen["model"].unique(maintain_order=True).to_list()

    @property
    def sources(self) -> list[str]:
        """The sources, in the order of the comparison."""
        return self.cells["source"].unique(maintain_order=True).to_list()

    @property
    def tested(self) -> str:
        """The metric whose differences are tested: GAUC, or AUC where GAUC is undefined."""
        return "gauc" if (self.differences["metric"] == "gauc").any() else "auc"

    @property
    def flagged(self) -> dict[str, str]:
        """Source -> why its table appears to know test labels."""
        found = self.tables.filter(pl.col("flagged").is_not_null())
        return dict(found.select("source", "flagged").iter_rows())

    def chosen_form(self, model: str, source: str) -> str:
        """The form of a source that is best on validation; "none" for a source without embeddings."""
        found = records(self.chosen, model=model, source=source)
        return found[0]["form"] if found else NO_FORM

    def write(self, path: str | Path) -> None:
        """Write ``figures.json``."""
        write_json(path, {one.name: _plain(getattr(self, one.name)) for one in fields(self)})

    @classmethod
    def read(cls, path: str | Path) -> Figures:
        """Read ``figures.json``; a frame that it lacks is empty, a column that it lacks is null.

        Raises
        ------
        UserError
            If the file is missing, not JSON or of an earlier version.
        """
        held = read_json(path)
        given = {one.name: held[one.name] for one in fields(cls) if one.name in held}
        if old := [name for name in given if name in SCHEMAS and not isinstance(given[name], list)]:
            raise UserError(
                f"{path} was written by an earlier version ({', '.join(old)} are not lists of records); run "
                "downstream.compare again with its configuration: cached cells need no new training"
            )
        return cls(**{name: frame(name, own) if name in SCHEMAS else own for name, own in given.items()})


def _plain(value: Any) -> Any:
    return value.to_dicts() if isinstance(value, pl.DataFrame) else value


def select(rows: pl.DataFrame, **wanted: Value) -> pl.DataFrame:
    """The rows that have these values."""
    return rows.filter(*(pl.col(name) == value for name, value in wanted.items()))


def records(rows: pl.DataFrame, **wanted: Value) -> list[dict[str, Any]]:
    """The rows that have these values, as dicts."""
    return select(rows, **wanted).to_dicts()


def record(rows: pl.DataFrame, **wanted: Value) -> dict[str, Any] | None:
    """The first row that has these values, or None."""
    return next(iter(records(rows, **wanted)), None)
