"""Ending a command when it is asked to: SIGINT (Ctrl-C) and SIGTERM become one exception, children end with it."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from multiprocessing import parent_process
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)
PATIENCE = 5.0  # seconds that a child has to end
GRACE = 30.0  # seconds that a process without its launcher has to save what it has


class Stopped(KeyboardInterrupt):
    """This process was asked to end; ``number`` is the signal."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


@contextlib.contextmanager
def stoppable() -> Iterator[list[int]]:
    """Raise :class:`Stopped` in this block on SIGINT or SIGTERM; a second signal ends the process at once.

    Background jobs ignore SIGINT unless a program asks for it, which this does. Processes of a pool end at once, so
    that nobody waits for their tasks; data loaders end with the block, so that a checkpoint can still be written.

    Yields
    ------
    list of int
        The signals received: engines written in other languages turn the exception into another one.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    own = os.getpid()

    def stop(number: int, frame: Any) -> None:
        for one in SIGNALS:
            signal.signal(one, signal.SIG_DFL)
        if os.getpid() != own:  # a child that was forked in this block
            os.kill(os.getpid(), number)
            return
        received.append(number)
        for child in multiprocessing.active_children():
            if not child.daemon:
                child.terminate()
        raise Stopped(number)

    before = {number: signal.signal(number, stop) for number in SIGNALS}
    end_with_launcher()
    try:
        yield received
    finally:
        end_children()
        for number, handler in before.items():
            signal.signal(number, handler)


def end_with_launcher() -> None:
    """Let a process that ``accelerate launch`` or ``torchrun`` started end when its launcher is killed.

    Otherwise it would train on, unseen, beside the same command started again, or wait half an hour for the others. It
    is asked to end, as by SIGTERM, and ends without more where it waits in code that no signal interrupts.
    """
    if "LOCAL_RANK" not in os.environ:
        return
    launcher = os.getppid()
    adopted = _adopted(launcher)

    def watch() -> None:
        time.sleep(0.5)  # until signals become messages
        while os.getppid() == launcher and not adopted:
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(GRACE)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _adopted(parent: int) -> bool:
    """Whether a parent took this process over from its launcher: it is the system's first, and not our Python."""
    try:
        return parent == 1 and os.readlink("/proc/1/exe") != os.readlink("/proc/self/exe")
    except FileNotFoundError:  # no Linux
        return False
    except PermissionError:  # another user's
        return True


def stop_with_parent() -> None:
    """Leave interrupts to the parent process, and end when it has gone without a word."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def wait() -> None:
        parent_process().join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def end_children() -> None:
    """End the processes that this one started through :mod:`multiprocessing` and that still run."""
    children = multiprocessing.active_children()
    for child in children:
        child.terminate()
    for child in children:
        child.join(PATIENCE)
        if child.is_alive():
            child.kill()
