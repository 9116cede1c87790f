"""Pictures that are the same or nearly the same: re-encoded, resized, slightly brighter, darker or cropped."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from rich.progress import track
from scipy.fft import dctn
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from data_tools.reading.images import read_image

BITS = 6  # of 64
SIDE = 8  # of the small copies: hides compression artefacts, keeps colours apart
BLANK = 3.0  # of 255
UNLIKE = 0.001  # largest 1 - correlation of two small copies
CONTRAST = 0.12  # largest difference of the logarithms of their standard deviations
DIRECTIONS = 8  # of the small copies' 192, in which candidates are searched
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


def _normalised(small: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Small copies as unit vectors about their means, float32 (n, 192), and the logarithms of their deviations."""
    flat = small.reshape(len(small), 3 * SIDE * SIDE).astype(np.float32)
    flat -= flat.mean(axis=1, keepdims=True)
    norm = np.maximum(np.linalg.norm(flat, axis=1), 1e-6)
    return flat / norm[:, None], np.log(norm)


def alike(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Whether pairs of small copies, uint8 (n, 8, 8, 3), show the same, bool (n,): the condition and limits are ours.

    Their pixels correlate, over all three channels together, so that a shift of the hue counts and one of the
    brightness does not; and their contrast is about the same, so that a black article is not a grey one.
    """
    (first, a), (second, b) = _normalised(first), _normalised(second)
    return (np.einsum("nd,nd->n", first, second) > 1 - UNLIKE) & (np.abs(a - b) < CONTRAST)


def near_pairs(looks: Looks, distance: int = BITS) -> tuple[np.ndarray, np.ndarray]:
    """All pairs (first < second) whose hashes differ in at most ``distance`` bits and whose small copies are alike.

    Unit vectors that correlate lie near each other, and no less so where a few of their directions are left: a k-d tree
    of these gives candidates, among which all pairs are. Hashes alone would not do: those of products on white crowd.
    """
    parts = [slice(start, start + AT_ONCE) for start in range(0, len(looks.hash), AT_ONCE)]
    if not parts:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    some = _normalised(looks.small[:: -(-len(looks.hash) // AT_ONCE)])[0]
    directions = np.linalg.eigh(some.T @ some)[1][:, -DIRECTIONS:]
    placed = np.concatenate([_normalised(looks.small[part])[0] @ directions for part in parts])
    radius = (2 * UNLIKE) ** 0.5 + 1e-4  # and what rounding may take
    pairs = cKDTree(placed).query_pairs(radius, output_type="ndarray")
    kept = []
    for start in range(0, len(pairs), AT_ONCE):
        first, second = pairs[start : start + AT_ONCE].T
        near = np.bitwise_count(looks.hash[first] ^ looks.hash[second]).sum(axis=1) <= distance
        first, second = first[near], second[near]
        same = alike(looks.small[first], looks.small[second])
        kept.append(np.stack([first[same], second[same]]))
    first, second = np.concatenate([np.empty((2, 0), np.int64), *kept], axis=1)
    return first, second


def first_alike(looks: Looks, distance: int = BITS) -> np.ndarray:
    """Of each picture the first one that is the same or nearly, int64 (n,): itself where there is none before it.

    Two pictures are the same if their bytes are; or if neither is blank, their hashes differ in at most ``distance``
    bits and their small copies are :func:`alike`, since a hash alone confuses products on white. What is the same as
    the same is the same.
    """
    _, unique, same = np.unique(looks.digest, axis=0, return_index=True, return_inverse=True)
    drawn = np.flatnonzero(~looks.blank[unique])
    first, second = (drawn[row] for row in near_pairs(looks.of(unique[drawn]), distance))
    edges = coo_matrix((np.ones(len(first), bool), (first, second)), shape=(len(unique),) * 2)
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
