"""Long histories, searched for the clicks most like the shown item (MUSE's retrieval): its cost, and what it brings.

    python tests/benchmarks/history_search.py --out results/benchmarks/history_search.json

Cost: processor milliseconds that a batch of 256 impressions takes to make, by recency and by similarity, where every
user has 100, 1,000 or 10,000 clicks; one impression a user, and ten (a page view).

Effect: DICM with MUSE's SimTier, and with attention over vectors, on two worlds made for this. Users like 8 of 64
styles and came with 2,000 clicks. "Returning": they clicked in sessions of 200 on one style, so that the latest 50
clicks show one of the eight; that world is made for the search to win. "Mixed": each click is of any of the eight, so
that the latest 50 show them all, and the search has less to add. Five seeds, 95 % intervals over seeds and users.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from drawn_impressions import impressions
from report import Ratio, finish, heading
from rich.console import Console
from seeded import cells, difference, shown

from data_tools.common.cli import parse_settings, run_command
from data_tools.common.files import whole_folder, write_json
from data_tools.tables.table import EmbeddingTable
from downstream.data.ctr_data import CTRData, load_ctr_data
from downstream.data.search import HistorySearch
from downstream.settings import DataSettings, OptimSettings
from downstream.training.fit import fit
from downstream.training.settings import ImageSettings, ModelSettings, TrainingSettings

STYLES, LIKED, SIZE = 64, 8, 16
SESSIONS = {"returning": 200, "mixed": 1}
FORMS = ("simtier", "vector")


@dataclass(frozen=True)
class Settings:
    """The benchmark.

    Attributes
    ----------
    lengths : clicks of the users whose batches are timed
    catalogue, size : items, and size of their vectors, there
    users, items : of the worlds
    clicks : that each user came with
    shown : impressions of each user; the last sixth is the test split
    seeds : of the trainings
    epochs : most passes; the best on validation is kept
    out : file of the figures; none by default
    """

    lengths: list[int] = field(default_factory=lambda: [100, 1_000, 10_000])
    catalogue: int = 1_000_000
    size: int = 64
    users: int = 1000
    items: int = 4000
    clicks: int = 2000
    shown: int = 30
    seeds: int = 5
    epochs: int = 2
    out: str | None = None


def timed(data: CTRData, batches: list[np.ndarray]) -> float:
    """Median milliseconds of the processor that a batch takes to make."""
    taken = []
    for rows in batches:
        begun = time.process_time()
        data.batch(rows)
        taken.append(time.process_time() - begun)
    return 1e3 * float(np.median(taken))


def cost(settings: Settings) -> Iterator[dict[str, Any]]:
    """Milliseconds a batch for each length of history."""
    rng = np.random.default_rng(0)
    items = settings.catalogue
    vectors = rng.standard_normal((items, settings.size), dtype=np.float32)
    search = HistorySearch.over(vectors, np.ones(items, dtype=bool), 10_000)
    for length in settings.lengths:
        users = 256
        data = replace(
            impressions(items, items, 10 * users),
            user=np.repeat(np.arange(users), 10).astype(np.int32),
            clicks_before=np.full(10 * users, length, dtype=np.int32),
            clicked=rng.integers(items, size=users * length).astype(np.int32),
            offsets=np.minimum(np.arange(items + 1), users) * length,
        )
        kinds = {"users": np.arange(10 * users).reshape(users, 10).T, "pages": np.arange(10 * users).reshape(10, users)}
        for kind, batches in kinds.items():
            recent, searched = (timed(one, list(batches)[:6]) for one in (data, replace(data, search=search)))
            yield {"clicks": length, "rows": kind, "recency": recent, "similarity": searched}


def write_world(folder: Path, settings: Settings, session: int) -> EmbeddingTable:
    """Write a dataset folder whose users clicked in sessions of one liked style; returns the items' vectors."""
    rng = np.random.default_rng(session)
    users, items, before, shown = settings.users, settings.items, settings.clicks, settings.shown
    style = np.sort(rng.integers(STYLES, size=items))
    first = np.searchsorted(style, np.arange(STYLES + 1))
    centres = rng.standard_normal((STYLES, SIZE))
    vectors = (centres[style] + 0.7 * rng.standard_normal((items, SIZE))).astype(np.float32)
    liked = rng.random((users, STYLES)).argsort(axis=1)[:, :LIKED]

    def of_style(which: np.ndarray) -> np.ndarray:
        sizes = first[which + 1] - first[which]
        return first[which] + (sizes * rng.random(which.shape)).astype(np.int64)

    sessions = rng.integers(LIKED, size=(users, -(-before // session)))
    past = of_style(liked[np.arange(users)[:, None], np.repeat(sessions, session, axis=1)[:, :before]])
    # Half of what is shown is of a liked style.
    own = liked[np.arange(users)[:, None], rng.integers(LIKED, size=(users, shown))]
    shown_style = np.where(rng.random((users, shown)) < 0.5, own, rng.integers(STYLES, size=(users, shown)))
    item = of_style(shown_style)
    likes = (liked[:, None, :] == shown_style[:, :, None]).any(axis=2)
    quality = rng.normal(0, 0.5, size=items)
    click = rng.random(item.shape) < 1 / (1 + np.exp(2.0 - 2.0 * likes - quality[item]))
    count = before + np.cumsum(click, axis=1) - click
    time_of = np.arange(shown)[None, :] * users + rng.permutation(users)[:, None] + 1
    cut = np.array([int(shown * 4 / 6), int(shown * 5 / 6)])
    split = np.array(["train", "valid", "test"])[np.searchsorted(cut, np.arange(shown), side="right")]
    user = np.repeat(np.arange(users, dtype=np.int32), shown)
    log = pl.DataFrame(
        {
            "user": user,
            "item": item.ravel().astype(np.int32),
            "user_id": user,
            "item_id": item.ravel(),
            "timestamp": time_of.ravel(),
            "click": click.ravel().astype(np.int8),
            "request": time_of.ravel(),
            "clicks_before": count.ravel().astype(np.int32),
            "split": np.tile(split, users),
        }
    )
    lists = [np.concatenate([past[one], item[one][click[one]]]).astype(np.int32) for one in range(users)]
    with whole_folder(folder) as scratch:
        log.sort("timestamp").write_parquet(scratch / "impressions.parquet")
        people, ids = np.arange(users), np.arange(items)
        clicks = pl.DataFrame({"user": people.astype(np.int32), "user_id": people, "items": lists})
        clicks.with_columns(timestamps=pl.col("items").cast(pl.List(pl.Int64))).write_parquet(
            scratch / "clicks.parquet"
        )
        known = pl.DataFrame({"item": ids.astype(np.int32), "item_id": ids, "first_seen": 0 * ids})
        known.with_columns(image=pl.lit(None, pl.String)).write_parquet(scratch / "items.parquet")
        write_json(scratch / "dataset.json", {"schema_version": 1, "fingerprint": f"sessions-{session}-{users}"})
    return EmbeddingTable(ids.tolist(), vectors)


def effect(settings: Settings, folder: Path) -> Iterator[dict[str, Any]]:
    """Of each world and form: AUC and GAUC by recency, and the gain of the search."""
    optim = OptimSettings(lr=2e-3, epochs=settings.epochs)
    for world, session in SESSIONS.items():
        table = write_world(folder / world, settings, session)
        for form in FORMS:
            found = {}
            for how in ("recency", "similarity"):
                given = DataSettings(history=50, history_by=how)
                data = load_ctr_data(folder / world, given)
                training = TrainingSettings(given, ModelSettings("dicm"), ImageSettings(form), optim)
                scores = [fit(data, table, training, seed).test_scores for seed in range(settings.seeds)]
                found[how] = cells(data, scores)
            row = {"world": world, "form": form}
            for metric in ("auc", "gauc"):
                gain = difference(found["similarity"], found["recency"], metric)
                row |= {f"{metric}_{how}": float(one[metric].values.mean()) for how, one in found.items()}
                row |= {f"{metric}_gain": [gain.mean, gain.low, gain.high], f"{metric}_shown": shown(gain)}
            yield row


def page(figures: dict[str, Any], settings: Settings) -> str:
    """The figures as Markdown."""
    lines = heading("Long histories: the most similar clicks in the place of the latest")
    lines += ["## Cost", ""]
    lines += [
        f"Processor milliseconds that a batch of 256 impressions takes to make; {settings.catalogue:,} items, vectors "
        f"of {settings.size}, 50 clicks kept. A training step of DICM takes some 20.",
        "",
        "| clicks of a user | impressions | by recency | by similarity |",
        "|---|---|---|---|",
    ]
    kinds = {"users": "each of another user", "pages": "ten of a user and time"}
    for one in figures["cost"]:
        lines.append(f"| {one['clicks']:,} | {kinds[one['rows']]} | {one['recency']:.1f} | {one['similarity']:.1f} |")
    lines += ["", "## Effect", "", " ".join(__doc__.split("Effect: ")[1].split()), ""]
    lines += ["| world | form | AUC, latest 50 | AUC, most similar 50 | gain, thousandths | gain in GAUC |"]
    lines += ["|---|---|---|---|---|---|"]
    for one in figures["effect"]:
        lines.append(
            f"| {one['world']} | {one['form']} | {one['auc_recency']:.4f} | {one['auc_similarity']:.4f} | "
            f"{one['auc_shown']} | {one['gauc_shown']} |"
        )
    return "\n".join([*lines, ""])


def main() -> None:
    settings = parse_settings(Settings, __doc__)
    say, figures = Console(highlight=False, soft_wrap=True).print, {"cost": [], "effect": []}
    for one in cost(settings):
        figures["cost"].append(one)
        say(str(one))
    with tempfile.TemporaryDirectory() as folder:
        for one in effect(settings, Path(folder)):
            figures["effect"].append(one)
            say(str(one))
    if settings.out:
        Path(settings.out).with_suffix(".md").write_text(page(figures, settings))
    longest = [one for one in figures["cost"] if one["clicks"] == max(settings.lengths)]
    ratios = [
        Ratio(f"ms a batch, {one['clicks']:,} clicks, {one['rows']}", one["similarity"], one["recency"], "by recency")
        for one in longest
    ]
    ratios += [
        Ratio(f"AUC, {one['world']}, {one['form']}", one["auc_similarity"], one["auc_recency"], "by recency")
        for one in figures["effect"]
    ]
    finish(settings, figures, ratios)


if __name__ == "__main__":
    run_command(main)
