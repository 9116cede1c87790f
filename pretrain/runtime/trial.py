"""What a job will take, from a short trial: images a second of decoding and of encoding, memory, hours and bytes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from data_tools.common.errors import UserError
from data_tools.common.system import peak_memory
from data_tools.sharding.read import Shards
from pretrain.data.transforms import Transform
from pretrain.runtime.cpu import one_core_a_thread, own_cores

DECODED = 256  # pictures of the trial
ENCODED = 3  # times that a batch is encoded, after a first one that does not count


@dataclass(frozen=True)
class Trial:
    """What a trial found.

    Attributes
    ----------
    job : str
        What is planned, in words.
    images : int
        Pictures that the whole job decodes and encodes.
    decode_rate : float
        Images a second of one loader process.
    encode_rate : float
        Images a second of the encoder alone, on all cores or the GPU of one process.
    cores, workers, processes : int
        Of a training or export process, those that load (processes, or threads of export on a CPU), and how many such
        processes.
    device : str
        What encodes.
    memory : int
        Bytes of the device (of the process, on a CPU) at the trial's peak.
    written : int
        Bytes the job will write.
    """

    job: str
    images: int
    decode_rate: float
    encode_rate: float
    cores: int
    workers: int
    processes: int
    device: str
    memory: int
    written: int

    @property
    def rate(self) -> float:
        """Images a second of all processes: on a CPU, decoding takes its share of the cores from encoding."""
        if self.device == "cpu":
            return self.processes * self.cores / (1 / self.decode_rate + self.cores / self.encode_rate)
        return self.processes * min(self.encode_rate, max(self.workers, 1) * self.decode_rate)

    def lines(self) -> list[str]:
        """The plan in words, and what to change."""
        decoding = max(self.workers, 1) * self.decode_rate
        bound = "decoding" if decoding < self.encode_rate else "encoding"
        if bound == "decoding":
            advice = "store pictures at the size they are used (data_tools.shards --side), or give it more cores"
        elif self.device == "cpu":
            advice = "a GPU, a smaller encoder or a smaller --encoder.image_size"
        else:
            advice = "--encoder.compile true, a smaller encoder or more GPUs"
        return [
            f"{self.job}: {self.images:,} pictures",
            f"decoding: {self.decode_rate:,.0f} images/s a core, {decoding:,.0f} on {max(self.workers, 1)} core(s)",
            f"encoding: {self.encode_rate:,.0f} images/s on {self.device}; {bound} bounds: {advice}",
            f"memory: {self.memory / 2**30:.1f} GiB of {'this process' if self.device == 'cpu' else self.device}; if "
            "that is too much, encode fewer pictures at a time",
            f"in all: about {self.images / self.rate / 3600:.2f} hours at {self.rate:,.0f} images/s, "
            f"{self.written / 1e6:,.1f} MB written",
        ]


def decode_rate(shards: Shards, transform: Transform) -> tuple[float, Tensor]:
    """Images a processor second of reading, decoding and transforming, and the pictures, uint8 (n, 3, S, S)."""
    records, pictures = shards.records("items", 0), shards.pictures("items", 0)
    started = time.process_time()
    with one_core_a_thread():  # as a loader process, and a thread of export
        images = transform(transform.decode(pictures[record["item"]]) for record in islice(records, DECODED))
    return len(images) / max(time.process_time() - started, 1e-9), images


def encode_rate(encode: Callable[[Tensor], object], images: Tensor, batch: int) -> float:
    """Images a second of encoding a batch of some pictures, repeated to fill it."""
    repeated = images[torch.arange(batch) % len(images)]

    def finished() -> float:
        encode(repeated)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter()

    started = finished()
    return ENCODED * batch / ([finished() for _ in range(ENCODED)][-1] - started)


def peak_bytes() -> int:
    """Bytes of the GPU, or of the process where there is none, at the peak so far."""
    peak = peak_memory()
    return int(peak.get("gpu", peak["process"]) * 2**20)


def refuse_vectors(takes: str) -> None:
    """Raise a UserError if an encoder takes no pictures (see ``EncoderFamily.takes``): there is nothing to try."""
    if takes != "pictures":
        raise UserError("--dry_run measures how pictures are read and encoded; an encoder of vectors reads none")


def try_out(
    job: str,
    shards: Shards,
    transform: Transform,
    encode: Callable[[Tensor], object],
    *,
    images: int,
    batch: int,
    workers: int,
    processes: int,
    written: int,
) -> Trial:
    """Decode and encode a few pictures of a shard folder, and plan the whole job from that."""
    decoding, decoded = decode_rate(shards, transform)
    encoding = encode_rate(encode, decoded, batch)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return Trial(job, images, decoding, encoding, own_cores(), workers, processes, device, peak_bytes(), written)
