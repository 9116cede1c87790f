"""Typed settings of pre-training; the defaults are the embedded default run on the simulated world."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from data_tools.common.cli import UserError
from data_tools.simulation.settings import World


@dataclass
class Encoder:
    """Image tower plus one linear layer.

    Attributes:
        name: A timm model name, or "open_clip:NAME" for an open_clip image tower.
        weights: Local file of initial weights (.safetensors, or a .pth that holds tensors only); null starts at random.
        pretrained: Weights from a hub: true for timm's default, or an open_clip tag. False uses the file, or none.
        arguments: Further arguments of the model's constructor.
        dimensions: Size D of the embedding; 0 has no linear layer: the embedding is the tower's own output.
        image_size: Side of the square input in pixels.
        mean: Channel means of the input in [0, 1]; null follows the weights.
        std: Channel standard deviations of the input; null follows the weights.
        freeze_norm: Keep batch-norm statistics as the initial weights have them (wise when fine-tuning on few images).
        freeze_stages: Stages of the tower that keep their initial weights, from the first (the stem) on.
        gradient_checkpointing: Recompute activations in the backward pass: less memory, more time.
        compile: Compile the tower with torch.compile: a slow start, faster steps.
    """

    name: str = "test_byobnet"
    weights: str | None = None
    pretrained: bool | str = False
    arguments: dict[str, Any] = field(default_factory=dict)
    dimensions: int = 64
    image_size: int = 64
    mean: list[float] | None = None
    std: list[float] | None = None
    freeze_norm: bool = False
    freeze_stages: int = 0
    gradient_checkpointing: bool = False
    compile: bool = False


@dataclass
class Scl:
    """Pairs of clicks with a momentum queue.

    Attributes:
        queue: Keys remembered from earlier steps as further negatives; 0 keeps none.
        momentum: Share of itself the slow encoder, which makes the keys, keeps at each step.
        triplet_weight: Weight of the triplet with a slot of the same page view that was not clicked.
        margin: By how much a clicked slot must be nearer (in cosine) than one that was not.
    """

    queue: int = 4096
    momentum: float = 0.99
    triplet_weight: float = 1.0
    margin: float = 0.1


@dataclass
class SimSiam:
    """The networks behind the embedding that SimSiam trains with and throws away.

    Attributes:
        width: Of the three-layer projector.
        bottleneck: Of the two-layer predictor.
    """

    width: int = 256
    bottleneck: int = 64


@dataclass
class Clip:
    """The text tower that titles go through.

    Attributes:
        model: Open_clip model whose text tower and tokenizer are used; null makes a small one from scratch.
        weights: Local file (.safetensors, or a .pth that holds tensors only) of that whole open_clip model.
        pretrained: An open_clip tag, for weights from a hub.
        context: Tokens of a title that are read (from scratch).
        width: Of the text tower (from scratch).
        layers: Of the text tower (from scratch).
        heads: Of the text tower (from scratch).
    """

    model: str | None = None
    weights: str | None = None
    pretrained: str | None = None
    context: int = 32
    width: int = 128
    layers: int = 2
    heads: int = 4


@dataclass
class Guards:
    """Weights of optional terms against collapse, on the unit embeddings of a batch's targets; 0 leaves a term out.

    Attributes:
        koleo: Nearest neighbours are pushed apart (KoLeo).
        variance: Every dimension is to vary as that of evenly spread vectors does (VICReg).
        covariance: Dimensions are to be uncorrelated (VICReg).
    """

    koleo: float = 0.0
    variance: float = 0.0
    covariance: float = 0.0


@dataclass
class Objective:
    """What is learned. Settings outside the sections are COURIER's, or shared.

    Attributes:
        name: A key of pretrain.objectives.OBJECTIVES.
        temperature: Of the contrastive softmax.
        learn_temperature: Start from temperature and learn it (never below 0.01).
        attention_temperature: Of the softmax over the history in the reconstruction (courier). Low values let a target
            pick its own look-alike from the history: the loss falls without any taste being learned.
        pv_weight: Weight of the page-view loss (courier).
        ucs_weight: Weight of the user-click-sequence loss (courier).
        ctr_weight: Weight of the click prediction from target and reconstruction (courier).
        page_weight: Weight of ranking, within a page view, clicked slots above the others by cos(p, r) (courier).
        reconstruction: Attention (projection-free), multihead (learned projections) or mean (of the history, whatever
            the target) (courier).
        heads: Of the multihead reconstruction (courier).
        contrast: False only pulls targets and reconstructions together, as an ablation: this collapses (courier).
        unclicked_negatives: Whether page-view items that were not clicked are negatives (courier).
        page_negative_weight: Weight, in the softmax, of the unclicked items of the target's own page view (courier).
        page_positives: Whether the reconstruction of a clicked slot is to find the page view's other clicks, too, in
            place of being told from them (courier).
        queue: Page-view items remembered from earlier steps as further negatives of the page-view loss; 0 keeps none
            (courier).
        momentum: Share of itself the slow encoder, which makes the remembered keys, keeps at each step (courier).
        log_q: Strength of the correction for popular items being in more batches: 0 none, 1 whole (courier).
        projection: Hidden width of a projection head that losses see and the table does not; 0 has none (courier).
        matryoshka: Further sizes, each below the embedding's: the first so many dimensions are trained to serve alone
            (courier).
        scl: Settings of scl.
        simsiam: Settings of simsiam.
        clip: Settings of clip.
        guards: Terms against collapse.
    """

    name: str = "courier"
    temperature: float = 0.05
    learn_temperature: bool = False
    attention_temperature: float = 1.0
    pv_weight: float = 1.0
    ucs_weight: float = 1.0
    ctr_weight: float = 0.0
    page_weight: float = 0.0
    reconstruction: str = "attention"
    heads: int = 4
    contrast: bool = True
    unclicked_negatives: bool = True
    page_negative_weight: float = 1.0
    page_positives: bool = False
    queue: int = 0
    momentum: float = 0.99
    log_q: float = 0.0
    projection: int = 0
    matryoshka: list[int] = field(default_factory=list)
    scl: Scl = field(default_factory=Scl)
    simsiam: SimSiam = field(default_factory=SimSiam)
    clip: Clip = field(default_factory=Clip)
    guards: Guards = field(default_factory=Guards)


@dataclass
class Batch:
    """What a step sees.

    Attributes:
        rows: Requests (or catalogue images, for single-image objectives) a step, over all processes together.
        history: Most recent clicks of a request used in training.
        slots: Page-view slots of a request used in training.
        categories: How many categories, as far as there are shards of so many, a step's rows of a process are of, in
            equal parts: 1 has hard negatives, as COURIER trains; more have varied ones.
        workers: Loader processes a training process; null takes one a core; 0 loads in the training process itself.
            Batches do not depend on it.
        shard_streams: Shares of the groups of records that a process reads in turn. More than one serves the shards of
            the layout streaming, which at most as many loader processes share.
        cache_mb: Megabytes of decoded pictures that the loader processes of a training process keep together, so that
            popular pictures are decoded once.
        crop_scale: Smallest share of the picture a random crop keeps; 1 crops nothing.
        flip: Mirror half of the pictures.
        colour_jitter: Strength of random brightness, contrast, saturation (and a quarter of it of hue).
    """

    rows: int = 256
    history: int = 30
    slots: int = 10
    categories: int = 1
    workers: int | None = None
    shard_streams: int = 1
    cache_mb: float = 256
    crop_scale: float = 0.6
    flip: bool = True
    colour_jitter: float = 0.0


@dataclass
class Optim:
    """AdamW with linear warm-up and cosine decay to zero.

    Attributes:
        steps: Optimiser steps.
        lr: Highest learning rate.
        layer_decay: Factor of the learning rate from each of the tower's layers to the one before it; 1 for none.
        weight_decay: Decoupled weight decay of matrices and kernels.
        warmup: Steps of linear warm-up.
        clip: Largest norm of the gradient; 0 clips nothing.
        precision: fp32, bf16, fp16, or auto: bf16 where a short trial finds it faster, and always fp32 or bf16.
        micro_batch: Pictures encoded at a time, with gradient caching: the same loss and gradient in less memory, for
            one more forward pass; 0 encodes the whole batch at once.
    """

    steps: int = 200
    lr: float = 5e-3
    layer_decay: float = 1.0
    weight_decay: float = 1e-6
    warmup: int = 20
    clip: float = 1.0
    precision: str = "auto"
    micro_batch: int = 0


@dataclass
class Evaluation:
    """Within-page-view AUC of SimScore.

    Attributes:
        every: Steps between evaluations on the validation time range, on which the best weights are chosen.
        history: Most recent clicks SimScore looks at.
        requests: Most requests of a split that are scored; a random sample (by the seed) when there are more.
        choose_on: Validation slice the best weights are chosen on: unseen or seen items.
        patience: Evaluations without a better one after which training stops; 0 never stops early.
    """

    every: int = 50
    history: int = 30
    requests: int = 8000
    choose_on: str = "unseen"
    patience: int = 0


@dataclass
class Settings:
    """Pre-train an image encoder from click behaviour.

    Attributes:
        data: Folder of shards; null makes the simulated world and its shards below runs/.
        out: Run folder.
        resume: Go on from the newest checkpoint of the run folder.
        verify: Check the digest of every shard before the first step; their sizes are checked always.
        dry_run: Train nothing; say from a short trial what the run will take.
        seed: Seed of weights, batches and augmentation.
        log_every: Steps between log lines.
        checkpoint_every: Steps between checkpoints.
        world: Settings of the simulated world, used where data is null.
    """

    data: str | None = None
    out: str = "runs/default"
    resume: bool = False
    verify: bool = False
    dry_run: bool = False
    seed: int = 0
    log_every: int = 20
    checkpoint_every: int = 50
    encoder: Encoder = field(default_factory=Encoder)
    objective: Objective = field(default_factory=Objective)
    batch: Batch = field(default_factory=Batch)
    optim: Optim = field(default_factory=Optim)
    evaluation: Evaluation = field(default_factory=Evaluation)
    world: World = field(default_factory=World)

    def __post_init__(self) -> None:
        positive = {
            "optim.steps": self.optim.steps,
            "batch.rows": self.batch.rows,
            "batch.history": self.batch.history,
            "batch.slots": self.batch.slots,
            "batch.categories": self.batch.categories,
            "batch.shard_streams": self.batch.shard_streams,
            "log_every": self.log_every,
            "checkpoint_every": self.checkpoint_every,
            "evaluation.every": self.evaluation.every,
            "objective.temperature": self.objective.temperature,
            "objective.attention_temperature": self.objective.attention_temperature,
            "objective.heads": self.objective.heads,
            "optim.layer_decay": self.optim.layer_decay,
        }
        for name, value in positive.items():
            if value <= 0:
                raise UserError(f"--{name} is {value}; a number above 0 is expected")
        objective = self.objective
        weights = (
            "pv_weight",
            "ucs_weight",
            "ctr_weight",
            "page_weight",
            "page_negative_weight",
            "log_q",
            "projection",
        )
        not_negative = {
            "encoder.dimensions": self.encoder.dimensions,
            "encoder.freeze_stages": self.encoder.freeze_stages,
            "batch.workers": self.batch.workers or 0,
            "batch.cache_mb": self.batch.cache_mb,
            "optim.micro_batch": self.optim.micro_batch,
            "evaluation.patience": self.evaluation.patience,
            "objective.queue": objective.queue,
            "objective.scl.queue": objective.scl.queue,
            "objective.scl.triplet_weight": objective.scl.triplet_weight,
            **{f"objective.{name}": getattr(objective, name) for name in weights},
            **{f"objective.guards.{name}": value for name, value in vars(objective.guards).items()},
        }
        for name, value in not_negative.items():
            if value < 0:
                raise UserError(f"--{name} is {value}; 0 or more is expected")
        if objective.reconstruction not in ("attention", "multihead", "mean"):
            found = objective.reconstruction
            raise UserError(f"--objective.reconstruction is {found!r}; attention, multihead or mean is expected")
        for name, value in {"momentum": objective.momentum, "scl.momentum": objective.scl.momentum}.items():
            if not 0 <= value <= 1:
                raise UserError(f"--objective.{name} is {value}; a share in [0, 1] is expected")
        if objective.learn_temperature and not objective.contrast:
            raise UserError(
                "--objective.learn_temperature needs --objective.contrast: without it there is none to learn"
            )
        if not 0 < self.batch.crop_scale <= 1:
            raise UserError(f"--batch.crop_scale is {self.batch.crop_scale}; a share in (0, 1] is expected")
        if self.optim.precision not in ("auto", "fp32", "bf16", "fp16"):
            raise UserError(f"--optim.precision is {self.optim.precision!r}; auto, fp32, bf16 or fp16 is expected")
        if self.evaluation.choose_on not in ("seen", "unseen"):
            raise UserError(f"--evaluation.choose_on is {self.evaluation.choose_on!r}; seen or unseen is expected")
        if self.encoder.weights and self.encoder.pretrained:
            raise UserError("--encoder.weights and --encoder.pretrained both name initial weights; give one of them")
