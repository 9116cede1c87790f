"""Settings of shards: what is written, and how."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from jsonargparse.typing import NonNegativeInt, PositiveFloat, PositiveInt

from data_tools.common.checks import Checked, Quality, Seed, Workers
from data_tools.common.errors import UserError
from data_tools.sharding.stored import Stored

# Settings that decide nothing of what is written.
FREE = ("out", "append", "workers", "memory")


@dataclass(frozen=True)
class Settings(Checked):
    """Dataset folder to shards.

    Attributes
    ----------
    dataset : str
        Dataset folder, as prepare writes it, or its URL.
    out : str
        Folder or URL to write the shards to.
    layout : str
        catalogue: each picture once, and tables of requests that refer to them by place, for a disk that reads at
        random; streaming: self-contained tars, each with every picture that its requests mention, for storage that is
        read from front to back.
    append : bool
        Add the new items and days of the dataset, which is one of the same log continued, to the shards in out.
    history : int
        Most recent clicks kept with a request.
    requests_per_shard : int
        Most requests in one group (of the layout streaming: in one shard); a multiple of the batch keeps batches of one
        category.
    smallest_shard : int
        Fewer requests of a category than this go into groups of mixed categories.
    by_category : bool
        Whether groups keep categories apart; false suits page views that mix categories.
    items_per_shard : int
        Most catalogue images in one tar.
    shard_mb : float
        Most megabytes (10^6 bytes) of images in one tar.
    side : int
        Pixels of the shorter side that larger pictures are resized to once, here; 0 stores pictures as they are.
    pictures : str
        encoded: as JPEG of that side (smaller ones as they are); decoded: all as uint8 arrays, which take more bytes
        and no decoding; none: no pictures, and every item counts, for encoders that take vectors.
    quality : int
        JPEG quality of resized pictures, 1 to 95.
    seed : int
        Seed of the requests' order.
    workers : int
        Processes that write; 0 takes one a core where there is enough to write. The shards are the same.
    memory : str
        What the join of the log takes before it spills to disk.
    """

    dataset: str
    out: str
    layout: Literal["catalogue", "streaming"] = "catalogue"
    append: bool = False
    history: PositiveInt = 30
    requests_per_shard: PositiveInt = 1024
    smallest_shard: NonNegativeInt = 256
    by_category: bool = True
    items_per_shard: PositiveInt = 2048
    shard_mb: PositiveFloat = 512
    side: NonNegativeInt = 0
    pictures: Literal["encoded", "decoded", "none"] = "encoded"
    quality: Quality = 90
    seed: Seed = 0
    workers: Workers = 0
    memory: str = "2GB"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pictures == "decoded" and not self.side:
            raise UserError("--pictures decoded needs --side: decoded whole, pictures would take far more than they do")
        if self.pictures == "none" and (self.side or self.layout == "streaming"):
            raise UserError("--pictures none goes with --layout catalogue and without --side: no picture is stored")
        if self.append and self.layout == "streaming":
            raise UserError("--append needs --layout catalogue; self-contained shards must be rewritten in full")

    @property
    def stored(self) -> Stored:
        """How pictures are stored."""
        return Stored(self.side, self.pictures == "decoded", self.quality, self.pictures == "none")

    def decides(self) -> dict[str, Any]:
        """The settings that what is written depends on."""
        return {name: value for name, value in asdict(self).items() if name not in FREE}
