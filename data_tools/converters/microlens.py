"""MicroLens (Westlake University): MicroLens-50k or MicroLens-100k.

Format: https://github.com/westlake-repl/MicroLens and the readme of the download. ``MicroLens-100k_pairs.csv``
(user,item,timestamp in ms), ``MicroLens-100k_title_en.csv`` or ``MicroLens-50k_titles.csv`` (item, title; with or
without a header) and the covers (ITEM.jpg) in ``MicroLens-100k_covers``.
"""

from __future__ import annotations

from pathlib import Path

from data_tools.converters.common import Converter, Source, find, folder, listed
from data_tools.dataset.read_log import Log
from data_tools.reading import lines
from data_tools.reading.form import Form


class MicroLens(Converter):
    """MicroLens 50k or 100k (Westlake University): videos by their covers.

    An interaction is a click; unclicked videos are drawn by popularity.
    """

    def read(self, files: Path, work: Path) -> Source:
        titles = find(files, ["*title_en.csv", "*titles.csv"], "titles")
        headed = lines.header(titles, ",", "utf-8-sig")[:2] == ["item", "title"]
        form = None if headed else Form(",", ("item", "title"))
        items, broken = listed(titles, {"item_id": "item"}, work, form)
        return Source(
            Log(find(files, "*_pairs.csv", "interactions"), {"user_id": "user", "item_id": "item"}),
            items,
            folder(files, "*_covers", "covers", "images"),
            "MicroLens (Westlake University)",
            "academic use; altered copies may not be passed on",
            {"unclicked": 4, "unclicked_from": "popularity"},
            broken,
        )
