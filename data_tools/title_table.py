"""A table of what titles say: words and pairs of words, weighted by rarity, in a few hundred numbers.

The baseline that an image embedding should beat where titles name the product, and a part to join an image table with.
TF-IDF and its truncated singular value decomposition (latent semantic analysis) are scikit-learn's.

python -m data_tools.title_table --dataset my/dataset --out my/titles
python -m data_tools.convert_table --table my/titles,my/images --out my/both           # side by side
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import polars as pl
from jsonargparse.typing import PositiveInt
from rich.console import Console
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer

from data_tools.common.checks import Checked
from data_tools.common.cli import UserError, parse_settings, run_command
from data_tools.common.files import refuse_existing
from data_tools.dataset.schema import open_dataset
from data_tools.tables.seen import NOTHING
from data_tools.tables.table import write_table


@dataclass(frozen=True)
class Settings(Checked):
    """Make a table of a dataset's titles.

    Attributes
    ----------
    dataset : str
        Folder that data_tools.prepare wrote.
    out : str
        Table folder to write.
    columns : list of str
        Columns of the item list that are read one after the other, such as [title, colour, text].
    dimensions : int
        Numbers of a vector; fewer where the titles have fewer words.
    min_items : int
        Words and pairs that fewer items have are left out.
    seed : int
        Seed of the decomposition, which is randomised.
    """

    dataset: str
    out: str
    columns: list[str] = field(default_factory=lambda: ["title"])
    dimensions: PositiveInt = 256
    min_items: PositiveInt = 2
    seed: int = 0


def title_vectors(titles: list[str], settings: Settings) -> tuple[np.ndarray, float]:
    """Vectors, float32 (N, D), of titles, and the share of the variance of their TF-IDF that these keep.

    Raises
    ------
    UserError
        If no word is in the titles of ``min_items`` items.
    """
    try:
        words = TfidfVectorizer(ngram_range=(1, 2), min_df=settings.min_items, sublinear_tf=True).fit_transform(titles)
    except ValueError as error:
        raise UserError(
            f"the titles of {settings.dataset} share no words ({error}); lower --min_items, or name the column of "
            "titles when preparing: --item-columns title=NAME"
        ) from None
    size = min(settings.dimensions, words.shape[1] - 1, len(titles) - 1)
    if size < 1:
        raise UserError(f"{len(titles)} titles of {words.shape[1]} words in all are too few; must be 2 of each or more")
    fitted = TruncatedSVD(size, random_state=settings.seed)
    return fitted.fit_transform(words).astype(np.float32), float(fitted.explained_variance_ratio_.sum())


def make(settings: Settings) -> tuple[int, int, float]:
    """Write the table; returns its items, its size, and the share of variance kept.

    Raises
    ------
    UserError
        If the dataset lacks a column, or ``out`` exists.
    """
    refuse_existing(settings.out)
    items = open_dataset(settings.dataset).items
    for column in settings.columns:
        if column not in items.columns:
            raise UserError(
                f"{settings.dataset} has no column {column!r}; its columns are {', '.join(items.columns)}. Titles "
                "under another name are named when preparing: --item-columns title=NAME"
            )
    text = pl.concat_str(
        [pl.col(column).cast(pl.String) for column in settings.columns], separator=" ", ignore_nulls=True
    )
    named = items.select("item_id", text=text).filter(pl.col("text").str.strip_chars() != "")
    vectors, share = title_vectors(named["text"].to_list(), settings)
    info = {"made_of": {"tf_idf": list(settings.columns)}, "saw_until": NOTHING}
    write_table(settings.out, named["item_id"].to_list(), vectors, info | {"variance_kept": share})
    return len(vectors), vectors.shape[1], share


def main() -> None:
    settings = parse_settings(Settings, __doc__)
    count, size, share = make(settings)
    Console().print(
        f"{settings.out}: {count:,} vectors of size {size}, {share:.0%} of the variance of words and pairs",
        highlight=False,
    )


if __name__ == "__main__":
    run_command(main)
