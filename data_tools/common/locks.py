"""One process at a time on a place on disk."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from data_tools.common.errors import UserError

# Some mounted buckets and network disks know no locks: there, keeping writers apart is up to the user.
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)

NOT_OURS = (errno.EROFS, errno.EACCES, errno.EPERM)


@contextlib.contextmanager
def locked(path: str | Path, wait: bool = False, purpose: str = "") -> Iterator[bool]:
    """Hold a place (a file or folder that may not exist yet) while the block runs.

    The lock is a file ``.NAME.lock`` next to the place. The system frees it when a process ends, however it ends, so
    that what a killed process left behind counts for nothing.

    Parameters
    ----------
    path : str or Path
        The place.
    wait : bool
        Wait for another process instead of refusing.
    purpose : str
        Locks of one place for several purposes do not exclude each other.

    Yields
    ------
    bool
        Whether the place is held for certain; a disk may know no locks.

    Raises
    ------
    UserError
        If the place is held already, by another process or by this one.
    """
    path = Path(os.path.abspath(path))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        at = next(one for one in path.parents if os.path.lexists(one) and not one.is_dir())
        raise UserError(f"{path} cannot be created: {at} is not a folder; choose another place") from None
    lock = path.parent / f".{path.name}{purpose and '.'}{purpose}.lock"
    descriptor, certain = _acquire(lock, path, wait)
    holder = f"process {os.getpid()} on {socket.gethostname()}, since {time.strftime('%H:%M')}"
    try:
        os.truncate(descriptor, 0)
        os.write(descriptor, holder.encode())
        yield certain
    finally:
        lock.unlink(missing_ok=True)  # before it is freed: whoever waits for it sees that it is gone, and makes its own
        os.close(descriptor)


def _acquire(lock: Path, path: Path, wait: bool) -> tuple[int, bool]:
    """A descriptor of the lock file, and whether this process holds it."""
    while True:
        try:
            descriptor, certain = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666), True
        except OSError as error:
            if error.errno not in NOT_OURS:
                raise
            reason = error.strerror.lower()
            raise UserError(f"{path.parent} cannot be written to ({reason}); choose another folder") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 200).decode(errors="replace")
            os.close(descriptor)
            said = f" ({holder})" if holder else ""
            raise UserError(f"another process is writing {path}{said}; wait for it, or choose another folder") from None
        except OSError as error:
            if error.errno not in NO_LOCKS:
                os.close(descriptor)
                raise
            certain = False
        if is_still(lock, descriptor):
            return descriptor, certain
        os.close(descriptor)


def is_still(lock: Path, descriptor: int) -> bool:
    """Whether the file at ``lock`` is the one opened, and was not removed by whoever held it until now."""
    try:
        return os.path.samestat(os.stat(lock), os.fstat(descriptor))
    except FileNotFoundError:
        return False
