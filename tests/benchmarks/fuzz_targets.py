"""What :mod:`fuzz` attacks: each target makes one input of a die and says whether it was read or refused.

A wrong result is a :class:`Finding`; what else is raised is one, too, unless it is a clear message.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import yaml
from PIL import Image

from data_tools.common.cli import UserError, parse_settings
from data_tools.dataset.schema import open_dataset
from data_tools.prepare import Settings as Prepare
from data_tools.prepare import prepare
from data_tools.reading import inputs
from data_tools.sharding.read import all_records, open_shards
from data_tools.simulation.make import make_world
from data_tools.simulation.settings import World
from data_tools.tables.layouts import LAYOUTS
from data_tools.tables.table import read_table, write_table

COMMANDS = ("data_tools.prepare", "data_tools.shards", "pretrain.train", "pretrain.export", "downstream.train")
OTHERS = ("downstream.compare", "data_tools.convert_table", "downstream.score", "downstream.store", "data_tools.world")
WORDS = [
    "",
    "0",
    "1",
    "-1",
    "1e9",
    "nan",
    "null",
    "true",
    "no",
    "[]",
    "[1]",
    "{}",
    "{a: 1}",
    "a",
    "a,b",
    "é",
    "'",
    ":",
    "*x",
]
# Of YAML files: keys of the parser below, and forms that are no settings.
LINES = (
    *(
        "config: a.yaml",
        "config: {a: 1}",
        "help: 1",
        "print_config: 1",
        "class_path: a",
        "init_args: {}",
        "__path__: a",
    ),
    *(
        "1: 2",
        "? [a]\n: 1",
        "<<: {quiet: true}",
        "quiet: &x [*x]",
        "quiet: *x",
        "- a",
        "\tquiet: 1",
        "quiet: 1\nquiet: 2",
    ),
    *("optim:", "optim: 5", "optim: [1]", "optim.steps: 5\noptim: {lr: 1}", "sources:", "---\nquiet: true", "'': 1"),
)
COLUMNS = ["user_id", "item_id", "timestamp", "click"]
VALUES: dict[str, list[Any]] = {
    "user_id": ["u", "007", "7", "7.0", str(2**63), "-1", "é", "a b", "", "  ", "null", "'", "x" * 300, "NaN"],
    "item_id": ["00", "01", "1", "1.0", "ghost", "", " 00", "0" * 40],
    "timestamp": [
        *(
            "1600000000",
            "1600000001.5",
            "1600000000123",
            "1.6e9",
            "-5",
            "0",
            "nan",
            "inf",
            "1e400",
            "2020-02-30",
            "12:30",
        ),
        *(
            "2020-02-29",
            "2020-01-01T10:00:00+02:00",
            "25/12/2023",
            "12/25/2023 3:04 PM",
            "20231225",
            "14102100",
            "45244.5",
        ),
        *("20231225120000", "1700000000000000", "", "1,5", "Tue Nov 14 22:13:20 +0000 2023", "9223372036854775807"),
    ],
    "click": ["0", "1", "true", "FALSE", "Y", "n", "-1", "2", "", "1.0", "view", "purchase", "nan"],
}


class Finding(Exception):
    """A result that is wrong."""


def damaged(data: bytes, dice: random.Random) -> bytes:
    """Bytes of a file, changed in one of the ways in which files are."""
    if not data:
        return data
    at, size = dice.randrange(len(data)), dice.randrange(1, 40)
    return dice.choice(
        [
            lambda: data[:at] + bytes([data[at] ^ (1 << dice.randrange(8))]) + data[at + 1 :],
            lambda: data[:at],
            lambda: data[:at] + bytes(size) + data[at + size :],
            lambda: data[:at] + data[at + size :],
            lambda: data[:at] + dice.randbytes(size) + data[at:],
            lambda: data + data[:at],
            lambda: (
                data[:at]
                + dice.choice([b'"', b",", b"\n", b"\r\n", b"\x00", b"\xff", b";", b"\t", b"[", b"}"])
                + data[at:]
            ),
        ]
    )()


class PrepareTarget:
    """Logs of any values, in CSV, JSON lines and Parquet, in one or two parts."""

    def __init__(self, work: Path) -> None:
        self.work = work
        Image.new("RGB", (4, 4)).save(work / "p.png")
        (work / "items.csv").write_text("item_id,image\n" + "".join(f"{n:02},p.png\n" for n in range(20)))

    def column(self, name: str, rows: int, dice: random.Random) -> list[str]:
        odd = dice.choice([0.0, 0.0, 0.02, 0.3])
        plain = {
            "user_id": lambda n: dice.choice(["u1", "u2", "u3"]),
            "item_id": lambda n: f"{dice.randrange(20):02}",
            "timestamp": lambda n: str(1_700_000_000 + 100 * n),
            "click": lambda n: dice.choice("01"),
        }[name]
        only = dice.choice(VALUES[name]) if dice.random() < 0.1 else None
        return [
            only if only is not None else dice.choice(VALUES[name]) if dice.random() < odd else plain(n)
            for n in range(rows)
        ]

    def frame(self, dice: random.Random, rows: int) -> pl.DataFrame:
        frame = pl.DataFrame(
            {name: self.column(name, rows, dice) for name in COLUMNS}, schema=dict.fromkeys(COLUMNS, pl.String)
        )
        if dice.random() < 0.3:
            extra = dice.choice(
                ["seen", "item_", "filename", "row", "scene", "request_id", "rating", "split", "position"]
            )
            frame = frame.with_columns(
                pl.Series(extra, [dice.choice(["1", "2", "x", ""]) for _ in range(rows)], pl.String)
            )
        return frame

    def typed(self, frame: pl.DataFrame, dice: random.Random) -> pl.DataFrame:
        kinds = [
            pl.String,
            pl.Float64,
            pl.Int64,
            pl.Int32,
            pl.UInt64,
            pl.Float32,
            pl.Categorical,
            pl.Decimal(38, 0),
            pl.Binary,
        ]
        for name in frame.columns:
            kind = dice.choice(kinds)
            frame = frame.with_columns(pl.col(name).cast(pl.String).cast(kind, strict=False))
        if dice.random() < 0.2:
            unit = dice.choice(["ns", "us", "ms"])
            times = pl.from_epoch(pl.int_range(pl.len()) * 100 + 1_700_000_000).cast(
                pl.Datetime(unit, dice.choice([None, "UTC"]))
            )
            frame = frame.with_columns(timestamp=times)
        return frame

    def __call__(self, dice: random.Random) -> str:
        folder = self.work / "log"
        folder.mkdir()
        total, form = 0, dice.choice(["csv", "jsonl", "parquet", "parquet"])
        for part in range(dice.choice([1, 1, 2])):
            frame = self.frame(dice, dice.randrange(1, 40))
            total += len(frame)
            path = folder / f"{part}.{form}"
            if form == "parquet":
                self.typed(frame, dice).write_parquet(path)
            elif form == "jsonl":
                frame.write_ndjson(path)
            else:
                frame.write_csv(path, separator=dice.choice(",;\t|"), quote_style=dice.choice(["necessary", "always"]))
        given = {
            "max_bad_share": dice.choice([0.05, 1.0, 1.0]),
            "match_ids": dice.choice(["exact", "exact", "unpadded"]),
        }
        if dice.random() < 0.2:
            given["new_item_share"] = 0.3
        if dice.random() < 0.1:
            given["click_values"] = dice.choice(["purchase", "1,view"])
        out = self.work / "dataset"
        try:
            prepare(
                Prepare(
                    impressions=str(folder), items=str(self.work / "items.csv"), images=str(self.work), out=out, **given
                )
            )
        except UserError:
            return "refused"
        dataset = open_dataset(out)
        counts = dataset.info["counts"]
        kept = counts["impressions"] - counts.get("sampled", 0)
        if total != counts["rows_read"] or total != kept + counts["rows_set_aside"] + counts["rows_of_late_items"]:
            raise Finding(f"{total} rows, but counts {counts}")
        if len(dataset.impressions) != counts["impressions"]:
            raise Finding("another number of impressions than is counted")
        return "read"


class TextTarget:
    """Bytes of delimited and JSON files, changed at random."""

    def __init__(self, work: Path) -> None:
        self.work = work

    def __call__(self, dice: random.Random) -> str:
        rows = [[dice.choice(VALUES[name]) for name in COLUMNS] for _ in range(dice.randrange(1, 25))]
        separator, form = dice.choice(",;\t|"), dice.choice(["csv", "txt", "tsv", "jsonl", "json"])
        if form.startswith("json"):
            objects = [json.dumps(dict(zip(COLUMNS, row, strict=True))) for row in rows]
            text = "[" + ",\n".join(objects) + "]" if form == "json" else "\n".join(objects)
        else:
            text = "\n".join(separator.join(row) for row in [COLUMNS, *rows])
        data = text.encode(dice.choice(["utf-8", "utf-8", "utf-16", "utf-8-sig"]))
        for _ in range(dice.randrange(4)):
            data = damaged(data, dice)
        path, scratch = self.work / f"log.{form}", self.work / "scratch"
        path.write_bytes(data)
        scratch.mkdir()
        try:
            found = inputs.as_parquet(path, scratch, "log", expected=set(COLUMNS), memory="200MB")
        except UserError:
            return "refused"
        read = sum(len(pl.read_parquet(part.path, glob=False)) for part in found.parts)
        if read + len(found.broken) != found.rows:
            raise Finding("rows and broken lines do not add up")
        return "read"


class TablesTarget:
    """Embedding tables of every layout, changed at random."""

    def __init__(self, work: Path) -> None:
        self.ids = [f"i{n}" for n in range(12)]
        self.vectors = np.random.default_rng(0).standard_normal((12, 4)).astype(np.float32)
        self.own, self.made, self.work = work / "own", {}, work
        write_table(self.own, self.ids, self.vectors, {})
        for name, layout in LAYOUTS.items():
            folder = work / "layouts" / name
            folder.mkdir(parents=True)
            suffix = layout.suffixes[0] if getattr(layout, "suffixes", ()) else ""
            with contextlib.suppress(UserError):
                layout.write(folder / f"table{suffix}", self.ids, self.vectors)
                self.made[name] = folder

    def __call__(self, dice: random.Random) -> str:
        name = dice.choice(["own", *self.made])
        source = self.own if name == "own" else self.made[name]
        copy = self.work / "copy"
        shutil.copytree(source, copy)
        files = sorted(one for one in copy.rglob("*") if one.is_file())
        changed = dice.choice(files)
        changed.write_bytes(damaged(changed.read_bytes(), dice))
        try:
            place = copy if name == "own" else next((one for one in files if one.name.startswith("table")), copy)
            table = read_table(place, None if name == "own" else name)
        except UserError:
            return "refused"
        if len(table.ids) != len(table.vectors) or not np.isfinite(table.vectors).all():
            raise Finding(f"{name}: {len(table.ids)} ids, {table.vectors.shape} vectors")
        same = list(table.ids) == self.ids and np.array_equal(table.vectors, self.vectors)
        if name == "own" and changed.suffix == ".parquet" and not same:
            raise Finding(f"a changed {changed.name} of our own is read as other values")
        return "read"


class ShardsTarget:
    """A folder of shards, one file of it changed."""

    def __init__(self, work: Path) -> None:
        make_world(World(items=20, users=8, requests=60, slots=3, days=6, image_size=16), work / "shop")
        self.shards, self.work = work / "shop" / "shards", work
        self.whole = self.contents(self.shards)

    def contents(self, folder: Path) -> list[str]:
        shards = open_shards(folder)
        return [repr(record) for part in ("items", "train", "valid", "test") for record in all_records(shards, part)]

    def __call__(self, dice: random.Random) -> str:
        copy = self.work / "copy"
        shutil.copytree(self.shards, copy)
        changed = dice.choice(sorted(one for one in copy.iterdir() if one.is_file() and one.name != "index.json"))
        changed.write_bytes(damaged(changed.read_bytes(), dice))
        try:
            found = self.contents(copy)
        except UserError:
            return "refused"
        if found != self.whole:
            raise Finding(f"a changed {changed.name} is read as other records")
        return "read"


class ConfigurationTarget:
    """Flags and YAML files of the commands."""

    def __init__(self, work: Path) -> None:
        self.work, self.settings = work, {}
        for name in (*COMMANDS, *OTHERS):
            module = importlib.import_module(name)
            self.settings[name] = module.Settings if hasattr(module, "Settings") else World
        self.keys = {name: self.flat(one) for name, one in self.settings.items()}

    def flat(self, settings: type) -> list[str]:
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
            parse_settings(settings, "", ["--help"])
        return sorted(
            {word.rstrip(",") for word in said.getvalue().split() if word.startswith("--") and word[2:3].isalpha()}
        )

    def __call__(self, dice: random.Random) -> str:
        name = dice.choice(list(self.settings))
        flags = []
        for _ in range(dice.randrange(1, 4)):
            key = dice.choice(self.keys[name] or ["--x"])
            key = (
                key
                if dice.random() < 0.9
                else key[: dice.randrange(3, len(key) + 1)] + dice.choice(["", "x", ".y", "="])
            )
            flags += [key] if key in ("--help",) else [key, dice.choice(WORDS)]
        if dice.random() < 0.4:
            path = self.work / "c.yaml"
            keys = [key[2:] for key in dice.choices(self.keys[name] or ["--x"], k=3)]
            text = yaml.safe_dump({key.partition(".")[0]: dice.choice(WORDS) for key in keys}, allow_unicode=True)
            text += dice.choice(LINES) if dice.random() < 0.3 else ""
            path.write_bytes(damaged(text.encode(), dice) if dice.random() < 0.5 else text.encode())
            flags = ["--config", str(path), *flags]
        try:
            parse_settings(self.settings[name], "", flags)
        except UserError:
            return "refused"
        except SystemExit:
            return "refused"
        return "read"


TARGETS: dict[str, Callable[[Path], Callable[[random.Random], str]]] = {
    "prepare": PrepareTarget,
    "text": TextTarget,
    "tables": TablesTarget,
    "shards": ShardsTarget,
    "configuration": ConfigurationTarget,
}
