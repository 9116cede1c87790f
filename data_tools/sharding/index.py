"""The index of written shards, and the tables that are made of all of them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_tools.dataset.near_duplicates import sharing
from data_tools.dataset.schema import SPLITS, Dataset
from data_tools.sharding.append import fingerprint, item_tables
from data_tools.sharding.files import FORMAT_VERSION, SEVERAL_PICTURES
from data_tools.sharding.jobs import planned_jobs
from data_tools.sharding.plan import Plan
from data_tools.sharding.settings import Settings
from data_tools.sharding.tables import write_groups


def make_index(
    plan: Plan,
    described: list[list[dict[str, Any]]],
    settings: Settings,
    dataset: Dataset,
    out: Path,
    *,
    before: dict[str, Any] | None = None,
    part: str = "",
) -> dict[str, Any]:
    """What ``index.json`` says of shards that are written; writes the tables that are made of all of them.

    Parameters
    ----------
    plan : Plan
    described : list
        What each of the plan's jobs wrote, in their order.
    settings : Settings
    dataset : Dataset
    out : Path
        Folder of what was written.
    before : dict, optional
        The index of the shards that this is appended to.
    part : str
        Name of ``out`` in their folder.
    """
    files = _files_by_kind(plan, described, settings, part)
    if before:
        files["train"] = before["requests"]["train"] + files["train"]
    info, items = plan.info, files.pop("items")
    index = {
        "format_version": SEVERAL_PICTURES if plan.has_further else FORMAT_VERSION,
        "layout": settings.layout,
        "dataset": settings.dataset,
        "dataset_fingerprint": dataset.info["fingerprint"],
        "history": settings.history,
        "slots": info["slots"],
        "left_out_requests": info["left_out_requests"],
        **({"left_out_pictures": info["left_out_pictures"]} if info["left_out_pictures"] else {}),
        "storage": {"distinct_images": info["distinct_images"], "distinct_image_bytes": info["distinct_image_bytes"]},
        "settings": settings.decides(),
        "times": _times(dataset),
        "items": items,
        "requests": files,
    }
    if (near := _write_near_duplicates(plan, dataset, out)) is not None:
        index["near_duplicates"] = {**near, "file": f"{part}/{near['file']}" if part else near["file"]}
    requests = [file for split in SPLITS for file in files[split]]
    if settings.layout == "streaming":
        stored = sum(shard["image_bytes"] for shard in requests)
        overhead = stored / info["distinct_image_bytes"]
        index["storage"] |= {"image_bytes_in_request_shards": stored, "overhead": overhead}
        return {**index, "fingerprint": fingerprint(index)}
    _write_items_table(index, out, part, earlier=before and (Path(settings.out), before), dataset=dataset)
    index["storage"] |= {
        "picture_tar_bytes": sum(shard["bytes"] for shard in index["items"]),
        "table_bytes": sum(file["bytes"] for file in requests) + index["table"]["bytes"],
    }
    return {**index, **_for_appending(plan, dataset, settings, before), "fingerprint": fingerprint(index)}


def _files_by_kind(
    plan: Plan, described: list[list[dict[str, Any]]], settings: Settings, part: str
) -> dict[str, list[dict[str, Any]]]:
    """ "items" or a split -> the files written, as the index names them."""
    files: dict[str, list[dict[str, Any]]] = {name: [] for name in ("items", *SPLITS)}
    for job, found in zip(planned_jobs(plan, settings.layout, settings.items_per_shard), described, strict=True):
        files[job.get("split", "items")] += found
    for file in (file for listed in files.values() for file in listed if part):
        file["file"] = f"{part}/{file['file']}"
    return files


def _for_appending(plan: Plan, dataset: Dataset, settings: Settings, before: dict[str, Any] | None) -> dict[str, Any]:
    """What ``index.json`` says for a later ``--append``; ``before`` is the index that this writing appends to."""
    numbers = plan.number if before else np.arange(len(plan.image_bytes))
    writing = {
        "dataset": settings.dataset,
        "fingerprint": dataset.info["fingerprint"],
        "pictures": len(plan.written),
        "requests": sum(group["stop"] - group["start"] for group in plan.info["groups"]),
    }
    return {
        "train_until": dataset.info.get("splits", {}).get("valid_start"),
        "trained": plan.info["trained"],
        "next_item": max(int(numbers.max()) + 1, before["next_item"] if before else 0),
        "writings": [*(before["writings"] if before else []), writing],
    }


def _write_near_duplicates(plan: Plan, dataset: Dataset, out: Path) -> dict[str, Any] | None:
    """Write the items whose pictures are nearly the same, by their numbers in the shards; None where there are none."""
    first = dataset.first_alike
    if first is None or not len(items := sharing(first)):
        return None
    numbers = {"item": plan.numbered(items), "first": plan.numbered(first[items])}
    table = pa.table({name: pa.array(values, pa.int32()) for name, values in numbers.items()})
    described = write_groups(out / "near_duplicates.parquet", [table])
    counts = {"items": len(items), "pictures": len(np.unique(first[items]))}
    return {**described, **counts, "seen_by_near_duplicate": plan.info["seen_by_near_duplicate"]}


def _times(dataset: Dataset) -> dict[str, int | None]:
    """When the log begins, and when its validation and test splits do."""
    splits, first = dataset.info.get("splits", {}), (dataset.info.get("time_range") or [None])[0]
    return {"first": first, **{name: splits.get(name) for name in ("valid_start", "test_start")}}


def _write_items_table(
    index: dict[str, Any],
    out: Path,
    part: str,
    *,
    earlier: tuple[Path, dict[str, Any]] | None,
    dataset: Dataset,
) -> None:
    """Join the rows that the tars' writers left, and those of earlier writings (folder, index), into one table."""
    new, index["items"] = index["items"], []
    parts = [out / Path(shard.pop("part")["file"]).name for shard in new]

    def tables() -> Iterator[pa.Table]:
        replaced = pa.chunked_array([pq.read_table(path, columns=["item"])["item"] for path in parts], pa.int32())
        kept = item_tables(*earlier, replaced, dataset) if earlier else ()
        schema = None
        for shard, rows in itertools.chain(kept, zip(new, map(pq.read_table, parts), strict=True)):
            schema = schema or rows.schema
            columns = {name: rows[name] if name in rows.column_names else [None] * len(rows) for name in schema.names}
            tar = pa.array(np.full(len(rows), len(index["items"]), np.int32))
            yield pa.table({**columns, "tar": tar}).cast(schema)
            index["items"].append(shard)

    described = write_groups(out / "items.parquet", tables())
    index["table"] = {**described, "file": f"{part}/items.parquet" if part else described["file"]}
