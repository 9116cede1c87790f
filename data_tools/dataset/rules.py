"""The settings of a dataset: how a log is read, page views, splits, and how much bad input is allowed."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from jsonargparse.typing import ClosedUnitInterval, NonNegativeInt, OpenUnitInterval, PositiveInt

from data_tools.common.checks import Checked, OpenShare, Seed
from data_tools.common.errors import UserError
from data_tools.log.times import DateDigits

TimeUnit = Literal["auto", "seconds", "milliseconds", "microseconds", "nanoseconds", "excel", DateDigits, "order"]
MatchIds = Literal["exact", "stripped", "unpadded"]


@dataclass(frozen=True, kw_only=True)
class Rules(Checked):
    """How a log is read, how impressions become page views and splits, and how much bad input is allowed.

    Attributes
    ----------
    time_unit : str
        What numeric times are: seconds, milliseconds, microseconds or nanoseconds since 1970, excel (serial days), or
        dates as digits (YYYYMMDD, YYMMDDHH, ...). "auto" takes what leaves no doubt and says it; "order" means that
        they only give an order (without a time column, the order of the rows).
    day_first : bool or null
        Whether dates such as 05/04/2023 begin with the day, where the log itself does not tell.
    click_values : str
        Values of the column click that are clicks, as in purchase,add_to_cart; one that holds a comma stands in double
        quotes. All others are not.
    match_ids : "exact", "stripped" or "unpadded"
        How ids of log and item list are compared: exact, as they are; stripped, without surrounding blanks; unpadded,
        ids of items also without leading zeros, so that 007 is 7.
    rating_threshold : float, "own_mean" or null
        For logs with a column rating instead of click: ratings from here on count as clicks. "own_mean": ratings above
        the user's own mean do.
    unclicked : int
        For logs of clicks alone: unclicked items drawn for each click. They form its page view and are marked (column
        sampled; dataset.json and reports say so).
    unclicked_from : str
        Draw from all items clicked so far, with equal probability (uniform) or in proportion to their clicks so far
        (popularity); or in the same ways from the clicked item's category (category, category_popularity). Never an
        item that the user clicked by then or clicks later in the same split.
    unclicked_unlike : str
        Column of the item list, such as product: never draw an item that shares the clicked item's value, such as
        another colour of the same product.
    same_time_history : "none", "before" or "leave_one_out"
        For logs of clicks alone in which a basket's items share a time. "none": histories hold clicks strictly before
        that time. Otherwise the items of a basket get a drawn order. "before": each has those before it in its history.
        "leave_one_out": only the last one is shown, with the others in its history (basket completion).
    seed : int
        Seed of what is drawn: unclicked items, the order inside a basket, items that are launched late.
    page_gap : int
        Without a request_id: impressions of a user at most this many seconds apart share a page view. With --time_unit
        order, any pause is allowed.
    page_slots : int
        Without a request_id: most impressions in a page view.
    valid_from : float
        The validation split starts at this fraction of the impressions in time order.
    test_from : float
        The test split starts at this fraction.
    new_item_share : float
        Share of the items, drawn at random, that are treated as launched when validation starts: what earlier page
        views show of them is left out and counted. For logs whose catalogue hardly grows.
    near_duplicates : int or null
        Find items whose pictures are nearly the same (re-encoded, resized, a little brighter or cropped): their small
        colour copies agree, and their perceptual hashes differ in at most this many of 64 bits; 6 is a good value, null
        looks for none. In pre-training they count as copies of one picture: they are not negatives of each other, and
        not new where one of them was trained on.
    max_bad_share : float
        Largest fraction of the log's rows, or of the item list's lines, that may be set aside.
    max_bad_image_share : float
        Largest fraction of the items whose image may be missing or unreadable.
    engine : "duckdb" or "spark"
        DuckDB runs on this machine; Spark is for logs that are too large for it (best given as Parquet; text is read
        here first). Both give the same tables.
    memory : str
        Memory limit of the engine. DuckDB spills to disk next to the output.
    """

    time_unit: TimeUnit = "auto"
    day_first: bool | None = None
    click_values: str = ""
    match_ids: MatchIds = "exact"
    rating_threshold: float | Literal["own_mean"] | None = None
    unclicked: NonNegativeInt = 0
    unclicked_from: Literal["uniform", "popularity", "category", "category_popularity"] = "uniform"
    unclicked_unlike: str = ""
    same_time_history: Literal["none", "before", "leave_one_out"] = "none"
    seed: Seed = 0
    page_gap: NonNegativeInt = 1800
    page_slots: PositiveInt = 10
    valid_from: OpenUnitInterval = 0.8
    test_from: OpenUnitInterval = 0.9
    new_item_share: OpenShare = 0.0
    near_duplicates: NonNegativeInt | None = None
    max_bad_share: ClosedUnitInterval = 0.05
    max_bad_image_share: ClosedUnitInterval = 0.05
    engine: Literal["duckdb", "spark"] = "duckdb"
    memory: str = "4GB"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.valid_from >= self.test_from:
            raise UserError(f"valid_from is {self.valid_from}; must be < test_from, which is {self.test_from}")
        if isinstance(self.rating_threshold, float) and not math.isfinite(self.rating_threshold):
            raise UserError(f"rating_threshold is {self.rating_threshold}; must be a finite number or own_mean")
        if not self.unclicked and (self.unclicked_unlike or self.unclicked_from != "uniform"):
            raise UserError("unclicked_from and unclicked_unlike do nothing without --unclicked N, the draws per click")
        if (self.near_duplicates or 0) > 64:
            raise UserError(f"near_duplicates is {self.near_duplicates}; must be <= 64, the bits of a hash")
        if self.same_time_history != "none" and not self.unclicked:
            raise UserError("same_time_history is for logs of clicks alone: set --unclicked N, the draws per click")

    def gap(self, unit: str) -> int | None:
        """``page_gap`` in the unit of a log's times; None for any pause."""
        return None if unit == "order" else self.page_gap * (1000 if unit == "milliseconds" else 1)

    def check_items(self, columns: Collection[str]) -> None:
        """Raise a UserError if the item list lacks a column that the draws need."""
        if self.unclicked and self.unclicked_from.startswith("category") and "category" not in columns:
            raise UserError(f"--unclicked-from {self.unclicked_from} needs a column category in the item list")
        if self.unclicked_unlike and self.unclicked_unlike not in columns:
            raise UserError(
                f"--unclicked-unlike {self.unclicked_unlike} is not a column of the item list; it has {list(columns)}"
            )


class TooMuchBadInput(UserError):
    """More than the allowed share of some input is bad."""


def refuse_above(
    share: float,
    bad: Mapping[str, int],
    total: int,
    what: str,
    setting: str,
    examples: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """Stop the job if more than an allowed share of its input is bad.

    Parameters
    ----------
    share : float
        The allowed share.
    bad : dict of str to int
        Reason -> count.
    total : int
        How many there are in all.
    what, setting : str
        What is counted, and the setting that allows more.
    examples : dict of str to sequence of str, optional
        Reason -> lines that show its first cases and say how to fix them.

    Raises
    ------
    TooMuchBadInput
        With the reasons, their counts and the examples.
    """
    if (found := sum(bad.values())) <= share * total:
        return
    raise TooMuchBadInput(
        f"{found:,} of {total:,} {what} are unusable, which exceeds the allowed fraction of {share}:"
        f"{reasons(bad, examples or {})}"
        f"\n  Nothing was written. Fix the input, or raise --{setting}."
    )


def reasons(bad: Mapping[str, int], examples: Mapping[str, Sequence[str]]) -> str:
    """Lines for a message: each reason with its count, and its first cases below it."""
    return "".join(
        f"\n  {reason}: {count:,}" + "".join(f"\n    {line}" for line in examples.get(reason, ()))
        for reason, count in bad.items()
    )
