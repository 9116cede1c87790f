"""The memory that processes share, which small containers lack."""

from __future__ import annotations

import multiprocessing

from data_tools.common.errors import UserError
from data_tools.common.hints import hint

ROOM = "give the machine or container more memory and more room in /dev/shm (docker run --shm-size 4g)"


def check_shared_memory(setting: str) -> None:
    """Refuse to start processes where they could not share anything.

    Parameters
    ----------
    setting : str
        What does without them, such as "--workers 1".

    Raises
    ------
    UserError
        If /dev/shm is missing or cannot be written to.
    """
    try:
        multiprocessing.Lock()
    except OSError as error:
        raise UserError(
            f"processes cannot share memory in /dev/shm: {error}; {ROOM}{hint(f', or {setting}')}"
        ) from None
