"""What an encoder sees alike, and what its reconstruction attends to, as rows of pictures."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchvision.transforms.v2.functional import to_pil_image

from data_tools.common.pages import jpeg_uri
from pretrain.evaluation.page_auc import Requests
from pretrain.objectives.parts.reconstruction import reconstruct


def as_image(picture: Tensor) -> str:
    """A picture, uint8 (3, S, S), as the address of an inline image."""
    return jpeg_uri(to_pil_image(picture))


def neighbour_rows(units: dict[str, Tensor], images: Tensor, chosen: list[int], count: int = 6) -> list[dict[str, Any]]:
    """For each chosen picture, itself and its nearest neighbours under each embedding.

    Parameters
    ----------
    units : dict of str to float tensor (N, D)
        Unit vectors by the embedding's name.
    images : uint8 tensor (N, 3, S, S)
    chosen : list of int
        Rows.
    count : int
        Neighbours of each.
    """
    rows = []
    for query in chosen:
        strips = {}
        for name, unit in units.items():
            cosine = unit @ unit[query]
            cosine[query] = -2
            strips[name] = [as_image(images[place]) for place in cosine.topk(min(count, len(images) - 1)).indices]
        rows.append({"query": as_image(images[query]), "strips": strips})
    return rows


def attention_rows(
    unit: Tensor, requests: Requests, chosen: list[int], temperature: float, *, count: int = 10
) -> list[dict[str, Any]]:
    """For each chosen page view, a clicked target and the latest clicks with their weights.

    Parameters
    ----------
    unit : float tensor (N, D)
        Unit vectors of the requests' pictures.
    requests : Requests
    chosen : list of int
        Page views with a click and a history.
    temperature : float
        Of the attention.
    count : int
        Latest clicks that are shown.
    """
    rows = []
    for row in chosen:
        target = int(requests.page[row][requests.click[row]][0])
        history = requests.history[row][requests.history[row] >= 0]
        present = torch.ones(1, len(history), dtype=torch.bool)
        weights = reconstruct(unit[target][None, None], unit[history][None], present, temperature)[1][0, 0]
        latest = list(zip(history.tolist(), weights.tolist(), strict=True))[-count:]
        clicks = [{"image": as_image(requests.images[k]), "weight": w * len(history)} for k, w in latest]
        rows.append({"target": as_image(requests.images[target]), "clicks": clicks})
    return rows


def choose_pictures(requests: Requests, examples: int, seed: int) -> tuple[list[int], list[int]]:
    """Pictures whose neighbours are shown, and page views with a click and at least two earlier ones, at random."""
    generator = torch.Generator().manual_seed(seed)
    pictures = torch.randperm(len(requests.images), generator=generator)[:examples].tolist()
    full = ((requests.click.any(1)) & ((requests.history >= 0).sum(1) > 1)).nonzero().flatten()
    return pictures, full[torch.randperm(len(full), generator=generator)[:examples]].tolist()
