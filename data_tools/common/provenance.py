"""What made a result: the commit, the versions and the machine."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from data_tools.common.system import first_value

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


def machine() -> dict[str, str | int | None]:
    """CPU model, cores, memory and GPU."""
    memory = first_value("/proc/meminfo", "MemTotal")
    return {
        "cpu": first_value("/proc/cpuinfo", "model name") or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "memory": f"{int(memory.split()[0]) / 2**20:.0f} GiB" if memory else None,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def this_command(module: str | None = None) -> str:
    """The command that started this process, as one would type it: ``module``, by default the one run, or a script."""
    started = sys.modules["__main__"].__spec__  # None for a script
    module = module or (started.name if started else None)
    return shlex.join(["python", *(["-m", module] if module else sys.argv[:1]), *sys.argv[1:]])


def made_by(command: str | None = None) -> dict[str, Any]:
    """What a file of results says of its making: command (by default this process's), commit, versions and machine."""
    return {"command": command or this_command(), "commit": commit(), "versions": versions(), "machine": machine()}
