"""Dataset folder -> shards that pre-training reads.

``--layout catalogue`` (the default) holds each picture once:

``items-*.tar``
    The catalogue's pictures (``<item>.jpg``), each once, readable by webdataset.
``items.parquet``
    Each picture's place (tar, offset, length, checksum), and item_id, title and category of its item. Where items have
    several pictures, all of them; the layout streaming holds the first of each.
``requests-<split>-*.parquet``
    Requests, in groups that batches are cut from: ``history`` (items clicked before the page view, oldest first),
    ``fresh`` (how many of them, the last, are in the history of no earlier request of the user in the split, so that
    each click is fresh once), ``page`` (items shown), ``click`` (0 or 1 each), ``category``, ``seen`` (1 where the item
    is in some training request, or a near-duplicate of it is) and, where known, ``oracle``.

``--layout streaming`` holds self-contained tars, for storage that is read from front to back; pictures that several
shards mention are repeated in each, and the size is estimated before anything is written:

``items-*.tar``
    Each catalogue image once: ``<item>.jpg`` and ``<item>.json`` (item, item_id, title, category).
``requests-<split>-*.tar``
    First every distinct image that the shard mentions (``i<item>.jpg``), then its requests (``r<request>.json``).

Both layouts hold ``near_duplicates.parquet`` (``item`` and ``first``) where the dataset has items whose pictures are
nearly the same (prepare's --near-duplicates): the trainer takes them for copies of one picture.

``index.json`` lists the files with their counts, sizes and digests, so that a loader can check before it starts, says
what they take (``storage``), what is in them (``fingerprint``) and when the log and its splits begin (``times``).
Batches are the same in both layouts, as long as no tar of requests was cut for being larger than ``--shard-mb``.

A group's requests are of one page-view category (that of most of its items), in random order, as COURIER trains: one
category a batch. Categories too rare to fill a batch share mixed groups. A tar that would grow above ``--shard-mb``
continues in another file, ``<name>-001.tar`` and so on.

Which request goes where depends on the dataset and the settings alone, not on the number of processes. If interrupted,
the same command continues: finished files are kept in ``.<out>.partial`` until all are there. ``--append`` adds the
later days and the new items of a dataset to shards of the layout catalogue: see :mod:`data_tools.sharding.append`.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from rich.console import Console

from data_tools.common.cli import parse_settings, run_command
from data_tools.common.launch import launch
from data_tools.dataset.schema import SPLITS
from data_tools.sharding.read import open_shards
from data_tools.sharding.write import Settings, write_shards


def main() -> None:
    settings = parse_settings(Settings, __doc__)
    say = Console(highlight=False, soft_wrap=True).print
    index = write_shards(settings, say)
    shards = open_shards(Path(settings.out))
    for split in SPLITS:
        groups, size = shards.listed(split), sum(file["bytes"] for file in index["requests"][split])
        say(f"{split:5}: {sum(g['requests'] for g in groups):,} requests in {len(groups)} groups, {size / 1e6:,.1f} MB")
    pictures, size = (sum(shard[name] for shard in index["items"]) for name in ("items", "bytes"))
    held = "items, no pictures" if settings.pictures == "none" else "images"
    say(f"catalogue: {pictures:,} {held} in {len(index['items'])} tars, {size / 1e6:,.1f} MB")
    storage = index["storage"]
    if settings.layout == "streaming":
        stored, distinct = storage["image_bytes_in_request_shards"] / 1e6, storage["distinct_image_bytes"] / 1e6
        say(
            f"storage: request shards hold {stored:,.1f} MB of images, {storage['overhead']:.1f} times the "
            f"{distinct:,.1f} MB of the {storage['distinct_images']:,} distinct ones, since each shard brings its own"
        )
    if left_out := index.get("left_out_pictures"):
        say(f"left out: {left_out:,} further pictures of items that have several; --layout catalogue holds all")
    if near := index.get("near_duplicates"):
        say(
            f"near-duplicates: {near['items']:,} items share {near['pictures']:,} pictures; "
            f"{near['seen_by_near_duplicate']:,} that are in no training request count as seen, since a near-duplicate "
            "of theirs is in one"
        )
    if index["left_out_requests"]:
        say(f"left out: {index['left_out_requests']:,} page views without an earlier click or a picture")
    vectors = " --encoder.family table --encoder.name TABLE" if settings.pictures == "none" else ""
    say(f"next: {launch('pretrain.train')} --data {shlex.quote(str(settings.out))} --out runs/my-run{vectors}")


if __name__ == "__main__":
    run_command(main)
