"""What a comparison compares, and the names its report uses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

NO_FORM = "none"
# Each source in the form that was best for it on validation, where there are several forms.
BEST = "best"


@dataclass(frozen=True)
class Primary:
    """The one difference that a comparison was made for, declared before its run.

    The GAUC of the main source is compared with that of another, each in the headline form.

    Attributes
    ----------
    against : str
        The other source.
    slice : str
        all, warm (items shown in training) or cold (items never shown).
    model : str or None
        CTR model; None for the first.
    """

    against: str
    slice: Literal["all", "warm", "cold"] = "all"
    model: str | None = None


@dataclass(frozen=True)
class ComparisonSpec:
    """What is compared with what.

    Attributes
    ----------
    baseline, main : str
        Every source is compared with the baseline, the main source with every other.
    forms : list of str
        Of the embeddings, in the order of the comparison.
    ceiling : str or None
        The source that knows what can be known; the other sources' gains are given as shares of its gain.
    primary : Primary or None
        The declared difference; all others are explored.
    names : dict of str to str
        Display names of sources, forms and models, in addition to the built-in ones.
    """

    baseline: str
    main: str
    forms: list[str]
    ceiling: str | None = None
    primary: Primary | None = None
    names: Mapping[str, str] = field(default_factory=dict)

    @property
    def headline(self) -> str:
        """The form in which the sources are judged."""
        return BEST if len(self.forms) > 1 else self.forms[0]

    def pairs(self, sources: list[str]) -> list[tuple[str, str]]:
        """Which sources are compared: each with the baseline, and the main source with each other one."""
        against_baseline = [(source, self.baseline) for source in sources if source != self.baseline]
        return against_baseline + [
            (self.main, source) for source in sources if source not in (self.main, self.baseline)
        ]
