"""Groups of processes for the tests of the image server, forked from one that has torch loaded."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
from collections.abc import Callable
from datetime import timedelta

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

SMALL = {"items": 60, "width": 16, "parts": 5, "rows": 12, "images": 18, "codes": 24, "vocabulary": 101}


def _one(rank: int, function: Callable, processes: int, rendezvous: str, arguments: tuple) -> None:
    torch.set_num_threads(1)
    # What a launcher tells accelerate.
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    limit = timedelta(seconds=60)
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=processes, timeout=limit)
    function(rank, processes, *arguments)
    dist.destroy_process_group()


def start_group(function: Callable, processes: int, rendezvous: str, *arguments) -> mp.ProcessContext:
    """Start ``function(rank, processes, *arguments)`` in a group of processes that talk over gloo."""
    multiprocessing.set_forkserver_preload(["torch", "downstream.ams.paper.workload"])
    given = (function, processes, rendezvous, arguments)
    return mp.start_processes(_one, given, processes, join=False, start_method="forkserver")


def run_group(function: Callable, processes: int, *arguments) -> None:
    """:func:`start_group`, and wait for all; an assertion that fails in one of them fails here."""
    with tempfile.TemporaryDirectory() as folder:
        group = start_group(function, processes, f"file://{folder}/rendezvous", *arguments)
        while not group.join():
            pass
