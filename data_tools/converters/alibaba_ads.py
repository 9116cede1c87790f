"""Ali Display Ad Click (Alibaba, Tianchi data set 56): eight days of impressions of display ads, no pixels.

Format: https://tianchi.aliyun.com/dataset/56. ``raw_sample.csv`` (user,time_stamp,adgroup_id,pid,nonclk,clk; seconds)
and ``ad_feature.csv`` (adgroup_id,cate_id,campaign_id,customer,brand,price). ``user_profile.csv`` and
``behavior_log.csv`` are not used: no model here uses attributes of users, and behaviours name a category and a
brand, not an ad, so they give no history of items.
"""

from __future__ import annotations

from pathlib import Path

from data_tools.converters.common import Converter, Source, find, listed
from data_tools.dataset.read_log import Log


class AlibabaAds(Converter):
    """Ali Display Ad Click (Alibaba, Tianchi): impressions of display ads, no pictures.

    The place on the page (pid) is the scene.
    """

    def read(self, files: Path, work: Path) -> Source:
        named = {"item_id": "adgroup_id", "category": "cate_id"}
        items, broken = listed(find(files, ["ad_feature.csv", "ad_feature.csv.*"], "ads"), named, work)
        columns = {
            "user_id": "user",
            "item_id": "adgroup_id",
            "timestamp": "time_stamp",
            "click": "clk",
            "scene": "pid",
        }
        return Source(
            Log(find(files, ["raw_sample.csv", "raw_sample.csv.*"], "impressions"), columns),
            items,
            None,
            "Ali Display Ad Click (Alibaba, Tianchi)",
            "the terms on the page of the data set: no commercial use",
            broken=broken,
        )
