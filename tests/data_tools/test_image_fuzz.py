"""A folder of pictures from anywhere: none stops the job, none is lost without a reason, and nothing else is read."""

import io
import os
import struct
import tempfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from prepare_helpers import run, write_log

from data_tools.reading.images import EXTENSIONS, copy_images, read_image

REASONS = {"missing", "outside the folder", "link out of the folder", "unreadable", "too large"}
SIZE = (24, 16)


def _encoded(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _pictures():
    """Usable files of every format and mode, as bytes."""
    noise = np.random.default_rng(0).integers(0, 256, (SIZE[1], SIZE[0], 4), dtype=np.uint8)
    rgba = Image.fromarray(noise)
    rgb = rgba.convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6
    deep = Image.fromarray(noise[..., 0].astype(np.uint16) * 257)
    return [
        *[_encoded(rgb, kind) for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")],
        *[_encoded(rgba.convert(mode), "PNG") for mode in ("1", "L", "LA", "P", "RGBA")],
        *[_encoded(deep, kind) for kind in ("PNG", "TIFF")],
        _encoded(rgb.convert("CMYK"), "JPEG"),
        _encoded(rgb.convert("CMYK"), "TIFF"),
        _encoded(rgb.convert("L"), "JPEG"),
        _encoded(rgb, "JPEG", progressive=True, exif=exif),
        _encoded(rgb, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff"),
        _encoded(rgb, "PNG", exif=exif),
        _encoded(rgb, "GIF", save_all=True, append_images=[rgb.transpose(Image.Transpose.ROTATE_180)]),
    ]


def _bomb(width, height):
    """A PNG of a few bytes that says it is huge."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


GOOD = _pictures()
HTML = b"<!DOCTYPE html><html><body>404 not found</body></html>"
HOPELESS = [b"", bytes(3000), HTML, b"GIF89a", b"%!PS-Adobe-3.0 EPSF-3.0\n", _bomb(9_000, 9_000), _bomb(60_000, 60_000)]


@st.composite
def broken(draw):
    """A picture cut short, with bytes changed, or behind something else: it may or may not be usable still."""
    data = bytearray(draw(st.sampled_from(GOOD)))
    for _ in range(draw(st.integers(0, 6))):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data[: draw(st.integers(1, len(data)))]) + draw(st.sampled_from([b"", HTML, bytes(50)]))


CONTENTS = st.one_of(
    st.sampled_from(GOOD).map(lambda data: ("good", data)),
    st.sampled_from(HOPELESS).map(lambda data: ("hopeless", data)),
    st.one_of(broken(), st.binary(max_size=200)).map(lambda data: ("unsure", data)),
)
LETTERS = st.characters(exclude_characters="/\0", exclude_categories=["Cs"])
NAMES = st.one_of(
    st.sampled_from(
        [
            "a.jpg",
            "b.png",
            "no extension",
            "c.html",
            "-rf",
            "$(x)",
            "x\\y.jpg",
            "new\nline.jpg",
            "é.webp",
            "e\u0301.webp",
        ]
    ),
    st.text(LETTERS, min_size=1, max_size=20),
    st.text(LETTERS, min_size=1, max_size=1).map(lambda letter: letter * (250 // len(letter.encode())) + ".jpg"),
).filter(lambda name: name not in (".", "..") and len(name.encode()) <= 255)
# Names that no file of the folder answers to, and why; {outside} is a usable picture next to the folder.
TRICKS = {
    "../outside.png": "outside the folder",
    "sub/../../outside.png": "outside the folder",
    "{outside}": "outside the folder",
    "/etc/passwd": "outside the folder",
    "a\0b.png": "outside the folder",
    "to-outside.png": "link out of the folder",
    "to-parent/outside.png": "link out of the folder",
    "loop.png": None,
    "dangling.png": None,
    "sub": "missing",
    ".": "missing",
    "gone.jpg": "missing",
    "pipe.jpg": "missing",
    "x" * 300: None,
    "x/" * 3000: None,
}


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(NAMES, CONTENTS, max_size=8), st.lists(st.sampled_from([None, *TRICKS]), max_size=6))
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning", "ignore::UserWarning")
def test_every_name_comes_out_copied_or_with_a_reason(files, tricks):
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "in", Path(folder) / "out"
        (source / "sub").mkdir(parents=True)
        (Path(folder) / "outside.png").write_bytes(GOOD[1])
        (source / "to-outside.png").symlink_to(Path(folder) / "outside.png")
        (source / "to-parent").symlink_to(folder)
        (source / "loop.png").symlink_to("loop.png")
        (source / "dangling.png").symlink_to("nothing")
        os.mkfifo(source / "pipe.jpg")
        given_files = {f"sub/{name}": content for name, content in files.items()}
        for name, (_, data) in given_files.items():
            (source / name).write_bytes(data)
        tricks = [name and name.format(outside=Path(folder) / "outside.png") for name in tricks]
        names = [*given_files, *tricks]
        copied, faults = copy_images(names, source, target)

        assert len(copied) == len(faults) == len(names)
        assert sorted(os.listdir(target)) == sorted(name for name in copied if name)
        for name, file, fault in zip(names, copied, faults, strict=True):
            if name is None:
                assert file is None and fault is None
            elif fault:
                assert file is None and fault in REASONS
            else:
                data = (target / file).read_bytes()
                assert data == given_files[name][1], "what was copied is the file itself"
                with Image.open(io.BytesIO(data)) as image:
                    assert file.endswith(f".{EXTENSIONS[image.format]}")
                assert all(read_image(data, at_least).mode == "RGB" for at_least in (None, 4))
        for (kind, _), fault in zip(given_files.values(), faults, strict=False):
            assert kind == "unsure" or (fault is None) == (kind == "good")
        for name, fault in zip(tricks, faults[len(files) :], strict=True):
            expected = TRICKS.get(name, "outside the folder") if name else None
            assert fault == expected or (name and expected is None and fault in REASONS)


def test_links_inside_the_folder_are_followed(tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "a.png").write_bytes(GOOD[1])
    (tmp_path / "store" / "b.png").symlink_to("a.png")
    (tmp_path / "in").symlink_to("store")
    assert copy_images(["b.png"], tmp_path / "in", tmp_path / "out") == (["0.png"], [None])


def test_the_counts_of_a_dataset_add_up(source):
    random = np.random.default_rng(3)
    contents = [GOOD[0], HTML, b"", GOOD[3][:40], GOOD[-2], _bomb(9_000, 9_000)]
    rows = ["item_id,image"]
    for item in range(120):
        kind = int(random.integers(8))
        if kind < len(contents):
            (source / f"{item}.jpg").write_bytes(contents[kind])
        rows.append(f"i{item},{'' if kind == 6 else '../secret.png' if kind == 7 else f'{item}.jpg'}")
    (source / "items.csv").write_text("\n".join(rows) + "\n")
    write_log(source, [f"u,i{item},{item},1" for item in range(120)])
    dataset = run(source, max_bad_image_share=1.0)
    counts, bad = dataset.info["counts"], dataset.info["bad_images"]
    unnamed = sum(row.endswith(",") for row in rows)
    assert counts["items"] == 120
    assert counts["items_with_image"] + sum(bad.values()) + unnamed == 120
    assert set(bad) == {"unreadable", "too large", "outside the folder"}
    assert counts["items_with_image"] == len(list((dataset.folder / "images").iterdir())) > 20
