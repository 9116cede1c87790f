"""Amazon Reviews 2023 (McAuley Lab): one category, its reviews and its products.

Format: https://amazon-reviews-2023.github.io/ ("Data Fields"). ``CATEGORY.jsonl[.gz]``: rating, title, text, images,
asin, parent_asin, user_id, timestamp (ms), helpful_vote, verified_purchase. ``meta_CATEGORY.jsonl[.gz]``:
main_category, title, average_rating, rating_number, features, description, price, images, videos, store, categories,
details, parent_asin, bought_together. Pictures are given as addresses; fetched ones go to ``images/``, named by
parent_asin.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from data_tools.common.errors import UserError
from data_tools.converters.common import Converter, Source, find, folder, listed
from data_tools.dataset.read_log import Log

KEPT = ("parent_asin", "title", "main_category", "categories", "store", "price", "average_rating", "rating_number")


class AmazonReviews(Converter):
    """Amazon Reviews 2023 (McAuley Lab): one category, its reviews and products.

    4 stars and more count as a click; the finest category is the category.
    """

    def read(self, files: Path, work: Path) -> Source:
        products = find(files, ["meta_*.jsonl", "meta_*.jsonl.gz"], "products")
        name = products.name.removeprefix("meta_").split(".")[0]
        reviews = find(files, [f"{name}.jsonl", f"{name}.jsonl.gz"], "reviews")
        items, broken = listed(products, {"item_id": "parent_asin"}, work, wanted=KEPT)
        if "categories" not in items.columns:
            raise UserError(f"{products} has no key 'categories'; is it the meta file of Amazon Reviews 2023?")
        path = pl.col("categories").str.json_decode(pl.List(pl.String)).list.last()
        category = pl.coalesce(path, "main_category") if "main_category" in items.columns else path
        return Source(
            Log(reviews, {"item_id": "parent_asin"}),
            items.with_columns(category=category),
            folder(files, "images"),
            f"Amazon Reviews 2023, {name} (McAuley Lab)",
            "as the owners state at https://amazon-reviews-2023.github.io/; pictures belong to their sellers",
            {"rating_threshold": 4.0},
            broken,
        )
