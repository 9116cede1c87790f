"""Pictures in a folder, in tars and in a column."""

import io
import tarfile

import polars as pl
import pytest
from PIL import Image
from prepare_helpers import picture, run, stopped

from data_tools.common.cli import UserError


def colour(name):
    file = io.BytesIO()
    Image.new("RGB", (4, 4), name).save(file, "PNG")
    return file.getvalue()


NAMES = {"00": "red", "01": "lime", "02": "blue"}


@pytest.fixture
def three(source):
    (source / "log.csv").write_text("user_id,item_id,timestamp,click\na,00,1,1\na,01,2,0\n")
    for file in source.glob("*.png"):
        file.unlink()
    return source


def colours(dataset):
    paths = dataset.items["image"].to_list()
    return [path and Image.open(dataset.folder / path).getpixel((0, 0)) for path in paths]


RGB = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]


def write_tars(folder):
    folder.mkdir()
    for number, (item, name) in enumerate(NAMES.items()):
        with tarfile.open(folder / f"{number % 2}.tar", "a") as tar:
            for file, data in ((f"./shelf/{item}.png", colour(name)), (f"shelf/{item}.txt", b"a note")):
                member = tarfile.TarInfo(file)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


@pytest.mark.parametrize("names", ["shelf/{}.png", "./shelf/{}.png", None])
@pytest.mark.parametrize("place", ["shards", "shards/*.tar"])
def test_tars(three, names, place):
    write_tars(three / "shards")
    items = pl.DataFrame({"item_id": list(NAMES)})
    if names:
        items = items.with_columns(image=pl.Series([names.format(item) for item in NAMES]))
    items.write_csv(three / "items.csv")
    assert colours(run(three, images=three / place)) == RGB


def test_names_that_no_tar_holds_are_missing(three):
    write_tars(three / "shards")
    (three / "items.csv").write_text("item_id,image\n00,shelf/00.png\n01,../in/shelf/01.png\n02,/shelf/02.png\n")
    found = run(three, images=three / "shards", max_bad_image_share=0.9)
    assert colours(found) == [RGB[0], None, None] and found.info["bad_images"] == {"missing": 2}
    (three / "shards" / "1.tar").write_bytes(b"no tar" * 200)
    with pytest.raises(UserError, match=r"1.tar cannot be read as a tar"):
        run(three, images=three / "shards", out="bad")


@pytest.mark.parametrize("kind", ["bytes", "struct"])
def test_a_column_of_bytes(three, kind):
    data = [colour(name) for name in NAMES.values()] + [None, b"no picture"]
    values = data if kind == "bytes" else [{"bytes": one, "path": "x.png"} for one in data]
    pl.DataFrame({"item_id": [*NAMES, "03", "04"], "image": values}).write_parquet(three / "items.parquet")
    found = run(three, items="items.parquet", images=None, max_bad_image_share=0.5)
    assert colours(found) == [*RGB, None, None] and found.info["bad_images"] == {"unreadable": 1}


def test_pictures_named_by_item_id(three):
    (three / "posters" / "deep").mkdir(parents=True)
    for item, name in NAMES.items():
        (three / "posters" / "deep" / f"{item}.jpeg").write_bytes(colour(name))
    (three / "items.csv").write_text("item_id\n00\n01\n02\n7\n")
    assert colours(run(three, images=three / "posters")) == [*RGB, None]


def test_no_pictures_at_all(three):
    (three / "items.csv").write_text("item_id,price\n00,3\n01,4\n")
    found = run(three, images=None)
    assert found.info["counts"]["items_with_image"] == 0 and found.items["price"].to_list() == [3, 4]
    (three / "items.csv").write_text("item_id,image\n00,00.png\n01,\n")
    (three.parent / "dataset").rename(three / "away")
    assert "--images" in stopped(three, images=None)
    assert "do not exist" in stopped(three, images="nowhere")


def test_item_lists_of_every_form(three):
    (three / "00.png").write_bytes(picture())
    (three / "items.jsonl").write_text('{"item_id": "00", "image": "00.png", "price": 3}\n{"item_id": 1}\n{\n')
    found = run(three, items="items.jsonl", max_bad_share=0.5)
    assert found.items["item_id"].to_list() == ["00", "1"] and found.items["price"].to_list() == [3, None]
    assert found.info["set_aside_items"] == {"not a JSON object": 1}
    aside = pl.read_parquet(found.folder / "set_aside_lines.parquet")
    assert aside["file"].to_list() == [str(three / "items.jsonl")]


def test_whole_paths_into_the_folder_are_paths_in_it(three):
    for item, name in NAMES.items():
        (three / f"{item}.png").write_bytes(colour(name))
    lines = [f"{item},{three / item}.png" for item in NAMES]
    (three / "items.csv").write_text("\n".join(["item_id,image", *lines]) + "\n")
    assert colours(run(three)) == RGB


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("deep\\00.png", "write the paths with / between folders"),
        ("deep/%30%30.png", "write the paths without % escapes"),
        ("deep/00", "leaves out the ending"),
        ("00|01", "'|' looks like several"),
    ],
)
def test_names_of_pictures_that_are_nearly_right_are_explained(three, named, said):
    (three / "deep").mkdir()
    (three / "deep" / "00.png").write_bytes(colour("red"))
    (three / "items.csv").write_text(f"item_id,image\n00,{named}\n01,\n")
    assert said in stopped(three)


def test_an_archive_without_any_of_the_pictures_says_what_it_holds(three):
    with tarfile.open(three / "all.tar", "w") as tar:
        (three / "00.png").write_bytes(colour("red"))
        tar.add(three / "00.png", "some/00.png")
    (three / "items.csv").write_text("item_id,image\n00,00.png\n01,\n")
    assert "such as '00.png'; it holds 'some/00.png'" in stopped(three, images=three / "all.tar")


def test_pictures_in_a_folder_that_is_linked_are_found_by_item_id(three):
    for folder, item in (("in/a", "00"), ("in/.hidden", "01"), ("elsewhere", "02")):
        (three.parent / folder).mkdir()
        (three.parent / folder / f"{item}.png").write_bytes(colour(NAMES[item]))
    (three / "b").symlink_to(".hidden")
    (three / "a" / "circle").symlink_to(three)
    (three / "items.csv").write_text("item_id\n00\n01\n02\n")
    assert colours(run(three)) == [*RGB[:2], None]
    (three / "c").symlink_to("../elsewhere")
    with pytest.raises(UserError, match=r"link out of the folder: 1\s+item '02': c/02.png\s+copy what .*cp -rL"):
        run(three, out="other")


@pytest.mark.parametrize("names", ["shelf/{}.png", None])
@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_links_in_a_tar_are_what_they_lead_to(three, names, mode):
    """A hard link to what was before it, soft ones to what comes after, also one over another; a circle is missing."""
    data = colour("lime")
    with tarfile.open(three / "all.tar", mode) as tar:
        for name, kind, to in (
            ("shelf/00.png", tarfile.SYMTYPE, "./02.png"),
            ("./first", tarfile.REGTYPE, ""),
            ("shelf/01.png", tarfile.LNKTYPE, "./first"),
            ("shelf/02.png", tarfile.SYMTYPE, "../first"),
            ("shelf/03.png", tarfile.SYMTYPE, "03.png"),
            ("shelf/04.png", tarfile.SYMTYPE, "/elsewhere/04.png"),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname, member.size = kind, to, 0 if to else len(data)
            tar.addfile(member, io.BytesIO(data))
    items = pl.DataFrame({"item_id": [f"0{n}" for n in range(5)]})
    if names:
        items = items.with_columns(image=pl.Series(map(names.format, items["item_id"])))
    items.write_csv(three / "items.csv")
    dataset = run(three, images=three / "all.tar", max_bad_image_share=0.5)
    assert colours(dataset) == [RGB[1]] * 3 + [None] * 2
    assert dataset.info["bad_images"] == {"missing": 2}
    with pytest.raises(UserError, match=r"missing: 2\s.*make it with tar -h\)/shelf/03.png"):
        run(three, images=three / "all.tar", out="other")
