"""Commands on a disk that is full or read-only: one message, and nothing left behind. A real, small file system."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from data_tools.common import scratch

ROOT = Path(__file__).parents[2]
PROGRAM = """
import io, json, subprocess, sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from data_tools import prepare
from data_tools.common import scratch
from data_tools.common.cli import run_command

source, disk = map(Path, sys.argv[1:])
given = ["--impressions", source / "log.csv", "--items", source / "items.csv", "--images", source, "--out", disk / "o"]


def attempt(main):
    said = io.StringIO()
    with redirect_stdout(io.StringIO()), redirect_stderr(said):
        try:
            run_command(main)
            status = 0
        except SystemExit as end:
            status = end.code
    return status, said.getvalue(), [str(one) for one in disk.rglob("*")]


found = {}
for name, options in {"8k": "size=8K", "60k": "size=60K", "read-only": "size=1M"}.items():
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", disk], check=True)
    if name == "read-only":
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    sys.argv = ["prepare", *map(str, given)]
    found[name] = attempt(prepare.main)
    if name == "60k":
        scratch.IN_MEMORY = 0
        found["array"] = attempt(lambda: scratch.scratch_array((1000, 100), folder=disk).fill(1))
    subprocess.run(["umount", "-l", disk], check=True)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def own_mounts():
    """What runs a command with file systems of its own, where that is allowed."""
    before = ["unshare", "--map-root-user", "--mount"]
    try:
        allowed = subprocess.run([*before, "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True)
    except FileNotFoundError:
        pytest.skip("there is no unshare")
    if allowed.returncode:
        pytest.skip("mounting is not allowed here")
    return before


def test_a_full_or_read_only_disk_is_one_message_and_leaves_nothing(own_mounts, source, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    command = [*own_mounts, sys.executable, "-c", PROGRAM, str(source), str(disk)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    for name in ("8k", "60k", "array"):
        status, said, left = found[name]
        assert status == 1 and said.startswith("error: the disk is full") and "Traceback" not in said, name
        assert not left
    assert "MB are needed for a temporary array; TMPDIR names the folder" in found["array"][1]
    status, said, left = found["read-only"]
    assert status == 1 and "disk cannot be written to by this user; choose another place" in said and not left


def test_the_room_of_a_file_is_reserved(tmp_path):
    with open(tmp_path / "a", "w+b") as file:
        scratch.reserve(file, 1 << 20)
    assert (tmp_path / "a").stat().st_size == 1 << 20
    assert (tmp_path / "a").stat().st_blocks * 512 >= 1 << 20
