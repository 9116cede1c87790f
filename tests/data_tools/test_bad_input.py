"""Rows, items, pictures and settings that prepare cannot use: set aside, counted, or stopped at."""

import polars as pl
import pytest
from prepare_helpers import picture, run, stopped, write_log

from data_tools.common.cli import UserError

BAD_ROWS = {
    "user_id missing": [",00,5,1", "  ,00,5,1"],
    "item_id missing": ['a,"",5,1'],
    "timestamp missing": ["a,00,,1"],
    "timestamp unreadable": ["a,00,yesterday,1", "a,00,nan,1", "a,00,inf,0", "a,00,99999999999999999999,0"],
    "click not 0 or 1": ["a,00,5,2", "a,00,5,maybe", "a,00,5,0.5", "a,00,5,-1"],
    "click missing": ["a,00,5,", 'a,00,5,""'],
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


def test_repeated_items_and_bad_images(source):
    (source / "html.jpg").write_bytes(b"<html>not found</html>")
    (source / "cut.png").write_bytes(picture()[:-30])
    (source / "photo.png").write_bytes(picture("JPEG"))
    names = ["photo.png", "html.jpg", "cut.png", "gone.png", "../in/00.png", ""]
    lines = [f"{n},{name},{9 - n},{n * 10}" for n, name in enumerate(names)]
    lines += ["0,00.png,1,3", ",00.png,1,3"]
    (source / "items.csv").write_text("\n".join(["item_id,image,item,first_seen", *lines]))
    write_log(source, ["a,0,5,1", "a,1,6,1"])
    dataset = run(source, max_bad_share=0.3, max_bad_image_share=0.7)
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
        ({"columns": "usr=user_id"}, ["unknown name 'usr'", "nearest is 'user_id'", "comes first: user_id=usr?"]),
        ({"columns": "user_id=User, ID"}, ["'ID' is not of the form", """put quotes round it: '"user_id=User, ID"'"""]),
        ({"columns": "user_id"}, ["name=column"]),
        ({"columns": "click=click,click=user_id"}, ["given twice"]),
        ({"item_columns": "image=imag"}, ["items.csv has no column 'imag'", "nearest is 'image'"]),
        ({"log": "none.csv"}, ["none.csv does not exist"]),
        ({"log": "00.png"}, ["00.png is a picture"]),
        ({"log": "notes.doc"}, ["ends neither in .csv"]),
        ({"log": "fake.parquet"}, ["fake.parquet cannot be read"]),
        ({"items": "fake.parquet"}, ["fake.parquet cannot be read"]),
        ({"log": "ragged.csv"}, ["1 of 2 rows of", "wrong number of fields: 1"]),
        ({"log": "empty.csv"}, ["empty.csv is empty"]),
        ({"items": "list.parquet"}, ["category is List(String)"]),
        ({"memory": "1 shoe"}, ["cannot start with memory '1 shoe'"]),
        ({"log": "latin.csv"}, ["1 of 1 rows of", "not UTF-8: 1"]),
        ({"log": "float.parquet"}, ["store ids as text or as integers"]),
        ({"log": "items.csv"}, ["no column 'user_id'", "user_id=COLUMN"]),
        ({"valid_from": 0.9, "test_from": 0.8}, ["valid_from is 0.9; must be < test_from"]),
    ],
)
def test_mistakes_are_told_with_what_to_do(source, settings, words):
    (source / "fake.parquet").write_text("no parquet")
    (source / "empty.csv").touch()
    (source / "notes.doc").write_text("a note")
    write_log(source, ["a,00,5,1", "a,00,6"], name="ragged.csv")
    pl.DataFrame({"item_id": ["00"], "image": [None], "category": [["a"]]}).write_parquet(source / "list.parquet")
    (source / "latin.csv").write_bytes("user_id,item_id,timestamp,click\nJosé,00,5,1\n".encode("latin-1"))
    log = {"user_id": [1.5, None], "item_id": ["00", "00"], "timestamp": [1, 2], "click": [0, 1]}
    pl.DataFrame(log).write_parquet(source / "float.parquet")
    message = stopped(source, **settings)
    for word in words:
        assert word in message


def test_an_existing_folder_is_left_alone(source):
    run(source)
    with pytest.raises(UserError, match="exists already"):
        run(source)
