"""PixelRec (Westlake University): PixelRec50K, Pixel200K, Pixel1M, Pixel8M or all of it.

Format: https://github.com/westlake-repl/PixelRec. The interactions (item_id,user_id,timestamp), the item information
(item_id,view_number,comment_number,thumbup_number,share_number,coin_number,favorite_number,barrage_number,title,tag,
description) and the covers (ITEM.jpg). Both tables of a size have one name, so they are recognised by their columns.
"""

from __future__ import annotations

from pathlib import Path

from data_tools.converters.common import Converter, Source, find_with, folder, listed
from data_tools.dataset.read_log import Log


class PixelRec(Converter):
    """PixelRec (Westlake University): videos by their covers.

    An interaction is a click; unclicked videos are drawn by popularity.
    """

    def read(self, files: Path, work: Path) -> Source:
        log = find_with(files, {"item_id", "user_id", "timestamp"}, "interactions")
        items, broken = listed(
            find_with(files, {"item_id", "title", "tag"}, "item information"), {"category": "tag"}, work
        )
        return Source(
            Log(log, {}),
            items,
            folder(files, "cover", "covers", "images"),
            "PixelRec (Westlake University)",
            "academic use; altered copies may not be passed on",
            {"unclicked": 4, "unclicked_from": "popularity"},
            broken,
        )
