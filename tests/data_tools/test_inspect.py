import io
import re
import shutil
import subprocess
import sys

import numpy as np
import polars as pl
import pytest
from PIL import Image
from rich.console import Console

from data_tools.common.cli import run_command
from data_tools.common.files import read_json, write_json
from data_tools.dataset.schema import DAYS, open_dataset
from data_tools.inspect import inspect, main
from data_tools.inspection.advice import SERIOUS, Seen, findings
from data_tools.inspection.log import histogram, log_facts
from data_tools.inspection.page import page
from data_tools.inspection.pictures import look_at_pictures
from data_tools.inspection.summary import print_summary
from tests.edited import put_table


@pytest.fixture
def folder(tiny_world, tmp_path):
    """A copy of the tiny world's dataset, to plant defects in."""
    return shutil.copytree(tiny_world / "dataset", tmp_path / "shop" / "dataset")


@pytest.fixture(scope="module")
def clean(tiny_world):
    dataset = open_dataset(tiny_world / "dataset")
    return dataset, inspect(dataset)


def edit(folder, table, change):
    put_table(folder, table, change(pl.read_parquet(folder / f"{table}.parquet")))


def found(folder):
    return findings(inspect(open_dataset(folder)))


def finding(folder, words):
    """The one finding that says these words."""
    (one,) = [one for one in found(folder) if words in one.what]
    return one


def test_split_facts_are_those_of_a_loop(clean):
    dataset, seen = clean
    rows = dataset.impressions.to_dicts()
    trained = [row for row in rows if row["split"] == "train"]
    items, users = {row["item"] for row in trained}, {row["user"] for row in trained}
    assert [row["split"] for row in seen.log["splits"]] == ["train", "valid", "test"]
    for facts in seen.log["splits"]:
        own = [row for row in rows if row["split"] == facts["split"]]
        assert facts["impressions"] == len(own)
        assert facts["clicks"] == sum(row["click"] for row in own)
        assert facts["click_rate"] == pytest.approx(np.mean([row["click"] for row in own]))
        assert facts["users"] == len({row["user"] for row in own})
        assert facts["items"] == len({row["item"] for row in own})
        assert facts["page_views"] == len({row["request"] for row in own})
        assert facts["cold_share"] == pytest.approx(np.mean([row["item"] not in items for row in own]))
        assert facts["new_user_share"] == pytest.approx(np.mean([row["user"] not in users for row in own]))
        assert facts["empty_history_share"] == pytest.approx(np.mean([row["clicks_before"] == 0 for row in own]))


def test_days_and_shows_are_those_of_a_loop(clean):
    dataset, seen = clean
    day, earlier, expected = DAYS["seconds"], set(), []
    stamps = dataset.impressions["timestamp"].to_numpy() // day
    for today in range(stamps.min(), stamps.max() + 1):
        shown = dataset.impressions.filter(stamps == today)
        cold = np.mean([item not in earlier for item in shown["item"]])
        expected.append((today * day, len(shown), shown["click"].mean(), cold))
        earlier |= set(shown["item"])
    for one, (start, impressions, rate, cold) in zip(seen.log["days"], expected, strict=True):
        assert (one["start"], one["days"], one["impressions"]) == (start, 1, impressions)
        assert one["click_rate"] == pytest.approx(rate)
        assert one["cold_share"] == pytest.approx(cold)
    counts = np.bincount(dataset.impressions["item"].to_numpy(), minlength=len(dataset.items))
    np.testing.assert_array_equal(seen.log["shows"]["impressions"], counts)
    pages = [page["click"] for _, page in dataset.impressions.group_by("request") if page["split"][0] == "test"]
    assert seen.log["pages"]["test_with_both"] == pytest.approx(np.mean([page.n_unique() == 2 for page in pages]))


def test_long_logs_fall_into_at_most_sixty_bars(folder):
    edit(folder, "impressions", lambda log: log.with_columns(timestamp=pl.col("timestamp") * 40))
    days = log_facts(open_dataset(folder))["days"]
    assert 30 <= len(days) <= 60
    assert sum(one["impressions"] for one in days) == open_dataset(folder).info["counts"]["impressions"]


def test_histogram_ranges():
    counts = pl.DataFrame({"value": [0, 1, 2, 5, 7, 900], "rows": [1, 2, 4, 8, 16, 32]})
    assert histogram(counts, (0, 1, 3, 6)) == [("0", 1), ("1 to 2", 6), ("3 to 5", 8), ("6 or more", 48)]


def test_planted_faults_of_pictures_are_found(folder):
    dataset = open_dataset(folder)
    images = [folder / name for name in dataset.items["image"]]
    shutil.copyfile(images[3], images[4])
    Image.open(images[10]).convert("RGB").save(images[11], "JPEG", quality=90)
    images[20].unlink()
    images[21].write_bytes(b"<html>not found</html>")
    Image.new("RGB", (32, 32), "grey").save(images[22])
    Image.new("RGB", (32, 32), "grey").save(images[23])
    edit(folder, "items", lambda items: items.with_columns(image=pl.when(pl.col("item") != 24).then("image")))
    pictures = look_at_pictures(open_dataset(folder))
    assert [pictures.fault[item] for item in (20, 21, 24)] == ["missing", "unreadable", "none named"]
    assert sum(fault is not None for fault in pictures.fault) == 3
    assert sorted(sorted(group.tolist()) for group in pictures.groups()) == [[3, 4], [10, 11]]
    assert np.flatnonzero(pictures.exact).tolist() == [3, 4]
    assert np.flatnonzero(pictures.blank).tolist() == [22, 23]
    assert "4 items share a picture" in finding(folder, "share a picture").what
    assert "1 missing, 1 unreadable, 1 none named" in finding(folder, "no usable picture").what.replace(
        "1 unreadable, 1 missing", "1 missing, 1 unreadable"
    )
    assert "2 pictures" in finding(folder, "one flat colour").what


def test_a_clean_dataset_has_no_serious_finding(clean):
    _, seen = clean
    assert not [one for one in findings(seen) if one.level == SERIOUS]


def test_a_split_without_clicks_is_serious(folder):
    edit(
        folder,
        "impressions",
        lambda log: log.with_columns(
            click=pl.when(pl.col("split") == "valid").then(0).otherwise("click").cast(pl.Int8)
        ),
    )
    one = finding(folder, "impressions in valid, none is a click")
    assert one.level == SERIOUS


@pytest.mark.parametrize("step", [1, -1])
def test_histories_that_see_the_future_or_miss_a_click_are_counted(folder, step):
    log = open_dataset(folder).impressions
    last = log.filter(pl.col("clicks_before") > 2).group_by("user").agg(pl.col("clicks_before").max())
    chosen = log.filter((pl.col("clicks_before") > 2) & (pl.col("user") < 10)).head(7)["timestamp"].unique()
    hit = pl.col("timestamp").is_in(chosen.implode()) & (pl.col("clicks_before") > 2) & (pl.col("user") < 10)
    planted = log.select(hit.sum()).item()
    assert planted >= 7
    assert len(last) > 0
    edit(folder, "impressions", lambda log: log.with_columns(clicks_before=pl.col("clicks_before") + step * hit))
    one = finding(folder, "have a history that is not")
    assert one.level == SERIOUS
    assert one.what.startswith(f"{planted} impressions")


def test_a_shifted_click_rate_and_no_cold_items_are_reported(folder):
    test = pl.col("split") == "test"
    edit(
        folder,
        "impressions",
        lambda log: log.with_columns(
            item=pl.when(test).then(pl.col("item").filter(pl.col("split") == "train").first()).otherwise("item"),
            click=pl.when(test & (pl.col("position") > 0)).then(0).otherwise("click").cast(pl.Int8),
        ),
    )
    assert "in test" in finding(folder, "The click rate is").what
    assert "new-item-share" in finding(folder, "never shown in training").do


def test_cold_items_with_a_known_picture_are_reported(folder):
    dataset = open_dataset(folder)
    shows = log_facts(dataset)["shows"]
    cold = shows.filter(pl.col("cold") & (pl.col("impressions") > 0))["item"].to_list()
    warm = shows.filter(~pl.col("cold"))["item"].to_list()
    for item, twin in zip(cold[:3], warm, strict=False):
        shutil.copyfile(folder / dataset.items["image"][twin], folder / dataset.items["image"][item])
    assert finding(folder, "have the picture of one that was").what.startswith(f"3 of the {len(cold)} items")


def test_drawn_unclicked_items_are_reported(folder):
    drawn = {"labels": {"unclicked_drawn": {"each": 4}}}
    write_json(folder / "dataset.json", read_json(folder / "dataset.json") | drawn)
    assert "4" in finding(folder, "unclicked items were drawn").do


def test_times_that_are_no_dates_make_no_days(folder):
    write_json(folder / "dataset.json", read_json(folder / "dataset.json") | {"time_unit": "order"})
    dataset = open_dataset(folder)
    seen = inspect(dataset)
    assert seen.log["days"] == []
    assert "Over time" not in page(dataset, seen)


def test_the_page_needs_nothing_else_and_escapes_what_it_shows(folder):
    edit(folder, "items", lambda items: items.with_columns(title=pl.lit("<script>alert(1)</script>")))
    dataset = open_dataset(folder)
    written = page(dataset, inspect(dataset))
    assert "<script" not in written
    assert "&lt;script&gt;" in written
    assert not re.findall(r"(?:src|href)=[\"'](?!data:|#)", written)
    sources = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', written)
    assert len(sources) >= 24
    for width in ("width=device-width", "prefers-color-scheme: dark"):
        assert width in written
    assert all(f"<h2>{name}</h2>" in written for name in ("Splits", "Over time", "Pictures", "Where it comes from"))


def test_the_summary_holds_the_findings(folder):
    (folder / open_dataset(folder).items["image"][0]).unlink()
    dataset = open_dataset(folder)
    text = io.StringIO()
    seen = inspect(dataset)
    print_summary(seen, Console(file=text, width=200))
    for one in findings(seen):
        assert one.what in text.getvalue()
    assert f"{len(dataset.impressions):,} impressions" in text.getvalue()


def test_an_item_without_a_single_usable_picture_is_borne(folder):
    """All pictures gone: the page is still made."""
    for path in (folder / "images").iterdir():
        path.unlink()
    dataset = open_dataset(folder)
    seen = inspect(dataset)
    assert isinstance(seen, Seen)
    assert "160 missing" in " ".join(one.what for one in findings(seen))
    assert "0 of 160" in page(dataset, seen)


def test_the_command(folder, tmp_path):
    command = [sys.executable, "-m", "data_tools.inspect", "--dataset", str(folder)]
    run = subprocess.run([*command, "--out", str(tmp_path / "page.html")], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "page.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_a_folder_without_a_dataset_is_a_message(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["inspect", "--dataset", str(tmp_path)])
    with pytest.raises(SystemExit) as end:
        run_command(main)
    assert end.value.code == 1 and "has no dataset.json" in capsys.readouterr().err
