"""The form "cluster_id": which group of look-alikes an item belongs to, as an ID."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import faiss
import numpy as np
import torch
from jsonargparse.typing import PositiveInt
from torch import Tensor, nn

from data_tools.common.checks import Checked, FromTwo
from data_tools.common.errors import UserError
from data_tools.common.scratch import pieces, selected
from data_tools.tables.table import unit_vectors
from downstream.data.codes import FIRST_KNOWN, UNKNOWN
from downstream.forms.aggregators import make_aggregator
from downstream.forms.base import Form
from downstream.images.joined import ItemImages
from downstream.layers.blocks import gather, id_embedding
from downstream.settings import ImageSettings


def _nearest(fitted: np.ndarray, vectors: np.ndarray, clusters: int, spherical: bool, seed: int):
    """Centres (clusters, D) of ``fitted`` and the number of the one nearest to each of ``vectors``."""
    kmeans = faiss.Kmeans(
        fitted.shape[1],
        clusters,
        niter=25,
        seed=seed,
        spherical=spherical,
        gpu=faiss.get_num_gpus() > 0,
        min_points_per_centroid=1,
    )
    kmeans.train(fitted)
    nearest = [kmeans.index.search(vectors[piece], 1)[1].ravel() for piece in pieces(len(vectors))]
    return kmeans.centroids, np.concatenate(nearest)


def cluster_codes(images: ItemImages, sizes: Sequence[int], levels: int, seed: int) -> tuple[np.ndarray, list[int]]:
    """Codes of all items, one column for each level of each size.

    Centres are fitted to warm items; all others get the nearest one. Code 1 is an item without a vector, clusters start
    at 2, as in ``downstream.data.ctr_data``.

    Cluster-ID (COURIER, arXiv 2306.05001): k-means on vectors of length 1, here with centres of length 1 too, so that
    the nearest is the one with the highest cosine. With several levels, residual k-means codes (QARM, arXiv
    2411.11739): plain k-means on the vectors of length 1, then on the residuals from their centres, and so on.

    Returns
    -------
    codes : numpy.ndarray
        int64 (items, C).
    counts : list of int
        Number of codes in each of the C columns.
    """
    found = np.flatnonzero(images.found)
    usable = images.found & images.warm
    columns, counts = [], []
    for place, size in enumerate(sizes):
        clusters = max(min(size, usable.sum() // 4), 1)
        left = selected(images.vectors, found)
        for piece in pieces(len(left)):
            left[piece] = unit_vectors(left[piece])
        for level in range(levels):
            centres, nearest = _nearest(
                selected(left, np.flatnonzero(usable[found])),
                left,
                int(clusters),
                levels == 1,
                seed + place * levels + level,
            )
            codes = np.full(len(usable), UNKNOWN)
            codes[found] = FIRST_KNOWN + nearest
            columns.append(codes)
            counts.append(FIRST_KNOWN + int(clusters))
            for piece in pieces(len(left)):
                left[piece] -= centres[nearest[piece]]
    return np.stack(columns, axis=1), counts


class ClusterID(Form):
    """Embedded codes of the shown item, and those of the clicked ones pooled by an aggregator.

    Where the aggregator attends by the ad image, the query is the shown item's embedded codes.
    """

    codes_of = "cluster"
    # Which centre is nearest has no gradient; the codes' embeddings are learned.
    uses = frozenset({"centre", "aggregator", "ad_image", "behaviour_images", "size"})

    @dataclass(frozen=True)
    class Settings(Checked):
        """Options of the clustering.

        Attributes
        ----------
        clusters : tuple of int
            Clusters of each clustering, each at most a quarter of the number of warm items.
        levels : int
            1 for the nearest centre, more for residual k-means.
        """

        clusters: tuple[FromTwo, ...] = (20, 100)
        levels: PositiveInt = 1

        def __post_init__(self) -> None:
            super().__post_init__()
            if not self.clusters:
                raise UserError("clusters is empty; give one number or more, each >= 2")

    def __init__(
        self, images: ItemImages, settings: ImageSettings, options: Settings, *, slots: int, query_size: int
    ) -> None:
        super().__init__()
        seed = int(torch.randint(2**30, ()))  # of the global generator, as all initial weights are
        codes, counts = cluster_codes(images, options.clusters, options.levels, seed)
        self.register_buffer("codes", torch.from_numpy(codes), persistent=False)
        self.embeddings = nn.ModuleList(id_embedding(count, settings.size) for count in counts)
        size = settings.size * len(counts)
        self.pool = None
        if settings.behaviour_images:
            self.pool = make_aggregator(size, settings, slots=slots, query_size=query_size)
        self.ad_image = settings.ad_image
        self.width = size * self.ad_image + (self.pool.width if self.pool else 0)

    def forward(self, batch: dict[str, Tensor], ad_ids: Tensor) -> Tensor:
        codes = self.codes[batch["row"]]
        distinct = torch.cat([embed(code) for embed, code in zip(self.embeddings, codes.T, strict=True)], dim=-1)
        ad = gather(distinct, batch["target"])
        features = [ad] if self.ad_image else []
        if self.pool:
            features.append(self.pool(gather(distinct, batch["history"]), batch["mask"], ad, ad_ids))
        return torch.cat(features, dim=-1)
