"""A dataset folder as flat arrays on disk, written once and memory-mapped from then on.

The tables are read a piece at a time, so that neither writing nor loading needs memory in the number of impressions.
Which values are known, and get their own code, is decided on the training impressions in use alone.

``click``, ``conversion``
    float32, one an impression; ``conversion`` only where the dataset has it, nan where unknown
``user``, ``item``, ``clicks_before``
    int32, one an impression: rows of ``clicks.parquet`` and ``items.parquet``, clicks of the user before it
``scene``
    int32 codes, one an impression; only where the dataset has scenes
``rows_train``, ``rows_valid``, ``rows_test``
    int64, the impressions of a split in the order of the log
``clicked``, ``offsets``
    int32, the items of all clicks, one user after the other; int64 (users + 1), where each user's start
``warm``
    bool, one an item: shown in a training impression
``user_code``, ``item_code``, ``category_code``, ``words``
    int64 codes, one a user or item; W an item for words
``user_features``
    int32 codes (users, F) of what is known of users; only where the dataset has a table of users

With them comes ``vocabulary.parquet``: feature, code (uint32) and id (as text) of everything known.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_tools.common.errors import UserError
from data_tools.common.files import check_digests, digests, read_json, whole_folder, write_json
from data_tools.common.parquet import read_parquet, scan_parquet
from data_tools.dataset.schema import REQUIRED, SPLITS, Dataset
from downstream.data.codes import FIRST_KNOWN, PADDING, UNKNOWN, codes_of
from downstream.data.user_features import USERS, read_user_features, user_feature_codes

# Raise it when the arrays or their codes change: cached ones are then written again.
VERSION = 3
PIECE = 1 << 17
VOCABULARY = "vocabulary.parquet"


@dataclass(frozen=True)
class CodeSettings:
    """Those of :class:`downstream.settings.DataSettings` that decide the arrays."""

    words: int
    title_words: int
    train_from: float
    train_until: float


class _ArrayFile:
    """A one-dimensional ``.npy`` file that is appended to; the header's reserved space takes the length at the end."""

    def __init__(self, path: Path, dtype: type) -> None:
        self.file, self.dtype, self.length = path.open("wb"), np.dtype(dtype), 0
        self._header()

    def _header(self) -> None:
        self.file.seek(0)
        header = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False, "shape": (self.length,)}
        np.lib.format.write_array_header_1_0(self.file, header)

    def append(self, values: np.ndarray) -> None:
        self.file.write(np.ascontiguousarray(values, dtype=self.dtype).data)
        self.length += len(values)

    def close(self) -> None:
        self._header()
        self.file.close()


def _columns(dataset: Dataset, name: str) -> list[str]:
    """The columns of a table, which must have those of the format."""
    path = dataset.table(name)
    found = pq.read_schema(path).names
    if missing := [column for column in REQUIRED[name] if column not in found]:
        raise UserError(f"{path} has no columns {missing}; write the dataset again with python -m data_tools.prepare")
    return found


def _pieces(path: Path, columns: list[str]) -> Iterator[pa.RecordBatch]:
    with pq.ParquetFile(path) as file:
        yield from file.iter_batches(PIECE, columns=columns)


def _title_words(titles: pl.Series, trained: np.ndarray, settings: CodeSettings) -> tuple[np.ndarray, pl.Series]:
    """Word codes of each title (items, W) and the known words; words new at test time are left out."""
    spelt = titles.cast(pl.String).fill_null("").str.to_lowercase().str.extract_all(r"\w+")
    long = pl.DataFrame({"row": np.arange(len(titles)), "word": spelt, "trained": trained}).explode("word")
    long = long.drop_nulls("word").unique(maintain_order=True)
    counts = long.filter("trained").group_by("word").len().sort(["len", "word"], descending=[True, False])
    vocabulary = counts.head(settings.words).select("word").with_row_index("code", offset=FIRST_KNOWN)
    long = long.join(vocabulary, on="word", how="inner", maintain_order="left")
    long = long.with_columns(slot=pl.int_range(pl.len()).over("row")).filter(pl.col("slot") < settings.title_words)
    codes = np.full((len(titles), settings.title_words), PADDING, dtype=np.int64)
    codes[long["row"].to_numpy(), long["slot"].to_numpy()] = long["code"].to_numpy()
    return codes, vocabulary["word"]


class _Scenes:
    """Codes of scenes, read piece by piece: numbered as they appear, then renumbered in sorted order."""

    def __init__(self) -> None:
        self.met: dict[Any, int] = {}
        self.trained: set[Any] = set()

    def codes(self, values: pa.Array, trained: np.ndarray) -> np.ndarray:
        """Numbers of the scenes of a piece; ``trained`` are the places in it of training impressions in use."""
        encoded = values.dictionary_encode(null_encoding="encode")
        own = [self.met.setdefault(value, len(self.met)) for value in encoded.dictionary.to_pylist()]
        indices = encoded.indices.to_numpy(zero_copy_only=False)
        places = {encoded.dictionary[int(one)].as_py() for one in np.unique(indices[trained])}
        self.trained |= places - {None}
        return np.array(own, dtype=np.int32)[indices]

    def known(self) -> list[Any]:
        """The scenes of training impressions, in the order of their codes."""
        return sorted(self.trained)

    def final(self) -> np.ndarray:
        """The code of the scene that appeared k-th."""
        order = {value: FIRST_KNOWN + place for place, value in enumerate(self.known())}
        return np.array([order.get(value, UNKNOWN) for value in self.met], dtype=np.int32)

    def renumber(self, path: Path) -> None:
        """Replace the numbers in a file of them by the codes, a piece at a time."""
        codes, final = np.load(path, mmap_mode="r+"), self.final()
        for start in range(0, len(codes), PIECE):
            codes[start : start + PIECE] = final[codes[start : start + PIECE]]
        codes.flush()


def _write_impressions(
    dataset: Dataset, folder: Path, settings: CodeSettings, items: int, users: int
) -> dict[str, Any]:
    """Write the arrays of the impressions; returns the shown items and users and the known scenes."""
    path = dataset.table("impressions")
    found = _columns(dataset, "impressions")
    columns = ["user", "item", "click", "clicks_before", "split", *(c for c in ("scene", "conversion") if c in found)]
    counts = dict(scan_parquet(path).group_by("split").len().collect().iter_rows())
    first, last = (int(part * counts.get("train", 0)) for part in (settings.train_from, settings.train_until))
    kinds = {"click": np.float32, "user": np.int32, "item": np.int32, "clicks_before": np.int32}
    kinds |= {name: kind for name, kind in (("scene", np.int32), ("conversion", np.float32)) if name in found}
    kinds |= {f"rows_{split}": np.int64 for split in SPLITS}
    files = {name: _ArrayFile(folder / f"{name}.npy", kind) for name, kind in kinds.items()}
    used, scenes = _UsedRows(first, last), _Scenes()
    warm, met = np.zeros(items, dtype=bool), np.zeros(users, dtype=bool)
    clicks, shown = dict.fromkeys(SPLITS, 0), dict.fromkeys(SPLITS, 0)
    for piece in _pieces(path, columns):
        start, own, values = files["click"].length, used.of(piece["split"]), _values(piece)
        for split, places in own.items():
            files[f"rows_{split}"].append(start + places)
            shown[split] += len(places)
            clicks[split] += int(values["click"][places].sum())
        warm[values["item"][own["train"]]] = True
        met[values["user"][own["train"]]] = True
        if "scene" in kinds:
            values["scene"] = scenes.codes(piece["scene"], own["train"])
        for name, column in values.items():
            files[name].append(column)
    for file in files.values():
        file.close()
    _refuse_one_class(dataset, clicks, shown)
    if "scene" in kinds:
        scenes.renumber(folder / "scene.npy")
    return {"warm": warm, "met": met, "scenes": scenes.known() if "scene" in kinds else None}


class _UsedRows:
    """The rows of each split that are in use, as the impressions come piece by piece.

    Parameters
    ----------
    first, last : int
        Of the training split the rows from ``first`` to below ``last``; of the others all.
    """

    def __init__(self, first: int, last: int) -> None:
        self.first, self.last, self.passed = first, last, 0

    def of(self, splits: pa.Array) -> dict[str, np.ndarray]:
        """Split -> places in the next piece, by its column ``split``."""
        own = {split: pc.equal(splits, split).to_numpy(zero_copy_only=False).nonzero()[0] for split in SPLITS}
        train, passed = own["train"], self.passed
        self.passed += len(train)
        return own | {"train": train[max(self.first - passed, 0) : max(self.last - passed, 0)]}


def _values(piece: pa.RecordBatch) -> dict[str, np.ndarray]:
    """The numbers of some impressions."""
    names = ("user", "item", "click", "clicks_before")
    values = {name: piece[name].to_numpy(zero_copy_only=False) for name in names}
    if "conversion" in piece.schema.names:
        known = pc.cast(piece["conversion"], pa.float32())
        values["conversion"] = pc.fill_null(known, float("nan")).to_numpy(zero_copy_only=False)
    return values


def _refuse_one_class(dataset: Dataset, clicks: dict[str, int], shown: dict[str, int]) -> None:
    """Raise a UserError if a split has no impression, or clicks only, or none: no AUC could be computed there."""
    for split in SPLITS:
        if clicks[split] in (0, shown[split]):
            raise UserError(
                f"{dataset.folder}: {clicks[split]} clicks in {shown[split]} impressions of the split {split!r}; "
                "each split needs clicked and unclicked impressions. Where the log has clicks alone, prepare it with "
                "--unclicked; where it is short, with another --valid-from and --test-from"
            )


def _write_clicks(dataset: Dataset, folder: Path) -> int:
    """Write all clicks, one user after the other; returns the number of users."""
    clicked, offsets = (
        _ArrayFile(folder / f"{name}.npy", kind) for name, kind in (("clicked", "i4"), ("offsets", "i8"))
    )
    offsets.append(np.zeros(1))
    for piece in _pieces(dataset.table("clicks"), ["items"]):
        lists = piece["items"]
        lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
        offsets.append(clicked.length + np.cumsum(lengths, dtype=np.int64))
        clicked.append(lists.flatten().to_numpy(zero_copy_only=False))
    clicked.close()
    offsets.close()
    return offsets.length - 1


def write_flat_clicks(clicks: Path, counts: np.ndarray, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Write ``clicked`` and ``offsets`` of the clicks of a Parquet file, one user after the other.

    Parameters
    ----------
    clicks : Path
        With a column ``item``.
    counts : numpy.ndarray
        Integers (users,), how many of them are each user's.
    folder : Path
        Where the arrays are written.

    Returns
    -------
    clicked, offsets : numpy.ndarray
        As in the module's head; ``clicked`` is memory-mapped.
    """
    file = _ArrayFile(folder / "clicked.npy", np.int32)
    for piece in _pieces(clicks, ["item"]):
        file.append(piece["item"].to_numpy(zero_copy_only=False))
    file.close()
    offsets = np.append(0, np.cumsum(counts, dtype=np.int64))
    return np.load(folder / "clicked.npy", mmap_mode="r" if file.length else None), offsets


def _write(dataset: Dataset, folder: Path, settings: CodeSettings) -> None:
    columns = [c for c in ("item", "item_id", "category", "title") if c in _columns(dataset, "items")]
    items = read_parquet(dataset.table("items"), columns=columns)

    def column(name: str) -> pl.Series:
        return items[name] if name in items.columns else pl.Series(name, [None] * len(items), dtype=pl.String)

    _columns(dataset, "clicks")
    users = _write_clicks(dataset, folder)
    found = _write_impressions(dataset, folder, settings, len(items), users)
    warm, known = found["warm"], {}
    arrays = {"warm": warm}
    arrays["user_code"], rows = codes_of(pl.Series(np.arange(users)), found["met"])
    known["user"] = read_parquet(dataset.table("clicks"), columns=["user_id"])["user_id"][rows]
    arrays["item_code"], rows = codes_of(items["item"], warm)
    known["item"] = items["item_id"][rows]
    arrays["category_code"], known["category"] = codes_of(column("category"), warm)
    arrays["words"], known["words"] = _title_words(column("title"), warm, settings)
    if found["scenes"] is not None:
        known["scene"] = pl.Series(found["scenes"])
    if (dataset.folder / USERS).exists():
        arrays["user_features"], of_users = user_feature_codes(read_user_features(dataset.table("users")), found["met"])
        known |= of_users
    for name, values in arrays.items():
        np.save(folder / f"{name}.npy", values)
    vocabulary = [
        pl.DataFrame({"feature": [name] * len(own), "id": own.cast(pl.String)}).with_row_index("code", FIRST_KNOWN)
        for name, own in known.items()
    ]
    pl.concat(vocabulary).write_parquet(folder / VOCABULARY)
    written = {path.name: found for path, found in digests([*folder.glob("*.npy"), folder / VOCABULARY]).items()}
    sizes = {name: FIRST_KNOWN + len(own) for name, own in known.items()}
    write_json(folder / "arrays.json", {"sizes": sizes, "digests": written})


def _key(dataset: Dataset, settings: CodeSettings) -> str:
    """A name for the arrays of these tables under these settings."""
    paths = [dataset.folder / f"{name}.parquet" for name in ("items", "impressions", "clicks")]
    stats = [path.stat() for path in (*paths, dataset.folder / USERS) if path.exists() or path in paths]
    files = [(stat.st_size, stat.st_mtime_ns) for stat in stats]
    decisive = [VERSION, dataset.info["fingerprint"], files, vars(settings)]
    return hashlib.blake2b(json.dumps(decisive).encode(), digest_size=8).hexdigest()


def _unchanged(folder: Path) -> bool:
    """Whether there are arrays, and they are as they were written."""
    try:
        promised = read_json(folder / "arrays.json").get("digests", {})
        check_digests({folder / name: found for name, found in promised.items()}, "arrays.json", "")
    except (UserError, OSError):
        return False
    return True


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _own_folder() -> Path:
    """A folder for arrays among the temporary files that nobody but this user can write to."""
    folder = Path(tempfile.gettempdir()) / f"visual-interest-arrays-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if (found := folder.stat()).st_uid != os.getuid() or found.st_mode & 0o022:
        raise UserError(f"{folder} can be written to by others; remove it, or set TMPDIR to another folder")
    return folder


def dataset_arrays(dataset: Dataset, settings: CodeSettings) -> tuple[Path, dict[str, np.ndarray], dict[str, int]]:
    """The folder of the arrays, the arrays of the module's head, memory-mapped, and each feature's number of codes.

    The folder is in ``.arrays`` in the dataset's folder, or in the folder for temporary files where that is read-only.

    Raises
    ------
    UserError
        If a split is empty or has clicks only or none: no AUC could be computed there.
    """
    key, home = _key(dataset, settings), dataset.folder / ".arrays"
    ready = _unchanged(home / key)
    if not ready and not _writable(home):
        place = hashlib.blake2b(str(dataset.folder.resolve()).encode(), digest_size=8).hexdigest()
        home = _own_folder() / place
        print(f"{dataset.folder} is read-only: its arrays are cached in {home}", file=sys.stderr)
        ready = _unchanged(home / key)
    if not ready:
        home.mkdir(parents=True, exist_ok=True)
        with (home / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # several processes may come here at once: one writes
            if not _unchanged(home / key):
                if (home / key).exists():
                    print(f"note: {home / key} was damaged and is written again", file=sys.stderr)
                with whole_folder(home / key, overwrite=True) as scratch:
                    _write(dataset, scratch, settings)
    arrays = {file.stem: np.asarray(np.load(file, mmap_mode="r")) for file in sorted((home / key).glob("*.npy"))}
    return home / key, arrays, read_json(home / key / "arrays.json")["sizes"]
