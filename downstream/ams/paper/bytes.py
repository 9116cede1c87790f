"""Bytes that a step sends, computed for the setting of the paper (arXiv 1711.06505), and its own figures."""

from __future__ import annotations

from dataclasses import dataclass

MEGA, GIGA = 2**20, 1000 * 2**20  # as the paper's own figures come out: 320k x 4096 x 4 B = 5.0 G, 1.4M x 96 B = 128 M
NAMES = {"worker": "store in worker", "server": "store in server", "ams": "AMS"}
# arXiv 1711.06505: worker storage, server storage, communication, of it images, bytes a batch.
PAPER = {
    "worker": (5.1 * GIGA, 0, 128 * MEGA, 0),
    "server": (134 * MEGA, 30.3 * MEGA, 5.1 * GIGA, 5.0 * GIGA),
    "ams": (134 * MEGA, 30.3 * MEGA, 158 * MEGA, 30 * MEGA),
}


@dataclass(frozen=True)
class Setting:
    """The paper's setting.

    Attributes
    ----------
    nodes : int
        Nodes, each a worker and a server.
    rows : int
        Impressions of a batch.
    images, ids : int
        Distinct images and ids of a batch, over all nodes.
    layers : tuple of int
        Widths of the embedding model.
    embedding : int
        Size of an ID embedding.
    """

    nodes: int = 20
    rows: int = 60_000
    images: int = 320_000
    ids: int = 1_400_000
    layers: tuple[int, ...] = (4096, 256, 64, 12)
    embedding: int = 12

    def model_bytes(self) -> int:
        """Bytes of the embedding model's weights: linear layers with biases, and a PReLU slope between two."""
        linear = sum((wide + 1) * narrow for wide, narrow in zip(self.layers, self.layers[1:], strict=False))
        return 4 * (linear + len(self.layers) - 2)


def as_the_paper_counts(setting: Setting) -> dict[str, tuple[int, int]]:
    """Strategy -> (communication, that of images): embeddings and gradients of ids and images, raw features.

    All of them count as leaving their node; requests and the models' gradients are not counted.
    """
    ids = setting.ids * setting.embedding * 4 * 2
    images = {
        "worker": 0,
        "server": setting.images * setting.layers[0] * 4,
        "ams": setting.images * setting.layers[-1] * 4 * 2,
    }
    return {strategy: (ids + own, own) for strategy, own in images.items()}


def all_that_travels(setting: Setting) -> dict[str, dict[str, int]]:
    """Strategy -> kind -> bytes that leave a node, as :mod:`downstream.ams.traffic` counts them.

    Each node owns an even share of what it asks for. Ids travel as numbers of 4 bytes. The embedding model's gradient
    is all-reduced in a ring, with every strategy.
    """
    leaves = (setting.nodes - 1) / setting.nodes
    image, code = setting.images * leaves, setting.ids * leaves
    common = {
        "id codes": code * 4,
        "id embeddings": code * setting.embedding * 4,
        "id gradients": code * setting.embedding * 4,
        "model": 2 * (setting.nodes - 1) * setting.model_bytes(),
    }
    size = setting.layers[-1]
    own = {
        "worker": {},
        "server": {"image ids": image * 4, "features": image * setting.layers[0] * 4},
        "ams": {"image ids": image * 4, "embeddings": image * size * 4, "gradients": image * size * 4},
    }
    return {strategy: {kind: round(b) for kind, b in (common | kinds).items()} for strategy, kinds in own.items()}
