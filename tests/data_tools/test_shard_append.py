"""Later days and new items appended to shards: what comes out is what writing everything again holds."""

from collections import Counter

import polars as pl
import pytest
from PIL import Image

from data_tools.common.cli import UserError
from data_tools.common.files import digest, read_json
from data_tools.dataset.schema import open_dataset
from data_tools.dataset.write import Rules, write_dataset
from data_tools.sharding import write as shards_module
from data_tools.sharding.files import files_of
from data_tools.sharding.read import all_records, open_shards
from data_tools.sharding.write import Settings, write_shards


@pytest.fixture(scope="module")
def log(tiny_world):
    rows = open_dataset(tiny_world / "dataset").impressions
    return rows.select("user_id", "item_id", "timestamp", "click", request_id="request")


@pytest.fixture(scope="module")
def datasets(tiny_world, log, tmp_path_factory):
    """Folder of "early", a dataset of the first 70 % of the log and the items shown in it, and "late", of everything.

    In the later one, items are listed in another order, and the picture of one has changed.
    """
    folder = tmp_path_factory.mktemp("datasets")
    images = tiny_world / "dataset" / "images"
    items = open_dataset(tiny_world / "dataset").items.select("item_id", "title", "category", "image")
    items = items.with_columns(pl.col("image").str.strip_prefix("images/"))
    early = log.filter(pl.col("timestamp") < log["timestamp"].quantile(0.7))
    shown = items.filter(pl.col("item_id").is_in(early["item_id"].unique().implode()))
    changed = folder / "images"
    changed.mkdir()
    for name in items["image"]:
        (changed / name).write_bytes((images / name).read_bytes())
    Image.new("RGB", (32, 32), "red").save(changed / shown["image"][3])
    late = items.sample(fraction=1, shuffle=True, seed=1)
    for name, rows, listed, pictures in (("early", early, shown, images), ("late", log, late, changed)):
        rows.write_parquet(folder / f"{name}-log.parquet")
        rules = Rules(valid_from=0.75, test_from=0.85)
        write_dataset(folder / name, folder / f"{name}-log.parquet", listed, pictures, rules=rules)
    return folder


def settings(dataset, out, **others):
    given = {"requests_per_shard": 64, "items_per_shard": 60, **others}
    return Settings(dataset=str(dataset), out=str(out), **given)


@pytest.fixture(scope="module")
def appended(datasets, tmp_path_factory):
    """Shards of the early dataset, the later one appended; and the digests of the files before."""
    out = tmp_path_factory.mktemp("appended") / "s"
    index = write_shards(settings(datasets / "early", out))
    before = {file["file"]: digest([out / file["file"]]) for file in files_of(index)}
    write_shards(settings(datasets / "late", out, append=True))
    return out, before


def contents(folder, *splits):
    """What the requests of some splits say, by item id."""
    shards = open_shards(folder)
    ids = {record["item"]: record["item_id"] for record in all_records(shards, "items")}
    return Counter(
        (
            tuple(ids[item] for item in record["history"]),
            tuple(ids[item] for item in record["page"]),
            tuple(record["click"]),
            record["fresh"],
            tuple(record["seen"]) if record["split"] != "train" else None,
            record["category"],
        )
        for split in splits
        for record in all_records(shards, split)
    )


def test_appended_shards_hold_what_new_ones_hold(datasets, appended, tmp_path):
    write_shards(settings(datasets / "late", tmp_path / "new"))
    for split in ("train", "valid", "test"):
        found = contents(appended[0], split)
        assert found == contents(tmp_path / "new", split) and found.total() > 50


def test_each_item_has_its_picture_of_today(datasets, appended):
    shards, dataset = open_shards(appended[0]), open_dataset(datasets / "late")
    records = list(all_records(shards, "items"))
    pictures = shards.pictures("items")
    found = {record["item_id"]: (record["title"], pictures[record["item"]]) for record in records}
    assert len(found) == len(records)
    assert found == {
        row["item_id"]: (row["title"], (dataset.folder / row["image"]).read_bytes())
        for row in dataset.items.iter_rows(named=True)
    }


def test_pictures_and_training_requests_are_not_written_again(datasets, appended):
    out, before = appended
    index = read_json(out / "index.json")
    kept = {file["file"] for file in files_of(index)} & before.keys()
    assert {name for name in before if name.endswith(".tar") or "train" in name} <= kept
    assert all(digest([out / name]) == before[name] for name in kept)
    pictures = pl.scan_parquet(out / index["table"]["file"])
    new = len(open_dataset(datasets / "late").items) - index["writings"][0]["pictures"]
    assert index["writings"][1]["pictures"] == new + 1 > 5
    assert pictures.filter(pl.col("tar") >= 2).select(pl.len()).collect().item() >= new + 1
    on_disk = {str(file.relative_to(out)) for file in out.rglob("*") if file.is_file()}
    assert on_disk == {file["file"] for file in files_of(index)} | {"index.json"}


def test_the_fingerprint_tells_writings_apart(datasets, appended, tmp_path):
    first = write_shards(settings(datasets / "early", tmp_path / "s"))
    again = write_shards(settings(datasets / "early", tmp_path / "again"))
    now = read_json(appended[0] / "index.json")
    assert first["fingerprint"] == again["fingerprint"] != now["fingerprint"]
    assert [one["fingerprint"] for one in now["writings"]] == [
        open_dataset(datasets / name).info["fingerprint"] for name in ("early", "late")
    ]


def test_nothing_new_changes_nothing(datasets, appended):
    before = (appended[0] / "index.json").read_bytes()
    write_shards(settings(datasets / "late", appended[0], append=True))
    assert (appended[0] / "index.json").read_bytes() == before


def test_an_interrupted_append_leaves_the_shards_as_they_were_and_continues(datasets, tmp_path, monkeypatch):
    out = tmp_path / "s"
    write_shards(settings(datasets / "early", out))
    expected = contents(out, "train", "valid", "test")

    def stopped(job, *arguments):
        if job["kind"] == "pictures":
            raise KeyboardInterrupt
        return run_job(job, *arguments)

    run_job = shards_module.run_job
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(shards_module, "run_job", stopped)
        write_shards(settings(datasets / "late", out, append=True))
    assert contents(out, "train", "valid", "test") == expected
    index = write_shards(settings(datasets / "late", out, append=True))
    assert len(index["writings"]) == 2
    assert not list(out.rglob("*.done")) and not list(out.rglob(".*"))


def test_another_past_is_refused(datasets, log, tmp_path):
    out = tmp_path / "s"
    write_shards(settings(datasets / "early", out))
    log.with_columns(click=1 - pl.col("click")).write_parquet(tmp_path / "log.parquet")
    items = open_dataset(datasets / "late").items.select("item_id", "title", "category", "image")
    rules = Rules(valid_from=0.75, test_from=0.85)
    write_dataset(tmp_path / "other", tmp_path / "log.parquet", items, datasets / "late", rules=rules)
    with pytest.raises(UserError, match=r"are not those that .* holds; only later days and new items"):
        write_shards(settings(tmp_path / "other", out, append=True))
    assert len(read_json(out / "index.json")["writings"]) == 1 and not list(out.rglob(".*"))


def test_other_settings_and_layouts_are_refused(datasets, appended, streaming_shards):
    with pytest.raises(UserError, match="was written with --history 30, not 5"):
        write_shards(settings(datasets / "late", appended[0], append=True, history=5))
    with pytest.raises(UserError, match="holds self-contained shards"):
        write_shards(settings(datasets / "late", streaming_shards, append=True))
    with pytest.raises(UserError, match=r"training ends at .*; append a dataset with later days"):
        write_shards(settings(datasets / "early", appended[0], append=True))


KINDS = {
    "none": {"pictures": "none"},
    "resized": {"side": 16},
    "decoded": {"side": 16, "pictures": "decoded"},
    "larger than the pictures": {"side": 500},
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_appended_is_stored_as_what_is_held(kind, datasets, tmp_path):
    """Without pictures, resized and decoded: as shards of the later dataset that are written anew."""
    write_shards(settings(datasets / "early", tmp_path / "s", **KINDS[kind]))
    write_shards(settings(datasets / "late", tmp_path / "s", append=True, **KINDS[kind]))
    write_shards(settings(datasets / "late", tmp_path / "new", **KINDS[kind]))
    assert catalogue(tmp_path / "s") == catalogue(tmp_path / "new")
    for split in ("train", "valid", "test"):
        assert contents(tmp_path / "s", split) == contents(tmp_path / "new", split)


def catalogue(folder):
    """Item id -> its title, category, and picture as it is stored."""
    shards = open_shards(folder)
    pictures = {} if read_json(folder / "index.json")["settings"]["pictures"] == "none" else shards.pictures("items")
    records = list(all_records(shards, "items"))
    found = {
        record["item_id"]: (record["title"], record["category"], bytes(pictures[record["item"]]) if pictures else b"")
        for record in records
    }
    assert len(found) == len(records)
    return found


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ({"pictures": "none"}, {}, "was written with --pictures none, not encoded"),
        ({}, {"pictures": "none"}, "was written with --pictures encoded, not none"),
        ({"side": 16}, {}, "was written with --side 16, not 0"),
        ({"side": 16}, {"side": 24}, "was written with --side 16, not 24"),
        ({"side": 16, "pictures": "decoded"}, {"side": 16}, "was written with --pictures decoded, not encoded"),
        ({"side": 16}, {"side": 16, "quality": 50}, "was written with --quality 90, not 50"),
    ],
)
def test_pictures_of_another_kind_are_not_appended(before, after, message, datasets, tmp_path):
    write_shards(settings(datasets / "early", tmp_path / "s", **before))
    index = (tmp_path / "s" / "index.json").read_bytes()
    with pytest.raises(UserError, match=message):
        write_shards(settings(datasets / "late", tmp_path / "s", append=True, **after))
    assert (tmp_path / "s" / "index.json").read_bytes() == index and not list((tmp_path / "s").rglob(".*"))


@pytest.mark.parametrize("kind", ["none", "resized"])
def test_a_new_title_of_a_known_item_is_appended(kind, datasets, log, tmp_path):
    write_shards(settings(datasets / "early", tmp_path / "s", **KINDS[kind]))
    items = open_dataset(datasets / "late").items.select("item_id", "title", "category", "image")
    items = items.with_columns(title=pl.col("title") + " (new)")
    log.write_parquet(tmp_path / "log.parquet")
    rules = Rules(valid_from=0.75, test_from=0.85)
    write_dataset(tmp_path / "titles", tmp_path / "log.parquet", items, datasets / "late", rules=rules)
    write_shards(settings(tmp_path / "titles", tmp_path / "s", append=True, **KINDS[kind]))
    write_shards(settings(tmp_path / "titles", tmp_path / "new", **KINDS[kind]))
    assert catalogue(tmp_path / "s") == catalogue(tmp_path / "new")


def test_self_contained_shards_are_refused_before_anything_is_written(datasets, tmp_path):
    write_shards(settings(datasets / "early", tmp_path / "s", layout="streaming"))
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "s").iterdir()}
    with pytest.raises(UserError, match="holds self-contained shards, which cannot be appended to; write new ones"):
        write_shards(settings(datasets / "late", tmp_path / "s", append=True))
    with pytest.raises(UserError, match="--append needs --layout catalogue"):
        settings(datasets / "late", tmp_path / "s", append=True, layout="streaming")
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "s").iterdir()} == before


def test_appending_to_what_is_no_shard_folder_is_a_message(datasets, tmp_path):
    for out in (tmp_path / "nowhere", tmp_path, datasets / "late"):
        with pytest.raises(UserError):
            write_shards(settings(datasets / "late", out, append=True))
