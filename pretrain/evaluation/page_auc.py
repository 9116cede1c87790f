"""Within-page-view AUC of SimScore: does an embedding rank what a user clicked above what else the page showed?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from data_tools.sharding.read import open_shards
from pretrain.data.collate import places
from pretrain.data.pictures import PictureSet


@dataclass
class Requests:
    """Page views of one split, for scoring.

    Attributes
    ----------
    images : every distinct picture once, N in all, decoded when they are encoded; or a uint8 tensor (N, 3, S, S)
    history : long tensor (R, H), indices into images, -1 for padding
    page : long tensor (R, P)
    click : bool tensor (R, P)
    seen : bool tensor (R, P), true where the item stands in some training request
    oracle : float tensor (R, P) of true click probabilities, or None
    """

    images: PictureSet | Tensor
    history: Tensor
    page: Tensor
    click: Tensor
    seen: Tensor
    oracle: Tensor | None


def _padded(rows: list[list[Any]], fill: float, dtype: torch.dtype) -> Tensor:
    out = torch.full((len(rows), max(map(len, rows), default=0)), fill, dtype=dtype)
    for row, values in enumerate(rows):
        out[row, : len(values)] = torch.tensor(values, dtype=dtype)
    return out


def load_requests(shards: str | Path, split: str, image_size: int, history: int, limit: int, seed: int) -> Requests:
    """Read a split's requests (at most ``limit``, a random sample); the pictures they mention are decoded once each.

    Memory is that of the sample's requests, however many there are, and however many pictures they mention.
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
        history=_padded(clicked, -1, torch.long),
        page=_padded(shown, -1, torch.long),
        click=_padded([record["click"] for record in records], 0, torch.bool),
        seen=_padded([record["seen"] for record in records], 0, torch.bool),
        oracle=_padded([record["oracle"] for record in records], 0, torch.float) if with_oracle else None,
    )


@torch.no_grad()
def embed(encoder: torch.nn.Module, images: PictureSet | Tensor, batch: int = 256) -> Tensor:
    """Embeddings, unit float32 (N, D), of pictures, uint8 (N, 3, S, S), in evaluation mode."""
    if not len(images):
        return torch.empty(0, 1)
    device = next(encoder.parameters()).device
    training = encoder.training
    encoder.eval()
    parts = [F.normalize(encoder(part.to(device)).float(), dim=-1).cpu() for part in images.split(batch)]
    encoder.train(training)
    unit = torch.cat(parts)
    unit[sorted(getattr(images, "broken", ()))] = 0
    return unit


def sim_scores(unit: Tensor, history: Tensor, page: Tensor) -> Tensor:
    """SimScore of a page view's slots: the mean cosine of the target and the history's items.

    COURIER (arXiv 2306.05001) hands the single cosines to a CTR model; their mean, as one score, is ours.

    Parameters
    ----------
    unit : float tensor (N, D), unit vectors
    history : long tensor (R, H), -1 for padding
    page : long tensor (R, P), -1 for padding

    Returns
    -------
    float tensor (R, P)
    """
    present = (history >= 0).float()
    clicked = unit[history.clamp(min=0)] * present[..., None]
    taste = clicked.sum(1) / present.sum(1, keepdim=True).clamp(min=1)
    return torch.einsum("rpd,rd->rp", unit[page.clamp(min=0)], taste)


def page_auc(score: Tensor, click: Tensor, kept: Tensor) -> dict[str, float]:
    """Mean over page views of the AUC within the page view, over its slots ``kept``; ties count one half.

    Parameters
    ----------
    score : float tensor (R, P)
    click, kept : bool tensors (R, P)

    Returns
    -------
    dict
        ``auc`` (NaN without such a page view), ``standard_error`` of the mean, and ``pages`` that have both labels.
    """
    pair = (click & kept)[:, :, None] & (~click & kept)[:, None, :]
    difference = score[:, :, None] - score[:, None, :]
    wins = ((difference > 0).double() + 0.5 * (difference == 0).double()) * pair
    pairs = pair.sum((1, 2))
    auc = (wins.sum((1, 2)) / pairs)[pairs > 0]
    error = float(auc.std() / len(auc) ** 0.5) if len(auc) > 1 else float("nan")
    return {"auc": float(auc.mean()), "standard_error": error, "pages": len(auc)}


def slices(requests: Requests) -> dict[str, Tensor]:
    """The slots of each slice, bool (R, P): items seen in training, and items never seen there."""
    present = requests.page >= 0
    if broken := getattr(requests.images, "broken", None):  # pictures that could not be decoded have no vector
        present &= ~torch.isin(requests.page, torch.tensor(sorted(broken)))
    return {"seen": present & requests.seen, "unseen": present & ~requests.seen}


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


def judged(figures: dict[str, dict[str, float]], choose_on: str, otherwise: float) -> float:
    """The AUC weights are chosen by: of the slice ``choose_on``, or of the other where it has no page views.

    Without any page view to judge by: ``otherwise``.
    """
    known = {name: slot["auc"] for name, slot in figures.items() if slot["pages"]}
    return known.get(choose_on, max(known.values(), default=otherwise))
