"""Loader processes: how many there are, and how their faults reach the user."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, get_worker_info

from data_tools.common.cli import UserError
from data_tools.common.hints import hint
from data_tools.common.shared_memory import ROOM, check_shared_memory
from pretrain.runtime.cpu import own_cores

# Batches that the loader processes of a training process hold ready together, where there are no more processes.
READY = 4
ALONE = "--batch.workers 0"  # loads in the training process


def loader_processes(wanted: int | None, most: int | None = None, light: bool = False) -> int:
    """Loader processes of this process: as ``wanted``, or one a core, and at most as many as can share the work.

    Without a GPU a single core loads in the training process itself, and so do two if loading is ``light`` beside the
    model: processes beside it hold up its threads for longer than they save it (a small encoder trains at 0.85 of its
    bare speed, against 0.69 with one process a core; more cores were not measured).
    """
    if wanted is not None:
        return wanted
    cores = own_cores()
    if not torch.cuda.is_available() and cores <= (2 if light else 1):
        return 0
    return cores if most is None else min(cores, max(most, 1))


def prefetched(workers: int) -> int | None:
    """Batches that each of some loader processes makes ahead."""
    return max(1, READY // workers) if workers else None


def shared(element: Any) -> Any:
    """An element of a loader process with its tensors in the memory that processes share, or why there is no room.

    torch would put them there in a thread whose errors nobody hears of: the training would wait for ever.
    """
    if get_worker_info() is not None:
        try:
            _share(element)
        except RuntimeError:
            return UserError(f"/dev/shm has no room for a batch; {ROOM}{hint(f', or {ALONE}')}")
    return element


def _share(element: Any) -> None:
    if isinstance(element, Tensor):
        element.share_memory_()
    elif isinstance(element, Mapping | list | tuple):
        for one in element.values() if isinstance(element, Mapping) else element:
            _share(one)


class Loader(DataLoader):
    """A DataLoader, endless or not, of single elements, whose data set hands over a :class:`UserError` in place of one.

    It is raised here as it is: torch would wrap an error raised in a loader process in that process's traceback.

    Raises
    ------
    UserError
        Also where processes cannot share memory, or a loader process was killed.
    """

    def __init__(self, *given: Any, **settings: Any) -> None:
        super().__init__(*given, batch_size=None, collate_fn=shared, **settings)

    def __iter__(self) -> Iterator[Any]:
        if self.num_workers:
            check_shared_memory(ALONE)
        try:
            for one in super().__iter__():
                if isinstance(one, UserError):
                    raise one
                yield one
        except (ConnectionError, EOFError, RuntimeError) as error:
            own = isinstance(error, RuntimeError) and not str(error).startswith("DataLoader worker")
            if own or not self.num_workers or str(error).startswith("Caught"):  # of the training, or of what is read
                raise
            with contextlib.suppress(ValueError):  # in another thread there is no handler
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's would say so again, wherever one waits
            reason = str(error).partition("\n")[0] or "its pipe was closed"
            raise UserError(f"a loader process was lost ({reason}); {ROOM}{hint(f', or {ALONE}')}") from None
