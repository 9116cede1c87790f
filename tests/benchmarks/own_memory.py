"""What a process holds of its own, watched while it works: anonymous pages, without those of memory-mapped files."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from data_tools.common.system import first_value

INTERVAL = 0.02  # seconds between two looks


def own_mebibytes() -> float:
    """MiB that this process holds of its own now."""
    return int(first_value("/proc/self/status", "RssAnon").split()[0]) / 1024


@dataclass
class Peak:
    """The most that was seen, in MiB."""

    mebibytes: float = field(default_factory=own_mebibytes)


@contextmanager
def watched() -> Iterator[Peak]:
    """Watch this process's own memory while the block runs."""
    peak, stop = Peak(), threading.Event()

    def watch() -> None:
        while not stop.wait(INTERVAL):
            peak.mebibytes = max(peak.mebibytes, own_mebibytes())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield peak
    finally:
        stop.set()
        watcher.join()
