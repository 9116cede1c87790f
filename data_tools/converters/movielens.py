"""MovieLens (GroupLens): 100K, 1M, 10M, 20M, 25M, 32M and latest, with a folder of posters.

Formats: the README of each data set, https://grouplens.org/datasets/movielens/. 1M and 10M: ``ratings.dat``
(UserID::MovieID::Rating::Timestamp) and ``movies.dat`` (MovieID::Title::Genres). 20M and later: ``ratings.csv``
(userId,movieId,rating,timestamp) and ``movies.csv`` (movieId,title,genres). 100K: ``u.data`` (tabs) and ``u.item``
(bars, 19 genre flags at the end). GroupLens publishes no pictures: ``posters/`` or ``images/`` holds files named by
movie id.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from data_tools.common.errors import UserError
from data_tools.converters.common import Converter, Source, find, folder, listed
from data_tools.dataset.read_log import Log
from data_tools.reading.form import Form
from data_tools.reading.opened import below

RATING = ("user_id", "item_id", "rating", "timestamp")
GENRES = (
    *(
        "unknown",
        "Action",
        "Adventure",
        "Animation",
        "Children's",
        "Comedy",
        "Crime",
        "Documentary",
        "Drama",
        "Fantasy",
    ),
    *("Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western"),
)
HUNDRED = ("item_id", "title", "released", "video_released", "url", *GENRES)


def _hundred_thousand(files: Path, work: Path) -> tuple[Log, pl.DataFrame, pl.DataFrame]:
    items, broken = listed(find(files, "u.item", "films"), {}, work, Form("|", HUNDRED, "latin-1", quoted=False))
    named = [pl.when(pl.col(genre) == 1).then(pl.lit(genre)) for genre in GENRES]
    items = items.with_columns(genres=pl.concat_list(named).list.drop_nulls().list.join("|")).drop(GENRES)
    return Log(find(files, "u.data", "ratings"), {}, Form("\t", RATING, quoted=False)), items, broken


class MovieLens(Converter):
    """MovieLens 100K to 32M (GroupLens): ratings of films, with your folder of posters.

    4 stars and more count as a click; the first genre is the category.
    """

    def read(self, files: Path, work: Path) -> Source:
        if below(files, "u.data"):
            log, items, broken = _hundred_thousand(files, work)
        elif below(files, "ratings.dat"):
            log = Log(find(files, "ratings.dat", "ratings"), {}, Form("::", RATING, quoted=False))
            form = Form("::", ("item_id", "title", "genres"), "utf-8-sig", quoted=False)
            films = find(files, "movies.dat", "films")
            try:
                films.read_text(encoding="utf-8")
            except UnicodeDecodeError:  # 1M is in Latin-1, 10M in UTF-8
                form = Form("::", form.names, "latin-1", quoted=False)
            items, broken = listed(films, {}, work, form)
        else:
            columns = {"user_id": "userId", "item_id": "movieId"}
            log = Log(find(files, ["ratings.csv", "ratings.csv.*"], "ratings"), columns)
            items, broken = listed(find(files, "movies.csv", "films"), {"item_id": "movieId"}, work)
        if "genres" not in items.columns:
            raise UserError(f"the films in {files} have the columns {items.columns}; must have title and genres")
        items = items.with_columns(category=pl.col("genres").cast(pl.String).str.split("|").list.first())
        return Source(
            log,
            items,
            folder(files, "posters", "images"),
            "MovieLens (GroupLens)",
            "GroupLens: research only, no redistribution; posters belong to their owners",
            {"rating_threshold": 4.0},
            broken,
        )
