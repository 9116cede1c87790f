"""What can be learned: a new objective is one file with one function, and one line here.

An objective takes the embeddings (N, D) of a batch's distinct pictures, the batch (see ``pretrain.batches``) and the
objective's settings, and returns named terms. The trainer minimises the sum of their losses.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

from pretrain.losses import Term
from pretrain.objectives.courier import courier
from pretrain.objectives.simclr import simclr


class Entry(NamedTuple):
    """An objective and the batches it learns from: "requests", or "items" for two views of catalogue pictures."""

    terms: Callable[[Tensor, dict[str, Tensor], Any], dict[str, Term]]
    batches: str


OBJECTIVES = {
    "courier": Entry(courier, "requests"),
    "simclr": Entry(simclr, "items"),
}
