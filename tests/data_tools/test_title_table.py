import math
from collections import Counter

import numpy as np
import polars as pl
import pytest

from data_tools.common.cli import UserError
from data_tools.dataset.schema import open_dataset
from data_tools.tables.seen import NOTHING, seen
from data_tools.tables.table import read_table
from data_tools.title_table import Settings, make, title_vectors

TITLES = [
    "red summer dress",
    "blue summer dress",
    "red wool coat",
    "red red wool coat",
    "blue summer dress",
    "wool hat",
]


def cosines(titles, min_items):
    """TF-IDF of words and pairs of words, from its formula, in float64."""
    counts = [Counter([*title.split(), *zip(title.split(), title.split()[1:], strict=False)]) for title in titles]
    share = Counter(term for count in counts for term in count)
    terms = [term for term, items in share.items() if items >= min_items]
    idf = {term: math.log((1 + len(titles)) / (1 + share[term])) + 1 for term in terms}
    rows = np.array([[(1 + math.log(c[term])) * idf[term] if c[term] else 0.0 for term in terms] for c in counts])
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows @ rows.T


@pytest.mark.parametrize("min_items", [1, 2])
def test_cosines_are_those_of_tf_idf(min_items):
    vectors, share = title_vectors(TITLES, Settings(dataset="d", out="o", min_items=min_items))
    np.testing.assert_allclose(vectors @ vectors.T, cosines(TITLES, min_items), atol=1e-5)
    assert share == pytest.approx(1, abs=1e-5)


def test_a_table_of_a_datasets_titles(tiny_world, tmp_path):
    dataset = tiny_world / "dataset"
    count, size, _ = make(
        Settings(dataset=str(dataset), out=str(tmp_path / "t"), columns=["title", "category"], dimensions=4)
    )
    table, items = read_table(tmp_path / "t"), open_dataset(dataset).items
    assert table.ids == items["item_id"].to_list() and table.vectors.shape == (count, size) == (len(items), 4)
    assert seen(table.info) == NOTHING
    same = items.group_by("title", "category").agg(pl.col("item_id")).filter(pl.col("item_id").list.len() > 1)
    first, second = same["item_id"][0][:2]
    one, two = table.lookup([first, second])[0]
    np.testing.assert_allclose(one, two, atol=1e-5)


def test_what_cannot_be_made_is_named(tiny_world, tmp_path):
    dataset = str(tiny_world / "dataset")
    with pytest.raises(UserError, match="has no column 'name'; its columns are item, item_id"):
        make(Settings(dataset=dataset, out=str(tmp_path / "t"), columns=["name"]))
    with pytest.raises(UserError, match=r"share no words .* lower --min_items"):
        make(Settings(dataset=dataset, out=str(tmp_path / "t"), min_items=10**6))
    assert not (tmp_path / "t").exists()
    (tmp_path / "t").mkdir()
    with pytest.raises(UserError, match="exists already"):
        make(Settings(dataset=dataset, out=str(tmp_path / "t")))
