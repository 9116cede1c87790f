"""Within-page-view AUC of SimScore: does an embedding rank what a user clicked above what else the page showed?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from data_tools.measures.group_auc import group_auc
from data_tools.measures.simscore import sim_scores
from data_tools.sharding.read import open_shards
from pretrain.data.collate import filled, places
from pretrain.data.pictures import PictureSet
from pretrain.encoder.image_encoder import ImageEncoder
from pretrain.runtime.memory import pieces
from pretrain.settings import Settings

# Items of page views: what each slice holds.
SLICES = {"warm": "in a training request", "cold": "in no training request"}


@dataclass
class Requests:
    """Page views of one split, for scoring.

    Attributes
    ----------
    images : PictureSet or uint8 tensor (N, 3, S, S)
        Every distinct picture once, decoded when they are encoded.
    history : long tensor (R, H)
        Indices into images, -1 for padding.
    page : long tensor (R, P)
        The same.
    click : bool tensor (R, P)
    warm : bool tensor (R, P)
        Whether the item is in some training request.
    oracle : float tensor (R, P) or None
        True click probabilities, where they are known.
    """

    images: PictureSet | Tensor
    history: Tensor
    page: Tensor
    click: Tensor
    warm: Tensor
    oracle: Tensor | None


def load_requests(shards: str | Path, split: str, *, image_size: int, history: int, limit: int, seed: int) -> Requests:
    """Read a split's requests; the pictures they mention are decoded when they are encoded, once each.

    Memory is that of the sample's requests, however many there are, and however many pictures they mention.

    Parameters
    ----------
    shards : path
        Shard folder.
    split : str
        "train", "valid" or "test".
    image_size : int
        Side of the square pictures in pixels.
    history : int
        Most recent clicks of a request.
    limit, seed : int
        At most so many requests are read: a random sample, by the seed.
    """
    opened = open_shards(shards)
    listed = opened.listed(split)
    kept = np.ones(sum(group["requests"] for group in listed), dtype=bool)
    if len(kept) > limit:
        kept[np.random.default_rng(seed).permutation(len(kept))[limit:]] = False
    records: list[dict[str, Any]] = []
    first = 0
    for group, promised in enumerate(listed):
        wanted = kept[first : first + promised["requests"]]
        first += len(wanted)
        if wanted.any():
            records += [record for record, one in zip(opened.records(split, group), wanted, strict=True) if one]
    records.sort(key=lambda record: record["request"])
    index: dict[int, int] = {}
    clicked = [places(record["history"][-history:], index) for record in records]
    shown = [places(record["page"], index) for record in records]
    with_oracle = bool(records) and all("oracle" in record for record in records)
    return Requests(
        images=PictureSet(opened.pictures(split), list(index), image_size),
        history=filled(clicked, -1, torch.long),
        page=filled(shown, -1, torch.long),
        click=filled([record["click"] for record in records], 0, torch.bool),
        warm=filled([record["seen"] for record in records], 0, torch.bool),
        oracle=filled([record["oracle"] for record in records], 0, torch.float) if with_oracle else None,
    )


def requests_of(settings: Settings, split: str, **instead: Any) -> Requests:
    """The requests of a split that a run is scored on; ``instead`` replaces parameters of :func:`load_requests`."""
    evaluation = settings.evaluation
    wanted = {
        "shards": settings.data,
        "image_size": settings.encoder.image_size,
        "history": evaluation.history,
        "limit": evaluation.requests,
        "seed": settings.seed,
    }
    return load_requests(split=split, **wanted | instead)


@torch.no_grad()
def embed(encoder: torch.nn.Module, images: PictureSet | Tensor, batch: int = 256) -> Tensor:
    """Embeddings, unit float32 (N, D), of pictures, uint8 (N, 3, S, S), or of their items, in evaluation mode."""
    if not len(images):
        return torch.empty(0, 1)
    takes = encoder.family.takes if isinstance(encoder, ImageEncoder) else "pictures"
    if isinstance(images, PictureSet) and takes == "items":
        images = torch.tensor(images.items)
    device = next(encoder.parameters()).device
    training = encoder.training
    encoder.eval()
    parts = (part for some in images.split(batch) for part in pieces(some, device))
    vectors = [F.normalize(encoder(part.to(device)).float(), dim=-1).cpu() for part in parts]
    encoder.train(training)
    unit = torch.cat(vectors)
    unit[sorted(getattr(images, "broken", ()))] = 0
    return unit


def page_auc(score: Tensor, click: Tensor, kept: Tensor) -> dict[str, float]:
    """Mean over page views of the AUC within the page view, over its slots ``kept``; ties count one half.

    Parameters
    ----------
    score : float tensor (R, P)
    click, kept : bool tensors (R, P)

    Returns
    -------
    dict
        ``auc`` (NaN without such a page view, or where a score is NaN), ``standard_error`` of the mean, and ``pages``
        that have both labels.
    """
    row = torch.arange(len(score))[:, None].expand_as(score)
    missing = score.isnan()
    found = group_auc(*(each[kept].numpy() for each in (click, score.masked_fill(missing, 0), row)))
    auc = torch.from_numpy(found.auc[found.defined])
    if bool((missing & kept).any()):
        auc = torch.full_like(auc, float("nan"))
    error = float(auc.std() / len(auc) ** 0.5) if len(auc) > 1 else float("nan")
    return {"auc": float(auc.mean()), "standard_error": error, "pages": len(auc)}


def slices(requests: Requests) -> dict[str, Tensor]:
    """The slots of each slice, bool (R, P): see ``SLICES``."""
    present = requests.page >= 0
    if broken := getattr(requests.images, "broken", None):  # pictures that could not be decoded have no vector
        present &= ~torch.isin(requests.page, torch.tensor(sorted(broken)))
    return {"warm": present & requests.warm, "cold": present & ~requests.warm}


def encoder_page_auc(encoder: torch.nn.Module, requests: Requests) -> dict[str, dict[str, float]]:
    """``page_auc`` of an encoder's SimScore, by slice.

    A picture that cannot be decoded has no vector: as a slot it is left out, and in a history it adds nothing, which
    changes no order within the page view.
    """
    score = sim_scores(embed(encoder, requests.images), requests.history, requests.page)
    return {name: page_auc(score, requests.click, kept) for name, kept in slices(requests).items()}


def oracle_page_auc(requests: Requests) -> dict[str, dict[str, float]] | None:
    """``page_auc`` of the true click probability, by slice, where it is known."""
    if requests.oracle is None:
        return None
    return {name: page_auc(requests.oracle, requests.click, kept) for name, kept in slices(requests).items()}


def chosen_auc(figures: dict[str, dict[str, float]], choose_on: str, otherwise: float) -> float:
    """The AUC weights are chosen by: of the slice ``choose_on``, or of the other where it has no page views.

    Without any page view to judge by: ``otherwise``.
    """
    known = {name: part["auc"] for name, part in figures.items() if part["pages"]}
    return known.get(choose_on, max(known.values(), default=otherwise))
