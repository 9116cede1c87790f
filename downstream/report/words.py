"""The words of the report: names as the field writes them, numbers with signs, intervals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from downstream.comparison.analysis import NDCG_AT

METRIC_NAMES = {
    "auc": "AUC",
    "gauc": "GAUC",
    "log_loss": "log loss",
    "ndcg": f"NDCG@{NDCG_AT}",
    "ece": "ECE",
}
SLICE_NAMES = {
    "all": "All test impressions",
    "warm": "Items shown in training",
    "cold": "Items never shown in training",
}
PLACES = {
    "all": "on all test impressions",
    "warm": "on items shown in training",
    "cold": "on items never shown in training",
}
DISPLAY_NAMES = {
    "ids": "IDs only",
    "untrained": "Before training",
    "imagenet": "ImageNet",
    "generic": "Generic",
    "clip": "CLIP",
    "openclip": "OpenCLIP",
    "open_clip": "OpenCLIP",
    "siglip": "SigLIP",
    "dino": "DINO",
    "dinov2": "DINOv2",
    "simclr": "SimCLR",
    "simsiam": "SimSiam",
    "scl": "SCL",
    "supervised": "Supervised",
    "courier": "COURIER",
    "planted": "Planted attributes",
    "random": "Random vectors",
    "vector": "Vector",
    "simscore": "SimScore",
    "simtier": "SimTier",
    "cluster_id": "Cluster ID",
    "make": "MAKE",
    "simtier_make": "SimTier + MAKE",
    "best": "best on validation",
    "none": "–",
    "embedding_mlp": "Embedding & MLP",
    "din": "DIN",
    "dicm": "DICM",
    "logistic": "Logistic regression",
    "mlr": "MLR",
    "dssm": "DSSM",
    "dqm": "DQM",
    "esmm": "ESMM",
    "esmm_transfer": "ESMM, transfer",
    "scene_networks": "Scene networks",
    "star": "STAR",
}


class Names:
    """Display names of sources, forms and models.

    Parameters
    ----------
    given : dict of str to str
        Names that win over the built-in ones.
    """

    def __init__(self, given: Mapping[str, str]) -> None:
        self.known = {**DISPLAY_NAMES, **given}

    def __call__(self, key: str) -> str:
        """The name of ``key``; of an unknown one, such as "simscore, fine-tuned", the first part is looked up."""
        first, comma, rest = key.partition(", ")
        return self.known.get(key) or self.known.get(first, first) + comma + rest


def signed(value: float, digits: int = 4) -> str:
    """A difference with its sign and its decimals."""
    return f"{value:+.{digits}f}".replace("-", "\u2212")


def interval(row: Mapping[str, Any]) -> str:
    """A difference with its interval, and a star where it is significant after Holm's correction."""
    star = " *" if row.get("direction") else ""
    ends = "no interval" if row["low"] is None else f"{signed(row['low'])} to {signed(row['high'])}"
    return f"{signed(row['mean'])} ({ends}){star}"


def share(row: Mapping[str, Any]) -> str:
    """A share with its interval; an end that nothing rules out is open."""
    low, high = ("?" if row[end] is None else f"{row[end]:.0%}" for end in ("low", "high"))
    return f"{row['share']:.0%} ({low} to {high})"


def lower_first(text: str) -> str:
    """The text as it is written within a sentence."""
    return text[:1].lower() + text[1:]
