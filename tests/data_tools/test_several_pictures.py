"""Item lists that name several pictures of an item, in whatever form: all of them reach the dataset and the shards."""

import json

import polars as pl
import pytest
from PIL import Image
from prepare_helpers import run, stopped

from data_tools.common.cli import UserError
from data_tools.common.files import read_json
from data_tools.sharding.read import open_shards
from data_tools.sharding.write import Settings, write_shards
from data_tools.shards import main

COLOURS = {"03": ["red", "green", "blue"], "07": ["white", "black"]}


@pytest.fixture
def several(source):
    """The source, whose items 03 and 07 have pictures of their own colours, 03-0.png and so on."""
    for item, colours in COLOURS.items():
        for place, colour in enumerate(colours):
            Image.new("RGB", (4, 4), colour).save(source / f"{item}-{place}.png")
    return source


def named(item: str) -> list[str]:
    return [f"{item}-{place}.png" for place in range(len(COLOURS[item]))] if item in COLOURS else [f"{item}.png"]


def items(several):
    return [f"{number:02}" for number in range(20)]


def as_parquet(several):
    ids = items(several)
    pl.DataFrame({"item_id": ids, "image": [named(item) for item in ids]}).write_parquet(several / "list.parquet")
    return "list.parquet"


def as_text(several):
    ids = items(several)
    pl.DataFrame({"item_id": ids, "image": [json.dumps(named(item)) for item in ids]}).write_csv(several / "list.csv")
    return "list.csv"


def as_json_lines(several):
    lines = [json.dumps({"item_id": item, "image": named(item)}) for item in items(several)]
    (several / "list.jsonl").write_text("\n".join(lines))
    return "list.jsonl"


def as_rows(several):
    rows = [{"item_id": item, "image": name, "title": f"t{item}"} for item in items(several) for name in named(item)]
    # Rows of one item need not stand together.
    pl.DataFrame([*rows[::2], *rows[1::2]]).write_csv(several / "rows.csv")
    return "rows.csv"


@pytest.mark.parametrize("form", [as_parquet, as_text, as_json_lines, as_rows])
def test_all_pictures_of_an_item_are_kept(several, form):
    dataset = run(several, items=form(several))
    assert len(dataset.items) == 20 and not dataset.info["set_aside_items"]
    assert dataset.info["counts"]["pictures"] == 23 and dataset.info["counts"]["items_with_image"] == 20
    for row in dataset.items.iter_rows(named=True):
        wanted = sorted((several / name).read_bytes() for name in named(row["item_id"]))
        assert sorted((dataset.folder / path).read_bytes() for path in row["images"]) == wanted
        assert row["image"] == row["images"][0]
        if form is not as_rows:  # whose rows this test has put in another order
            assert (dataset.folder / row["image"]).read_bytes() == (several / named(row["item_id"])[0]).read_bytes()
    assert len(list((dataset.folder / "images").iterdir())) == 23


def test_rows_that_differ_in_more_than_the_picture_are_set_aside(several):
    (several / "rows.csv").write_text(
        "item_id,image,price\n"
        + "".join(f"{item},{item}.png,1\n" for item in items(several))
        + "03,03-1.png,1\n03,03-2.png,2\n07,07.png,1\n08,,1\n"
    )
    dataset = run(several, items="rows.csv", max_bad_share=0.2)
    assert dataset.info["set_aside_items"] == {"item_id repeated": 1}
    assert "2 rows of the item list repeat an item and add nothing to it" in dataset.info["understood"][0]
    assert [len(images) for images in dataset.items["images"]] == [2 if row == 3 else 1 for row in range(20)]


def test_the_first_usable_picture_represents_the_item(several):
    (several / "03-0.png").write_bytes(b"broken")
    (several / "07-1.png").unlink()
    dataset = run(several, items=as_parquet(several), max_bad_image_share=0.2)
    rows = {row["item_id"]: row for row in dataset.items.to_dicts()}
    assert [len(rows[item]["images"]) for item in ("03", "07")] == [2, 1]
    assert (dataset.folder / rows["03"]["image"]).read_bytes() == (several / "03-1.png").read_bytes()
    assert dataset.info["bad_images"] == {"unreadable": 1, "missing": 1}


def test_one_picture_an_item_stays_as_it_was(source):
    dataset = run(source)
    assert "images" not in dataset.items.columns and "pictures" not in dataset.info["counts"]


def test_pictures_that_are_no_paths_are_refused(several):
    ids = items(several)
    pl.DataFrame({"item_id": ids, "image": [[1, 2]] * 20}).write_parquet(several / "bad.parquet")
    assert "image is List(Int64); must be a path, or a list of paths, for each item" in stopped(
        several, items="bad.parquet"
    )


def shards(dataset, **options):
    out = dataset.folder.parent / f"shards-{len(options)}"
    write_shards(Settings(dataset=str(dataset.folder), out=str(out), **options))
    return open_shards(out)


def test_shards_hold_every_picture_with_its_item(several):
    dataset = run(several, items=as_rows(several))
    opened = shards(dataset, items_per_shard=4)
    pictures = opened.pictures("items")
    records = [one for group in range(len(opened.listed("items"))) for one in opened.records("items", group)]
    assert [one["item"] for one in records] == list(range(20)) and {"of"}.isdisjoint(records[0])
    for record in records:
        images = dataset.items["images"][record["item"]]
        assert record["item_id"] == dataset.items["item_id"][record["item"]]
        numbers = pictures.of_item(record["item"])
        assert [pictures[number] for number in numbers] == [(dataset.folder / path).read_bytes() for path in images]
    assert opened.index["format_version"] == 4
    assert sum(shard["items"] for shard in opened.index["items"]) == 23


def test_streaming_shards_hold_the_first_and_say_so(several, capsys, monkeypatch):
    dataset = run(several, items=as_rows(several))
    out = dataset.folder.parent / "streaming"
    monkeypatch.setattr(
        "sys.argv", ["shards", "--dataset", str(dataset.folder), "--out", str(out), "--layout", "streaming"]
    )
    main()
    assert "left out: 3 further pictures" in capsys.readouterr().out
    assert read_json(out / "index.json")["left_out_pictures"] == 3
    assert open_shards(out).pictures("items").of_item(3) == [3]


def test_appending_several_pictures_is_refused(several):
    dataset = run(several, items=as_rows(several))
    out = dataset.folder.parent / "shards"
    write_shards(Settings(dataset=str(dataset.folder), out=str(out)))
    other = run(several, items=as_parquet(several), out="later")
    with pytest.raises(UserError, match="have several pictures, which cannot be appended: write new"):
        write_shards(Settings(dataset=str(other.folder), out=str(out), append=True))
