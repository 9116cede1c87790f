"""Converters of public data sets, from the files that their owners publish to what ``prepare`` takes.

Each is one function of (files, work, options) that gives a :class:`data_tools.converters.common.Source`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from data_tools.converters.alibaba_ads import alibaba_ads
from data_tools.converters.amazon import amazon_reviews
from data_tools.converters.common import Source
from data_tools.converters.criteo import criteo
from data_tools.converters.hm import hm
from data_tools.converters.microlens import microlens
from data_tools.converters.movielens import movielens
from data_tools.converters.pixelrec import pixelrec
from data_tools.converters.taobao_mm import taobao_mm

SOURCES: dict[str, Callable[[Path, Path, dict[str, Any]], Source]] = {
    "movielens": movielens,
    "amazon_reviews": amazon_reviews,
    "hm": hm,
    "pixelrec": pixelrec,
    "microlens": microlens,
    "taobao_mm": taobao_mm,
    "alibaba_ads": alibaba_ads,
    "criteo": criteo,
}
