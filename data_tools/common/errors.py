"""The error that a user sees as one message."""

import re
from pathlib import Path

# A URL that went through a Path lost one of its slashes.
URL = re.compile(r"\b(s3a?|gs|gcs|hf|https?|memory|abfs|az):/(?=[^/\s])")


class UserError(Exception):
    """A mistake of the user's or a fault of the input: shown as one message, without a traceback.

    The message says what was found, what was expected, where, and what to do.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(URL.sub(r"\1://", str(message)))


def seen_from(path: str | Path) -> str:
    """For a message about a relative path at which nothing is: the folder that it was looked for from."""
    there = URL.match(str(path)) or Path(path).is_absolute() or Path(path).exists()
    return "" if there else f": there is nothing of that name in {Path.cwd()}"
