"""How a command of this project is started by accelerate, and what it was started with."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from data_tools.common.errors import UserError


def launch(module: str) -> str:
    """``accelerate launch`` of a module such as pretrain.train: by its file where that is here, as in a clone."""
    file = Path(f"{module.replace('.', '/')}.py")
    return f"accelerate launch {file if file.exists() else f'-m {module}'}"


@contextlib.contextmanager
def as_launched() -> Iterator[None]:
    """Around what accelerate makes of its configuration, of the options of its launcher and of the environment.

    Raises
    ------
    UserError
        If these do not fit together, ask for what is not installed, or the other processes are not found.
    """
    try:
        yield
    except (ValueError, ImportError, RuntimeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"accelerate cannot start with what it is configured to: {reason}. Look at what `accelerate env` prints, "
            "at the options of accelerate launch, and at variables such as ACCELERATE_MIXED_PRECISION, WORLD_SIZE and "
            "MASTER_ADDR; `accelerate config` asks for a new configuration"
        ) from None
