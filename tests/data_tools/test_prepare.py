"""From files to a dataset folder: what is read, what is set aside, and what stops the job."""

import gzip
import sys
from datetime import datetime

import polars as pl
import pytest
from prepare_helpers import run, write_log

from data_tools.common.cli import run_command
from data_tools.common.errors import UserError
from data_tools.dataset.rules import Rules
from data_tools.dataset.schema import open_dataset
from data_tools.dataset.write import write_dataset
from data_tools.prepare import main


def test_tables_say_what_the_log_says(source):
    log = pl.read_csv(source / "log.csv", schema_overrides={"item_id": pl.String})
    dataset = run(source, source="a test", licence="none")
    found, items, clicks = dataset.impressions, dataset.items, dataset.clicks
    assert found.select("user_id", "item_id", "timestamp", "click").rows() == log.rows()  # the log is in time order
    kinds = {"user": pl.Int32, "item": pl.Int32, "timestamp": pl.Int64, "click": pl.Int8}
    kinds |= {"request": pl.Int64, "clicks_before": pl.Int32, "split": pl.String}
    assert kinds.items() <= found.schema.items()
    assert items["item"].to_list() == list(range(20)) and items["price"].to_list() == list(range(20))
    first_seen = dict(log.group_by("item_id").agg(pl.col("timestamp").min()).rows())
    for row in found.iter_rows(named=True):
        assert items["item_id"][row["item"]] == row["item_id"] and clicks["user_id"][row["user"]] == row["user_id"]
        earlier = log.filter(user_id=row["user_id"], click=1).filter(pl.col("timestamp") < row["timestamp"])
        history = clicks["items"][row["user"]][: row["clicks_before"]]
        assert [items["item_id"][item] for item in history] == earlier["item_id"].to_list()
        assert items["first_seen"][row["item"]] == first_seen[row["item_id"]]

    info = dataset.info
    assert (info["source"], info["licence"], info["set_aside"], info["bad_images"]) == ("a test", "none", {}, {})
    assert info["time_range"] == [log["timestamp"].min(), log["timestamp"].max()]
    counts = info["counts"]
    assert (counts["users"], counts["items"], counts["items_with_image"]) == (10, 20, 20)
    assert (counts["impressions"], counts["clicks"]) == (400, log["click"].sum())
    assert counts["empty_history"] == (found["clicks_before"] == 0).sum()
    assert counts["requests"] == found["request"].n_unique()
    assert {s: info["splits"][s] for s in ("train", "valid", "test")} == dict(found["split"].value_counts().iter_rows())
    assert sorted(path.name for path in (dataset.folder / "images").iterdir()) == sorted(f"{n}.png" for n in range(20))
    assert not list(dataset.folder.parent.glob(".*")) and not list(dataset.folder.glob(".*"))


def test_csv_gzip_and_parquet_of_any_names_give_the_same_dataset(source, plain):
    log = pl.read_csv(source / "log.csv", infer_schema=False)
    with gzip.open(source / "log.csv.gz", "wb") as file:
        log.write_csv(file)
    ours = {"user_id": "player", "item_id": "a thing", "click": "liked"}
    typed = log.with_columns(pl.col("timestamp").cast(pl.Int64), click=pl.col("click") == "1")
    typed.rename(ours).write_parquet(source / "log.parquet")
    catalogue = pl.read_csv(source / "items.csv", schema_overrides={"item_id": pl.String})
    catalogue.rename({"item_id": "id", "image": "cover"}).write_parquet(source / "items.parquet")
    columns = ",".join(f"{name}={column}" for name, column in ours.items())

    zipped = run(source, "log.csv.gz", out="zipped")
    parquet = run(
        source, "log.parquet", "items.parquet", "parquet", columns=columns, item_columns="item_id=id, image=cover"
    )
    assert plain.info == zipped.info == parquet.info


def test_integer_ids_of_parquet_meet_the_text_of_csv(source):
    log = pl.DataFrame({"user_id": [1, 2], "item_id": [10, 11], "timestamp": [5.0, 6.7], "click": [1.0, 0.0]})
    log.write_parquet(source / "log.parquet")
    found = run(source, "log.parquet").impressions
    assert found.schema["item_id"] == pl.Int64
    assert found.select("user_id", "item", "timestamp", "click").rows() == [(1, 10, 5000, 1), (2, 11, 6700, 0)]


def test_an_integer_id_is_the_text_that_is_written_like_it(source):
    names = ["007", "7.0", "+8", "7", str(2**63), "x"]
    (source / "items.csv").write_text("item_id,image\n" + "".join(f"{name},00.png\n" for name in names))
    log = pl.DataFrame({"user_id": 1, "item_id": [7, 8, 2**63, 7], "timestamp": [1, 2, 3, 4], "click": [1, 0, 0, 2]})
    log.with_columns(pl.col("item_id").cast(pl.UInt64)).write_parquet(source / "log.parquet")
    dataset = run(source, "log.parquet", max_bad_share=0.9)
    assert dataset.impressions.select("item", "item_id", "click").rows() == [(3, 7, 1), (4, 2**63, 0)]
    assert dataset.impressions.schema["item_id"] == pl.UInt64
    assert dataset.info["set_aside"] == {"item unknown": 1, "click not 0 or 1": 1}


def test_leading_zeros_survive(source):
    (source / "items.csv").write_text("item_id,image\n7,00.png\n007,01.png\n")
    write_log(source, ["01,007,1,1", "1,7,2,0", "01,7,3,1"])
    dataset = run(source)
    assert dataset.impressions.select("user", "item").rows() == [(0, 1), (1, 0), (0, 0)]
    assert dataset.items["item_id"].to_list() == ["7", "007"]


def test_csv_with_byte_order_mark_quotes_and_line_breaks(source):
    header = "\ufeff" + 'user_id,item_id,timestamp,click,"a ""note"""'
    (source / "log.csv").write_text(
        "\r\n".join([header, 'a,00,1,1,"two\r\nlines, ""so"""', "b,99,2,1,x", ""]), newline=""
    )
    dataset = run(source, max_bad_share=0.5)
    assert dataset.impressions.select("user_id", "timestamp").rows() == [("a", 1)]
    assert pl.read_parquet(dataset.folder / "set_aside.parquet")['a "note"'].to_list() == ["x"]


def test_times_of_every_form(source):
    forms = {
        "1704448800": 1704448800,
        "1.7044488e9": 1704448800,
        "1704448800.": 1704448800,
        " 1704448800 ": 1704448800,
        "1704448800.9": 1704448800.9,
        "2024-01-05T10:00:00Z": 1704448800,
        "2024-01-05 12:00:00+02:00": 1704448800,
        "2024-01-05T10:00:00.5": 1704448800.5,
        "2024-01-05 10:00:00.25-0130": 1704454200.25,
        "2024-01-05T10:00": 1704448800,
        "2024-01-05": 1704412800,
        "1969-12-31 23:59:58": -2,
    }
    write_log(source, [f"u{n},00,{text},0" for n, text in enumerate(forms)])
    found = run(source).impressions
    wanted = {f"u{n}": t * 1000 for n, t in enumerate(forms.values())}  # fractions of a second make milliseconds
    assert dict(found.select("user_id", "timestamp").rows()) == wanted

    moment = pl.Series([datetime(2024, 1, 5, 10)], dtype=pl.Datetime("ms", "Asia/Tokyo"))
    for kind, series in {
        "local": moment,
        "naive": moment.cast(pl.Datetime("us")),
        "date": moment.cast(pl.Date),
    }.items():
        log = pl.DataFrame({"user_id": ["a"], "item_id": ["00"], "timestamp": series, "click": [1]})
        log.write_parquet(source / f"{kind}.parquet")
        found = run(source, f"{kind}.parquet", out=kind).impressions["timestamp"][0]
        assert found == {"local": 1704448800, "naive": 1704448800, "date": 1704412800}[kind]


def test_optional_columns_are_kept_and_checked(source):
    header = "user_id,item_id,timestamp,click,request_id,scene,position,conversion,oracle,note"
    rows = [
        "a,00,9,1,r,home,2,1,0.25,x",
        "a,01,9,0,r,home,1,,0.5,x",
        "b,00,9,1,r,cart,,0,,x",
        "a,00,8,1,s,home,1,0,1,x",
    ]
    bad = [
        "a,02,9,1,,home,1,1,0.5,x",
        "a,03,9,1,r,home,one,1,0.5,x",
        "a,04,9,1,r,home,1,7,0.5,x",
        "a,05,9,1,r,home,1,1,2,x",
    ]
    write_log(source, rows + bad, header)
    dataset = run(source, max_bad_share=0.6)
    columns = ["user_id", "item_id", "request", "scene", "position", "conversion", "oracle"]
    assert dataset.impressions.select(columns).rows() == [
        ("a", "00", 0, "home", 1, 0, 1.0),
        ("a", "01", 1, "home", 1, None, 0.5),
        ("a", "00", 1, "home", 2, 1, 0.25),
        ("b", "00", 2, "cart", None, 0, None),
    ]
    assert set(dataset.info["set_aside"]) == {
        "request_id missing",
        "position unreadable",
        "conversion not 0 or 1",
        "oracle not in [0, 1]",
    }
    assert dataset.info["page_views"] == {"from": "request_id"}


def test_a_frame_of_items_and_further_facts(source):
    """As the simulated world calls it: an all-null column, its own facts, page views by the gap rule."""
    pl.read_csv(source / "log.csv", infer_schema=False).write_parquet(source / "log.parquet")
    items = pl.DataFrame({"item_id": [f"{n:02}" for n in range(20)], "image": "00.png", "nothing": None})
    rules = Rules(page_gap=0, valid_from=0.5, test_from=0.75)
    out = write_dataset(
        source.parent / "d", source / "log.parquet", items, source, rules=rules, info={"world": {"seed": 1}}
    )
    dataset = open_dataset(out)
    assert dataset.info["world"] == {"seed": 1} and dataset.info["counts"]["requests"] == 400
    assert (dataset.info["splits"]["train"], dataset.info["splits"]["test"]) == (200, 100)
    assert dataset.items["nothing"].null_count() == 20


def test_the_command_as_documented(source, monkeypatch, capsys):
    out = source.parent / "dataset"
    given = ["--impressions", source / "log.csv", "--images", source, "--items", source / "items.csv"]
    given += ["--item-columns", "category=price", "--out", out]
    monkeypatch.setattr(sys, "argv", ["data_tools.prepare", *map(str, given)])
    run_command(main)
    assert f"python -m data_tools.shards --dataset {out}" in capsys.readouterr().out
    assert open_dataset(out).items["category"].to_list() == [str(n) for n in range(20)]


def test_items_launched_late_are_new_to_validation_and_test(source, plain):
    held = run(source, out="held", new_item_share=0.25)
    whole, found = plain.impressions, held.impressions
    trained = set(found.filter(split="train")["item_id"])
    late = set(whole["item_id"]) - trained
    assert len(late) == 5
    other = run(source, out="other", new_item_share=0.25, seed=1).impressions
    assert set(whole["item_id"]) - set(other.filter(split="train")["item_id"]) != late
    assert held.info["splits"]["valid_start"] == plain.info["splits"]["valid_start"]
    kept = whole.filter(~((pl.col("split") == "train") & pl.col("item_id").is_in(late)))
    assert found.select("user_id", "item_id", "timestamp", "split").equals(
        kept.select("user_id", "item_id", "timestamp", "split")
    )
    assert held.info["counts"]["rows_of_late_items"] == len(whole) - len(found)
    assert held.info["counts"]["rows_read"] == len(whole)
    for row in found.iter_rows(named=True):
        earlier = found.filter(user_id=row["user_id"], click=1).filter(pl.col("timestamp") < row["timestamp"])
        assert row["clicks_before"] == len(earlier)


def test_a_dataset_that_was_not_copied_whole_is_named(source):
    folder = run(source).folder
    whole = {name: (folder / name).read_bytes() for name in ("impressions.parquet", "clicks.parquet", "dataset.json")}
    broken = [
        ("impressions.parquet", whole["impressions.parquet"][:-50], "impressions.parquet is missing or damaged"),
        ("clicks.parquet", None, "clicks.parquet is missing or damaged"),
        ("dataset.json", b"[]", r"dataset.json does not hold an object"),
    ]
    for name, data, said in broken:
        (folder / name).unlink() if data is None else (folder / name).write_bytes(data)
        with pytest.raises(UserError, match=said):
            _ = open_dataset(folder).folder
        (folder / name).write_bytes(whole[name])
    assert open_dataset(folder).folder == folder
