"""From files to a dataset folder: what is read, what is set aside, and what stops the job."""

import gzip
import io
import subprocess
import sys
from datetime import datetime

import numpy as np
import polars as pl
import pytest
from PIL import Image

from data_tools.cli import UserError
from data_tools.dataset import Rules, write_dataset
from data_tools.prepare import Settings, prepare
from data_tools.schema import open_dataset


def picture(kind="PNG"):
    file = io.BytesIO()
    Image.new("RGB", (4, 4), "red").save(file, kind)
    return file.getvalue()


@pytest.fixture
def source(tmp_path):
    """A log of 400 rows by 10 users on 20 items, "00" to "19", with pictures."""
    folder = tmp_path / "in"
    folder.mkdir()
    random = np.random.default_rng(7)
    items = [f"{number:02}" for number in range(20)]
    for item in items:
        (folder / f"{item}.png").write_bytes(picture())
    log = pl.DataFrame(
        {
            "user_id": [f"u{number}" for number in random.integers(0, 10, 400)],
            "item_id": random.choice(items, 400),
            "timestamp": np.sort(random.choice(100_000, 400, replace=False)) + 1_600_000_000,
            "click": random.integers(0, 2, 400),
        }
    )
    log.write_csv(folder / "log.csv")
    catalogue = pl.DataFrame({"item_id": items, "image": [f"{item}.png" for item in items], "price": range(20)})
    catalogue.write_csv(folder / "items.csv")
    return folder


def run(folder, /, log="log.csv", items="items.csv", out="dataset", **settings):
    out = folder.parent / out
    prepare(Settings(impressions=folder / log, items=folder / items, images=folder, out=out, **settings))
    return open_dataset(out)


def write_log(source, rows, header="user_id,item_id,timestamp,click", name="log.csv"):
    (source / name).write_text("\n".join([header, *rows]) + "\n")


def stopped(folder, /, **settings):
    with pytest.raises(UserError) as caught:
        run(folder, **settings)
    assert [path.name for path in folder.parent.iterdir()] == ["in"], "something was left behind"
    return str(caught.value)


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


def test_csv_gzip_and_parquet_of_any_names_give_the_same_dataset(source):
    log = pl.read_csv(source / "log.csv", infer_schema=False)
    with gzip.open(source / "log.csv.gz", "wb") as file:
        log.write_csv(file)
    ours = {"user_id": "player", "item_id": "a thing", "click": "liked"}
    typed = log.with_columns(pl.col("timestamp").cast(pl.Int64), click=pl.col("click") == "1")
    typed.rename(ours).write_parquet(source / "log.parquet")
    catalogue = pl.read_csv(source / "items.csv", schema_overrides={"item_id": pl.String})
    catalogue.rename({"item_id": "id", "image": "cover"}).write_parquet(source / "items.parquet")
    columns = ",".join(f"{name}={column}" for name, column in ours.items())

    plain = run(source)
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
    assert found.select("user_id", "item", "timestamp", "click").rows() == [(1, 10, 5, 1), (2, 11, 6, 0)]


def test_leading_zeros_survive(source):
    (source / "items.csv").write_text("item_id,image\n7,00.png\n007,01.png\n")
    write_log(source, ["01,007,1,1", "1,7,2,0", "01,7,3,1"])
    dataset = run(source)
    assert dataset.impressions.select("user", "item").rows() == [(0, 1), (1, 0), (0, 0)]
    assert dataset.items["item_id"].to_list() == ["7", "007"]


def test_times_of_every_form(source):
    forms = {
        "1704448800": 1704448800,
        "1704448800123": 1704448800123,
        "1704448800.9": 1704448800,
        "2024-01-05T10:00:00Z": 1704448800,
        "2024-01-05 12:00:00+02:00": 1704448800,
        "2024-01-05T10:00:00.5": 1704448800,
        "2024-01-05": 1704412800,
    }
    write_log(source, [f"u{n},00,{text},0" for n, text in enumerate(forms)])
    found = run(source).impressions
    assert dict(found.select("user_id", "timestamp").rows()) == {f"u{n}": t for n, t in enumerate(forms.values())}

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


BAD_ROWS = {
    "user_id missing": [",00,5,1", "  ,00,5,1"],
    "item_id missing": ['a,"",5,1'],
    "timestamp missing": ["a,00,,1"],
    "timestamp unreadable": ["a,00,yesterday,1", "a,00,nan,1", "a,00,inf,0", "a,00,99999999999999999999,0"],
    "click not 0 or 1": ["a,00,5,2", "a,00,5,maybe", "a,00,5,0.5", "a,00,5,-1"],
    "click missing": ["a,00,5,", "a,00,5"],
    "item unknown": ["a,0,5,1", "a,99,5,1", "a,99,5,1"],
    "duplicate row": ["u,01,50,1", "u,01,50,0"],
}
GOOD_ROWS = ["u,01,50,true", "u,02,50,False", "u,03,40,1", "v,01,50,0"]


def test_bad_rows_are_set_aside_with_reason_and_original_values(source):
    rows = GOOD_ROWS + [row for rows in BAD_ROWS.values() for row in rows]
    write_log(source, rows)
    dataset = run(source, max_bad_share=0.9)
    expected = {reason: len(rows) for reason, rows in BAD_ROWS.items()}
    counts = dataset.info["counts"]
    assert dataset.info["set_aside"] == expected
    assert counts["rows_read"] == len(rows) == counts["rows_set_aside"] + counts["impressions"]
    assert counts["rows_set_aside"] == sum(expected.values()) and counts["time_backwards"] == 1
    assert dataset.impressions.select("user_id", "item_id", "timestamp", "click").rows() == [
        ("u", "03", 40, 1),
        ("u", "01", 50, 1),
        ("u", "02", 50, 0),
        ("v", "01", 50, 0),
    ]
    aside = pl.read_parquet(dataset.folder / "set_aside.parquet")
    assert aside["reason"].to_list() == [reason for reason, rows in BAD_ROWS.items() for _ in rows]
    assert aside["input_row"].to_list() == list(range(4, len(rows)))
    assert aside.filter(pl.col("reason") == "item unknown").drop("input_row").row(0) == (
        "item unknown",
        "a",
        "0",
        "5",
        "1",
    )


def test_too_many_bad_rows_stop_with_the_counts(source):
    write_log(source, [*GOOD_ROWS, *BAD_ROWS["item unknown"]])
    message = stopped(source)
    assert "3 of 7 rows" in message and "item unknown: 3" in message and "max_bad_share" in message
    write_log(source, [])
    assert "no usable impression" in stopped(source)


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


def test_repeated_items_and_bad_images(source):
    (source / "html.jpg").write_bytes(b"<html>not found</html>")
    (source / "cut.png").write_bytes(picture()[:-30])
    (source / "photo.png").write_bytes(picture("JPEG"))
    names = ["photo.png", "html.jpg", "cut.png", "gone.png", "../in/00.png", ""]
    lines = [f"{n},{name},{9 - n},{n * 10}" for n, name in enumerate(names)]
    lines += ["0,00.png,1,3", ",00.png,1,3"]
    (source / "items.csv").write_text("\n".join(["item_id,image,item,first_seen", *lines]))
    write_log(source, ["a,0,5,1", "a,1,6,1"])
    dataset = run(source, max_bad_image_share=0.7)
    assert dataset.items["image"].to_list() == ["images/0.jpg", None, None, None, None, None]
    assert dataset.items["item_"].to_list() == [9, 8, 7, 6, 5, 4]
    assert dataset.items["first_seen"].to_list() == [0, 10, 20, 30, 40, 50]
    info = dataset.info
    assert info["bad_images"] == {"unreadable": 2, "missing": 1, "outside the folder": 1}
    assert info["set_aside_items"] == {"item_id repeated": 1, "item_id missing": 1}
    assert (info["counts"]["items"], info["counts"]["items_with_image"]) == (6, 1)
    assert pl.read_parquet(dataset.folder / "set_aside_items.parquet")["reason"].len() == 2


def test_too_many_bad_images_stop_with_the_counts(source):
    for number in range(3):
        (source / f"{number:02}.png").unlink()
    message = stopped(source)
    assert "3 of 20 images" in message and "missing: 3" in message and "max_bad_image_share" in message


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"columns": "user_id=usr_id"}, ["no column 'usr_id'", "'user_id', 'item_id'", "nearest is 'user_id'"]),
        ({"columns": "usr=user_id"}, ["unknown name 'usr'", "nearest is 'user_id'"]),
        ({"columns": "user_id"}, ["name=column"]),
        ({"columns": "click=click,click=user_id"}, ["given twice"]),
        ({"item_columns": "image=imag"}, ["items.csv has no column 'imag'", "nearest is 'image'"]),
        ({"log": "none.csv"}, ["none.csv does not exist"]),
        ({"log": "00.png"}, ["ends neither in .csv"]),
        ({"log": "fake.parquet"}, ["fake.parquet cannot be read"]),
        ({"items": "fake.parquet"}, ["fake.parquet cannot be read"]),
        ({"log": "latin.csv"}, ["latin.csv cannot be read"]),
        ({"log": "float.parquet"}, ["store ids as text or as integers"]),
        ({"log": "items.csv"}, ["no column 'user_id'", "user_id=COLUMN"]),
        ({"valid_from": 0.9, "test_from": 0.8}, ["valid_from < test_from"]),
    ],
)
def test_mistakes_are_told_with_what_to_do(source, settings, words):
    (source / "fake.parquet").write_text("no parquet")
    (source / "latin.csv").write_bytes("user_id,item_id,timestamp,click\nJosé,00,5,1\n".encode("latin-1"))
    log = {"user_id": [1.0, None], "item_id": ["00", "00"], "timestamp": [1, 2], "click": [0, 1]}
    pl.DataFrame(log).write_parquet(source / "float.parquet")
    message = stopped(source, **settings)
    for word in words:
        assert word in message


def test_an_existing_folder_is_left_alone(source):
    run(source)
    with pytest.raises(UserError, match="exists already"):
        run(source)


def test_a_frame_of_items_and_further_facts(source):
    """As the simulated world calls it: an all-null column, its own facts, page views by the gap rule."""
    pl.read_csv(source / "log.csv", infer_schema=False).write_parquet(source / "log.parquet")
    items = pl.DataFrame({"item_id": [f"{n:02}" for n in range(20)], "image": "00.png", "nothing": None})
    rules = Rules(page_gap=0, valid_from=0.5, test_from=0.75)
    out = write_dataset(source.parent / "d", source / "log.parquet", items, source, rules, info={"world": {"seed": 1}})
    dataset = open_dataset(out)
    assert dataset.info["world"] == {"seed": 1} and dataset.info["counts"]["requests"] == 400
    assert (dataset.info["splits"]["train"], dataset.info["splits"]["test"]) == (200, 100)
    assert dataset.items["nothing"].null_count() == 20


def test_the_command_as_documented(source):
    out = source.parent / "dataset"
    command = [sys.executable, "-m", "data_tools.prepare", "--impressions", source / "log.csv", "--images", source]
    command += ["--items", source / "items.csv", "--item-columns", "category=price", "--out", out]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"python -m data_tools.shards --dataset {out}" in done.stdout
    assert open_dataset(out).items["category"].to_list() == [str(n) for n in range(20)]
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 1 and "exists already" in again.stderr and "Traceback" not in again.stderr
