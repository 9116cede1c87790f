"""Pictures and places as people have them: other formats, addresses, ids that are paths, homes, files in the way."""

import base64
import gzip
import io
import os
import struct
import subprocess
import zipfile
import zlib
from dataclasses import dataclass, field

import polars as pl
import pytest
from PIL import Image, features
from prepare_helpers import picture, run, stopped

from data_tools.common.cli import parse_settings
from data_tools.common.errors import UserError
from data_tools.common.files import whole_folder, work_folder
from data_tools.prepare import Settings as Prepare


def encoded(kind, mode="RGB"):
    file = io.BytesIO()
    Image.new(mode, (64, 64), "red" if mode == "RGB" else 7).save(file, kind)
    return file.getvalue()


def listed(source, names):
    frame = pl.read_csv(source / "items.csv", infer_schema=False)
    frame.with_columns(image=pl.Series(names)).write_csv(source / "items.csv")


NO_PICTURES = {
    "photo.heic": (b"\0\0\0\x18ftypheic" + bytes(200), "is HEIC; save it as JPEG or PNG"),
    "photo.jp2": (encoded("JPEG2000"), "is JPEG 2000; save it as JPEG or PNG"),
    "photo.svg": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "is SVG; save it"),
    "photo.xml": (b'<?xml version="1.0"?><svg/>', "is XML, perhaps SVG"),
    "photo.pdf": (b"%PDF-1.4\n", "is a PDF"),
    "photo.ico": (encoded("ICO"), "is an icon (ICO)"),
    "login.jpg": (b"\n<!DOCTYPE html><html>", "is a web page; download it again"),
    "pointer.jpg": (b"version https://git-lfs.github.com/spec/v1\n", "is a pointer of git-LFS; fetch it: git lfs pull"),
    "packed.jpg": (gzip.compress(picture()), "is compressed by gzip; decompress it"),
    "empty.jpg": (b"", "is empty"),
    "zeros.jpg": (bytes(300), "begins with zero bytes"),
    "cut.png": (encoded("PNG")[:-60], "is cut short or damaged"),
    "photo.jxl": (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(200), "is JPEG XL; save it as JPEG or PNG"),
    "clip.mp4": (b"\0\0\0\x20ftypisom" + bytes(200), "is a video; save a frame of it"),
    "photo.ppm": (encoded("PPM"), "is a portable pixmap; save it"),
    "denied.jpg": (b'{"error": "AccessDenied"}', "is JSON, perhaps what a server says of an error; fetch it again"),
    "raw.dng": (b"II*\0\x08\0\0\0" + bytes(200), "cannot be read: cannot identify image file"),
    "float.tif": (encoded("TIFF", "F"), "cannot be read: pixels of 32 bits, whose range is not known"),
    "whole.tif": (encoded("TIFF", "I"), "cannot be read: pixels of 32 bits"),
}


@pytest.mark.parametrize("name", NO_PICTURES)
def test_what_is_no_picture_is_named(source, name):
    data, said = NO_PICTURES[name]
    (source / name).write_bytes(data)
    listed(source, [name] * 20)
    assert f"{name} {said}" in stopped(source)


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")
def test_avif_is_read(source):
    for item in range(20):
        (source / f"{item:02}.avif").write_bytes(encoded("AVIF"))
    listed(source, [f"{item:02}.avif" for item in range(20)])
    dataset = run(source)
    assert dataset.items["image"].str.ends_with(".avif").all() and dataset.info["counts"]["items_with_image"] == 20


def test_an_address_of_a_file_is_its_path(source):
    listed(source, [f"file://{source}/{item:02}.png" for item in range(20)])
    assert run(source).info["counts"]["items_with_image"] == 20
    outside = source.parent / "outside.png"
    outside.write_bytes(picture())
    listed(source, [f"file://{outside}"] * 20)
    with pytest.raises(UserError, match="outside the folder"):
        run(source, out="other")


@pytest.mark.parametrize("before", ["", "data:image/png;base64,"])
def test_pictures_written_as_text_are_explained(source, before):
    listed(source, [before + base64.b64encode(encoded("PNG")).decode()] * 20)
    assert "is a picture in base64, no file name; decode each into a file" in stopped(source)


def test_a_picture_too_large_is_left_out_and_said(source):
    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")
    (source / "00.png").write_bytes(b"\x89PNG\r\n\x1a\n" + data)
    dataset = run(source)
    assert dataset.info["counts"]["items_with_image"] == 19 and dataset.info["counts"]["items"] == 20


def test_ids_that_are_paths_find_their_pictures(source):
    (source / "shoes").mkdir()
    for item in range(20):
        (source / f"{item:02}.png").rename(source / "shoes" / f"{item:02}.png")
    for name in ("items.csv", "log.csv"):
        frame = pl.read_csv(source / name, infer_schema=False).with_columns(item_id="shoes/" + pl.col("item_id"))
        frame.drop("image", strict=False).write_csv(source / name)
    assert run(source).info["counts"]["items_with_image"] == 20


def test_no_picture_by_any_id_is_an_error(source):
    for item in range(20):
        (source / f"{item:02}.png").rename(source / f"product-{item:02}.png")
    pl.read_csv(source / "items.csv", infer_schema=False).drop("image").write_csv(source / "items.csv")
    said = stopped(source)
    assert "no picture is named by the id of an item" in said and "'00'" in said and "product-" in said


def test_what_stands_in_the_way_is_named(source, tmp_path):
    assert "log.csv is not a folder; choose another place" in stopped(source, out="in/log.csv/deeper")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for making in (whole_folder, work_folder):
        with pytest.raises(UserError, match="link exists already"), making(tmp_path / "link"):
            pass


def test_a_pipe_is_no_file(source):
    os.mkfifo(source / "pipe")
    assert "is a pipe or a device" in stopped(source, log="pipe")


def test_too_little_memory_names_the_setting(source):
    assert "More than --memory 1KB is needed: raise it" in stopped(source, memory="1KB")


@dataclass(frozen=True)
class Inner:
    """A section.

    Attributes
    ----------
    place : str
        A place.
    """

    place: str = ""


@dataclass(frozen=True)
class Places:
    """Places.

    Attributes
    ----------
    one : str
        A place.
    many : list of str
        Places.
    named : dict of str to str
        Places by name.
    inner : Inner
        A section.
    """

    one: str = ""
    many: list[str] = field(default_factory=list)
    named: dict[str, str] = field(default_factory=dict)
    inner: Inner = field(default_factory=Inner)


@pytest.mark.parametrize("start", ["~", "$SHOP", "${SHOP}"])
def test_homes_and_variables_at_the_start_of_a_path(start, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("SHOP", "/home/me")
    (tmp_path / "c.yaml").write_text(
        f"one: '{start}'\nmany: ['{start}/a', 'b']\nnamed: {{x: '{start}/c'}}\ninner: {{place: '{start}/d'}}\n"
    )
    found = parse_settings(Places, "", ["--config", str(tmp_path / "c.yaml")])
    assert found == Places("/home/me", ["/home/me/a", "b"], {"x": "/home/me/c"}, Inner("/home/me/d"))
    given = ["--impressions", f"{start}/log.csv", "--items", "items~", "--out", f"{start}/dataset"]
    settings = parse_settings(Prepare, "", given)
    assert settings.impressions == "/home/me/log.csv" and str(settings.out) == "/home/me/dataset"
    assert settings.items == "items~"


def test_other_texts_stay_as_they_are(monkeypatch):
    monkeypatch.delenv("NOBODY", raising=False)
    for text in ("$NOBODY/a", "a~b", "./~", "~5 %", "a$SHOP", "$5"):
        assert parse_settings(Places, "", ["--one", text]).one == text


def pictured(source, images):
    """The item list with another column of images, in Parquet."""
    frame = pl.read_csv(source / "items.csv", infer_schema=False).with_columns(image=images)
    frame.write_parquet(source / "items.parquet")
    return "items.parquet"


def test_an_empty_list_of_pictures_is_an_item_without_one(source):
    own = pl.concat_list(pl.format("{}.png", "item_id"), pl.lit(None, dtype=pl.String))
    empty = pl.lit([], dtype=pl.List(pl.String))
    items = pictured(source, pl.when(pl.int_range(pl.len()) == 3).then(empty).otherwise(own))
    dataset = run(source, items=items)
    counts = dataset.info["counts"]
    assert (counts["items"], counts["items_with_image"], counts["impressions"]) == (20, 19, 400)
    assert dataset.items.filter(pl.col("image").is_null())["item_id"].to_list() == ["03"]


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        (" {}.png ", "write the paths without blanks round them"),
        ("{}.png?v=2", "write the paths without what follows the question mark"),
        ("/{}.png", "a / in front makes a path start at the root of the machine"),
        ('{{"large": "{}.png", "thumb": "x"}}', "an object, no name of a file: keep one of its values"),
        ("N/A", "leave it empty where an item has no picture"),
        ("{}.jpeg", "00.png exists: the ending is another"),
        (r"C:\shop\pictures\{}.png", "00.png exists: the item list has folders before the name"),
        ("/mnt/shop/pictures/{}.png", "00.png exists: the item list has folders before the name"),
        ("//cdn.example/{}.png", "00.png exists: write the names without their addresses: sed"),
        ("s3://shop/pictures/{}.png", "00.png exists: write the names without their addresses: sed"),
        ("s3://shop/pictures/other{}.png", "say where they are, as in --images s3://shop/pictures, and leave that out"),
    ],
)
def test_names_of_pictures_that_need_a_change_say_which(source, pattern, said):
    listed(source, [pattern.replace("{}", f"{item:02}").replace("{{", "{").replace("}}", "}") for item in range(20)])
    assert said in stopped(source)


LINKS = {
    "dangling.png": ("nowhere.png", "is a link to nowhere.png, which does not exist"),
    "loop.png": ("loop.png", "cannot be opened"),
}


@pytest.mark.parametrize("name", LINKS)
def test_links_that_lead_nowhere_are_named(source, name):
    os.symlink(LINKS[name][0], source / name)
    listed(source, [name] * 20)
    assert f"{name} {LINKS[name][1]}" in stopped(source)


@pytest.mark.parametrize(("there", "named", "said"), [("e\u0301", "\xe9", "NFD"), ("\xe9", "e\u0301", "NFC")])
def test_names_in_another_unicode_form_say_which(source, there, named, said):
    """As macOS writes them."""
    (source / f"{there}.png").write_bytes(picture())
    listed(source, [f"{named}.png"] * 20)
    assert f"exists: write the paths in the Unicode form {said}" in stopped(source)


def test_a_name_too_long_for_a_file_is_said_to_be(source):
    listed(source, ["x" * 300 + ".png"] * 20)
    assert "cannot be opened: File name too long" in stopped(source)


NEARLY = {
    "the folder of a picture": "{}/main.png",
    "a name without the number behind it": "{}_1.png",
    "a name without zeros in front": "000{}.png",
    "a name in another Unicode form": "e\u0301{}.png",
    "a name without % escapes": "%3{}.png",
}


@pytest.mark.parametrize("way", NEARLY)
def test_pictures_that_are_nearly_named_by_an_id_say_how(source, way):
    for item in range(20):
        there = source / NEARLY[way].format(f"{item:02}" if "%" not in way else f"1x{item:02}")
        there.parent.mkdir(exist_ok=True)
        (source / f"{item:02}.png").rename(there)
    ids = pl.format("1{}", pl.format("x{}", "item_id")) if "%" in way else pl.col("item_id")
    ids = pl.format("\xe9{}", "item_id") if "Unicode" in way else ids
    frame = pl.read_csv(source / "items.csv", infer_schema=False)
    frame.select(item_id=ids).write_csv(source / "items.csv")
    log = pl.read_csv(source / "log.csv", infer_schema=False)
    log.with_columns(item_id=ids).write_csv(source / "log.csv")
    said = stopped(source)
    assert f"{way[0].upper()}{way[1:]} would match, as of " in said and said.endswith("list them in a column image")


def test_items_without_a_picture_by_their_id_are_counted(source):
    for item in range(10):
        (source / f"{item:02}.png").unlink()
    pl.read_csv(source / "items.csv", infer_schema=False).select("item_id").write_csv(source / "items.csv")
    assert "10 items have no picture that is named by their id" in run(source).info["understood"]


def test_pictures_that_a_hub_refers_to_are_those_of_the_folder(source):
    """{bytes, path} without bytes, as datasets of Hugging Face are before they are embedded."""
    frame = pl.read_csv(source / "items.csv", infer_schema=False)
    kind = pl.Struct({"bytes": pl.Binary, "path": pl.String})
    referred = pl.Series("image", [{"bytes": None, "path": name} for name in frame["image"]], kind)
    frame.with_columns(referred).write_parquet(source / "items.parquet")
    assert run(source, items="items.parquet").info["counts"]["items_with_image"] == 20
    lists = pl.Series("image", [[picture()]] * 20, pl.List(pl.Binary))
    frame.with_columns(lists).write_parquet(source / "lists.parquet")
    with pytest.raises(UserError, match="image holds lists of pictures; write a row for each"):
        run(source, items="lists.parquet", out="other", images=None)


def test_an_item_list_without_rows_is_said_to_be_empty(source):
    (source / "items.csv").write_text("item_id,image\n")
    assert "items.csv lists no items: it has no rows" in stopped(source)


def test_a_nested_item_list_names_the_command_that_spreads_it(source):
    frame = pl.read_csv(source / "items.csv", infer_schema=False)
    frame.select(product=pl.struct(pl.all())).write_parquet(source / "items.parquet")
    assert '.unnest("product").write_parquet(' in stopped(source, items="items.parquet")


def test_a_picture_in_place_of_its_folder_is_explained(source):
    assert f"name the folder that it is in: {source}" in stopped(source, images=str(source / "00.png"))


@pytest.mark.parametrize("pattern", ["s3://shop/{}.png", "//cdn.example/a/{}.png?v=2", "HTTPS://cdn.example/{}.png"])
def test_addresses_are_left_out_by_the_command_that_is_named(source, pattern):
    listed(source, [pattern.replace("{}", f"{item:02}").lower() for item in range(20)])
    (source / "items.csv").rename(source / "OLD.csv")
    command = stopped(source, items="OLD.csv").partition("without their addresses: ")[2].splitlines()[0]
    subprocess.run(command, shell=True, check=True, cwd=source)
    assert run(source, items="NEW.csv").info["counts"]["items_with_image"] == 20


def test_a_zip_with_a_password_is_to_be_unpacked(source):
    with zipfile.ZipFile(source / "pictures.zip", "w") as archive:
        archive.write(source / "00.png", "00.png")
    data = bytearray((source / "pictures.zip").read_bytes())
    for mark, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(mark) + at] |= 1  # says that it is encrypted
    (source / "pictures.zip").write_bytes(data)
    assert "password required for extraction; unpack it first" in stopped(source, images=str(source / "pictures.zip"))
