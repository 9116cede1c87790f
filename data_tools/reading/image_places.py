"""Where the pictures of an item list are: files in a folder, or in tars and zips."""

from __future__ import annotations

import contextlib
import posixpath
import re
import tarfile
import unicodedata
import zipfile
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

import polars as pl

from data_tools.common.cache import held
from data_tools.common.errors import UserError
from data_tools.common.hints import hint
from data_tools.common.storage import is_url, listed, matches, url_of
from data_tools.reading import inputs
from data_tools.reading.folders import files_below
from data_tools.reading.images import PICTURES

ARCHIVES = (".tar", ".tgz", ".zip")
MOST_NAMED = 3  # of examples in a message
MOST_LINKS = 40  # one behind the other, as Linux has it
AWAY = "link to nothing in the tar (make it with tar -h)"

# The name of a member, and its contents or the name of the member that it is a link to.
Member = tuple[str, Callable[[], bytes] | str]


def _plain(name: str) -> str:
    return name.removeprefix("./")


def _hidden(name: str) -> bool:
    """Whether a file or a folder of this name has no picture of an item."""
    return name.startswith(".") or name == "__MACOSX"


@contextlib.contextmanager
def _members(path: Path) -> Iterator[Iterator[Member]]:
    """The files in a tar or a zip, and the links in a tar.

    Raises
    ------
    UserError
        If it cannot be read.
    """
    try:
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(held(path))
            if zipfile.is_zipfile(file):
                archive = stack.enter_context(zipfile.ZipFile(file))
                files = (one for one in archive.infolist() if not one.is_dir())
                yield ((_plain(one.filename), partial(archive.read, one)) for one in files)
            else:
                tar = stack.enter_context(tarfile.open(file, "r|*"))
                yield _members_of(tar)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError, RuntimeError) as error:
        advice = f"name the folder that it is in: {path.parent}" if path.suffix.lower() in PICTURES else "make it again"
        advice = "unpack it first" if "password" in str(error) else advice
        raise UserError(f"{path} cannot be read as a tar or a zip: {error}; {advice}") from error


def _members_of(tar: tarfile.TarFile) -> Iterator[Member]:
    for one in tar:
        name = _plain(one.name)
        if one.isfile():
            yield name, tar.extractfile(one).read
        elif one.islnk():
            yield name, _plain(one.linkname)
        elif one.issym():
            yield name, posixpath.normpath(posixpath.join(posixpath.dirname(name), one.linkname))


def _end(name: str, links: dict[str, str]) -> str:
    """The member that a name leads to over links, which may make a circle."""
    for _ in range(MOST_LINKS):
        name = links.get(name, name)
    return name


def _take(path: Path, folder: Path, rows_of: Callable[[str], list[int]]) -> tuple[dict[int, Path], list[str]]:
    """Take the members that rows ask for out of an archive: the file of each row; the names of some members.

    A link comes after what it leads to, or before it, and an archive is read from front to back: what links lead to is
    taken in a second turn.
    """
    taken, seen = dict[int, Path](), list[str]()
    links, leading = dict[str, str](), dict[str, list[int]]()
    with _members(path) as members:
        for name, contents in members:
            seen += [name] if len(seen) < MOST_NAMED else []
            rows = rows_of(name)
            links.pop(name, None), leading.pop(name, None)  # of several members of one name, the last one counts
            if isinstance(contents, str):
                links[name] = contents
                leading |= {name: rows} if rows else {}
            elif rows:
                (file := folder / str(rows[0])).write_bytes(contents())
                taken |= dict.fromkeys(rows, file)
    ends: dict[str, list[int]] = {}
    for name, rows in leading.items():
        if (end := _end(name, links)) not in links:
            ends.setdefault(end, []).extend(rows)
    away = {row: folder / AWAY / name for name, rows in leading.items() for row in rows}
    return away | taken | (_take(path, folder, lambda name: ends.get(name, []))[0] if ends else {}), seen


def _unpack(archives: list[Path], names: list[str | None], folder: Path) -> list[str | None]:
    """Take the named members out of archives; a name may lack its ending, as the keys of webdataset do.

    Raises
    ------
    UserError
        If an archive cannot be read, or none of the names is in any.
    """
    wanted: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        if name is not None:
            wanted.setdefault(_plain(name), []).append(row)
    folder.mkdir()
    found, held = dict[int, Path](), list[str]()

    def rows_of(name: str) -> list[int]:
        return wanted.get(name) or wanted.get(str(PurePosixPath(name).with_suffix("")) if name else name, [])

    for number, path in enumerate(archives):
        (place := folder / str(number)).mkdir()
        taken, seen = _take(path, place, rows_of)
        found |= taken
        held += seen
    if wanted and not found:
        raise UserError(
            f"{', '.join(map(str, archives[:MOST_NAMED]))} holds none of the pictures of the item list, such as "
            f"{next(iter(wanted))!r}; it holds {', '.join(map(repr, held[:MOST_NAMED])) or 'nothing'}: write the names "
            "as they are there"
        )
    files = {row: file.relative_to(folder).as_posix() for row, file in found.items()}
    return [name if name is None else files.get(row, f"gone/{name}") for row, name in enumerate(names)]


def _by_id(items: pl.DataFrame, names: Iterable[str]) -> pl.Series:
    """For each item the picture whose name or path, with or without its ending, is the item's id; null for none.

    Of several the one that lies in the fewest folders. What is hidden is no picture of an item.

    Raises
    ------
    UserError
        If several lie equally deep, or no item has any.
    """
    of: dict[str, list[PurePosixPath]] = {}
    for path in map(PurePosixPath, dict.fromkeys(names)):
        if not any(map(_hidden, path.parts)):
            keys = {path.name, str(path)}
            if path.suffix.lower() in PICTURES:
                keys |= {path.stem, str(path.with_suffix(""))}
            for key in keys:
                of.setdefault(key, []).append(path)
    chosen, unclear = [], []
    for item in map(str, items["item_id"]):
        paths = sorted(of.get(item, ()), key=lambda path: (len(path.parts), path))
        if len(paths) > 1 and len(paths[0].parts) == len(paths[1].parts):
            unclear.append(f"{item}: {paths[0]} or {paths[1]}")
        chosen.append(str(paths[0]) if paths else None)
    if of and not any(chosen):
        raise UserError(
            f"no picture is named by the id of an item: ids are such as {items['item_id'].head(MOST_NAMED).to_list()}, "
            f"files such as {list(of)[:MOST_NAMED]}; rename them, name each item's picture in a column image of the "
            f"item list{hint(', or leave out --images')}{_alike(items['item_id'], of)}"
        )
    if unclear:
        raise UserError(
            f"{len(unclear):,} items have several pictures named by their id, {'; '.join(unclear[:MOST_NAMED])}; "
            "remove the others, or name each item's picture in a column image of the item list"
        )
    return pl.Series("image", chosen, pl.String)


def _alike(items: pl.Series, names: Iterable[str]) -> str:
    """How the names of pictures nearly are ids: that of their folder, or with a number behind; otherwise nothing."""
    known = {str(item) for item in items}
    folded, bare = {one.lower() for one in known}, {one.lstrip("0") for one in known}
    composed = {unicodedata.normalize("NFC", one) for one in known}
    ways = {
        "the folder of a picture": lambda path: path.parent.name in known,
        "a name without the number behind it": lambda path: re.sub(r"[-_ ]?[(]?[0-9]+[)]?$", "", path.stem) in known,
        "a name in another case": lambda path: path.stem.lower() in folded,
        "a name without zeros in front": lambda path: path.stem.lstrip("0") in bare,
        "a name in another Unicode form": lambda path: unicodedata.normalize("NFC", path.stem) in composed,
        "a name without % escapes": lambda path: unquote(path.stem) in known,
    }
    for what, fits in ways.items():
        if example := next((name for name in names if fits(PurePosixPath(name))), None):
            return f". {what[0].upper()}{what[1:]} would match, as of {example}: list them in a column image"
    return ""


def _names_in(folder: Path) -> Iterable[str]:
    """The files in a folder, or below a URL, as paths from there."""
    if is_url(folder):
        return listed(folder)
    return (p.relative_to(folder).as_posix() for p in files_below(folder, _hidden))


def _archives(images: str | Path) -> list[Path]:
    """The tars and zips at a place: itself, those it is a glob of, or those in a folder without pictures of its own.

    Raises
    ------
    UserError
        If there is nothing.
    """
    place = Path(images)
    if is_url(place):
        return _archives_at(place)
    if place.is_file():
        return [place]
    if place.is_dir():
        if any(p.suffix.lower() in PICTURES for p in place.iterdir()):
            return []
        return sorted(p for p in place.iterdir() if p.name.lower().endswith((*ARCHIVES, ".tar.gz")))
    try:
        return inputs.find(images, ARCHIVES)
    except UserError as error:
        raise UserError(f"the folder, the tars or the zips of images {images} do not exist: {error}") from None


def _archives_at(url: Path) -> list[Path]:
    """The same of a URL. What is a folder of a web server has pictures: not every server lists what it holds."""
    if str(url).lower().endswith((*ARCHIVES, ".tar.gz")):
        return matches(url)
    if url_of(url).startswith("http"):
        return []
    if not (names := listed(url)):
        raise UserError(f"{url_of(url)}: there are no images, tars or zips of images")
    own = [name for name in names if "/" not in name]
    if any(name.lower().endswith(PICTURES) for name in own):
        return []
    return [url / name for name in own if name.lower().endswith((*ARCHIVES, ".tar.gz"))]


def place_images(items: pl.DataFrame, images: str | Path | None, work: Path) -> tuple[pl.DataFrame, Path]:
    """The items with ``image`` as a path in the folder that comes with them.

    Parameters
    ----------
    items : polars.DataFrame
        With ``image`` or without: then a picture belongs to the item whose id is its name without the ending.
    images : str or Path, optional
        A folder of pictures, a tar or a zip, a folder or a glob of such, or the URL of one; None for none.
    work : Path
        An existing folder for what is taken out of archives.

    Raises
    ------
    UserError
        If there is nothing at ``images``, an archive cannot be read, or two pictures are named by the id of an item.
    """
    if isinstance(kind := items.schema.get("image"), pl.List | pl.Array) and kind.inner == pl.Binary:
        raise UserError("the item list's image holds lists of pictures; write a row for each: explode the column image")
    if images is None:
        lacking = items if "image" in items.columns else items.with_columns(image=pl.lit(None, pl.String))
        if lacking["image"].count():
            raise UserError("the item list names pictures" + hint("; say with --images where they are"))
        return lacking, work
    place, archives = Path(images), _archives(images)
    if not archives:
        if "image" not in items.columns:
            items = items.with_columns(_by_id(items, _names_in(place)))
        return items, place
    if "image" not in items.columns:
        names: list[str] = []
        for path in archives:
            with _members(path) as members:
                names += [name for name, _ in members]
        items = items.with_columns(_by_id(items, names))
    named = items["image"].cast(pl.String).replace("", None).to_list()
    taken = _unpack(archives, named, work / "archives")
    return items.with_columns(pl.Series("image", taken, pl.String)), work / "archives"
