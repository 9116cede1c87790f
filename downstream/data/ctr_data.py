"""CTR data as flat arrays: each user's clicks once, impressions pointing into them, batches by vectorised gathers.

A batch is a dict of arrays (B rows, C distinct contexts, H history slots, M distinct items, W title words):

=============  ===========  =====================================================================================
``click``      float32 (B)  the label
``user``       int64 (B)    code of the user
``scene``      int64 (B)    code of the scene; only where the dataset has scenes
``user:NAME``  int64 (B)    code of what is known of the user, for each column of a table of users
``conversion`` float32 (B)  whether the click led to a purchase, nan where unknown; only where the dataset has it
``target``     int64 (B)    position of the shown item among the distinct items
``history``    int64 (B,H)  position of the clicked items, the most recent first; 0 in padded slots
``mask``       bool (B,H)   true where the slot holds a click
``context``    int64 (B)    position among the batch's contexts: rows of one user, history and scene share one (where
                            histories are searched, rows of one shown item, too)
``first``      int64 (C)    a row of each context
``row``        int64 (M)    row of the distinct items in ``items.parquet``, ascending
``item``       int64 (M)    code of the item
``category``   int64 (M)    code of the category
``words``      int64 (M,W)  codes of the title's words, 0 in padded slots
=============  ===========  =====================================================================================

Every item of a batch is thus embedded once, however many histories mention it, and what depends on the context alone
is computed once (:func:`downstream.layers.blocks.per_context`). Codes: 0 is padding, 1 is "unknown", known values start
at 2. What is known is decided on training impressions alone, so items, users, categories and words that are new at test
time never get their own code.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from data_tools.dataset.schema import SPLITS, Dataset, open_dataset
from downstream.data.arrays import VOCABULARY, CodeSettings, dataset_arrays
from downstream.data.codes import UNKNOWN
from downstream.data.search import HistorySearch
from downstream.data.user_features import user_features
from downstream.settings import DataSettings

SLICES = ("all", "warm", "cold")
CATALOGUE_PER_MENTION = 8  # up to which the items of a batch are found by marking them
Batch = dict[str, np.ndarray]


@dataclass(frozen=True)
class CTRData:
    """A dataset folder as arrays, for batches without per-sample work.

    Attributes
    ----------
    dataset : Dataset
        Where it came from.
    settings : DataSettings
        History length, vocabulary sizes and the part of the training split in use.
    home : Path
        Folder of the arrays, with the vocabulary.
    click, user, item, clicks_before : numpy.ndarray
        Of each impression (N,).
    scene : numpy.ndarray or None
        Code of each impression's scene (N,).
    conversion : numpy.ndarray or None
        Of each impression (N,), nan where unknown.
    clicked, offsets : numpy.ndarray
        The clicks of user u are ``clicked[offsets[u]:offsets[u + 1]]``, oldest first.
    rows : dict of str to numpy.ndarray
        Split -> impressions (int64), in the order of the log; of "train" the part in use.
    warm : numpy.ndarray
        bool (items,), whether a training impression shows the item.
    user_code, item_code, category_code, words : numpy.ndarray
        Codes of users and items.
    sizes : dict of str to int
        Name of a feature -> number of its codes.
    user_features : numpy.ndarray or None
        int32 codes (users, F) of what is known of users, in the order of their names in ``sizes``.
    search : HistorySearch or None
        Finds the clicks of a history that are most like the shown item; without one, these are the latest.
    """

    dataset: Dataset
    settings: DataSettings
    home: Path
    click: np.ndarray
    user: np.ndarray
    item: np.ndarray
    clicks_before: np.ndarray
    scene: np.ndarray | None
    conversion: np.ndarray | None
    clicked: np.ndarray
    offsets: np.ndarray
    rows: dict[str, np.ndarray]
    warm: np.ndarray
    user_code: np.ndarray
    item_code: np.ndarray
    category_code: np.ndarray
    words: np.ndarray
    sizes: dict[str, int]
    user_features: np.ndarray | None = None
    search: HistorySearch | None = None

    @property
    def vocabulary(self) -> Path:
        """Parquet file of everything known: feature, code and id (as text)."""
        return self.home / VOCABULARY

    @cached_property
    def item_ids(self) -> list:
        """Item ids as the log gives them, in the order of the rows."""
        return self.dataset.items["item_id"].to_list()

    def slices(self, split: str) -> dict[str, np.ndarray]:
        """Masks over the split's rows: all of them, those of warm items, and those of cold ones."""
        warm = self.warm[self.item[self.rows[split]]]
        return {"all": np.ones(len(warm), dtype=bool), "warm": warm, "cold": ~warm}

    def item_batch(self, items: np.ndarray) -> Batch:
        """The part of a batch that describes distinct items, at rows of ``items.parquet``."""
        return {
            "row": items,
            "item": self.item_code[items],
            "category": self.category_code[items],
            "words": self.words[items],
        }

    def contexts(self, rows: np.ndarray) -> np.ndarray:
        """A number for each impression, int64, that is equal where user, history and scene are."""
        # A user with k clicks has k + 1 histories: of 0 to k clicks.
        histories = self.offsets[self.user[rows]] + self.user[rows] + self.clicks_before[rows]
        return histories if self.scene is None else histories * self.sizes["scene"] + self.scene[rows]

    def _past(self, user: np.ndarray, shown: np.ndarray, count: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """The clicked items in the filled slots of a mask (B, H), flat: the latest of each impression first."""
        end = self.offsets[user] + count
        lengths = mask.sum(axis=1)
        if self.search is None:
            # The k-th filled slot of the batch holds the click that lies so many steps before the impression.
            steps = np.arange(1, lengths.sum() + 1) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        else:
            steps = self.search.steps_back(self.clicked, end, shown, count, mask.shape[1])[mask]
        return self.clicked[np.repeat(end, lengths) - steps]

    def batch(self, rows: np.ndarray) -> Batch:
        """The batch of some impressions (see the module's head for its keys)."""
        user, shown, count = self.user[rows], self.item[rows], self.clicks_before[rows]
        slots = self.settings.history
        mask = np.arange(slots) < np.minimum(count, slots)[:, None]
        past = self._past(user, shown, count, mask)

        distinct, position = _distinct(np.concatenate([shown, past]), len(self.item_code))
        history = np.zeros(mask.shape, dtype=np.int64)
        history[mask] = position[len(shown) :]
        contexts = self.contexts(rows)
        if self.search is not None:
            contexts = contexts * len(self.item_code) + shown
        _, first, context = np.unique(contexts, return_index=True, return_inverse=True)
        batch = {
            "click": self.click[rows],
            "user": self.user_code[user],
            "target": position[: len(shown)],
            "history": history,
            "mask": mask,
            "context": context,
            "first": first,
            **self.item_batch(distinct),
        }
        if self.scene is not None:
            batch["scene"] = self.scene[rows].astype(np.int64)
        if self.conversion is not None:
            batch["conversion"] = self.conversion[rows]
        if self.user_features is not None:
            for name, codes in zip(user_features(self.sizes), self.user_features[user].T, strict=True):
                batch[name] = codes.astype(np.int64)
        return batch

    def with_impressions(self, rows: np.ndarray, items: np.ndarray) -> CTRData:
        """The data whose impression i shows ``items[i]`` where impression ``rows[i]`` was: same user, history, scene.

        For candidates that were not shown; they have no click, and there are no splits.
        """
        return replace(
            self,
            click=np.zeros(len(rows), dtype=np.float32),
            user=self.user[rows],
            item=items,
            clicks_before=self.clicks_before[rows],
            scene=None if self.scene is None else self.scene[rows],
            conversion=None,
            rows={},
        )

    def occurrences(self, chunk: int = 8192) -> dict[str, np.ndarray]:
        """Number of training impressions that show each code: feature -> int64 (codes,).

        An impression shows an item's codes where the item is shown or is in the history cut to H.
        """
        counts = {name: np.zeros(size, dtype=np.int64) for name, size in self.sizes.items()}
        rows = self.rows["train"]
        for start in range(0, len(rows), chunk):
            batch = self.batch(rows[start : start + chunk])
            held = np.column_stack([np.ones(len(batch["click"]), dtype=bool), batch["mask"]])
            places = np.column_stack([batch["target"], batch["history"]])[held]
            # Each item once an impression, then each of its codes once an impression.
            pairs = np.unique(held.nonzero()[0] * len(batch["row"]) + places)
            row, place = np.divmod(pairs, len(batch["row"]))
            for name, size in self.sizes.items():
                if name in ("user", "scene", *user_features(self.sizes)):
                    shown = batch[name]
                else:
                    codes = batch[name][place].reshape(len(place), -1)
                    shown = np.unique(row[:, None] * size + codes) % size
                # Not by np.bincount, whose result has the length of the table.
                code, times = np.unique(shown, return_counts=True)
                counts[name][code] += times
        return counts


def _distinct(items: np.ndarray, catalogue: int) -> tuple[np.ndarray, np.ndarray]:
    """The distinct ones of items (n,), int64 and ascending, and the position (n,) of each item among them.

    Sorting what a batch mentions costs the same however large the catalogue is; marking it costs less where that is not
    many times what is mentioned.
    """
    if catalogue > CATALOGUE_PER_MENTION * len(items):
        distinct, position = np.unique(items, return_inverse=True)
        return distinct.astype(np.int64), position
    mentioned = np.zeros(catalogue, dtype=bool)
    mentioned[items] = True
    return mentioned.nonzero()[0], (np.cumsum(mentioned) - 1)[items]


def mask_ids(batch: Batch, rate: float, rng: np.random.Generator) -> Batch:
    """Give a fraction ``rate`` of the users, their features and distinct items of a batch the code "unknown".

    Otherwise the unknown code would never be trained, and new items at test time would get a random embedding (ours).
    """
    keys = ("user", "item", *user_features(batch))
    masked = {key: np.where(rng.random(len(batch[key])) < rate, UNKNOWN, batch[key]) for key in keys}
    return {**batch, **masked}


def load_ctr_data(folder: str | Path, settings: DataSettings) -> CTRData:
    """A dataset folder as memory-mapped arrays, written next to it the first time (see ``downstream.data.arrays``).

    Raises
    ------
    UserError
        If the folder is not a dataset, or a split is empty or has clicks only or none: no AUC could be computed there.
    """
    dataset = open_dataset(folder)
    own = {field.name: getattr(settings, field.name) for field in fields(CodeSettings)}
    home, arrays, sizes = dataset_arrays(dataset, CodeSettings(**own))
    rows = {split: arrays.pop(f"rows_{split}") for split in SPLITS}
    optional = {name: arrays.pop(name, None) for name in ("scene", "conversion", "user_features")}
    return CTRData(dataset=dataset, settings=settings, home=home, rows=rows, sizes=sizes, **optional, **arrays)
