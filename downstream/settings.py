"""Sections of the settings of a CTR training, with the ranges of their values.

``downstream.training.settings`` adds to ``model`` and ``image`` the options of each model, form and aggregator, and
the checks that need to know them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jsonargparse.typing import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from data_tools.common.checks import Checked, OpenShare, Share, Slots, Threads
from data_tools.common.errors import UserError


@dataclass(frozen=True)
class DataSettings(Checked):
    """What the models see of the dataset.

    Attributes
    ----------
    history : int
        H, the number of a user's clicks that a model is given.
    history_by : str
        Which clicks these are: the most recent, or of the history_search most recent those that are most like the shown
        item by the cosine of their vectors in the table (MUSE, arXiv 2512.07216). Models without a table are given the
        most recent.
    history_search : int
        With similarity, how many of a user's most recent clicks are searched; at least history.
    words : int
        Title words in the vocabulary, the most frequent first; 0 leaves titles out.
    title_words : int
        W, the number of words read of one title.
    train_from : float
        Where the part of the training split that is used begins, in the order of the log; 0 is its start.
    train_until : float
        Where that part ends: 0 and 0.5 are the first half. Which codes are known, and which items are warm, is decided
        on that part.
    """

    history: Slots = 50
    history_by: Literal["recency", "similarity"] = "recency"
    history_search: PositiveInt = 10_000
    words: NonNegativeInt = 5000
    title_words: PositiveInt = 16
    train_from: OpenShare = 0.0
    train_until: Share = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.train_from >= self.train_until:
            raise UserError(
                f"train_from is {self.train_from} and train_until {self.train_until}; it must end after it begins"
            )
        if self.history_by == "recency" and self.history_search != type(self).history_search:
            raise UserError(
                f"history_search is {self.history_search}, but history_by is 'recency', which searches nothing: "
                "remove it"
            )
        if not self.words and self.title_words != type(self).title_words:
            raise UserError(f"title_words is {self.title_words}, but words is 0, which leaves titles out: remove it")
        if self.history_by == "similarity" and self.history_search < self.history:
            raise UserError(
                f"history_search is {self.history_search}, fewer clicks than the {self.history} of history that are "
                "chosen from them; raise it"
            )


@dataclass(frozen=True)
class ModelSettings(Checked):
    """The network.

    Attributes
    ----------
    name : str
        CTR model.
    embedding : int
        Size of each ID embedding.
    hidden : tuple of int
        Widths of the MLP.
    activation : str
        Activation of the MLP and of DIN's activation unit: prelu, or dice (arXiv 1706.06978, section 5.2).
    l2 : float
        Weight of the mini-batch aware L2 of the ID embeddings (arXiv 1706.06978, section 5.1); 0 for none.
    """

    name: str = "dicm"
    embedding: PositiveInt = 12
    hidden: tuple[PositiveInt, ...] = (200, 80)
    activation: Literal["prelu", "dice"] = "prelu"
    l2: NonNegativeFloat = 0.0


@dataclass(frozen=True)
class ImageSettings(Checked):
    """How item embeddings enter the model.

    Attributes
    ----------
    form : str
        Form in which their embeddings enter the model (listed below).
    tune : str
        What is trained together with the model: nothing (frozen), the vectors (table), or the encoder that made them
        (encoder).
    weights : str
        With tune encoder, its weights; by default those that table.json names.
    lr : float
        Learning rate of what tune names; by default that of all other weights.
    centre : bool
        Scale vectors to length 1 and subtract their mean over the items shown in training, before they are compared.
    gate : bool
        Multiply the features by a learned gate for each category; the run's summary lists the gates.
    aggregator : str
        How the clicked items are pooled.
    ad_image : bool
        Show the model the image of the shown item.
    behaviour_images : bool
        Show the model the images of the clicked items.
    hidden : tuple of int
        Widths of the trainable embedding model between the vectors' size D and size, each at most 4 D.
    size : int
        Size of what the trainable embedding model gives, and of the embedding of a cluster ID.
    """

    form: str = "vector"
    tune: Literal["frozen", "table", "encoder"] = "frozen"
    weights: str | None = None
    lr: PositiveFloat | None = None
    centre: bool = False
    gate: bool = False
    aggregator: str = "multi_query_attentive"
    ad_image: bool = True
    behaviour_images: bool = True
    hidden: tuple[PositiveInt, ...] = (256, 64)
    size: PositiveInt = 12

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lr is not None and self.tune == "frozen":
            raise UserError(f"image.lr is {self.lr}, but image.tune is 'frozen': remove it, or choose what to tune")
        if self.weights and self.tune != "encoder":
            raise UserError(
                f"image.weights is {self.weights}, but image.tune is {self.tune!r}: only tune 'encoder' reads them"
            )
        if self.centre and self.tune == "encoder":
            raise UserError("image.centre needs vectors with a fixed mean; those of a tuned encoder have none")
        if not (self.ad_image or self.behaviour_images):
            raise UserError("image.ad_image and image.behaviour_images are both off; train without a table instead")


@dataclass(frozen=True)
class OptimSettings(Checked):
    """The training.

    Attributes
    ----------
    lr : float
        Adam's learning rate.
    batch_size : int
        Impressions of a step, over all processes. Logs of some hundred thousand impressions need small batches; with
        tens of millions, 4096 are learned in less time.
    epochs : int
        Passes over the training split; CTR models tend to overfit after one.
    by_context : bool
        Put the impressions of one user, history and scene (a page view's) into one batch, so that what they share is
        computed once (the common-feature trick of arXiv 1704.05194); by default all are shuffled.
    unknown_rate : float
        Fraction of users and items whose ID is masked in a training batch, so that "unknown" is learned.
    lr_decay : float
        Factor of the learning rates every lr_decay_steps steps; 0.9 in DICM's paper.
    lr_decay_steps : int
        Steps between two decays.
    patience : int
        Epochs in a row without a better AUC on validation after which training stops; by default it never does.
    id_optimizer : str
        Optimizer of the embeddings of users, items, categories and scenes. adam steps through whole tables, rows that
        the batch does not show too: their moments decay and keep moving them. sparse_adam steps through the rows that
        the batch shows, and leaves all others and their moments alone; its cost does not grow with the tables. auto is
        sparse_adam for tables of more than 100,000 rows, and adam for the others and where ``server.shard_ids``.
    threads : int
        CPU threads of a process. Small batches gain little from more, and lose much where cores are shared.
    loader_threads : int
        Threads of a process that make the next batches, which are the same whatever their number; by default the cores
        that the model leaves, at most 4.
    """

    lr: PositiveFloat = 1e-3
    batch_size: PositiveInt = 256
    epochs: PositiveInt = 1
    by_context: bool = False
    unknown_rate: OpenShare = 0.05
    lr_decay: Share = 1.0
    lr_decay_steps: PositiveInt = 24_000
    patience: PositiveInt | None = None
    id_optimizer: Literal["auto", "adam", "sparse_adam"] = "auto"
    threads: Threads = 1
    loader_threads: Threads | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lr_decay == 1 and self.lr_decay_steps != type(self).lr_decay_steps:
            raise UserError(
                f"lr_decay_steps is {self.lr_decay_steps}, but lr_decay is 1, which changes nothing: set lr_decay, or "
                "remove it"
            )


@dataclass(frozen=True)
class ServerSettings(Checked):
    """How several processes share the images' raw features.

    Attributes
    ----------
    strategy : str
        local keeps the whole table in each process; ams, server and worker train over a feature store (see
        downstream.ams.strategies).
    wire : str
        Precision in which embeddings, their gradients and raw features are sent.
    hot : int
        Number of the most shown images that every process keeps a copy of, and that are not sent.
    shard_ids : bool
        Split the ID embeddings over the processes too.
    timeout : float
        Seconds without a message from a process, or in one exchange, after which the others stop.
    verify : bool
        Read the feature files and compare them with their digests before the first step.
    """

    strategy: Literal["local", "ams", "server", "worker"] = "local"
    wire: Literal["float32", "bfloat16"] = "float32"
    hot: NonNegativeInt = 0
    shard_ids: bool = False
    timeout: PositiveFloat = 60.0
    verify: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hot and self.strategy not in ("ams", "server"):
            raise UserError(
                f"server.hot is {self.hot}, but with server.strategy {self.strategy!r} no image is sent: remove it"
            )
        if self.strategy == "local" and not self.verify:
            raise UserError("server.verify is off, but server.strategy is 'local', which reads no feature store")
        if self.strategy == "local" and self.wire != "float32" and not self.shard_ids:
            raise UserError(
                f"server.wire is {self.wire!r}, but nothing is sent with server.strategy 'local' and without shard_ids"
            )
