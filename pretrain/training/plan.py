"""What a run will take, from a short trial: pictures, images a second, memory, hours and bytes."""

from __future__ import annotations

import torch
from accelerate import PartialState
from torch import Tensor

from data_tools.sharding.read import Shards, open_shards
from pretrain.data.collate import items_of
from pretrain.data.stream import training_workers
from pretrain.data.transforms import training_transform
from pretrain.encoder.image_encoder import build_encoder
from pretrain.objectives import OBJECTIVES
from pretrain.runtime.precision import choose_precision
from pretrain.runtime.trial import refuse_vectors, try_out
from pretrain.settings import Settings


def _pictures_a_step(settings: Settings, shards: Shards, rows: int) -> int:
    """About how many pictures a process encodes in a step of ``rows`` requests, or views of so many catalogue items."""
    parts, pictures = [OBJECTIVES[name] for name in settings.objective.parts], 0
    if any(part.batches == "requests" for part in parts):
        some = shards.records("train", 0)[:rows]
        distinct = {item for record in some for item in items_of(record)}
        pictures += round(len(distinct) * rows / len(some))
    return pictures + rows * max((part.views for part in parts if part.batches == "items"), default=0)


def plan_training(settings: Settings, state: PartialState) -> list[str]:
    """The plan of a run, in lines; nothing is trained or written.

    Raises
    ------
    UserError
        If the encoder takes no pictures: there is nothing to try.
    """
    shards, optim = open_shards(settings.data), settings.optim
    encoder = build_encoder(settings.encoder).to(state.device)
    refuse_vectors(encoder.family.takes)
    precision = choose_precision(encoder, optim.precision, settings.encoder.image_size)
    rows = settings.batch.rows // state.num_processes
    pictures = _pictures_a_step(settings, shards, rows)

    def step(images: Tensor) -> None:
        with torch.autocast(state.device.type, torch.bfloat16, enabled=precision != "fp32"):
            loss = encoder(images.to(state.device)).float().square().mean()
        loss.backward()
        encoder.zero_grad()

    trial = try_out(
        f"training, {optim.steps} steps of about {pictures:,} pictures a process in {precision}",
        shards,
        training_transform(settings.batch, settings.encoder.image_size),
        step,
        images=optim.steps * pictures * state.num_processes,
        batch=min(pictures, optim.micro_batch or pictures),
        workers=training_workers(shards, settings.batch, settings.encoder.image_size),
        processes=state.num_processes,
        # Initial and best weights, and two checkpoints of weights with AdamW's two moments.
        written=(1 + 1 + 2 * 3) * sum(parameter.nbytes for parameter in encoder.parameters()),
    )
    return trial.lines()
