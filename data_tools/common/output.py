"""What a command says: text for a person, JSON lines for a machine."""

from __future__ import annotations

import json
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from data_tools.common.files import finite

_json_log: list[Path] = []  # none or one


def configure(quiet: bool, json_log: str | Path | None) -> None:
    """Set what this process says from here on.

    Parameters
    ----------
    quiet : bool
        Print nothing but errors: standard output goes nowhere.
    json_log : str or Path, optional
        File that :func:`log_event` adds to.
    """
    if quiet:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  until the process ends
    _json_log[:] = [Path(json_log)] if json_log else []


def log_event(event: str, **facts: Any) -> None:
    """Add a line to the JSON log, where one was asked for: time (ISO, UTC), event and its facts."""
    for path in _json_log:
        line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event, **finite(facts)}
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False, allow_nan=False, default=str) + "\n")
