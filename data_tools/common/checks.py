"""Settings whose values are checked against their fields' types, however they are made: flags, YAML or Python."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from functools import cache
from typing import Any, Literal, get_args, get_origin, get_type_hints

from jsonargparse.typing import restricted_number_type

from data_tools.common.errors import UserError

FromTwo = restricted_number_type("FromTwo", int, (">=", 2))
Share = restricted_number_type("Share", float, [(">", 0), ("<=", 1)])
OpenShare = restricted_number_type("OpenShare", float, [(">=", 0), ("<", 1)])


@dataclass(frozen=True)
class Checked:
    """Base of settings dataclasses (frozen): a value outside its field's type is a UserError that names the field.

    Ranges stand beside the fields as types: ``Literal["a", "b"]``, ``PositiveInt`` and the other restricted numbers of
    ``jsonargparse.typing``, and lists, tuples and optional values of these. Types without a range are not checked here:
    the command line has checked them.
    """

    def __post_init__(self) -> None:
        hints = _hints(type(self))
        for one in fields(self):
            value = getattr(self, one.name)
            if expected := _fault(value, hints[one.name]):
                raise UserError(f"{one.name} is {value!r}; {expected}")


@cache
def _hints(settings: type) -> dict[str, Any]:
    return get_type_hints(settings)


def _fault(value: Any, hint: Any) -> str | None:
    """What a value must be, where it is not."""
    inner = get_args(hint)
    if get_origin(hint) is Literal:
        return None if value in inner else f"choose one of {', '.join(map(str, inner))}"
    if get_origin(hint) in (list, tuple) and isinstance(value, list | tuple):
        faults = (_fault(one, inner[0]) for one in value)
        return next((f"each {fault}" for fault in faults if fault), None)
    if type(None) in inner:
        kinds = [kind for kind in inner if kind is not type(None)]
        return None if value is None or len(kinds) > 1 else _fault(value, kinds[0])
    if isinstance(hint, type) and issubclass(hint, int | float) and hint not in (int, float, bool):
        try:
            hint(value)
        except ValueError as error:  # "0 does not conform to restriction v>0"
            return "must be " + re.sub(r"v(\W+)", r"\1 ", str(error).rpartition("restriction ")[2])
    return None
