"""Settings whose values are checked against their fields' types, however they are made: flags, YAML or Python."""

from __future__ import annotations

import math
import re
from dataclasses import MISSING, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from jsonargparse.typing import restricted_number_type

from data_tools.common.errors import UserError

FromTwo = restricted_number_type("FromTwo", int, (">=", 2))
Share = restricted_number_type("Share", float, [(">", 0), ("<=", 1)])
Seed = restricted_number_type("Seed", int, [(">=", 0), ("<", 2**32)])  # what every random generator takes
Threads = restricted_number_type("Threads", int, [(">", 0), ("<=", 1024)])  # more ends the process without a word
Slots = restricted_number_type("Slots", int, [(">", 0), ("<=", 100_000)])  # that a batch has room for, in every row
Workers = restricted_number_type("Workers", int, [(">=", 0), ("<=", 1024)])
Quality = restricted_number_type("Quality", int, [(">=", 1), ("<=", 95)])  # of JPEG
OpenShare = restricted_number_type("OpenShare", float, [(">=", 0), ("<", 1)])

WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", Path: "a path"}


@dataclass(frozen=True)
class Checked:
    """Base of settings dataclasses (frozen): a value outside its field's type is a UserError that names the field.

    The ranges are the types of the fields: ``Literal["a", "b"]``, ``PositiveInt`` and the other restricted numbers of
    ``jsonargparse.typing``, and lists, tuples and optional values of these. A field without a default must not be
    empty. Other types are not checked here: the command line has checked them.
    """

    def __post_init__(self) -> None:
        hints = _hints(type(self))
        for one in fields(self):
            value = getattr(self, one.name)
            if value == "" and one.default is MISSING and one.default_factory is MISSING:
                raise UserError(f"{one.name} is empty; give it a value")
            if expected := _fault(value, hints[one.name]):
                raise UserError(f"{one.name} is {value!r}; {expected}")


@cache
def _hints(settings: type) -> dict[str, Any]:
    return get_type_hints(settings)


def allowed(hint: Any) -> str:
    """The range of a restricted number, such as ">= 0 and < 1"; empty for other types."""
    return re.sub(r"v(\W+)", r"\1 ", getattr(hint, "_expression", ""))


def _noun(hint: Any) -> str:
    inner = get_args(hint)
    if get_origin(hint) is Literal:
        return " or ".join(map(str, inner))
    if get_origin(hint) in (list, tuple):
        return f"a list (each {_noun(inner[0])})" if inner else "a list"
    if get_origin(hint) is dict or hint is dict:
        return "a mapping {key: value}"
    if inner:  # a union
        return " or ".join("null" if kind is type(None) else _noun(kind) for kind in inner)
    base = getattr(hint, "_type", hint)
    return f"{WORDS.get(base, getattr(base, '__name__', str(base)))} {allowed(hint)}".strip()


def expected(hint: Any, value: Any = None) -> str:
    """What a setting of some type has to be, in words: "must be a whole number > 0", "choose one of a, b".

    Parameters
    ----------
    hint : type
        The type.
    value : optional
        A value that does not fit: of one with the right base type, only the range is given.
    """
    if get_origin(hint) is Literal:
        return f"choose one of {', '.join(map(str, get_args(hint)))}"
    base = getattr(hint, "_type", None)
    if base is not None and type(value) in (int, base):
        return f"must be {allowed(hint)}"
    return f"must be {_noun(hint)}"


def _fault(value: Any, hint: Any) -> str | None:
    """What a value must be, where it is not."""
    inner = get_args(hint)
    if get_origin(hint) is Literal:
        return None if value in inner else expected(hint)
    if get_origin(hint) in (list, tuple) and isinstance(value, list | tuple):
        faults = (_fault(one, inner[0]) for one in value)
        return next((f"each {fault}" for fault in faults if fault), None)
    if type(None) in inner:
        kinds = [kind for kind in inner if kind is not type(None)]
        return None if value is None or len(kinds) > 1 else _fault(value, kinds[0])
    if isinstance(hint, type) and issubclass(hint, int | float) and hint not in (int, float, bool):
        try:
            hint(value)
        except (ValueError, TypeError):
            return expected(hint, value)
        return "must be finite" if isinstance(value, float) and math.isinf(value) else None
    return None
