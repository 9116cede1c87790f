"""What to know before training on a dataset: each finding says what was found, why it matters and what to do.

The limits are ours, set where a finding starts to affect results.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from data_tools.inspection.pictures import Pictures

SERIOUS, WATCH, NOTE = "serious", "watch", "note"


@dataclass(frozen=True)
class Finding:
    """One thing to know; ``level`` is SERIOUS, WATCH or NOTE."""

    level: str
    what: str
    why: str
    do: str


@dataclass(frozen=True)
class Seen:
    """What the checks use: the contents of dataset.json, the facts of the log, and the pictures."""

    info: dict[str, Any]
    log: dict[str, Any]
    pictures: Pictures

    def split(self, name: str) -> dict[str, Any] | None:
        return next((row for row in self.log["splits"] if row["split"] == name), None)


def _labels(seen: Seen) -> Iterator[Finding]:
    for row in seen.log["splits"]:
        if row["clicks"] in (0, row["impressions"]):
            all_or_none = "none" if row["clicks"] == 0 else "every one"
            yield Finding(
                SERIOUS,
                f"Of the {row['impressions']:,} impressions in {row['split']}, {all_or_none} is a click.",
                "Nothing can be ranked or scored there, and the time alone predicts the label.",
                "Check how clicks were joined to the log at that time; late labels look like this.",
            )
    train = seen.split("train")
    if not train:
        yield Finding(
            SERIOUS,
            "There is no training split.",
            "Nothing can be trained.",
            "Prepare it again with a later --valid-from.",
        )
        return
    for row in seen.log["splits"]:
        rate, usual = row["click_rate"], train["click_rate"]
        if 0 < rate < 1 and 0 < usual < 1 and not 2 / 3 < rate / usual < 3 / 2:
            yield Finding(
                WATCH,
                f"The click rate is {rate:.1%} in {row['split']} and {usual:.1%} in train.",
                "Log loss and calibration measured there reflect the shift more than the model.",
                "Look at the click rate over time below. Compare models by AUC and GAUC.",
            )


def _future(seen: Seen) -> Iterator[Finding]:
    if wrong := seen.log["future_clicks"]:
        yield Finding(
            SERIOUS,
            f"{wrong:,} impressions have a history that is not the clicks strictly before them.",
            "A model that sees clicks of the same moment or later knows the answer.",
            "Make the dataset again with data_tools.prepare; other software wrote these tables.",
        )


def _unclicked(seen: Seen) -> Iterator[Finding]:
    drawn = (seen.info.get("labels") or {}).get("unclicked_drawn")
    sampled = seen.log["counts"].get("sampled", 0)
    if drawn or sampled:
        yield Finding(
            WATCH,
            "The unclicked items were drawn, not observed"
            + (f" ({sampled:,} of {seen.log['counts']['impressions']:,} impressions)." if sampled else "."),
            "Metrics say how well clicks are separated from drawn items, which differs from ranking a real page view.",
            f"Say so wherever a figure is quoted. How they were drawn: {drawn or 'see column sampled'}.",
        )


def _missing_pictures(seen: Seen) -> Iterator[Finding]:
    faults = Counter(fault for fault in seen.pictures.fault if fault)
    if not faults:
        return
    share = faults.total() / len(seen.pictures.fault)
    shows = seen.log["shows"]["impressions"].to_numpy()
    lost = shows[[fault is not None for fault in seen.pictures.fault]].sum() / max(1, shows.sum())
    counted = ", ".join(f"{count:,} {fault}" for fault, count in faults.most_common())
    yield Finding(
        SERIOUS if max(share, lost) > 0.05 else WATCH,
        f"{faults.total():,} of {len(seen.pictures.fault):,} items have no usable picture ({counted}); "
        f"{lost:.1%} of the impressions show one of them.",
        "Pre-training skips these slots, and a CTR model gets no embedding for them.",
        "Add the pictures and prepare it again. The page (--out) lists the items.",
    )


def _duplicates(seen: Seen) -> Iterator[Finding]:
    groups = seen.pictures.groups()
    if not groups:
        return
    items, total = sum(map(len, groups)), len(seen.pictures.fault)
    known = seen.info.get("near_duplicates") is not None
    yield Finding(
        WATCH if items > 0.02 * total and not known else NOTE,
        f"{items:,} items share a picture with another one, in {len(groups):,} groups "
        f"({seen.pictures.exact.sum():,} are byte-identical copies).",
        "Pre-training takes near-duplicates for one picture, as the dataset was prepared."
        if known
        else "As negatives of each other they teach an encoder to separate identical pictures.",
        "Nothing." if known else "Give them one item id, or prepare the dataset again with --near-duplicates 6.",
    )
    cold = seen.log["shows"]["cold"].to_numpy() & (seen.log["shows"]["impressions"].to_numpy() > 0)
    twins = sum(int(cold[group].sum()) for group in groups if not cold[group].all())
    if twins > 0.01 * max(1, cold.sum()):
        yield Finding(
            WATCH,
            f"{twins:,} of the {cold.sum():,} items never shown in training have the picture of one that was.",
            "Figures on cold items are inflated by what was learned of the twin.",
            "Merge the twins' ids, or exclude these items from the cold slice.",
        )


def _poor_pictures(seen: Seen) -> Iterator[Finding]:
    usable = np.array([fault is None for fault in seen.pictures.fault])
    blank = seen.pictures.blank.sum()
    if blank:
        yield Finding(
            WATCH,
            f"{blank:,} pictures are one flat colour.",
            "They are most likely placeholders and say nothing about the item.",
            "Leave their image empty in the item list: they then count as missing.",
        )
    tiny = (usable & (np.minimum(seen.pictures.width, seen.pictures.height) < 32)).sum()
    if tiny > 0.01 * len(usable):
        yield Finding(
            WATCH,
            f"{tiny:,} pictures are less than 32 pixels wide or high.",
            "Encoders enlarge them; texture and print are lost.",
            "Use the originals before training at 64 pixels or more.",
        )
    if usable.sum() < 1000:
        yield Finding(
            WATCH,
            f"There are {usable.sum():,} pictures.",
            "An encoder memorises so few, and what it learns does not transfer to new items.",
            "Choose weights on items not trained on (evaluation.choose_on cold), and start from pre-trained weights.",
        )


def _cold(seen: Seen) -> Iterator[Finding]:
    test = seen.split("test")
    if test and test["cold_share"] < 0.01:
        yield Finding(
            WATCH,
            f"{test['cold_share']:.2%} of the test impressions are of items never shown in training.",
            "Embeddings help most on new items, and nothing can be measured there.",
            "Prepare it again with --new-item-share 0.15, which treats a share of the items as launched late.",
        )


def _test_size(seen: Seen) -> Iterator[Finding]:
    test = seen.split("test")
    if not test:
        yield Finding(
            SERIOUS,
            "There is no test split.",
            "Nothing can be measured.",
            "Prepare it again with an earlier --test-from.",
        )
    elif 0 < test["clicks"] < 1000:
        yield Finding(
            WATCH,
            f"The test split holds {test['clicks']:,} clicks.",
            "Confidence intervals will be wider than most real differences.",
            "Prepare a longer log, or with an earlier --test-from.",
        )
    both = seen.log["pages"]["test_with_both"]
    if both is not None and both < 0.2:
        yield Finding(
            WATCH,
            f"{both:.1%} of the test split's page views hold both a clicked and an unclicked item.",
            "Only these show how items are ranked within a page view.",
            "Check request_id, or prepare it with another --page-gap: page views of one slot, or of clicks alone, "
            "cannot be ranked.",
        )


def _histories(seen: Seen) -> Iterator[Finding]:
    test = seen.split("test")
    if test and test["empty_history_share"] > 0.3:
        yield Finding(
            WATCH,
            f"{test['empty_history_share']:.0%} of the test impressions have no click before them.",
            "Models of user interest have no input there.",
            "Use a longer log, or read the figures on impressions with a history.",
        )
    within = seen.log["users"]["within_a_day"]
    if within is not None and within > 0.5:
        yield Finding(
            NOTE,
            f"{within:.0%} of the users are active on a single day only.",
            "Their history comes from the same session, which reflects mood more than taste.",
            "Report it with the figures.",
        )
    if test and test["new_user_share"] > 0.5:
        yield Finding(
            NOTE,
            f"{test['new_user_share']:.0%} of the test impressions are of users never seen in training.",
            "User ids carry no information there; only their recent history does.",
            "Report it with the figures.",
        )


def _input(seen: Seen) -> Iterator[Finding]:
    counts = seen.info.get("counts", {})
    read, aside = counts.get("rows_read", 0), counts.get("rows_set_aside", 0)
    if read and aside > 0.01 * read:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in seen.info.get("set_aside", {}).items())
        yield Finding(
            WATCH,
            f"{aside:,} of {read:,} rows of the log were set aside ({reasons}).",
            "Rows are rarely lost at random.",
            "set_aside.parquet lists them with their reasons; fix the log where it matters.",
        )


def _popularity(seen: Seen) -> Iterator[Finding]:
    shows = np.sort(seen.log["shows"]["impressions"].to_numpy())[::-1]
    top = max(1, len(shows) // 100)
    if len(shows) >= 100 and shows[:top].sum() > 0.5 * shows.sum():
        yield Finding(
            WATCH,
            f"The most shown 1 % of the items have {shows[:top].sum() / shows.sum():.0%} of the impressions.",
            "Pre-training sees few pictures, and ids alone explain most clicks.",
            "Judge embeddings on rarely shown and new items.",
        )
    if never := int((shows == 0).sum()):
        yield Finding(
            NOTE,
            f"{never:,} of {len(shows):,} items are never shown.",
            "They are used only by the export of embeddings and by objectives on the catalogue's pictures.",
            "Nothing, unless their impressions were lost on the way.",
        )


CHECKS: tuple[Callable[[Seen], Iterator[Finding]], ...] = (
    _labels,
    _future,
    _unclicked,
    _missing_pictures,
    _duplicates,
    _poor_pictures,
    _cold,
    _test_size,
    _histories,
    _input,
    _popularity,
)


def findings(seen: Seen) -> list[Finding]:
    """All findings, serious ones first."""
    found = [finding for check in CHECKS for finding in check(seen)]
    return sorted(found, key=lambda finding: (SERIOUS, WATCH, NOTE).index(finding.level))
