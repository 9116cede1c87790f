"""Scoring what comes after the training: :func:`load` a run, and ``score`` a new log with it."""

from downstream.serving.scorer import Scored as Scored
from downstream.serving.scorer import Scorer as Scorer
from downstream.serving.scorer import ScoreSettings as ScoreSettings
from downstream.serving.scorer import load as load
