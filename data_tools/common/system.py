"""What the operating system says of this machine and of this process."""

from __future__ import annotations

import resource
import sys
from pathlib import Path


def first_value(file: str, key: str) -> str | None:
    """The value on the first line ``key: value`` of a file such as /proc/meminfo; None where there is none."""
    try:
        lines = Path(file).read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return None
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(key)), None)


def peak_memory() -> dict[str, float]:
    """The most that this process has held so far, in MiB: ``process``, and ``gpu``, what torch had allocated on one.

    torch is asked only where something has loaded it: to ask must not raise the peak.
    """
    # Linux's maxrss begins with that of the process that started this one.
    kib = first_value("/proc/self/status", "VmHWM")
    unit = 2**20 if sys.platform == "darwin" else 2**10  # of maxrss: bytes there, KiB elsewhere
    peak = int(kib.split()[0]) / 2**10 if kib else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    found = {"process": peak}
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        found["gpu"] = torch.cuda.max_memory_allocated() / 2**20
    return found
