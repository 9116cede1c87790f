"""A dataset's pictures: which are missing, blank, tiny, or the same picture twice."""

from __future__ import annotations

import hashlib
import io
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import faiss
import numpy as np
from PIL import Image
from rich.progress import track
from scipy.fft import dctn
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from data_tools.dataset.schema import Dataset
from data_tools.reading.images import FORMATS, BadImage, read_image

DISTANCE = 7  # bits of 64; up to here four tables of 16 bits, searched with one bit flipped, find every pair
DIFFERENT = 0.003  # of the copies' variance
BLANK = 3.0  # of 255
SIDE = 8  # small enough to hide compression artefacts, large enough to separate colours


@dataclass(frozen=True)
class Pictures:
    """Facts about the pictures, one entry per item.

    Attributes
    ----------
    fault : why there is no usable picture: "none named", "missing", "unreadable" ...; None where there is one
    width, height : int array (items,), in pixels; 0 where there is none
    size : int array (items,), bytes of the file
    blank : bool array (items,): one flat colour
    group : int array (items,): items with the same picture share a number; -1 where the picture is unique or blank
    exact : bool array (items,): another item's file has the same bytes
    """

    fault: list[str | None]
    width: np.ndarray
    height: np.ndarray
    size: np.ndarray
    blank: np.ndarray
    group: np.ndarray
    exact: np.ndarray

    def groups(self) -> list[np.ndarray]:
        """Items of each group of duplicates, the largest group first."""
        order = np.argsort(self.group, kind="stable")
        order = order[self.group[order] >= 0]
        parts = np.split(order, np.flatnonzero(np.diff(self.group[order])) + 1) if len(order) else []
        return sorted(parts, key=len, reverse=True)


@dataclass(frozen=True)
class _Look:
    fault: str | None
    width: int = 0
    height: int = 0
    size: int = 0
    digest: bytes = b""
    blank: bool = False
    hash: np.ndarray | None = None
    small: np.ndarray | None = None


def perceptual_hash(picture: Image.Image) -> np.ndarray:
    """64 bits, uint8 (8,): the 8 x 8 lowest frequencies of the 32 x 32 grey picture, each against their median.

    The DCT hash of Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions" (2010), without its
    mean filter, which the reduction to 32 x 32 replaces.
    """
    grey = np.asarray(picture.convert("L").resize((32, 32), Image.Resampling.BOX), np.float64)
    low = dctn(grey, norm="ortho")[:8, :8].ravel()
    return np.packbits(low > np.median(low))


def _size(data: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
        return picture.size


def _look(dataset: Dataset, name: str | None) -> _Look:
    if name is None:
        return _Look("none named")
    try:
        data = dataset.picture(name)
        picture = read_image(data, at_least=64)
    except BadImage as bad:
        return _Look(bad.reason)
    except OSError:
        return _Look("missing")
    small = np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BILINEAR))
    digest = hashlib.blake2b(data, digest_size=16).digest()
    blank = bool(np.ptp(small, axis=(0, 1)).max() < BLANK)
    return _Look(None, *_size(data), len(data), digest, blank, perceptual_hash(picture), small)


def near_pairs(hashes: np.ndarray, distance: int = DISTANCE) -> tuple[np.ndarray, np.ndarray]:
    """All pairs (first < second) of 64-bit hashes, uint8 (n, 8), that differ in at most ``distance`` bits, up to 7.

    Of four pieces of 16 bits at least one then differs in at most one bit, so faiss's multi-index hashing finds it.
    """
    index = faiss.IndexBinaryMultiHash(64, 4, 16)
    index.nflip = 1
    index.add(hashes)
    limits, _, found = index.range_search(hashes, distance + 1)
    first, second = np.repeat(np.arange(len(hashes)), np.diff(limits.astype(np.int64))), found
    kept = first < second
    return first[kept], second[kept]


def _alike(first: np.ndarray, second: np.ndarray) -> bool:
    middle = (first + second) / 2
    return ((first - second) ** 2).sum() < DIFFERENT * ((middle - middle.mean(axis=(0, 1))) ** 2).sum()


def _group(looks: list[_Look]) -> tuple[np.ndarray, np.ndarray]:
    """Group numbers and whether a file is a copy; see :class:`Pictures`.

    Two pictures are the same if their bytes are; or if their hashes differ in at most 7 bits and the squared difference
    of their 8 x 8 copies is small relative to the copies' variance, since a hash alone confuses products on white. The
    second condition and both limits are ours.
    """
    group = np.full(len(looks), -1)
    rows = [row for row, look in enumerate(looks) if look.fault is None and not look.blank]
    if not rows:
        return group, np.zeros(len(looks), bool)
    digests, copy_of = np.unique(np.array([looks[row].digest.hex() for row in rows]), return_inverse=True)
    rows, unique = np.array(rows), np.unique(copy_of, return_index=True)[1]
    exact = np.zeros(len(looks), bool)
    exact[rows] = np.bincount(copy_of)[copy_of] > 1
    first, second = near_pairs(np.stack([looks[row].hash for row in rows[unique]]))
    small = [looks[row].small.astype(np.float64) for row in rows[unique]]
    close = np.array([_alike(small[a], small[b]) for a, b in zip(first, second, strict=True)], bool)
    edges = coo_matrix((np.ones(close.sum()), (first[close], second[close])), shape=(len(digests),) * 2)
    label = connected_components(edges, directed=False)[1][copy_of]
    several = np.bincount(label)[label] > 1
    group[rows[several]] = np.unique(label[several], return_inverse=True)[1]
    return group, exact


def look_at_pictures(dataset: Dataset) -> Pictures:
    """Read every picture once, showing progress, and find the duplicates."""
    names = dataset.items["image"].to_list()
    with ThreadPoolExecutor() as pool:
        work = pool.map(lambda name: _look(dataset, name), names)
        looks = list(track(work, "reading pictures", total=len(names)))
    group, exact = _group(looks)
    return Pictures(
        fault=[look.fault for look in looks],
        width=np.array([look.width for look in looks]),
        height=np.array([look.height for look in looks]),
        size=np.array([look.size for look in looks]),
        blank=np.array([look.blank for look in looks], bool),
        group=group,
        exact=exact,
    )
