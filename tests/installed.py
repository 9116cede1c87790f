"""Packages that a test writes and installs in a folder, without pip: modules and a pyproject's entry points."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def install(folder: Path, modules: dict[str, str], pyproject: str) -> None:
    """Write modules, by file name, and the metadata that makes ``pyproject``'s entry points known."""
    for name, text in modules.items():
        (folder / name).write_text(text)
    project = tomllib.loads(pyproject)["project"]
    info = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n", encoding="utf-8"
    )
    groups = [
        f"[{group}]\n" + "".join(f"{name} = {target}\n" for name, target in points.items())
        for group, points in project["entry-points"].items()
    ]
    (info / "entry_points.txt").write_text("\n".join(groups), encoding="utf-8")


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """``python COMMAND`` in a process of its own that has the packages of ``folder`` installed."""
    path = os.pathsep.join([str(folder), str(ROOT), os.environ.get("PYTHONPATH", "")])
    own = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, env=own, cwd=folder)


# Each command as ``python -m`` starts it, one after the other; how each ended is the last line. COMMAND is its number.
SERIES = """
import contextlib, io, json, os, runpy, sys

ended = []
for number, words in enumerate(json.loads(sys.argv[1])):
    out, err, status = io.StringIO(), io.StringIO(), 0
    os.environ["COMMAND"] = str(number)
    sys.argv = words
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            runpy.run_module(words[0], run_name="__main__", alter_sys=True)
        except SystemExit as end:
            status = end.code or 0
    ended.append([status, out.getvalue(), err.getvalue()])
print(json.dumps(ended))
"""


def run_series(folder: Path, *commands: list[str]) -> list[subprocess.CompletedProcess[str]]:
    """Several ``python -m COMMAND`` in one process that has the packages: importing torch takes longer than they do."""
    done = run(folder, "-c", SERIES, json.dumps(commands))
    assert done.returncode == 0, done.stderr
    ended = json.loads(done.stdout.splitlines()[-1])
    return [subprocess.CompletedProcess(one, *how) for one, how in zip(commands, ended, strict=True)]
