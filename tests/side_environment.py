"""Other projects' real packages, in an environment of their own beside this one, for tests marked slow."""

from __future__ import annotations

import json
import os
import site
import subprocess
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

# What pip says where no registry answers, and of packages that this one does not have.
UNREACHABLE = ("No matching distribution", "Connection", "Temporary failure", "timed out", "unreachable", "SSLError")


def side_environment(folder: Path, *packages: str) -> Callable[..., Any]:
    """Make an environment with some packages; returns what runs a script in it and reads the JSON of its last line.

    What is not installed there, such as torch, is taken from this environment, behind what is. The test is skipped
    where the registry of packages cannot be reached.
    """
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    own = next((folder / "lib").glob("python*/site-packages"))
    (own / "zz_behind.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def call(*command: str | Path, cwd: Path = folder) -> subprocess.CompletedProcess:
        return subprocess.run([python, *command], env=environment, cwd=cwd, capture_output=True, text=True, timeout=280)

    made = call("-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages)
    if made.returncode:
        if any(word in made.stderr for word in UNREACHABLE):
            pytest.skip(f"pip cannot fetch {', '.join(packages)}: {made.stderr.strip().splitlines()[-1]}")
        raise AssertionError(made.stderr)

    def run(script: str, *arguments: str | Path) -> Any:
        ended = call("-c", script, *arguments)
        assert ended.returncode == 0, ended.stderr[-3000:]
        return json.loads(ended.stdout.strip().splitlines()[-1])

    return run
