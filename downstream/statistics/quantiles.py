"""The quantile of an estimate whose variance is a sum of parts that are known from different degrees of freedom.

Welch (1947) asks for the half-width, as a function of the estimated variances, that covers equally often whatever the
true ones are. Trickett and Welch (1954) found it in tables. No closed form is exact, and from one degree of freedom
nothing smooth covers equally often. The usual ones fail here. Of the differences of two encoders Satterthwaite's (1946)
t covers 87 % at a nominal 95 %, Cochran's (1964) weighted mean of t quantiles 94 to 98 %, a generalised interval
(Weerahandi 1993) 95 to 99 %. In the tail where Holm's correction looks, the first two promise too much: at a nominal
.001, three encoders, Satterthwaite's excludes the truth up to 15 times as often.

This one is ours, fitted to the exact coverage over all ratios of the variances at 95 %, and, in that tail, to the most
power among those whose reports without any difference show a star at most 5 times in 100. The part that asks, alone,
for a longer half-width than the others do governs the quantile:

    q = P + sum over parts i of (Q_i - P) / (1 + (k_i * sum over j != i of Q_j^2 v_j / (Q_i^2 v_i))^s)

with v the estimated variances, Q_i the t quantile of part i alone and P that of all parts pooled. It is used twice:

- For the parts of training (encoders and, with crossed seeds, CTR seeds; or independent sources) P has the sum of
  their degrees of freedom, k_i = 1.5 (Q_i / P)^1.5 at 95 %, and s = 2. With crossed seeds P is scaled to be, at 95 %,
  the quantile of all degrees of freedom, the residual's included, since the variance is then, if anything, too large.
- For training against users P is the users' quantile, k = 3 x and s = 1 + sqrt(x_95 / x), with x = Q / P at the tail
  asked for and x_95 at 95 %.

tests/benchmarks/coverage.py prints the coverage.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from scipy.special import expit, stdtrit

TAIL_OF_95 = 0.025


@dataclass(frozen=True)
class Training:
    """The variance of an estimate that training alone causes.

    Attributes
    ----------
    variance : float
    parts : list of (float, int)
        Variance and degrees of freedom of what it is estimated from; crossed seeds share the residual in both.
    residual : int
        Degrees of freedom of the residuals of crossed seeds.
    """

    variance: float = 0.0
    parts: list[tuple[float, int]] = field(default_factory=list)
    residual: int = 0

    def __add__(self, other: Training) -> Training:
        return Training(self.variance + other.variance, [*self.parts, *other.parts], self.residual + other.residual)


@lru_cache(4096)
def t_quantile(degrees: float, tail: float) -> float:
    """The value that Student's t exceeds with probability ``tail``."""
    return float(-stdtrit(degrees, tail))


def governed(
    alone: Sequence[float], variances: Sequence[float], pooled: float, room: Sequence[float], sharpness: float = 2.0
) -> float:
    """The quantile q of the module's head.

    Parameters
    ----------
    alone : Q_i
    variances : sequence of float
        The ``v_i``.
    pooled : P
    room : sequence of float
        The ``k_i``: how far the squared half-width of a part must be ahead of the others' to govern.
    sharpness : float
        The ``s`` of that formula.
    """
    asked = [q * q * v for q, v in zip(alone, variances, strict=True)]
    found = pooled
    for q, own, k in zip(alone, asked, room, strict=True):
        if own:
            others = k * (sum(asked) - own)
            lead = sharpness * (math.log(own) - math.log(others)) if others else math.inf
            found += (q - pooled) * float(expit(lead))
    return found


def training_quantile(training: Training, tail: float) -> float:
    """The quantile where training is all of the variance."""
    degrees = [df for _, df in training.parts]
    alone, at_95 = ([t_quantile(df, at) for df in degrees] for at in (tail, TAIL_OF_95))
    if len(degrees) == 1:
        return alone[0]
    scale = t_quantile(sum(degrees) + training.residual, TAIL_OF_95) / t_quantile(sum(degrees), TAIL_OF_95)
    pooled, pooled_at_95 = (scale * t_quantile(sum(degrees), at) for at in (tail, TAIL_OF_95))
    room = [1.5 * (q / pooled_at_95) ** 1.5 for q in at_95]
    return governed(alone, [own for own, _ in training.parts], pooled, room)


def quantile(training: Training, of_users: float, users: int, tail: float) -> float:
    """The value that an estimate over its standard error exceeds with probability ``tail``.

    Parameters
    ----------
    training : Training
    of_users : float
        The variance from users, known from ``users`` - 1 degrees of freedom.
    users : int
    tail : float
        Between 0 and 0.5.
    """
    by_users = t_quantile(max(users - 1, 1), tail)
    if not training.variance or not by_users:
        return by_users
    alone = training_quantile(training, tail)
    if not of_users:
        return alone
    at_95 = training_quantile(training, TAIL_OF_95) / t_quantile(max(users - 1, 1), TAIL_OF_95)
    ahead = max(alone / by_users, 1.0)  # what rounding at a tail near one half would take below
    room, sharpness = 3 * ahead, 1 + math.sqrt(at_95 / ahead)
    return governed([alone, by_users], [training.variance, of_users], by_users, [room, room], sharpness)
