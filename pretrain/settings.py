"""Settings of pre-training; the defaults are the embedded default run on the simulated world."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from jsonargparse.typing import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, restricted_number_type

from data_tools.common.checks import Checked, Seed, Share, Slots, Workers
from data_tools.common.errors import UserError
from data_tools.common.plugins import options_of, refuse_unused, with_plugins
from data_tools.simulation.settings import World
from pretrain.encoder.families import ENCODERS, split_name
from pretrain.objectives import OBJECTIVES
from pretrain.objectives.parts.guards import Guards


@dataclass(frozen=True)
class Encoder(Checked):
    """Image tower and one linear layer.

    Attributes
    ----------
    family : str
        Where the image tower comes from (listed below).
    name : str
        Model of the family. It may begin with the family, as in open_clip:RN50, or be a name as hubs show it.
    weights : str or None
        Local file of initial weights (.safetensors, or a .pth that holds tensors only; of a training checkpoint with
        averaged weights, those); null starts at random, or from a hub where the family's options say so.
    dimensions : int
        Size D of the embedding; 0 has no linear layer: the embedding is the tower's own output.
    image_size : int
        Side of the square input in pixels.
    mean : list of float or None
        Channel means of the input in [0, 1]; null takes the model's own.
    std : list of float or None
        Channel standard deviations of the input; null takes the model's own.
    freeze_norm : bool
        Freeze batch-norm statistics at those of the initial weights (recommended when fine-tuning on few images).
    freeze_stages : int
        Stages of the tower that are frozen, counted from its first layers.
    gradient_checkpointing : bool
        Recompute activations in the backward pass: less memory, more time.
    compile : bool
        Compile the tower with torch.compile: a slow start, faster steps.
    """

    family: str = "timm"
    name: str = "test_byobnet"
    weights: str | None = None
    dimensions: NonNegativeInt = 64
    image_size: PositiveInt = 64
    mean: list[float] | None = None
    std: list[PositiveFloat] | None = None
    freeze_norm: bool = False
    freeze_stages: NonNegativeInt = 0
    gradient_checkpointing: bool = False
    compile: bool = False

    def __post_init__(self) -> None:
        family, name = split_name(self.family, self.name)
        object.__setattr__(self, "family", family)
        object.__setattr__(self, "name", name)
        super().__post_init__()
        hub_weights = ENCODERS[family](options_of(self, family)).hub_weights
        refuse_unused(self, "encoder", {family})
        for channels in ("mean", "std"):
            given = getattr(self, channels)
            if given is not None and len(given) != 3:
                raise UserError(f"--encoder.{channels} is {given}; must be three numbers, for red, green and blue")
        if self.weights and hub_weights:
            raise UserError(f"--encoder.weights and {hub_weights} both name initial weights; give one of them")


Encoder = with_plugins(Encoder, __name__, family=ENCODERS)


@dataclass(frozen=True)
class Objective(Checked):
    """What is learned.

    Attributes
    ----------
    name : str
        What is learned (listed below).
    guards : Guards
        Terms against collapse.
    """

    name: str = "courier"
    guards: Guards = field(default_factory=Guards)

    def __post_init__(self) -> None:
        super().__post_init__()
        OBJECTIVES[self.name]  # raises for an unknown one
        refuse_unused(self, "objective", {self.name, *self.parts})

    @property
    def parts(self) -> dict[str, Any]:
        """Name and options of each objective that is learned: the chosen one, or those that it is made of."""
        options = options_of(self, self.name)
        names = OBJECTIVES[self.name].made_of(options) or [self.name]
        return {name: options_of(self, name) for name in names if OBJECTIVES[name]}


Objective = with_plugins(Objective, __name__, name=OBJECTIVES)


Jitter = restricted_number_type("Jitter", float, [(">=", 0), ("<=", 2)])  # of hue a quarter, which may be a half


@dataclass(frozen=True)
class Batch(Checked):
    """What a step sees.

    Attributes
    ----------
    rows : int
        Requests (or catalogue images, for single-image objectives) a step, over all processes together.
    history : int
        Most recent clicks of a request used in training.
    slots : int
        Page-view slots of a request used in training.
    categories : int
        Categories that the rows of a process and step are drawn from, in equal parts, as far as the shards have that
        many: 1 has negatives that are hard to tell apart, as COURIER trains; more have varied ones.
    workers : int
        Loader processes a training process; 0 loads in the training process itself; null takes one a core, but 0 for
        two CPU cores without a GPU if pictures are decoded once at most. Batches do not depend on it.
    shard_streams : int
        Shares of the groups of records that a process reads in turn. More than one serves shards of the streaming
        layout, which at most as many loader processes share.
    cache_mb : float
        Megabytes of decoded pictures that the loader processes of a training process keep, all together; popular
        pictures are decoded once.
    crop_scale : float
        Smallest share of the picture that a random crop keeps; 1 crops nothing.
    flip : bool
        Mirror half of the pictures.
    colour_jitter : float
        Strength of random brightness, contrast, saturation (and a quarter of it of hue).
    """

    rows: PositiveInt = 256
    history: Slots = 30
    slots: Slots = 10
    categories: PositiveInt = 1
    workers: Workers | None = None
    shard_streams: PositiveInt = 1
    cache_mb: NonNegativeFloat = 256
    crop_scale: Share = 0.6
    flip: bool = True
    colour_jitter: Jitter = 0.0


@dataclass(frozen=True)
class Optim(Checked):
    """AdamW with linear warm-up and cosine decay to zero.

    Attributes
    ----------
    steps : int
        Optimiser steps.
    lr : float
        Highest learning rate.
    layer_decay : float
        Factor of the learning rate from each of the tower's layers to the one before it; 1 for none.
    weight_decay : float
        Decoupled weight decay of matrices and kernels.
    warmup : int
        Steps of linear warm-up.
    clip : float
        Largest norm of the gradient; 0 clips nothing.
    precision : str
        fp32, bf16, fp16, or auto: what accelerate launch --mixed_precision says, or else bf16 where a short trial
        finds it faster, else fp32.
    micro_batch : int
        Pictures encoded at a time, with gradient caching: the same loss and gradient in less memory, for one more
        forward pass; 0 encodes the whole batch at once.
    """

    steps: PositiveInt = 200
    lr: NonNegativeFloat = 5e-3
    layer_decay: PositiveFloat = 1.0
    weight_decay: NonNegativeFloat = 1e-6
    warmup: NonNegativeInt = 20
    clip: NonNegativeFloat = 1.0
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    micro_batch: NonNegativeInt = 0


@dataclass(frozen=True)
class Evaluation(Checked):
    """Within-page-view AUC of SimScore.

    Attributes
    ----------
    every : int
        Steps between evaluations on the validation time range, on which the best weights are chosen.
    history : int
        Most recent clicks that SimScore takes.
    requests : int
        Most requests of a split that are scored; a random sample (by the seed) when there are more.
    choose_on : str
        Validation slice that decides which weights are best: cold items (in no training request) or warm ones. Among
        weights that are equal there, to within one standard error of the highest, the other slice decides.
    patience : int
        Evaluations without improvement after which training stops; 0 never stops early.
    """

    every: PositiveInt = 50
    history: Slots = 30
    requests: PositiveInt = 8000
    choose_on: Literal["cold", "warm"] = "cold"
    patience: NonNegativeInt = 0


@dataclass(frozen=True)
class Settings(Checked):
    """Pre-train an image encoder from click behaviour.

    Attributes
    ----------
    data : str or None
        Folder of shards, or its URL; null makes the simulated world and its shards below runs/.
    out : str
        Run folder.
    resume : bool
        Continue from the newest checkpoint of the run folder.
    verify : bool
        Check the digest of every shard before the first step; their sizes are always checked.
    dry_run : bool
        Train nothing; print from a short trial what the run will take.
    seed : int
        Seed of weights, batches and augmentation.
    log_every : int
        Steps between log lines.
    checkpoint_every : int
        Steps between checkpoints.
    encoder : Encoder
        Image tower and one linear layer.
    objective : Objective
        What is learned.
    batch : Batch
        What a step sees.
    optim : Optim
        AdamW with linear warm-up and cosine decay to zero.
    evaluation : Evaluation
        Within-page-view AUC of SimScore.
    world : World
        The simulated world, used where data is null.
    """

    data: str | None = None
    out: str = "runs/default"
    resume: bool = False
    verify: bool = False
    dry_run: bool = False
    seed: Seed = 0
    log_every: PositiveInt = 20
    checkpoint_every: PositiveInt = 50
    encoder: Encoder = field(default_factory=Encoder)
    objective: Objective = field(default_factory=Objective)
    batch: Batch = field(default_factory=Batch)
    optim: Optim = field(default_factory=Optim)
    evaluation: Evaluation = field(default_factory=Evaluation)
    world: World = field(default_factory=World)
