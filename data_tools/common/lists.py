"""Several texts in one setting, with commas between."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable


def comma_separated(text: str) -> list[str]:
    """The parts of ``a,b`` without the blanks round them; a part in double quotes may hold commas: ``"a, b",c``."""
    return [part.strip() for part in next(csv.reader([" ".join(text.splitlines())], skipinitialspace=True), [])]


def with_commas(parts: Iterable[str]) -> str:
    """Texts as :func:`comma_separated` reads them."""
    written = io.StringIO()
    csv.writer(written, lineterminator="").writerow(list(parts))
    return written.getvalue()
