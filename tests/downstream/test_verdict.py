"""The verdict in its three moods, and the neighbours beneath it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from data_tools.tables.table import read_table, unit_vectors
from downstream.comparison.figures import Figures, frame
from downstream.comparison.spec import ComparisonSpec
from downstream.data.ctr_data import load_ctr_data
from downstream.report import thumbnails as neighbours
from downstream.report.thumbnails import Pictured, attended, nearest
from downstream.report.verdict import verdict
from downstream.report.words import Names
from downstream.settings import DataSettings


def figures(main_all, main_cold, other=(0.0, -0.01, 0.01), share=None, **frames):
    names = {"form": "vector", "model": "dicm"}

    def row(a, b, part, values):
        mean, low, high = values
        own = {"a": a, "b": b, "slice": part, "metric": "gauc", "mean": mean, "low": low, "high": high}
        return names | own | {"direction": int(low > 0) - int(high < 0)}

    cold = [row("courier", "ids", "cold", main_cold)] if main_cold else []
    attained = names | {"source": "courier", "slice": "all", "metric": "gauc", "share": share}
    forms = {"ids": "none", "clip": "vector", "courier": "vector"}
    given = {
        "chosen": [{"source": source, "form": form, "model": "dicm"} for source, form in forms.items()],
        "attainable": [attained] if share is not None else [],
        "differences": [row("courier", "ids", "all", main_all), *cold, row("courier", "clip", "all", other)],
    }
    given = {name: frame(name, rows) for name, rows in (given | frames).items()}
    return Figures(**given, bootstrap={"level": 0.95})


SPEC = ComparisonSpec("ids", "courier", ["vector"])
UP, DOWN, NOTHING = (0.02, 0.01, 0.03), (-0.02, -0.03, -0.01), (0.001, -0.01, 0.012)


@pytest.mark.parametrize(
    ("on_all", "on_cold", "said"),
    [
        (
            UP,
            UP,
            "raises the GAUC of DICM over IDs only by 0.0200 (95% interval +0.0100 to +0.0300) on all",
        ),
        (NOTHING, UP, "shows no significant difference from IDs only in the GAUC of DICM: +0.0010"),
        (NOTHING, UP, "and raises the GAUC of DICM over IDs only by 0.0200"),
        (DOWN, NOTHING, "lowers the GAUC of DICM below IDs only by 0.0200"),
        (UP, None, "on all test impressions."),
    ],
)
def test_the_first_sentence_follows_the_intervals(on_all, on_cold, said):
    assert said in verdict(figures(on_all, on_cold), SPEC)[0]


def test_the_other_sentences():
    sentences = verdict(figures(UP, UP, DOWN, share=0.43), SPEC)
    assert len(sentences) == 3
    assert "worse than CLIP (−0.0200)" in sentences[1] and "reaches 43%" in sentences[2]
    assert "no significant difference from CLIP" in verdict(figures(UP, UP, NOTHING), SPEC)[1]


def test_an_interval_next_to_zero_without_a_star_is_no_missing_difference():
    found = figures(UP, UP, DOWN)
    found = replace(found, differences=found.differences.with_columns(direction=pl.lit(0, pl.Int64)))
    first, second, *_ = verdict(found, SPEC)
    assert "is above IDs only in the GAUC of DICM, without surviving Holm's correction, by +0.0200 (95%" in first
    assert "behind, without surviving Holm's correction, CLIP (−0.0200)" in second


def test_the_share_of_the_ceiling_comes_before_that_of_the_oracle():
    own = {"source": "courier", "model": "dicm", "slice": "all", "share": 0.61, "low": 0.5, "high": 0.7}
    found = figures(UP, UP, share=0.43, ceiling_shares=[own | {"slice": "cold", "share": 0.2}, own])
    said = verdict(found, ComparisonSpec("ids", "courier", ["vector"], "planted"))[2]
    assert said == (
        "It reaches 61% (95% interval 50% to 70%) of the GAUC gain of Planted attributes, and 43% of the GAUC gain "
        "that knowing the true click probabilities would bring."
    )


def test_nothing_to_compare_is_said():
    assert verdict(figures(UP, UP, differences=[]), SPEC) == ["The test split is too small for any comparison."]


def test_neighbours_are_the_highest_cosines_of_usable_items():
    rng = np.random.default_rng(0)
    vectors, usable = rng.normal(size=(30, 5)), rng.random(30) < 0.8
    queries = np.flatnonzero(usable)[:4]
    for query, found in zip(queries, nearest(unit_vectors(vectors), usable, queries, 3), strict=True):
        cosine = {
            other: vectors[query] @ vectors[other] / np.linalg.norm(vectors[query]) / np.linalg.norm(vectors[other])
            for other in np.flatnonzero(usable)
            if other != query
        }
        assert found.tolist() == sorted(cosine, key=cosine.get, reverse=True)[:3]


def test_attention_picks_the_clicks_before_with_the_highest_cosines(tiny_world, monkeypatch):
    data = load_ctr_data(tiny_world / "dataset", DataSettings())
    files = {data.dataset.picture(image): Path(image).name for image in data.dataset.items["image"]}
    monkeypatch.setattr(neighbours, "_thumbnail", lambda held, text: neighbours.Picture(files[held], text))
    strips = attended(Pictured(data, {"planted": [tiny_world / "planted"]}), queries=3, count=2)
    table = read_table(tiny_world / "planted")
    unit = dict(zip(table.ids, unit_vectors(table.vectors), strict=True))
    items = data.dataset.items
    by_picture = {path.split("/")[-1]: key for path, key in items.select("image", "item_id").iter_rows()}
    shown = data.dataset.impressions.filter((pl.col("split") == "test") & (pl.col("click") == 1)).to_dicts()
    clicks = data.dataset.clicks.to_dicts()
    assert len(strips) == 3
    for strip in strips:
        target = by_picture[strip.query.source]
        picked = [by_picture[picture.source] for picture in strip.neighbours["planted"]]
        expected = []
        for one in shown:
            if one["item_id"] == target:
                own = clicks[one["user"]]
                pairs = zip(own["items"], own["timestamps"], strict=True)
                before = {items["item_id"][item] for item, time in pairs if time < one["timestamp"]} - {target}
                expected.append(sorted((unit[key] @ unit[target] for key in before), reverse=True)[:2])
        cosines = [unit[key] @ unit[target] for key in picked]
        assert any(np.allclose(cosines, own) for own in expected if len(own) == 2)
        assert strip.neighbours["planted"][0].text.endswith(f", cosine {cosines[0]:.2f}")


def test_a_flagged_table_is_not_celebrated():
    def flagged(source):
        return figures(UP, UP, tables=[{"source": source, "flagged": "it knows"}])

    assert "raises" in " ".join(verdict(flagged("clip"), SPEC))
    assert verdict(flagged("courier"), SPEC) == ["COURIER appears to know test labels: it knows."]


def cells(encoders, seeds):
    keys = zip(encoders, seeds, strict=True)
    return [{"source": "courier", "form": "vector", "model": "dicm", "encoder": e, "seed": s} for e, s in keys]


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (([0, 0], [0, 1]), "Intervals are conditional on the one encoder of COURIER"),
        (([0], [0]), "Intervals cover users only: there is one CTR training each."),
        (([0, 1], [0, 1]), None),
        (([0, 1], [0, 0]), None),
    ],
)
def test_what_intervals_do_not_cover_is_in_the_verdict(keys, said):
    text = " ".join(verdict(figures(UP, UP, cells=cells(*keys)), SPEC))
    assert (said in text) if said else "Intervals" not in text


def test_one_test_user_gives_no_verdict():
    row = {"a": "courier", "b": "ids", "form": "vector", "model": "dicm", "slice": "all", "metric": "gauc"}
    found = figures(UP, UP, differences=[row | {"mean": -0.03, "direction": 0}])
    assert verdict(found, SPEC)[0] == (
        "COURIER (Vector) cannot be compared with IDs only in the GAUC of DICM: −0.0300 without an interval, since "
        "fewer than two test users carry it, on all test impressions."
    )


def test_where_gauc_is_undefined_auc_is_compared():
    row = {"a": "courier", "b": "ids", "form": "vector", "model": "dicm", "slice": "all", "metric": "auc"}
    found = figures(UP, UP, differences=[row | {"mean": 0.03, "low": 0.01, "high": 0.05, "direction": 1}])
    sentences = verdict(found, SPEC)
    assert sentences[0].startswith("COURIER (Vector) raises the AUC of DICM over IDs only by 0.0300")
    assert sentences[1].startswith("GAUC is undefined: no test user has both")


def test_items_without_a_vector_are_in_the_verdict():
    lacking = [{"source": "courier", "impressions_without_vector": share} for share in (0.9, 0.96)]
    sentence = "Share of test impressions whose item has no vector: 96% (COURIER)."
    assert sentence in verdict(figures(UP, UP, tables=lacking), SPEC)


def test_names_of_the_configuration_win():
    spec = ComparisonSpec("ids", "courier", ["vector"], names={"courier": "Ours", "dicm": "the ranker"})
    assert verdict(figures(UP, UP), spec)[0].startswith("Ours (Vector) raises the GAUC of the ranker over IDs only")
    names = Names({"scl": "Supervised"})
    assert (names("scl"), names("simscore, fine-tuned"), names("ad image")) == (
        "Supervised",
        "SimScore, fine-tuned",
        "ad image",
    )
