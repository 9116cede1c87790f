"""What is done with the memory of freed tensors."""

import subprocess
import sys
from types import SimpleNamespace

import psutil
import pytest
import torch

from data_tools.common.memory import keep_freed_memory


@pytest.mark.parametrize(("gibibytes", "kept"), [(8, False), (64, True)])
def test_freed_memory_is_kept_where_memory_is_plentiful(gibibytes, kept, monkeypatch):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=gibibytes << 30))
    assert keep_freed_memory() is (kept and not torch.cuda.is_available())


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch keeps the memory of tensors on a GPU itself")
def test_what_is_kept_is_given_back_where_memory_is_scarce():
    code = """
import psutil, torch
from types import SimpleNamespace
from data_tools.common import memory

def mebibytes(machine, available):
    own = psutil.Process().memory_info().rss >> 20
    psutil.virtual_memory = lambda: SimpleNamespace(total=machine, available=available)
    return own

mebibytes(64 << 30, 60 << 30)
assert memory.keep_freed_memory()
small = [torch.ones(1 << (20 if number % 2 else 4)) for number in range(400)]  # 4 MiB each, with some bytes between
full = mebibytes(64 << 30, 60 << 30)
small = small[::2]
assert not memory.give_back_where_scarce()
kept = mebibytes(64 << 30, 1 << 30)
assert memory.give_back_where_scarce()
mebibytes(8 << 30, 0)
assert not memory.give_back_where_scarce()  # nothing is kept there
mebibytes(64 << 30, 1 << 30)
print(full, kept, mebibytes(64 << 30, 1 << 30))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    full, kept, after = map(int, done.stdout.split())
    assert kept > full - 100 and after < full - 700
