"""Which weights of a run are kept, by the one-standard-error rule."""

import json
import math

import numpy as np
import pytest
import torch

from pretrain.training.best import Best, Choice


def figures(cold, warm, error=0.02, pages=(300, 1400)):
    cold, warm = ({"auc": auc, "standard_error": error, "pages": n} for auc, n in zip((cold, warm), pages, strict=True))
    return {"cold": cold, "warm": warm}


def kept(*offered, **known):
    choice = Choice()
    for step, (cold, warm) in enumerate(offered):
        choice.offer(step, figures(cold, warm, **known), "cold")
    return choice.step


@pytest.mark.parametrize(
    ("offered", "step"),
    [
        (
            [(0.50, 0.54), (0.551, 0.56), (0.545, 0.58), (0.5505, 0.611), (0.548, 0.607)],
            3,
        ),  # equal on cold: warm decides
        ([(0.50, 0.50), (0.60, 0.55), (0.57, 0.70)], 1),  # memorises: more than an error below on cold
        ([(0.50, 0.50), (0.49, 0.70)], 0),  # never below the start
        ([(0.50, 0.50), (0.51, 0.60), (0.57, 0.55)], 2),  # what was kept no longer counts as equal
        ([(0.50, 0.50), (0.55, 0.60), (0.56, 0.58)], 1),
    ],
)
def test_the_slice_that_decides_comes_first_and_the_other_breaks_ties(offered, step):
    assert kept(*offered) == step


def test_without_error_the_highest_is_kept_as_by_argmax():
    rng = np.random.default_rng(0)
    for _ in range(50):
        offered = rng.uniform(0.4, 0.7, size=(8, 2))
        assert kept(*offered, error=0.0) == offered[:, 0].argmax()


def test_one_slice_alone_and_none():
    cold, warm = [0.5, 0.6, 0.59, 0.61], [0.5, 0.7, 0.9, 0.6]
    assert kept(*zip(cold, warm, strict=True), pages=(300, 0)) == 3
    assert kept(*zip(cold, warm, strict=True), pages=(0, 300)) == 2
    assert kept(*zip(cold, warm, strict=True), pages=(0, 0)) == 3
    assert kept((math.nan, 0.5), (0.6, 0.5)) == 1


def test_an_interrupted_run_chooses_as_an_uninterrupted_one(tmp_path):
    encoder, offered = torch.nn.Linear(1, 1), [(0.50, 0.54), (0.551, 0.56), (0.545, 0.58), (0.57, 0.53), (0.56, 0.6)]
    for stop in range(len(offered) + 1):
        run = tmp_path / str(stop)
        run.mkdir()
        for part in (range(stop), range(stop, len(offered))):
            best = Best(run, "cold")
            for step in part:
                best.offer(encoder, step, figures(*offered[step]))
        assert json.loads((run / "best.json").read_text())["step"] == kept(*offered) == 4
