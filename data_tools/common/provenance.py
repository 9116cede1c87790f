"""What made a result: the commit, the versions and the machine."""

from __future__ import annotations

import os
import platform
import resource
import shlex
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

PACKAGES = (
    "visual-interest",
    "torch",
    "torchvision",
    "timm",
    "open_clip_torch",
    "accelerate",
    "webdataset",
    "numpy",
    "polars",
)


def commit() -> str:
    """The git commit of the program, with "+changes" where files differ from it; "unknown" outside a clone.

    Results are not the program: those written before do not change what is written next.
    """

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).resolve().parents[2]), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + (
            "+changes" if git("status", "--porcelain", "-uno", "--", ".", ":!results") else ""
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide a result."""
    return {"python": platform.python_version(), **{package: version(package) for package in PACKAGES}}


def _first_value(file: str, key: str) -> str | None:
    try:
        lines = Path(file).read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return None
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(key)), None)


def machine() -> dict[str, str | int | None]:
    """CPU model, cores, memory and GPU."""
    memory = _first_value("/proc/meminfo", "MemTotal")
    return {
        "cpu": _first_value("/proc/cpuinfo", "model name") or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "memory": f"{int(memory.split()[0]) / 2**20:.0f} GiB" if memory else None,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def peak_memory() -> dict[str, float]:
    """What this process has held at most so far, in MiB: ``process``, and ``gpu``, what torch had allocated on one."""
    kib = _first_value("/proc/self/status", "VmHWM")  # Linux's maxrss begins with that of the process that started this
    unit = 2**20 if sys.platform == "darwin" else 2**10  # of maxrss: bytes there, KiB elsewhere
    peak = int(kib.split()[0]) / 2**10 if kib else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    found = {"process": peak}
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.max_memory_allocated() / 2**20
    return found


def this_command(module: str | None = None) -> str:
    """The command that started this process, as one would type it: ``module``, by default the one run, or a script."""
    started = sys.modules["__main__"].__spec__  # None for a script
    module = module or (started.name if started else None)
    return shlex.join(["python", *(["-m", module] if module else sys.argv[:1]), *sys.argv[1:]])


def made_by(command: str | None = None) -> dict[str, Any]:
    """What a file of results says of its making: command (by default this process's), commit, versions and machine."""
    return {"command": command or this_command(), "commit": commit(), "versions": versions(), "machine": machine()}
