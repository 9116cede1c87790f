"""Hours of training on 5 to 40 nodes, computed from parts measured on this machine.

The model of a step on n nodes (ours): seconds(n) = compute / (n speed) + sent(n) / rate + overhead(n), where

* compute is the paper's batch on one core of this machine: seconds an image (embedding model, forward and backward,
  reading included) and seconds an id (look-up, pooling, MLP, Adam) times the paper's numbers. Both are slopes of step
  times measured with more and fewer of them, without a network. ``speed`` is how many such cores a node equals.
* sent(n) is what a node sends: all that ``downstream.ams.paper.bytes`` counts for n nodes, over n. Nothing overlaps.
* overhead(n) = fixed + a (n - 1): measured steps with next to nothing in them, in one process and in two, each on a
  core of its own.

Images and ids of a batch are the same for every n. The paper gives neither the number of batches nor its nodes and
network, so hours are relative to its 62.9 on 5 nodes: only the shape of the curve is computed.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from downstream.ams.paper.bytes import Setting, all_that_travels
from downstream.ams.paper.measure import measure_together
from downstream.ams.paper.workload import Workload
from downstream.settings import ServerSettings

PAPER_HOURS = {5: 62.9, 10: 32.0, 20: 17.4, 40: 10.2}
TINY = {"rows": 4, "images": 4, "codes": 4}


@dataclass(frozen=True)
class Parts:
    """What was measured, in seconds.

    Attributes
    ----------
    image : float
        Of one image.
    code : float
        Of one id with its share of a sample.
    fixed : float
        Of a step with next to nothing in it.
    peer : float
        That each further process adds to it.
    """

    image: float
    code: float
    fixed: float
    peer: float

    def step(self, nodes: int, strategy: str, speed: float, rate: float) -> float:
        """Seconds of a step of the paper's batch; ``rate`` in Gbit/s."""
        setting = Setting(nodes=nodes)
        compute = (setting.images * self.image + setting.ids * self.code) / nodes / speed
        sent = sum(all_that_travels(setting)[strategy].values()) / nodes
        return compute + sent / (rate * 1e9 / 8) + self.fixed + self.peer * (nodes - 1)


def measure_parts(steps: int) -> Parts:
    """Measure on this machine: one process for the slopes, one and two for the overhead."""
    whole = Workload()
    half_images, codes = replace(whole, images=whole.images // 2), replace(whole, images=whole.rows)
    # An id costs little: its slope is taken with one image a sample, which do not drown it.
    more_codes = replace(codes, codes=8 * codes.codes)
    server = ServerSettings("ams", verify=False)
    with tempfile.TemporaryDirectory() as folder:
        store = whole.make_store(Path(folder) / "store").folder

        def seconds(works: list[Workload], processes: int, shard: bool) -> list[float]:
            cases = [(work, replace(server, shard_ids=shard), None) for work in works]
            return [min(one["seconds"]) for one in measure_together(cases, processes, steps, store)]

        full, fewer_images, few, many = seconds([whole, half_images, codes, more_codes], 1, False)
        alone, together = (seconds([replace(whole, vocabulary=1000, **TINY)], count, True)[0] for count in (1, 2))
    return Parts(
        image=max(full - fewer_images, 0.0) / (whole.images - half_images.images),
        code=max(many - few, 0.0) / (more_codes.codes - codes.codes),
        fixed=alone,
        peer=max(together - alone, 0.0),
    )


def hours(parts: Parts, strategy: str, speed: float, rate: float) -> dict[int, float]:
    """Hours by number of nodes, in proportion to the paper's for AMS on the fewest nodes."""
    fewest = min(PAPER_HOURS)
    unit = PAPER_HOURS[fewest] / parts.step(fewest, "ams", speed, rate)
    return {nodes: unit * parts.step(nodes, strategy, speed, rate) for nodes in PAPER_HOURS}
