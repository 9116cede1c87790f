"""Until when the log reaches that a run saw, for the leak check of a comparison (see ``data_tools.tables.seen``).

A run learns from the training split of its shards and chooses its step on the validation split. Hence it has seen all
that comes before the test split, whatever its objective. What its first weights had seen is seen, too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from data_tools.sharding.files import read_index
from data_tools.tables.seen import Seen, latest, seen
from pretrain.encoder.image_encoder import family_of
from pretrain.settings import Encoder, Settings


def seen_of_weights(file: str | Path) -> Seen:
    """What the weights in a file had seen, where the file says it."""
    try:
        with safe_open(file, "pt") as opened:
            said = (opened.metadata() or {}).get("saw_until")
    except (OSError, SafetensorError):
        return None
    return int(said) if said and said.lstrip("-").isdecimal() else seen({"saw_until": said})


def seen_before_training(encoder: Encoder) -> Seen:
    """What an encoder has seen as its settings name it."""
    own = family_of(encoder).seen(encoder.name)
    return latest([own, seen_of_weights(encoder.weights)]) if encoder.weights else own


def seen_in_training(settings: Settings) -> dict[str, Any]:
    """What ``run.json`` says of it: ``from`` and ``until`` of the log, and what ``initial`` weights had seen."""
    times, initial = read_index(settings.data).get("times") or {}, seen_before_training(settings.encoder)
    test = times.get("test_start")
    return {
        "from": times.get("first"),
        "until": latest([initial, None if test is None else test - 1]),
        "initial": initial,
    }


def seen_by_run(made: dict[str, Any], weights: str) -> Seen:
    """What a run's "initial" or "trained" weights had seen, by its ``run.json``; None of runs that do not say it."""
    return made.get("saw", {}).get("initial" if weights == "initial" else "until")
