"""H&M Personalized Fashion Recommendations (Kaggle, 2022).

Format: https://www.kaggle.com/competitions/h-and-m-personalized-fashion-recommendations/data.
``transactions_train.csv`` (t_dat,customer_id,article_id,price,sales_channel_id), ``articles.csv`` (article_id,
product_code,prod_name,product_type_no,product_type_name,...,section_name,...,detail_desc) and ``images/`` in folders of
the first three digits: images/010/0108775015.jpg. ``customers.csv`` is not used.

The log knows days only. In which order a customer bought the articles of one day is unknown; see ``Settings``.
"""

from __future__ import annotations

import glob
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import polars as pl

from data_tools.common.checks import Checked
from data_tools.converters.common import Converter, Source, copy, find, folder, listed
from data_tools.dataset.category import with_category
from data_tools.dataset.read_log import Log

NAMES = {"item_id": "article_id", "title": "prod_name"}
# Articles of one day a minute apart, in an order that a hash of day, customer and article draws; the same article twice
# at the same time, and counts as a repeated row.
ORDERED = """
SELECT customer_id AS user_id, article_id AS item_id, sales_channel_id AS scene,
    epoch(CAST(t_dat AS TIMESTAMP))::BIGINT + 60 * (dense_rank() OVER (
        PARTITION BY t_dat, customer_id ORDER BY md5(concat_ws(' ', t_dat, customer_id, article_id))
    ) - 1) AS timestamp
FROM read_csv(?, header = true, all_varchar = true)
ORDER BY timestamp, user_id, item_id
"""


class HM(Converter):
    """H&M Personalized Fashion Recommendations (Kaggle): purchases and product photographs.

    A purchase is a click; unclicked articles are drawn from the same category, other colours of the product left out.
    """

    @dataclass(frozen=True)
    class Settings(Checked):
        """Options of H&M.

        Attributes
        ----------
        order : "random" or "none"
            Order of a customer's purchases of one day, which the log does not know. "random": drawn, a minute apart, so
            that each has those drawn before it in its history. "none": all at the same time, so that histories hold
            purchases of earlier days only.
        category : str
            Columns of articles.csv that make the category, such as product_type_name+section_name.
        """

        order: Literal["random", "none"] = "random"
        category: str = "product_type_name"

    def read(self, files: Path, work: Path) -> Source:
        articles = find(files, ["articles.csv", "articles.csv.*"], "articles")
        items, broken = listed(articles, NAMES, work)
        items = with_category(items, self.options.category, NAMES, str(articles))
        images = folder(files, "images")
        if images:
            article = pl.col("item_id")
            items = items.with_columns(image=pl.concat_str(article.str.head(3), pl.lit("/"), article, pl.lit(".jpg")))
        unlike = {"unclicked_unlike": "product_code"} if "product_code" in items.columns else {}
        return Source(
            self._log(find(files, ["transactions_train.csv", "transactions_train.csv.*"], "purchases"), work),
            items,
            images,
            "H&M Personalized Fashion Recommendations (Kaggle)",
            "the competition's rules: non-commercial use and academic research",
            # The same article twice on one day is a repeated row.
            {"unclicked": 4, "unclicked_from": "category_popularity", "max_bad_share": 0.2, **unlike},
            broken,
        )

    def _log(self, purchases: Path, work: Path) -> Log:
        if self.options.order == "none":
            named = {"user_id": "customer_id", "item_id": "article_id", "timestamp": "t_dat"}
            return Log(purchases, named | {"scene": "sales_channel_id"})
        log = work / "log.parquet"
        copy(ORDERED, log, work, [glob.escape(str(purchases))])
        return Log(log, {})
