import pytest
import torch

from pretrain.collapse import CollapsedError, CollapseWatch, alignment, collapse_figures, effective_rank


def test_effective_rank_of_known_spectra():
    assert effective_rank(torch.ones(10, 4)) == pytest.approx(1.0, abs=1e-3)
    assert effective_rank(torch.eye(6)) == pytest.approx(6.0, rel=1e-5)


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
    watch = CollapseWatch(patience=3)
    bad, good = {"effective_rank": 1.1, "mean_cosine": 0.999}, {"effective_rank": 9.0, "mean_cosine": 0.3}
    for figures in (bad, bad, good, bad, bad):
        watch.look(figures)
    with pytest.raises(CollapsedError, match="effective rank"):
        watch.look(bad)
