"""What can be learned: a new objective is one file with one class, and one line here.

An objective takes the embeddings (N, D) of a batch's distinct pictures and the batch (see ``pretrain.data.stream``),
and returns named terms. The trainer minimises the sum of their losses. What an objective learns besides the encoder (a
text tower, a classifier) is its own parameters; its options are its class's ``Settings``, which become the section
``objective.<name>`` of the settings.
"""

from __future__ import annotations

from data_tools.common.plugins import Registry
from pretrain.objectives.base import Objective
from pretrain.objectives.clip import Clip
from pretrain.objectives.courier import Courier
from pretrain.objectives.scl import Scl
from pretrain.objectives.simclr import SimClr
from pretrain.objectives.simsiam import SimSiam
from pretrain.objectives.sum import Sum
from pretrain.objectives.supervised import Supervised

OBJECTIVES: Registry[type[Objective]] = Registry(
    "objective",
    "visual_interest.objectives",
    {
        "courier": Courier,
        "scl": Scl,
        "simclr": SimClr,
        "simsiam": SimSiam,
        "clip": Clip,
        "supervised": Supervised,
        "sum": Sum,
    },
)
