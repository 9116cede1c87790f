"""What DDP must not touch: weights whose gradients the image server and the sharded tables average themselves."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from downstream.ams.ids import ShardedEmbedding
from downstream.ams.server import ImageServer


def exclude_from_ddp(module: nn.Module) -> None:
    """Exclude them from what DDP will average; to be called in every process, with the module on its final device.

    The replicas of the embedding model are made equal to the first process's here, as DDP would have done. Buffers that
    do not belong to a model's weights, such as a whole embedding table, are excluded too: they come from the same
    files, and DDP would send them from the first process to all others in every step.
    """
    names = [f"{prefix}.{name}" for prefix, part in module.named_modules() for name in part._non_persistent_buffers_set]
    for prefix, part in module.named_modules():
        if isinstance(part, ImageServer):
            names += [f"{prefix}.layers.{name}" for name, _ in part.layers.named_parameters()]
            names += [f"{prefix}.{name}" for name in ("centre", "scale")]
            if dist.is_initialized():
                with torch.no_grad():
                    for weight in part.layers.state_dict().values():
                        dist.broadcast(weight, 0)
        elif isinstance(part, ShardedEmbedding):
            names.append(f"{prefix}.weight")
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(module, names)
