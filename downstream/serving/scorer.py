"""Scores of a trained run for a log that it has not seen."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from jsonargparse.typing import PositiveInt

from data_tools.common.checks import Threads
from data_tools.common.errors import UserError
from data_tools.common.files import refuse_existing, whole_file, work_folder
from data_tools.common.parquet import parquet_table, read_parquet, scan_parquet
from data_tools.log.engines import engine
from data_tools.reading import inputs
from data_tools.reading.columns import parse_columns
from data_tools.reading.form import Given
from data_tools.reading.user_list import USER_COLUMNS, read_users
from downstream.ams.joining import ServedImages
from downstream.data.ahead import batches_ahead, loader_threads
from downstream.data.arrays import write_flat_clicks
from downstream.data.codes import UNKNOWN
from downstream.data.ctr_data import CTRData, load_ctr_data
from downstream.data.tensors import tensors
from downstream.data.user_features import text_features
from downstream.images.joined import ItemImages, search_histories
from downstream.models.base import CTRModel
from downstream.serving.catalogue import new_vectors, with_new_images, with_new_items
from downstream.serving.log import READ, NewLog, Reading, read_new_log
from downstream.serving.metrics import score_metrics
from downstream.serving.users import check_user_table, undescribed, with_new_users
from downstream.training.run import RunSettings
from downstream.training.saved_runs import check_dataset, restore, run_images, run_settings

PIECE = 1 << 16
# Task of a model -> column of its probabilities.
COLUMNS = {"click": "score", "conversion": "conversion_score", "purchase": "purchase_score"}


@dataclass(frozen=True, kw_only=True)
class ScoreSettings(Reading):
    """How a log is read and scored.

    Attributes
    ----------
    batch_size : int
        Rows scored at a time.
    threads : int
        CPU threads.
    """

    batch_size: PositiveInt = 1024
    threads: Threads = 1


@dataclass(frozen=True)
class Scored:
    """What was scored.

    Attributes
    ----------
    rows : int
        Rows of the log (items, where its rows are page views); the file of scores has as many.
    scored : int
        Of these, rows with a score.
    users, items : int
        Distinct users and items of the scored rows.
    new_users, new_items : int
        Of these, the ones that the training did not show: they have the code "unknown".
    new_scenes : dict of str to int
        Scene that the training did not show -> scored rows that have it, the most frequent first: they have the code
        "unknown". Empty for a run that knows no scenes.
    items_without_vector : int or None
        Items of the scored rows without a vector: they have the learned "no image". None for a run without images.
    faults : dict of str to int
        Reason -> rows and lines that could not be scored, or whose label is of no use.
    metrics : dict of str to float, or None
        auc, gauc and log_loss of the rows with a label; None where there is none.
    notes : list of str
        What was understood of the log.
    """

    rows: int
    scored: int
    users: int
    items: int
    new_users: int
    new_items: int
    new_scenes: dict[str, int]
    items_without_vector: int | None
    faults: dict[str, int]
    metrics: dict[str, float | None] | None
    notes: list[str]


@dataclass(frozen=True)
class Scorer:
    """A trained run that scores logs; made by :func:`load`.

    Attributes
    ----------
    folder : Path
        The run.
    settings : RunSettings
        What it was trained with.
    data : CTRData
        The dataset that it was trained on.
    images : ItemImages, ServedImages or None
        Its table, joined to that dataset.
    """

    folder: Path
    settings: RunSettings
    data: CTRData
    images: ItemImages | ServedImages | None

    def score(
        self,
        log: str | Path,
        out: str | Path,
        *,
        columns: Mapping[str, str] | str = "",
        table: str | Path | None = None,
        user_table: str | Path | None = None,
        user_columns: Mapping[str, str] | str = "",
        settings: ScoreSettings | None = None,
        given: Given | None = None,
        user_given: Given | None = None,
    ) -> Scored:
        """Score every row of a log and write the scores to a Parquet file.

        A row's history is the user's clicks before the row's time: those of the dataset and, where the log has labels,
        those of the log. Memory does not grow with the rows.

        Parameters
        ----------
        log : str or Path
            One row an impression: a file, a folder or a glob of text, JSON lines or Parquet, with user_id, item_id,
            timestamp and, where known, click, conversion and scene.
        out : str or Path
            The Parquet file to make, one row a row of the log, in its order: ``user_id``, ``item_id``, ``timestamp``
            (int64, in the dataset's unit), ``click`` where the log has it, ``score`` (float32, probability of the
            click), ``conversion_score`` and ``purchase_score`` where the model predicts them, ``known_user``,
            ``known_item`` (bool, shown in training), ``has_vector`` (bool; only of a run with images), and ``fault``
            (text, why a row has no score).
        columns : dict of str to str, or str
            Our names -> those of the log, where they differ; or as in "user_id=player,item_id=game".
        table : str or Path, optional
            Embedding table of items that the run's own table lacks.
        user_table : str or Path, optional
            Table of users that the dataset does not have, with columns as in the table of users it was prepared with.
        user_columns : dict of str to str, or str
            As ``columns``, of that table.
        settings : ScoreSettings, optional
            How the log is read.
        given, user_given : Given, optional
            The form of text files of the log and of the table of users, where they do not tell.

        Raises
        ------
        UserError
            If ``out`` exists, the log cannot be read or too much of it is unusable, or the table does not fit.
        """
        settings, out = settings or ScoreSettings(), Path(out)
        if out.suffix.lower() not in inputs.PARQUET:
            raise UserError(f"{out}: scores are written as Parquet; name a file that ends in .parquet")
        refuse_existing(out)
        named = parse_columns(columns, "--columns", READ)
        of_users = parse_columns(user_columns, "--user-columns", USER_COLUMNS)
        check_user_table(user_table, of_users, self.data)
        vectors = new_vectors(table, self.images, self.settings.image.tune) if table else None
        torch.set_num_threads(settings.threads)
        with whole_file(out) as scratch, work_folder(out) as work:
            scenes = self.data.scene is not None
            with engine("duckdb", work, settings.memory) as run:
                log = read_new_log(
                    run, log, named, self.data.dataset, settings, needs_scene=scenes, given=given, work=work
                )
            new = log.new_items.to_list()
            images = with_new_images(self.images, self.data.item_ids, new, vectors)
            data = with_new_items(self.data, len(new), work)
            model = restore(self.folder, data, images, self.settings)
            joined = _joined(data, log, work)
            notes = log.notes
            if user_table is not None:
                text = text_features(self.data.dataset.table("users"))
                listed = read_users(user_table, of_users, work, user_given, text)
                joined, unknown = with_new_users(joined, self.data, log.users, listed)
                notes = [*notes, *listed.notes, *undescribed(log.users, listed), *unknown]
            joined = search_histories(joined, images)
            seen = _write(model, joined, images, log, scratch, settings.batch_size)
            return Scored(**seen, faults=log.faults, metrics=_metrics(scratch, work, settings.memory), notes=notes)


def load(run: str | Path) -> Scorer:
    """A run of ``downstream.train``, to score logs with.

    The dataset and the table that it was trained on must be where they were.

    Parameters
    ----------
    run : str or Path
        Folder of the run.

    Raises
    ------
    UserError
        If the run, its dataset or its table is missing, of another version, or has changed since.

    Examples
    --------
    >>> import downstream.serving
    >>> run = downstream.serving.load("runs/dicm")  # doctest: +SKIP
    >>> run.score("day6.csv", "day6.parquet", columns={"user_id": "player"}).metrics  # doctest: +SKIP
    """
    settings = run_settings(run)
    data = load_ctr_data(settings.dataset, settings.data)
    check_dataset(run, data, settings)
    return Scorer(Path(run), settings, data, run_images(run, data, settings))


def _joined(data: CTRData, log: NewLog, work: Path) -> CTRData:
    """The data with the users of a log and their clicks in place of its own; without impressions."""
    clicked, offsets = write_flat_clicks(log.clicks, log.users["clicks"].to_numpy(), work)
    known = log.users["known"].to_numpy()
    codes = np.full(len(known), UNKNOWN, dtype=data.user_code.dtype)
    own = log.users["known"].is_not_null().to_numpy()
    codes[own] = data.user_code[known[own].astype(np.int64)]
    features = data.user_features
    if features is not None:
        features = np.full((len(known), features.shape[1]), UNKNOWN, dtype=features.dtype)
        features[own] = data.user_features[known[own].astype(np.int64)]
    users = {"user_code": codes, "user_features": features}
    return replace(data, clicked=clicked, offsets=offsets, rows={}, conversion=None, **users)


def _scenes(data: CTRData) -> dict[str, int]:
    """Scene, as :func:`data_tools.log.understood.scene_text` has it -> its code."""
    known = read_parquet(data.vocabulary).filter(pl.col("feature") == "scene")
    names = known["id"].str.replace(r"^(-?[0-9]+)\.0+$", "${1}")  # of datasets that were prepared with "1.0"
    return dict(zip(names, known["code"].cast(pl.Int32), strict=True))


def _new_scenes(log: NewLog, scenes: Collection[str]) -> dict[str, int]:
    """The scenes of a log that a run does not know, and how many of its sound rows have each."""
    rows = scan_parquet(log.rows).filter(pl.col("fault").is_null()).select(pl.col("scene").cast(pl.String))
    new = rows.filter(pl.col("scene").is_not_null() & ~pl.col("scene").is_in(list(scenes)))
    counts = new.group_by("scene").agg(rows=pl.len()).sort("rows", "scene", descending=[True, False])
    return dict(counts.collect(engine="streaming").iter_rows())


def _impressions(data: CTRData, piece: pa.RecordBatch, scenes: dict[str, int]) -> CTRData:
    """The data with rows of a log for impressions."""

    def column(name: str, kind: type) -> np.ndarray:
        return pc.fill_null(piece[name], 0).to_numpy(zero_copy_only=False).astype(kind)

    scene = None
    if data.scene is not None:
        names = pl.from_arrow(piece["scene"]).cast(pl.String)
        scene = names.replace_strict(scenes, default=UNKNOWN, return_dtype=pl.Int32).to_numpy()
    return replace(
        data,
        click=np.zeros(len(piece), dtype=np.float32),
        user=column("user", np.int32),
        item=column("item", np.int32),
        clicks_before=column("clicks_before", np.int32),
        scene=scene,
    )


def _probabilities(model: CTRModel, data: CTRData, rows: np.ndarray, batch_size: int) -> dict[str, np.ndarray]:
    """Task -> probabilities of all impressions, float32, nan but at ``rows``."""
    found: dict[str, np.ndarray] = {}
    parts = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
    for own, batch in zip(parts, batches_ahead(data, parts, loader_threads(None)), strict=True):
        for task, values in model.probabilities(tensors(batch)).items():
            found.setdefault(task, np.full(len(data.user), np.nan, dtype=np.float32))[own] = values.numpy()
    return found


def _pieces(log: NewLog) -> Iterator[pa.RecordBatch]:
    with pq.ParquetFile(log.rows) as file:
        yield from file.iter_batches(PIECE)


def _scored_rows(
    piece: pa.RecordBatch,
    data: CTRData,
    images: ItemImages | ServedImages | None,
    scores: dict[str, np.ndarray],
    faulty: np.ndarray,
) -> pa.Table:
    """Some rows of the file of scores; those with a fault have neither a score nor what is known of them."""
    columns = {name: piece[name] for name in ("user_id", "item_id", "timestamp", "click") if name in piece.schema.names}
    for task, name in COLUMNS.items():
        if task in scores or task == "click":  # of faulty rows alone, nothing is scored
            columns[name] = pa.array(scores.get(task, np.zeros(len(piece), np.float32)), mask=faulty)
    columns["known_user"] = pa.array(data.user_code[data.user] != UNKNOWN, mask=faulty)
    columns["known_item"] = pa.array(data.warm[data.item], mask=faulty)
    if images is not None:
        columns["has_vector"] = pa.array(images.found[data.item], mask=faulty)
    return pa.table({**columns, "fault": piece["fault"]})


@torch.inference_mode()
def _write(
    model: CTRModel,
    data: CTRData,
    images: ItemImages | ServedImages | None,
    log: NewLog,
    path: Path,
    batch_size: int,
) -> dict[str, Any]:
    """Write the file of scores; returns the counts of :class:`Scored`."""
    scenes = _scenes(data)
    users, items = np.zeros(len(data.user_code), dtype=bool), np.zeros(len(data.item_code), dtype=bool)
    total, scored, writer = 0, 0, None
    try:
        for piece in _pieces(log):
            impressions = _impressions(data, piece, scenes)
            sound = pc.is_null(piece["fault"]).to_numpy(zero_copy_only=False)
            rows = sound.nonzero()[0]
            scores = _probabilities(model, impressions, rows, batch_size)
            users[impressions.user[rows]], items[impressions.item[rows]] = True, True
            table = _scored_rows(piece, impressions, images, scores, ~sound)
            writer = writer or pq.ParquetWriter(path, table.schema)
            writer.write_table(table)
            total += len(piece)
            scored += len(rows)
    finally:
        if writer:
            writer.close()
    return {
        "rows": total,
        "scored": scored,
        "users": int(users.sum()),
        "items": int(items.sum()),
        "new_users": int((users & (data.user_code == UNKNOWN)).sum()),
        "new_items": int((items & ~data.warm).sum()),
        "new_scenes": {} if data.scene is None else _new_scenes(log, scenes),
        "items_without_vector": int((items & ~images.found).sum()) if images is not None else None,
    }


def _metrics(scores: Path, work: Path, memory: str) -> dict[str, float | None] | None:
    """Of the rows with a label; None where there is none."""
    if "click" not in pq.read_schema(scores).names:
        return None
    with engine("duckdb", work, memory) as run:
        table = parquet_table(run.backend, [scores])
        if not run.rows(table.agg(n=table.click.count()))["n"][0]:
            return None
        return score_metrics(run, table)
