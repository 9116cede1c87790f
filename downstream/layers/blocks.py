"""Layers that models and forms share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from downstream.data.codes import PADDING
from downstream.data.user_features import user_features
from downstream.layers.pages import on_large_pages
from downstream.layers.prelu import PReLU


class Dice(nn.Module):
    """DIN's data adaptive activation function (arXiv 1706.06978, section 5.2), on (N, width).

    f(s) = p(s) s + (1 - p(s)) alpha s with p(s) = 1 / (1 + exp(-(s - E[s]) / sqrt(Var[s] + 1e-8))). E and Var are those
    of the batch in training, of this process's share where there are several, and moving averages afterwards.
    Ours: the averages' momentum 0.1, and that alpha starts at 0.25, as PReLU's slope does.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.full((width,), 0.25))
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("variance", torch.ones(width))

    def forward(self, s: Tensor) -> Tensor:
        # One row has no variance and no row no mean: such a batch is normalised by the averages.
        of_batch = self.training and len(s) > 1
        standard = nn.functional.batch_norm(s, self.mean, self.variance, training=of_batch, momentum=0.1, eps=1e-8)
        p = torch.sigmoid(standard)
        return s * (p + (1 - p) * self.alpha)


ACTIVATIONS: dict[str, Callable[[int], nn.Module]] = {"prelu": lambda width: PReLU(), "dice": Dice}


def mlp(widths: Sequence[int], out: int, activation: str = "prelu") -> nn.Sequential:
    """Linear and activation through ``widths`` (the input's first), then a linear layer to ``out``.

    Weights start as He et al. (arXiv 1502.01852) derive for PReLU. torch's default shrinks the signal in each layer,
    and an image that starts near nothing is not learned in one epoch.
    """
    layers: list[nn.Module] = []
    for narrow, wide in pairwise([*widths, out]):
        linear = nn.Linear(narrow, wide)
        nn.init.kaiming_normal_(linear.weight, a=0.25)  # 0.25 is where PReLU's slope starts
        nn.init.zeros_(linear.bias)
        layers += [linear, ACTIVATIONS[activation](wide)]
    return nn.Sequential(*layers[:-1])


def prelu_mlp(widths: Sequence[int], out: int) -> nn.Sequential:
    """:func:`mlp` with PReLU."""
    return mlp(widths, out)


def embedding_model(raw_size: int, hidden: Sequence[int], size: int) -> nn.Sequential:
    """DICM's embedding model (arXiv 1711.06505): D-256-64-12 with PReLU there.

    Parameters
    ----------
    raw_size : int
        D, the size of a raw feature.
    hidden : sequence of int
        Widths between, each cut to 4 D (ours, for small D).
    size : int
        Of an embedding.
    """
    return prelu_mlp([raw_size, *(min(width, 4 * raw_size) for width in hidden)], size)


def gather(vectors: Tensor, position: Tensor) -> Tensor:
    """Rows of ``vectors`` (M, ...) at ``position`` (any shape): (\\*shape, ...).

    By ``index_select``, whose backward is several times faster than those of plain indexing and embedding look-ups.
    """
    return vectors.index_select(0, position.flatten()).unflatten(0, position.shape)


def per_context(batch: dict[str, Tensor], function: Callable[[dict[str, Tensor]], Tensor]) -> Tensor:
    """Compute what depends on user, history and scene alone once for the rows of a batch that share them.

    Parameters
    ----------
    batch : dict of str to Tensor
        See ``downstream.data.ctr_data``.
    function : callable
        Takes a batch of users with what is known of them, scenes, histories and masks, one row a context, and returns
        (C, ...).

    Returns
    -------
    Tensor
        (B, ...), what ``function`` gives for the context of each row.
    """
    first = batch["first"]
    names = ("user", "scene", *user_features(batch), "history", "mask")
    contexts = {name: batch[name][first] for name in names if name in batch}
    return gather(function(contexts), batch["context"])


def clicked_mean(vectors: Tensor, batch: dict[str, Tensor]) -> Tensor:
    """Mean over the clicked items of each row of their vectors: (M, d) -> (B, d), zeros for a user without clicks."""
    lengths = batch["mask"].sum(dim=1)
    offsets = lengths.cumsum(0) - lengths
    return nn.functional.embedding_bag(batch["history"][batch["mask"]], vectors, offsets=offsets, mode="mean")


def id_embedding(codes: int, size: int) -> nn.Embedding:
    """An embedding of integer codes. It starts small, so that codes shown once or never contribute little."""
    weight = on_large_pages(torch.empty(codes, size))
    nn.init.normal_(weight).mul_(0.01)[PADDING] = 0
    return nn.Embedding(codes, size, padding_idx=PADDING, _weight=weight)
