"""Item lists as people have them, and where their pictures are: files in a folder, in tars, or bytes in a column."""

from __future__ import annotations

import tarfile
from collections.abc import Collection, Mapping
from pathlib import Path, PurePosixPath

import polars as pl
import pyarrow.parquet as pq

from data_tools.common.cli import UserError
from data_tools.reading import inputs
from data_tools.reading.columns import ITEM_COLUMNS, ITEM_OPTIONAL, resolve_columns

TEXT = ("item_id", "image", "title", "category")
TAR = (".tar", ".tgz")


def _typed(frame: pl.DataFrame, text: set[str]) -> pl.DataFrame:
    """Text columns as numbers where all of their values are, but for those that are to stay text."""

    def typed(column: pl.Series) -> pl.Series:
        for kind in (pl.Int64, pl.Float64) if column.dtype == pl.String and column.name not in text else ():
            read = column.cast(kind, strict=False)
            if read.null_count() == column.null_count():
                return read
        return column

    return frame.with_columns(typed(column) for column in frame)


def _spill_bytes(paths: list[Path], column: str, folder: Path) -> pl.Series:
    """Write the pictures of a column of bytes, or of {bytes, path} as some hubs have it, to files; their names."""
    folder.mkdir()
    names: list[str | None] = []
    for path in paths:
        for block in pq.ParquetFile(path).iter_batches(batch_size=256, columns=[column]):
            for value in block.column(0).to_pylist():
                data = value.get("bytes") if isinstance(value, dict) else value
                names.append(None if data is None else str(len(names)))
                if data is not None:
                    (folder / names[-1]).write_bytes(data)
    return pl.Series(column, names, pl.String)


def read_items(
    place: str | Path,
    named: Mapping[str, str],
    work: Path,
    form: inputs.Form | None = None,
    wanted: Collection[str] | None = None,
) -> tuple[pl.DataFrame, pl.DataFrame, Path | None]:
    """Read an item list (any form of :mod:`data_tools.reading.inputs`); known columns get our names, others come along.

    Parameters
    ----------
    named : our names to those of the list
    work : an empty folder for what is made on the way; it must live until the dataset is written
    form : of text whose name does not tell it
    wanted : the keys to read of JSON lines; by default those of the first lines

    Returns
    -------
    items : one row an item
    broken : the lines that are no row
    pictures : the folder that the list's own pictures were written to, where its column ``image`` holds bytes

    Raises
    ------
    UserError
        If the files cannot be read or lack a column.
    """
    paths, broken = inputs.as_parquet(place, work, "items", form, wanted)
    try:
        kinds = pl.read_parquet_schema(paths[0])
        columns = resolve_columns(named, list(kinds), ITEM_COLUMNS, ITEM_OPTIONAL, str(place))
        image, pictures = columns.get("image"), None
        encoded = image is not None and (kinds[image] == pl.Binary or isinstance(kinds[image], pl.Struct))
        frame = pl.concat(
            [pl.read_parquet(p, columns=[n for n in kinds if not (encoded and n == image)]) for p in paths],
            how="vertical_relaxed",
        )
    except (pl.exceptions.PolarsError, OSError) as error:
        reason = str(error).split("\n")[0]  # polars goes on with advice on settings that are not to be had here
        raise UserError(f"{place} cannot be read: {reason}") from error
    if encoded:
        pictures = work / "bytes"
        frame = frame.with_columns(_spill_bytes(paths, image, pictures))
    if inputs.suffix(inputs.find(place)[0]) != ".parquet" if form is None else True:
        frame = _typed(frame, {columns.get(name, name) for name in TEXT})
    carried = [name for name in frame.columns if name not in columns and name not in columns.values()]
    return frame.select(**columns).hstack(frame.select(carried)), broken, pictures


def unique_items(items: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The catalogue with ``item`` (int32, the row) in front, and the items set aside, each with its ``reason``.

    Raises
    ------
    UserError
        If a column has a type that cannot be used.
    """
    kind = items.schema["item_id"]
    if not (kind == pl.String or kind.is_integer()):
        raise UserError(f"the item list's item_id is {kind}; store ids as text or as integers")
    text = [name for name in ("image", "title", "category") if name in items.columns]
    for name in text:
        if items.schema[name].is_nested() or items.schema[name] == pl.Binary:
            raise UserError(f"the item list's {name} is {items.schema[name]}; one text an item is expected")
    items = items.rename({"item": "item_", "reason": "reason_"}, strict=False)
    items = items.with_columns(pl.col(text).cast(pl.String)).with_columns(pl.col("image").replace("", None))
    key = pl.col("item_id").cast(pl.String)
    missing = key.is_null() | (key.str.strip_chars() == "")
    reasons = (
        pl.when(missing).then(pl.lit("item_id missing")).when(~key.is_first_distinct()).then(pl.lit("item_id repeated"))
    )
    judged = items.select(reason=reasons, **{name: name for name in items.columns})
    kept = judged.filter(pl.col("reason").is_null()).drop("reason").with_row_index("item")
    return kept.with_columns(pl.col("item").cast(pl.Int32)), judged.filter(pl.col("reason").is_not_null())


def _plain(name: str) -> str:
    return name.removeprefix("./")


def _unpack(tars: list[Path], names: list[str | None], folder: Path) -> list[str | None]:
    """Take the named members out of tars; a name may lack its ending, as the keys of webdataset do."""
    wanted: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        if name is not None:
            wanted.setdefault(_plain(name), []).append(row)
    folder.mkdir()
    found = list(names)
    for path in tars:
        try:
            with tarfile.open(path, "r|*") as tar:
                for member in tar:
                    name = _plain(member.name)
                    key = name if name in wanted else str(PurePosixPath(name).with_suffix("")) if name else name
                    if member.isfile() and key in wanted:
                        first = wanted[key][0]
                        (folder / str(first)).write_bytes(tar.extractfile(member).read())
                        for row in wanted[key]:
                            found[row] = str(first)
        except (tarfile.TarError, EOFError, OSError) as error:
            raise UserError(f"{path} cannot be read as a tar: {error}; make it again") from error
    return [name if name is None or (folder / name).is_file() else f"gone/{row}" for row, name in enumerate(found)]


def _by_id(items: pl.DataFrame, names: list[str]) -> pl.Series:
    """For each item the name whose last part, without its ending, is the item's id; null where there is none."""
    of = {PurePosixPath(name).stem: name for name in sorted(names, reverse=True)}
    return pl.Series("image", [of.get(str(item)) for item in items["item_id"]], pl.String)


def _members(tars: list[Path]) -> list[str]:
    names = []
    for path in tars:
        try:
            with tarfile.open(path, "r|*") as tar:
                names += [_plain(member.name) for member in tar if member.isfile()]
        except (tarfile.TarError, EOFError, OSError) as error:
            raise UserError(f"{path} cannot be read as a tar: {error}; make it again") from error
    return names


def place_images(items: pl.DataFrame, images: str | Path | None, work: Path) -> tuple[pl.DataFrame, Path]:
    """The items with ``image`` as a path in the folder that comes with them.

    Parameters
    ----------
    items : with ``image`` or without: then a picture belongs to the item whose id is its name without the ending
    images : a folder of pictures, a tar, a folder or a glob of tars, or None for none
    work : an existing folder for what is taken out of tars

    Raises
    ------
    UserError
        If there is nothing at ``images``, or a tar cannot be read.
    """
    if images is None:
        lacking = items if "image" in items.columns else items.with_columns(image=pl.lit(None, pl.String))
        if lacking["image"].count():
            raise UserError("the item list names pictures; say with --images where they are")
        return lacking, work
    place = Path(images)
    tars = (
        [place]
        if place.is_file()
        else sorted(p for end in TAR for p in place.glob(f"*{end}"))
        if place.is_dir()
        else []
    )
    if not place.exists():
        try:
            tars = [p for p in inputs.find(images, (*TAR, ".tar.gz")) if p.suffix in (*TAR, ".gz")]
        except UserError as error:
            raise UserError(f"the folder or the tars of images {images} do not exist: {error}") from None
    if not tars:
        if "image" in items.columns:
            return items, place
        return items.with_columns(
            _by_id(items, [str(p.relative_to(place)) for p in place.rglob("*") if p.is_file()])
        ), place
    if "image" not in items.columns:
        items = items.with_columns(_by_id(items, _members(tars)))
    names = items["image"].cast(pl.String).replace("", None).to_list()
    taken = _unpack(tars, names, work / "tars")
    return items.with_columns(pl.Series("image", taken, pl.String)), work / "tars"
