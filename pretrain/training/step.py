"""One training step's forward and backward pass, at once or with gradient caching.

Gradient caching (GradCache, arXiv 2101.06983): the pictures are embedded in micro-batches without a graph, the loss and
its gradient by the embeddings are computed on all of them, and each micro-batch is embedded again, with the same random
numbers, to carry its part of that gradient back. Memory is that of one micro-batch, and negatives are those of the
whole batch of all processes. Batch norm takes its statistics from a micro-batch; with frozen norms, or layer norm, the
result is that of the whole batch at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from data_tools.common.errors import UserError
from pretrain.objectives.parts.losses import Term

ONE_VALUE = "more than 1 value per channel"  # what torch's batch normalisation says that it expects


def objective_terms(objective: nn.Module, embeddings: Tensor, batch: dict[str, Tensor]) -> dict[str, Term]:
    """Named terms of embeddings, in float32 whatever the precision of the encoder."""
    with torch.autocast(embeddings.device.type, enabled=False):
        return objective(embeddings, batch)


@contextmanager
def frozen_batchnorm_statistics(model: nn.Module) -> Iterator[None]:
    """Batch norms normalise as in training, while their running statistics stay as they are."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True


class EncoderPass(nn.Module):
    """The encoder's forward pass for training, which may be wrapped for many processes and in mixed precision.

    accelerate puts its mixed precision into the module it is given: the encoder inside keeps its own, in which it is
    judged and exported.
    """

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, images: Tensor, seeds: Tensor | None = None) -> Tensor:
        return self.encoder(images, seeds)


class Step:
    """Forward and backward pass of one batch.

    Parameters
    ----------
    model : nn.Module
        Encoder, pictures (N, 3, S, S) and seeds (N,) -> embeddings (N, D); it may be wrapped for many processes.
    objective : nn.Module
        Embeddings and batch -> terms; it may be wrapped, too.
    micro_batch : int
        Pictures encoded at a time; 0 encodes all at once.
    accelerator : Accelerator or None
        Scales the loss for fp16, and holds back the exchange of gradients until the last micro-batch.
    """

    def __init__(
        self, model: nn.Module, objective: nn.Module, micro_batch: int = 0, accelerator: Accelerator | None = None
    ) -> None:
        self.model, self.objective, self.accelerator = model, objective, accelerator
        self.micro_batch = micro_batch
        self._cached: list[tuple[Tensor, Tensor | None, tuple[Tensor, ...]]] = []

    def forward(self, batch: dict[str, Tensor], seeds: Tensor | None = None) -> tuple[dict[str, Term], Tensor]:
        """Encode the batch's distinct pictures and compute the objective's terms from them.

        Returns
        -------
        terms : dict of Term
        By name; the objective is the sum of their losses.
        embeddings : float tensor (N, D)
        """
        images = batch["images"]
        self._cached = []
        if self.micro_batch and len(images) > self.micro_batch:
            self._embeddings = self._embed_without_graph(images, seeds).requires_grad_()
        else:
            self._embeddings = self.model(images, seeds).float()
        return objective_terms(self.objective, self._embeddings, batch), self._embeddings

    def backward(self, loss: Tensor) -> None:
        """Add the loss's gradient to the parameters'."""
        if self.accelerator:
            self.accelerator.backward(loss)
        else:
            loss.backward()
        for number, (images, seeds, random) in enumerate(self._cached):
            last = number == len(self._cached) - 1
            with nullcontext() if last else self._no_exchange():
                _set_random_state(random)
                part = self.model(images, seeds).float()
                start = number * self.micro_batch
                part.backward(self._embeddings.grad[start : start + len(images)])
        self._cached = []

    def _embed_without_graph(self, images: Tensor, seeds: Tensor | None) -> Tensor:
        bare = getattr(self.model, "module", self.model)
        parts = []
        with torch.no_grad(), frozen_batchnorm_statistics(bare):
            for start in range(0, len(images), self.micro_batch):
                some = slice(start, start + self.micro_batch)
                chosen = None if seeds is None else seeds[some]
                self._cached.append((images[some], chosen, _random_state()))
                parts.append(bare(images[some], chosen).float())
        return torch.cat(parts)

    def _no_exchange(self):
        return self.model.no_sync() if hasattr(self.model, "no_sync") else nullcontext()


@contextmanager
def one_picture_named(step: int, pictures: int) -> Iterator[None]:
    """Say what to do where a step has too few pictures for batch normalisation, which compares several."""
    try:
        yield
    except ValueError as error:
        if ONE_VALUE not in str(error):
            raise
        raise UserError(
            f"step {step} has {pictures} different picture(s), too few for the encoder's batch normalisation; more "
            "items or a larger --batch.rows are needed, or --encoder.freeze_norm"
        ) from None


def _random_state() -> tuple[Tensor, ...]:
    return (torch.get_rng_state(), *([torch.cuda.get_rng_state()] if torch.cuda.is_available() else []))


def _set_random_state(state: tuple[Tensor, ...]) -> None:
    torch.set_rng_state(state[0])
    if len(state) > 1:
        torch.cuda.set_rng_state(state[1])
