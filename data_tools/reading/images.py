"""Item images of any origin, read as plain RGB, and checked on their way into a dataset."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, TypeVar
from urllib.parse import unquote

import numpy as np
from PIL import Image, ImageOps, features
from rich.progress import track

from data_tools.common.hints import hint
from data_tools.common.storage import AT_ONCE, Missing, is_url, read, url_of

T = TypeVar("T")

# Only these decoders ever see a file: Pillow's others (EPS starts a program) are no place for pictures from outside.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", *(["AVIF"] if features.check("avif") else []))
EXTENSIONS = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif", "BMP": "bmp", "TIFF": "tif"}
EXTENSIONS |= {"AVIF": "avif"}
PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif")  # endings that people use
MAX_PIXELS = 64_000_000
ADDRESS = r"([a-z][a-z0-9+.-]*:)?//"
SHOWN = 3  # of each fault, in a message
WIDTH = 120  # characters of a name
NOTHING = ("nan", "null", "none", "n/a", "na", "-", "no image")
CONVERT = "save it as JPEG or PNG"
# What is taken for a picture that can be read: place of its first bytes, these, what it is, and what to do.
FOREIGN = (
    (4, b"ftyphe", "HEIC", CONVERT),
    (4, b"ftypmp4", "a video", "save a frame of it as JPEG"),
    (4, b"ftypiso", "a video", "save a frame of it as JPEG"),
    (4, b"ftypqt", "a video", "save a frame of it as JPEG"),
    (4, b"JXL ", "JPEG XL", CONVERT),
    (4, b"ftypmif1", "HEIC", CONVERT),
    (4, b"ftypavif", "AVIF", CONVERT),
    (4, b"jP  ", "JPEG 2000", CONVERT),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000", CONVERT),
    (0, b"\xff\x0a", "JPEG XL", CONVERT),
    (0, b"8BPS", "a Photoshop file", CONVERT),
    (0, b"%PDF", "a PDF", CONVERT),
    (0, b"%!PS", "PostScript", CONVERT),
    (0, b"\x00\x00\x01\x00", "an icon (ICO)", CONVERT),
    (0, b"<svg", "SVG", CONVERT),
    (0, b"<?xml", "XML, perhaps SVG or what a store of files says of an error", f"{CONVERT}, or fetch it again"),
    (0, b"{", "JSON, perhaps what a server says of an error", "fetch it again"),
    (0, b"P5", "a portable graymap", CONVERT),
    (0, b"P6", "a portable pixmap", CONVERT),
    (0, b"7z\xbc\xaf", "a 7z archive", "unpack it"),
    (0, b"Rar!", "a RAR archive", "unpack it"),
    (0, b"<!doctype html", "a web page", "download it again"),
    (0, b"<html", "a web page", "download it again"),
    (0, b"version https://git-lfs", "a pointer of git-LFS", "fetch it: git lfs pull"),
    (0, b"\x1f\x8b", "compressed by gzip", "decompress it"),
    (0, b"PK\x03\x04", "a zip", "unpack it"),
)


class BadImage(Exception):
    """A picture that cannot be used.

    ``reason`` is "missing", "an address, no file", "outside the folder", "link out of the folder" (copy the files
    there), "unreadable" or "too large".
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason, self.detail = reason, detail


@contextlib.contextmanager
def _faults_as_bad_image() -> Iterator[None]:
    try:
        yield
    except BadImage:
        raise
    except Image.DecompressionBombError as error:
        raise BadImage("too large", str(error)) from error
    except Exception as error:  # broken files make the decoders raise nearly anything
        raise BadImage("unreadable", str(error)) from error


def _rgb(image: Image.Image) -> Image.Image:
    with contextlib.suppress(Exception):  # broken EXIF says nothing against the pixels
        ImageOps.exif_transpose(image, in_place=True)
    if image.mode in ("F", "I"):  # where white lies in 32 bits, nothing tells
        raise BadImage("unreadable", "pixels of 32 bits, whose range is not known; save it with 8 or 16 bits")
    if image.mode.startswith("I"):  # 16 bits; Pillow's own conversion would cut everything above 255 to white
        return Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.new("RGBA", layer.size, "white")
        image.alpha_composite(layer)
    return image if image.mode == "RGB" else image.convert("RGB")


def _decode(file: BinaryIO, at_least: int | None = None) -> tuple[Image.Image, str]:
    with Image.open(file, formats=FORMATS) as image:
        if image.width * image.height > MAX_PIXELS:
            raise BadImage("too large", f"{image.width} x {image.height} pixels, at most {MAX_PIXELS} are read")
        extension = EXTENSIONS[image.format]
        if at_least:
            image.draft(None, (at_least, at_least))
        image.load()
        return _rgb(image), extension


def read_image(data: bytes, at_least: int | None = None) -> Image.Image:
    """Decode an encoded picture to RGB, 8 bits a channel.

    Grey, palette, CMYK and 16-bit pictures are converted, transparent ones laid on white, and an EXIF orientation is
    carried out; of an animation the first frame is taken.

    Parameters
    ----------
    data : bytes
        The file's bytes.
    at_least : pixels that are needed of each side; a JPEG is decoded at the smallest of its scales (1, 1/2, 1/4, 1/8)
        that has them, which is several times faster for large ones. None decodes it whole

    Raises
    ------
    BadImage
        If the bytes are no JPEG, PNG, WebP, GIF, BMP, TIFF or (where Pillow has it) AVIF, are cut short, or hold more
        than ``MAX_PIXELS`` pixels.
    """
    with _faults_as_bad_image():
        return _decode(io.BytesIO(data), at_least)[0]


def check_image(path: str | Path) -> str:
    """Decode a file wholly and return the extension of its real format, such as "jpg", whatever the file is called.

    Raises
    ------
    BadImage
        If it is missing, no regular file, or cannot be read by :func:`read_image`.
    """
    with _faults_as_bad_image():
        if not Path(path).is_file():
            raise BadImage("missing", str(path))
        with open(path, "rb") as file:
            return _decode(file)[1]


def _inside(folder: Path, name: str) -> Path:
    """The path of ``name`` in ``folder``, which neither the name nor a link may leave."""
    name = unquote(name.removeprefix("file://")) if name.startswith("file:///") else name
    relative = os.path.normpath(name)
    if os.path.isabs(relative):
        relative = os.path.relpath(relative, folder.absolute())
    if re.match(ADDRESS, name):
        raise BadImage("an address, no file", name)
    if "\0" in name or os.path.isabs(relative) or relative.split(os.sep)[0] == os.pardir:
        raise BadImage("outside the folder", name)
    if is_url(folder):
        return folder / relative
    if not (path := folder / relative).resolve().is_relative_to(folder.resolve()):
        raise BadImage("link out of the folder", name)
    return path


def _map_in_blocks(
    function: Callable[[int], T], rows: Sequence[int], threads: int | None, block: int = 4096
) -> Iterator[T]:
    # In blocks, because map() queues all of its tasks at once: of a large catalogue, gigabytes of them.
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(rows), block):
            yield from pool.map(function, rows[start : start + block])


def copy_images(
    names: Sequence[str | None], source: Path, target: Path, stems: Sequence[str] | None = None
) -> tuple[list[str | None], list[str | None]]:
    """Copy every usable picture to ``target/<stem>.<extension of its real format>``, showing progress.

    Parameters
    ----------
    names : sequence of str or None
        Paths relative to ``source``, None where an item has no picture.
    source : Path
        A folder, or its URL.
    stems : sequence of str or None
        Names of the copies; their rows by default.

    Returns
    -------
    copied : file names in ``target``, None where there is no usable picture
    faults : why a named picture was not copied, None where it was or where none was named
    """
    target.mkdir()

    def copy(row: int) -> tuple[str | None, str | None]:
        try:
            with _faults_as_bad_image():
                path = _inside(source, names[row])
            if is_url(source):
                return _fetched(path, target, row if stems is None else stems[row]), None
            copied = f"{row if stems is None else stems[row]}.{check_image(path)}"
        except BadImage as bad:
            return None, bad.reason
        shutil.copyfile(path, target / copied)
        return copied, None

    named = [row for row, name in enumerate(names) if name is not None]
    checked = track(
        _map_in_blocks(copy, named, AT_ONCE if is_url(source) else None),
        description="checking images",
        total=len(named),
    )
    copied, faults = [None] * len(names), [None] * len(names)
    for row, (name, fault) in zip(named, checked, strict=True):
        copied[row], faults[row] = name, fault
    return copied, faults


def _fetched(path: Path, target: Path, stem: int | str) -> str:
    """Fetch a picture from a URL, check it and write it; its file name in ``target``."""
    try:
        data = read(path)
    except Missing:
        raise BadImage("missing", url_of(path)) from None
    with _faults_as_bad_image():
        copied = f"{stem}.{_decode(io.BytesIO(data))[1]}"
    (target / copied).write_bytes(data)
    return copied


def fault_examples(
    ids: Sequence[Any], names: Sequence[str | None], faults: Sequence[str | None], source: Path
) -> dict[str, list[str]]:
    """Reason -> the first items whose picture cannot be used for it, and what would fix it."""
    shown: dict[str, list[str]] = {}
    for item, name, fault in zip(ids, names, faults, strict=True):
        if fault and len(own := shown.setdefault(fault, [])) < SHOWN:
            near = _nearby(source, name) if fault in ("missing", "outside the folder") else None
            near = _seen(source / name) if fault == "unreadable" and not is_url(source) else near
            own.append(f"item {item!r}: {name[:WIDTH]}{near or ''}")
    if (fault := "outside the folder") in shown and any((source / str(name).lstrip("/")).is_file() for name in names):
        shown[fault].append("a / in front makes a path start at the root of the machine: write the paths without it")
    if (fault := "link out of the folder") in shown:
        shown[fault].append(f"copy what the links name: cp -rL {source} COPY" + hint(", and say --images COPY"))
    if (fault := "too large") in shown:
        shown[fault].append(f"a picture may have {MAX_PIXELS:,} pixels: save these smaller")
    if (fault := "an address, no file") in shown:
        shown[fault].append(_without_addresses(source, [name for name in names if name]))
    return shown


def _without_addresses(source: Path, names: Sequence[str]) -> str:
    """What to do where the item list has addresses of pictures, on the web or in a bucket."""
    last = [name.partition("?")[0].rpartition("/")[2] for name in names]
    strip = (
        r"""sed -E 's#([a-z][a-z0-9+.-]*:)?//[^[:space:],|"]*/([^/?[:space:],|"]+)([?][^[:space:],|"]*)?#\2#g' """
        "OLD.csv > NEW.csv"
    )
    if not is_url(source) and (found := next((one for one in last if one and (source / one).is_file()), None)):
        return f"{source / found} exists: write the names without their addresses: {strip}"
    if not re.match("(https?:)?//", names[0]):
        where = hint(f", as in --images {names[0].rpartition('/')[0]},")
        return f"say where they are{where} and leave that out: {strip}"
    alike = "" if len(set(last)) == len(set(names)) else "; several end in the same name, so name the files yourself"
    return (
        "download the pictures into a folder and leave out the addresses: mkdir -p pictures; grep -ohE "
        f"""'https?://[^[:space:],|"?]+' OLD.csv | sort -u | (cd pictures && xargs -n 1 curl -sSfLO); {strip}{alike}"""
    )


def _seen(path: Path) -> str | None:
    """What a file is that no decoder reads, and what to do."""
    try:
        with open(path, "rb") as file:
            start = file.read(64)
    except OSError as error:
        return f" cannot be opened: {error.strerror}"
    with contextlib.suppress(OSError):
        if not start.strip(b"\0"):
            return " is empty" if not start else " begins with zero bytes"
        for at, magic, what, advice in FOREIGN:
            if start.lstrip()[at:].lower().startswith(magic.lower()) or start[at:].startswith(magic):
                return f" is {what}; {advice}"
        try:
            check_image(path)
        except BadImage as bad:
            cut = isinstance(bad.__cause__, OSError | SyntaxError) and _opens(path)
            return " is cut short or damaged" if cut else f" cannot be read: {bad.detail[:WIDTH]}"
    return None


def _opens(path: Path) -> bool:
    """Whether a decoder knows what a file is."""
    with contextlib.suppress(Exception), Image.open(path, formats=FORMATS):
        return True
    return False


def _nearby(source: Path, name: str) -> str | None:
    """Where a missing picture may be: in the folder above, without its folders, or spelt in another case."""
    if name.startswith("data:") or re.fullmatch(r"[A-Za-z0-9+/\s]{100,}={0,2}", name):
        return "... is a picture in base64, no file name; decode each into a file"
    if os.path.islink(source / name):
        return f" is a link to {os.readlink(source / name)}, which does not exist"
    if (source.parent / name).is_file():
        return f"; {source.parent / name} exists" + hint(f": say --images {source.parent}")
    if name.startswith(("{", "[{")):
        return "; an object, no name of a file: keep one of its values"
    if name.strip().lower() in NOTHING:
        return "; leave it empty where an item has no picture"
    slashed, decoded = name.replace("\\", "/"), unquote(name)
    ways = {
        slashed: "with / between folders",
        decoded: "without % escapes",
        name.strip(): "without blanks round them",
        name.partition("?")[0]: "without what follows the question mark",
        unicodedata.normalize("NFC", name): "in the Unicode form NFC",
        unicodedata.normalize("NFD", name): "in the Unicode form NFD",
    }
    for other, how in ways.items():
        if other != name and (source / other).is_file():
            return f"; {source / other} exists: write the paths {how}"
    if separator := next((one for one in "|;,[" if one in name), None):
        return f"; must be one picture an item, and {separator!r} looks like several"
    last = Path(slashed).name
    if (source / last).is_file():
        return f"; {source / last} exists: the item list has folders before the name"
    if near := next((one for ending in EXTENSIONS.values() if (one := source / f"{name}.{ending}").is_file()), None):
        return f"; {near} exists: the item list leaves out the ending"
    ends = {*PICTURES, *map(str.upper, PICTURES)}
    if near := next((one for end in sorted(ends) if (one := (source / slashed).with_suffix(end)).is_file()), None):
        return f"; {near} exists: the ending is another"
    if source.is_dir() and (alike := [one for one in os.listdir(source) if one.lower() == last.lower()]):
        return f"; {source / alike[0]} exists: the names differ in upper and lower case"
    return None
