"""Adam, and a lazy Adam for ID tables of which a batch shows few rows."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from downstream.ams.ids import is_sharded
from downstream.images.features import Features
from downstream.layers.click_model import ClickModel
from downstream.layers.pages import on_large_pages
from downstream.training.settings import TrainingSettings

# Tables that stay dense: a batch shows most of the title words, so that a sparse gradient would only cost more.
DENSE = ("words",)
# Rows above which "auto" gives a table sparse gradients. With dense Adam a step of DIN takes a quarter longer with
# 100,000 users and items than with 10,000, and 6.5 times as long with a million (results/benchmarks/ctr_growth.md).
LARGE = 100_000


class LazyAdam(torch.optim.Adam):
    """Adam whose groups with ``lazy`` update the rows that have a gradient, and these alone.

    What torch.optim.SparseAdam does to a table (but for epsilon, which is where Adam has it), in one optimizer with the
    dense groups, so that learning rates and checkpoints know one state. Where a batch shows every row it is Adam. A row
    that a batch does not show keeps its weights and its moments; Adam would let the moments decay and keep moving the
    weights by them.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step; the gradients of lazy groups are gone afterwards."""
        for group in self.param_groups:
            for weight in group["params"] if group.get("lazy") else ():
                if weight.grad is not None:
                    self._update(weight, group)
                    weight.grad = None  # Adam passes over what has no gradient
        return super().step(closure)

    def _update(self, weight: Tensor, group: dict[str, Any]) -> None:
        state = self.state[weight]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32)
            # Both moments of a row are adjacent: memory is searched for a row once.
            state["moments"] = on_large_pages(weight.new_empty(len(weight), 2, weight.shape[1])).zero_()
        state["step"] += 1
        steps, (first_decay, second_decay) = state["step"].item(), group["betas"]
        gradient = weight.grad.coalesce()
        row, own = gradient.indices()[0], gradient.values()
        moments = state["moments"].index_select(0, row)
        mean = moments[:, 0].lerp_(own, 1 - first_decay)
        square = moments[:, 1].mul_(second_decay).addcmul_(own, own, value=1 - second_decay)
        state["moments"].index_copy_(0, row, moments)
        # A square root of every other row is not vectorised: it takes four times as long as with the copy.
        root = square.contiguous().sqrt_().div_((1 - second_decay**steps) ** 0.5).add_(group["eps"])
        rate = group["lr"] / (1 - first_decay**steps)
        # Each row is there once: copies of the moved rows take a third of the time of index_add.
        weight.index_copy_(0, row, weight.index_select(0, row).addcdiv_(mean, root, value=-rate))


def _sparse(model: ClickModel, optimizer: str) -> set[nn.Parameter]:
    """The ID tables that an optimizer steps through lazily, set to give sparse gradients."""
    above = {"adam": math.inf, "auto": LARGE, "sparse_adam": 0}[optimizer]
    tables = [
        table
        for name, table in getattr(model, "ids", {}).items()
        if name not in DENSE and len(table.weight) > above and not is_sharded(table.weight)
    ]
    for table in tables:
        table.sparse = True
    return {table.weight for table in tables}


def make_optimizer(model: ClickModel, settings: TrainingSettings) -> torch.optim.Adam:
    """The optimizer of a model on its final device, before DDP wraps it.

    Tuned raw features have a group, and a learning rate where one is set. Sharded tables have a group: fused Adam
    updates a group at once, which needs tensors of one kind. So have tables with sparse gradients.
    """
    optim = settings.optim
    tuned = {weight for part in model.modules() if isinstance(part, Features) for weight in part.parameters()}
    lazy = _sparse(model, optim.id_optimizer)
    rest = [weight for weight in model.parameters() if weight not in tuned | lazy]
    kinds = {sharded: [weight for weight in rest if is_sharded(weight) is sharded] for sharded in (False, True)}
    groups = [{"params": kind, "lr": optim.lr, "fused": not sharded} for sharded, kind in kinds.items() if kind]
    if tuned:
        groups.append({"params": list(tuned), "lr": settings.image.lr or optim.lr, "fused": True})
    if not lazy:
        return torch.optim.Adam(groups)
    tables = [weight for weight in model.parameters() if weight in lazy]
    return LazyAdam([*groups, {"params": tables, "lr": optim.lr, "lazy": True}])
