"""The verdict in its three moods, and the neighbours beneath it."""

import numpy as np
import pytest

from downstream.analysis import Contestants
from downstream.neighbours import nearest
from downstream.verdict import verdict


def figures(main_all, main_cold, other=(0.0, -0.01, 0.01), share=None):
    def row(a, b, part, values):
        names = {"a": a, "b": b, "form": "vector", "model": "dicm", "slice": part, "metric": "gauc"}
        mean, low, high = values
        return names | {"mean": mean, "low": low, "high": high, "direction": int(low > 0) - int(high < 0)}

    attained = {
        "source": "courier",
        "form": "vector",
        "model": "dicm",
        "slice": "all",
        "metric": "gauc",
        "share": share,
    }
    cold = [row("courier", "ids", "cold", main_cold)] if main_cold else []
    return {
        "chosen": {"dicm": {"ids": "none", "clip": "vector", "courier": "vector"}},
        "bootstrap": {"level": 0.95},
        "flagged": {},
        "attainable": [attained] if share is not None else [],
        "differences": [row("courier", "ids", "all", main_all), *cold, row("courier", "clip", "all", other)],
    }


WHO = Contestants("ids", "courier", ["vector"])
UP, DOWN, NOTHING = (0.02, 0.01, 0.03), (-0.02, -0.03, -0.01), (0.001, -0.01, 0.012)


@pytest.mark.parametrize(
    ("on_all", "on_cold", "said"),
    [
        (
            UP,
            UP,
            "raises the GAUC of dicm over ids by +0.0200 (95% interval +0.0100 to +0.0300) on all",
        ),
        (NOTHING, UP, "shows no difference from ids in the GAUC of dicm: +0.0010"),
        (NOTHING, UP, "and raises the GAUC of dicm over ids by +0.0200"),
        (DOWN, NOTHING, "changes the GAUC of dicm against ids for the worse by −0.0200"),
        (UP, None, "on all test impressions."),
    ],
)
def test_the_first_sentence_follows_the_intervals(on_all, on_cold, said):
    assert said in verdict(figures(on_all, on_cold), WHO)[0]


def test_the_other_sentences():
    sentences = verdict(figures(UP, UP, DOWN, share=0.43), WHO)
    assert len(sentences) == 3
    assert "worse than clip (−0.0200)" in sentences[1] and "brings 43%" in sentences[2]
    assert "no difference found from clip" in verdict(figures(UP, UP, NOTHING), WHO)[1]


def test_nothing_to_compare_is_said():
    empty = {**figures(UP, UP), "differences": []}
    assert verdict(empty, WHO) == ["The test split is too small for any comparison."]


def test_neighbours_are_the_highest_cosines_of_usable_items():
    rng = np.random.default_rng(0)
    vectors, usable = rng.normal(size=(30, 5)), rng.random(30) < 0.8
    queries = np.flatnonzero(usable)[:4]
    for query, found in zip(queries, nearest(vectors, usable, queries, 3), strict=True):
        cosine = {
            other: vectors[query] @ vectors[other] / np.linalg.norm(vectors[query]) / np.linalg.norm(vectors[other])
            for other in np.flatnonzero(usable)
            if other != query
        }
        assert found.tolist() == sorted(cosine, key=cosine.get, reverse=True)[:3]


def test_a_flagged_table_is_not_celebrated():
    found = figures(UP, UP)
    assert "raises" in " ".join(verdict(found | {"flagged": {"clip": "it knows"}}, WHO))
    assert verdict(found | {"flagged": {"courier": "it knows"}}, WHO) == ["Do not believe courier: it knows."]
