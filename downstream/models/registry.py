"""The CTR models by name."""

from __future__ import annotations

from data_tools.common.plugins import Registry
from downstream.models.base import CTRModel
from downstream.models.din import DIN
from downstream.models.dqm import DQM
from downstream.models.dssm import DSSM
from downstream.models.embedding_mlp import EmbeddingMLP
from downstream.models.logistic import Logistic
from downstream.models.mlr import MLR
from downstream.models.multi_scene import STAR, SceneNetworks
from downstream.models.multi_task import ESMM, ESMMTransfer

MODELS: Registry[type[CTRModel]] = Registry(
    "model",
    "visual_interest.ctr_models",
    {
        "embedding_mlp": EmbeddingMLP,
        "din": DIN,
        "logistic": Logistic,
        "dicm": EmbeddingMLP,  # its name where it is given images
        "mlr": MLR,
        "dssm": DSSM,
        "dqm": DQM,
        "esmm": ESMM,
        "esmm_transfer": ESMMTransfer,
        "scene_networks": SceneNetworks,
        "star": STAR,
    },
)
