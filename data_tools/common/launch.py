"""How a command of this project is started by accelerate, for messages that say what to do next."""

from __future__ import annotations

from pathlib import Path


def launch(module: str) -> str:
    """``accelerate launch`` of a module such as pretrain.train: by its file where that is here, as in a clone."""
    file = Path(f"{module.replace('.', '/')}.py")
    return f"accelerate launch {file if file.exists() else f'-m {module}'}"
