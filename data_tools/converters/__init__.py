"""Converters of public data sets: from the files that their owners publish to what ``prepare`` takes.

A further one is a file with a :class:`data_tools.converters.common.Converter`, a line below, a section in README.md and
a test; other packages add theirs through the entry-point group ``visual_interest.converters``.
"""

from __future__ import annotations

from data_tools.common.plugins import Registry
from data_tools.converters.alibaba_ads import AlibabaAds
from data_tools.converters.amazon import AmazonReviews
from data_tools.converters.common import Converter
from data_tools.converters.criteo import Criteo
from data_tools.converters.hm import HM
from data_tools.converters.microlens import MicroLens
from data_tools.converters.movielens import MovieLens
from data_tools.converters.pixelrec import PixelRec
from data_tools.converters.taobao_mm import TaobaoMM

CONVERTERS: Registry[type[Converter]] = Registry(
    "data set",
    "visual_interest.converters",
    {
        "movielens": MovieLens,
        "amazon_reviews": AmazonReviews,
        "hm": HM,
        "pixelrec": PixelRec,
        "microlens": MicroLens,
        "taobao_mm": TaobaoMM,
        "alibaba_ads": AlibabaAds,
        "criteo": Criteo,
    },
)
