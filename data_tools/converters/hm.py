"""H&M Personalized Fashion Recommendations (Kaggle, 2022).

Format: https://www.kaggle.com/competitions/h-and-m-personalized-fashion-recommendations/data.
``transactions_train.csv`` (t_dat,customer_id,article_id,price,sales_channel_id), ``articles.csv`` (article_id,
product_code,prod_name,product_type_no,product_type_name,...,detail_desc) and ``images/`` in folders of the first three
digits: images/010/0108775015.jpg. ``customers.csv`` is not used.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from data_tools.converters.common import Converter, Source, find, folder, listed
from data_tools.dataset.read_log import Log


class HM(Converter):
    """H&M Personalized Fashion Recommendations (Kaggle): purchases and product photographs.

    A purchase is a click; unclicked articles are drawn.
    """

    def read(self, files: Path, work: Path) -> Source:
        columns = {"user_id": "customer_id", "item_id": "article_id", "timestamp": "t_dat", "scene": "sales_channel_id"}
        named = {"item_id": "article_id", "title": "prod_name", "category": "product_type_name"}
        items, broken = listed(find(files, ["articles.csv", "articles.csv.*"], "articles"), named, work)
        images = folder(files, "images")
        if images:
            article = pl.col("item_id")
            items = items.with_columns(image=pl.concat_str(article.str.head(3), pl.lit("/"), article, pl.lit(".jpg")))
        return Source(
            Log(find(files, ["transactions_train.csv", "transactions_train.csv.*"], "purchases"), columns),
            items,
            images,
            "H&M Personalized Fashion Recommendations (Kaggle)",
            "the competition's rules: non-commercial use and academic research",
            # Two of an article on one day are two rows with nothing to tell them apart.
            {"unclicked": 4, "unclicked_from": "popularity", "max_bad_share": 0.2},
            broken,
        )
