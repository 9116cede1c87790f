"""Pictures that are the same or nearly the same: re-encoded, resized, slightly brighter, darker or cropped."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import faiss
import numpy as np
from PIL import Image
from rich.progress import track
from scipy.fft import dctn
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from data_tools.reading.images import read_image

MOST_BITS = 7  # of 64; up to here four tables of 16 bits, searched with one bit flipped, find every pair
SIDE = 8  # of the small copies: hides compression artefacts, keeps colours apart
BLANK = 3.0  # of 255
UNLIKE = 0.001  # largest 1 - correlation of two small copies
CONTRAST = 0.12  # largest difference of the logarithms of their standard deviations
AT_ONCE = 1 << 16  # pairs or pictures in work at a time


@dataclass(frozen=True)
class Looks:
    """What is compared of n pictures.

    Attributes
    ----------
    digest : uint8 array (n, 16), of the file's bytes
    hash : uint8 array (n, 8), see :func:`perceptual_hash`
    small : uint8 array (n, 8, 8, 3), the picture at 8 x 8 pixels
    """

    digest: np.ndarray
    hash: np.ndarray
    small: np.ndarray

    @classmethod
    def empty(cls, count: int) -> Looks:
        """Room for ``count`` pictures."""
        return cls(*(np.zeros((count, *shape), np.uint8) for shape in ((16,), (8,), (SIDE, SIDE, 3))))

    def set(self, row: int, data: bytes, picture: Image.Image) -> None:
        """Put in a picture, of whose file these are the bytes."""
        self.digest[row] = np.frombuffer(hashlib.blake2b(data, digest_size=16).digest(), np.uint8)
        self.hash[row] = perceptual_hash(picture)
        self.small[row] = np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BILINEAR))

    def of(self, rows: np.ndarray) -> Looks:
        """Those of some pictures."""
        return Looks(self.digest[rows], self.hash[rows], self.small[rows])

    @property
    def blank(self) -> np.ndarray:
        """bool (n,): one flat colour."""
        return np.ptp(self.small, axis=(1, 2)).max(axis=1) < BLANK


def perceptual_hash(picture: Image.Image) -> np.ndarray:
    """64 bits, uint8 (8,): the 8 x 8 lowest frequencies of the 32 x 32 grey picture, each against their median.

    The DCT hash of Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions" (2010), without its
    mean filter, which the reduction to 32 x 32 replaces. As half of the bits are set, distances are even.
    """
    grey = np.asarray(picture.convert("L").resize((32, 32), Image.Resampling.BOX), np.float64)
    low = dctn(grey, norm="ortho")[:8, :8].ravel()
    return np.packbits(low > np.median(low))


def near_pairs(hashes: np.ndarray, distance: int = MOST_BITS) -> tuple[np.ndarray, np.ndarray]:
    """All pairs (first < second) of 64-bit hashes, uint8 (n, 8), that differ in at most ``distance`` bits, up to 7.

    Of four pieces of 16 bits at least one then differs in at most one bit, so faiss's multi-index hashing finds it.
    """
    index = faiss.IndexBinaryMultiHash(64, 4, 16)
    index.nflip = 1
    index.add(hashes)
    firsts, seconds = [], []
    for start in range(0, len(hashes), AT_ONCE):
        limits, _, found = index.range_search(hashes[start : start + AT_ONCE], distance + 1)
        first = start + np.repeat(np.arange(len(limits) - 1), np.diff(limits.astype(np.int64)))
        kept = first < found
        firsts.append(first[kept])
        seconds.append(found[kept])
    return np.concatenate([np.empty(0, np.int64), *firsts]), np.concatenate([np.empty(0, np.int64), *seconds])


def alike(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Whether pairs of small copies, uint8 (n, 8, 8, 3), show the same, bool (n,): the condition and limits are ours.

    Their pixels correlate, over all three channels together, so that a shift of the hue counts and one of the
    brightness does not; and their contrast is about the same, so that a black article is not a grey one.
    """
    first, second = (one.reshape(len(one), -1).astype(np.float32) for one in (first, second))
    first, second = (one - one.mean(axis=1, keepdims=True) for one in (first, second))
    deviations = [np.sqrt(np.square(one).mean(axis=1)) for one in (first, second)]
    a, b = (np.maximum(one, 1e-6) for one in deviations)
    return ((first * second).mean(axis=1) > (1 - UNLIKE) * a * b) & (np.abs(np.log(a / b)) < CONTRAST)


def first_alike(looks: Looks, distance: int = MOST_BITS) -> np.ndarray:
    """Of each picture the first one that is the same or nearly, int64 (n,): itself where there is none before it.

    Two pictures are the same if their bytes are; or if neither is blank, their hashes differ in at most ``distance``
    bits and their small copies are :func:`alike`, since a hash alone confuses products on white. What is the same as
    the same is the same.
    """
    _, unique, same = np.unique(looks.digest, axis=0, return_index=True, return_inverse=True)
    drawn = np.flatnonzero(~looks.blank[unique])
    first, second = (drawn[row] for row in near_pairs(looks.hash[unique[drawn]], distance))
    small = looks.small[unique]
    parts = [slice(start, start + AT_ONCE) for start in range(0, len(first), AT_ONCE)]
    close = np.concatenate([np.empty(0, bool), *(alike(small[first[part]], small[second[part]]) for part in parts)])
    edges = coo_matrix((np.ones(close.sum(), bool), (first[close], second[close])), shape=(len(unique),) * 2)
    label = connected_components(edges, directed=False)[1][same.ravel()]
    return np.unique(label, return_index=True)[1][label]


def first_alike_of(folder: Path, names: list[str | None], distance: int) -> np.ndarray:
    """:func:`first_alike` of picture files, showing progress; None, a picture that is missing, is like no other."""
    named = np.flatnonzero([name is not None for name in names])
    looks = Looks.empty(len(named))

    def look(row: int) -> None:
        data = (folder / names[named[row]]).read_bytes()
        looks.set(row, data, read_image(data, at_least=64))

    with ThreadPoolExecutor() as pool:
        starts = range(0, len(named), AT_ONCE)
        work = (done for start in starts for done in pool.map(look, range(start, min(start + AT_ONCE, len(named)))))
        for _ in track(work, "looking for near-duplicates", total=len(named)):
            pass
    first = np.arange(len(names))
    first[named] = named[first_alike(looks, distance)]
    return first
