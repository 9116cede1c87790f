import pytest
import torch

from pretrain.evaluation.collapse import (
    HEALTHY,
    CollapsedError,
    CollapseWatch,
    alignment,
    collapse_figures,
    likely_causes,
    unhealthy,
)
from pretrain.objectives.courier import Courier
from pretrain.settings import Guards, Objective, Settings


def test_figures_tell_spread_from_collapsed():
    generator = torch.Generator().manual_seed(0)
    spread = collapse_figures(torch.randn(500, 16, generator=generator))
    collapsed = collapse_figures(torch.ones(500, 16) + 1e-3 * torch.randn(500, 16, generator=generator))
    assert spread["effective_rank"] > 15
    assert spread["spread"] == pytest.approx(1, abs=0.1)
    assert abs(spread["mean_cosine"]) < 0.05
    assert collapsed["mean_cosine"] > 0.999
    assert collapsed["effective_rank"] < 1.5
    assert collapsed["uniformity"] == pytest.approx(0, abs=0.01)


def test_alignment_is_the_distance_of_consecutive_clicks():
    embeddings = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]])
    history = torch.tensor([[-1, 0, 1], [0, 2, -1]])
    assert alignment(embeddings, history) == pytest.approx((2.0 + 0.0) / 2)


def test_watch_stops_only_a_lasting_collapse():
    watch = CollapseWatch(Settings(), patience=3)
    bad, good = {"effective_rank": 1.1, "mean_cosine": 0.999}, {"effective_rank": 9.0, "mean_cosine": 0.3}
    for figures in (bad, bad, good, bad, bad):
        watch.check(figures)
    with pytest.raises(CollapsedError, match=r"effective rank 1.1 \(at least 2\), mean cosine 0.999 \(at most 0.99\)"):
        watch.check(bad)


def test_the_limits_agree_with_each_other():
    """Vectors at the limit of the mean cosine are at the limits of spread, uniformity and distance."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.nn.functional.normalize(torch.randn(2000, 64, generator=generator), dim=-1)
    noise[:, 0] = 0
    at_limit = 0.99**0.5 * torch.eye(64)[0] + 0.01**0.5 * noise
    figures = collapse_figures(at_limit)
    assert figures["mean_cosine"] == pytest.approx(HEALTHY["mean_cosine"][1], abs=1e-3)
    assert figures["spread"] == pytest.approx(HEALTHY["spread"][0], rel=0.05)
    assert figures["uniformity"] == pytest.approx(HEALTHY["uniformity"][1], rel=0.05)
    pairs = torch.arange(2000).view(-1, 2)
    assert alignment(at_limit, pairs) == pytest.approx(HEALTHY["alignment"][0], rel=0.05)


def test_dead_dimensions_are_counted():
    embeddings = torch.randn(300, 8, generator=torch.Generator().manual_seed(0))
    embeddings[:, 2:] *= 0.01
    assert collapse_figures(embeddings)["dead_share"] == 6 / 8
    assert set(unhealthy({"dead_share": 0.75, "spread": 0.4, "alignment": float("nan")})) == {"dead_share"}


def test_an_objective_names_causes_of_its_own():
    assert "no negatives" in likely_causes(Settings(objective=Objective(name="simsiam")))[0]


def test_the_likeliest_cause_comes_first():
    without = Objective(courier=Courier.Settings(contrast=False))
    assert "objective.courier.contrast" in likely_causes(Settings(objective=without))[0]
    assert "learning rate" in likely_causes(Settings())[0]
    assert not any("guard" in cause for cause in likely_causes(Settings(objective=Objective(guards=Guards(koleo=1)))))
