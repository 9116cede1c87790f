"""Dataset folder -> webdataset shards that pre-training streams.

``items-*.tar``
    Each catalogue image once: ``<item>.jpg`` and ``<item>.json`` (item, item_id, title, category).
``requests-<split>-*.tar``
    Self-contained: first every distinct image the shard mentions (``i<item>.jpg``), then its requests
    (``r<request>.json``): ``history`` (items clicked before the page view, oldest first), ``fresh`` (how many of them,
    the last, are in the history of no earlier request of the user in the split, so that each click is fresh once),
    ``page`` (items shown), ``click`` (0 or 1 each), ``seen`` (1 where the item stands in some training request) and,
    where known, ``oracle``.
``index.json``
    Files with their counts, sizes and digests, so that a loader can check before it starts; and what the images that
    several shards repeat cost (``storage``).

A shard's requests are of one page-view category (that of most of its items), in random order, as COURIER trains: one
category a batch. Categories too rare to fill a batch share mixed shards. A shard that would grow above ``--shard-mb``
goes on in a file of its own, ``<name>-001.tar`` and so on.

Which request goes where depends on the dataset and the settings alone, not on the number of processes. Stopped? The
same command goes on: finished files are kept in ``.<out>.partial`` until all are there.
"""

from __future__ import annotations

from rich.console import Console

from data_tools.common.cli import parse_settings, run_command
from data_tools.dataset.schema import SPLITS
from data_tools.sharding.write import Settings, write_shards


def main() -> None:
    settings = parse_settings(Settings, __doc__)
    index = write_shards(settings)
    say = Console(highlight=False, soft_wrap=True).print
    for split in SPLITS:
        shards = index["requests"][split]
        images, size = sum(s["images"] for s in shards), sum(s["bytes"] for s in shards)
        requests = sum(s["requests"] for s in shards)
        say(f"{split:5}: {requests:,} requests, {images:,} images, {len(shards)} shards, {size / 1e6:,.1f} MB")
    say(f"catalogue: {sum(s['items'] for s in index['items']):,} images in {len(index['items'])} shards")
    storage = index["storage"]
    stored, distinct = storage["image_bytes_in_request_shards"] / 1e6, storage["distinct_image_bytes"] / 1e6
    say(
        f"storage: request shards hold {stored:,.1f} MB of images, {storage['overhead']:.1f} times the "
        f"{distinct:,.1f} MB of the {storage['distinct_images']:,} distinct ones, since each shard brings its own"
    )
    if index["left_out_requests"]:
        say(f"left out: {index['left_out_requests']:,} page views without an earlier click or a picture")
    say(f"next: accelerate launch pretrain/train.py --data {settings.out} --out runs/my-run")


if __name__ == "__main__":
    run_command(main)
