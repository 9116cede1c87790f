"""The order of an image tower's layers, for freezing by stage and for learning rates that fall with depth."""

from __future__ import annotations

import re

import torch
from timm.models._manipulate import group_parameters
from torch import nn

# Towers that cannot say it themselves (open_clip's own): blocks by number, what follows them, and the rest before them.
BLOCK = re.compile(r"(?:^|\.)(?:resblocks\.|layer)(\d+)\.")
AFTER = ("ln_post", "proj", "attnpool", "attn_pool")


def layer_groups(tower: nn.Module, stages: bool) -> dict[str, int]:
    """Group of each parameter by name: 0 for the stem, then stage by stage (or block by block), in forward order.

    timm's own grouping (``group_matcher``) where the tower has one.
    """
    names = [name for name, _ in tower.named_parameters()]
    trunk, prefix = (tower.trunk, "trunk.") if hasattr(tower, "trunk") else (tower, "")
    if hasattr(trunk, "group_matcher"):
        found = group_parameters(trunk, trunk.group_matcher(coarse=stages), reverse=True)
        found = {prefix + name: int(group) for name, group in found.items()}
    else:
        blocks = {name: int(match[1]) for name in names if (match := BLOCK.search(name))}
        first = min(blocks.values(), default=0)
        found = {name: 1 + block - first for name, block in blocks.items()}
        last = 1 + max(found.values(), default=0)
        found |= {name: last for name in names if name not in blocks and name.startswith(AFTER)}
    last = max(found.values(), default=0)
    return {name: found.get(name, last if name.startswith("head.") else 0) for name in names}


def freeze(tower: nn.Module, groups: dict[str, int], stages: int) -> list[nn.Module]:
    """Freeze the parameters of the first ``stages`` groups; return the batch norms among them, whose statistics freeze.

    Parameters
    ----------
    tower : nn.Module
    groups : dict of str to int
        Group of each parameter by name.
    stages : int
    """
    for name, parameter in tower.named_parameters():
        parameter.requires_grad_(groups[name] >= stages)
    norms = [module for module in tower.modules() if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)]
    return [norm for norm in norms if not any(parameter.requires_grad for parameter in norm.parameters())]
