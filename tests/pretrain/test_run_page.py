import math
import re

import pytest
import torch
from torch.nn import functional as F

from data_tools.common.cli import UserError, parse_settings
from data_tools.common.files import read_json, write_json
from pretrain.evaluation.page_auc import Requests
from pretrain.pages.charts import collapse_charts, loss_charts, validation_chart
from pretrain.pages.pictures import as_image, attention_rows, neighbour_rows
from pretrain.pages.run import write_page
from pretrain.settings import Settings as Pretrain
from pretrain.train import train
from pretrain.training.runs import read_settings
from pretrain.training.summary import print_summary


@pytest.fixture
def pictures():
    return torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)


def test_a_run_becomes_one_page_that_needs_no_other_file(tiny_world, tmp_path):
    out = tmp_path / "r"
    small = (
        f"--data {tiny_world / 'shards'} --out {out} --encoder.image_size 32 --encoder.dimensions 8 --batch.rows 16 "
        "--batch.history 4 --batch.workers 0 --optim.steps 2 --optim.warmup 1 --optim.precision fp32 --log_every 1 "
        "--evaluation.every 1"
    )
    summary = train(parse_settings(Pretrain, "", small.split()))
    html = write_page(out, examples=2).read_text(encoding="utf-8")
    assert f"<b>{summary['page_auc']['warm']['trained']:.4f}</b>" in html
    assert not re.search(r'(?:src|href)="(?!data:image/jpeg|#)', html)
    assert html.count("before training</div>") == 2
    assert html.count('alt="the target"') == 2
    for words in ("pv loss", "ucs loss", "Share of dead dimensions (healthy: at most 0.5)"):
        assert words in html
    nothing = {"pages": 0, **dict.fromkeys(("untrained", "trained", "untrained_standard_error"))}
    summary["page_auc"]["cold"] = nothing | {"trained_standard_error": None}
    write_json(out / "summary.json", summary)
    assert "no page view of the test time range" in write_page(out, examples=2).read_text(encoding="utf-8")
    print_summary(read_settings(out), summary)


def test_neighbours_are_the_nearest_and_never_the_picture_itself(pictures):
    unit = F.normalize(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.1], [1.0, 0.5]]), dim=-1)
    row = neighbour_rows({"trained": unit}, pictures, [0], count=2)[0]
    assert row["query"] == as_image(pictures[0])
    assert row["strips"]["trained"] == [as_image(pictures[2]), as_image(pictures[3])]


def test_attention_weights_are_multiples_of_an_equal_share(pictures):
    unit = F.normalize(torch.randn(4, 5, generator=torch.Generator().manual_seed(0)), dim=-1)
    requests = Requests(
        images=pictures,
        history=torch.tensor([[1, 2, 3, -1]]),
        page=torch.tensor([[2, 0]]),
        click=torch.tensor([[False, True]]),
        warm=torch.zeros(1, 2, dtype=torch.bool),
        oracle=None,
    )
    clicks = attention_rows(unit, requests, [0], 0.5)[0]["clicks"]
    shares = [math.exp(float(unit[0] @ unit[k]) / 0.5) for k in (1, 2, 3)]
    assert [click["weight"] for click in clicks] == pytest.approx([3 * s / sum(shares) for s in shares], rel=1e-5)


def test_charts_are_of_what_was_logged():
    log = [{"step": 0, "valid_page_auc_warm": 0.5}]
    log += [{"step": s, "loss": 2.0, "chance": 3.0, "a_loss": 2.0, "a_loss_chance": 3.0, "spread": 0.5} for s in (1, 2)]
    assert [name for name, _ in loss_charts(log)] == ["loss"]  # the only term is the loss
    assert [name for name, _ in collapse_charts(log)] == ["Spread (healthy: at least 0.1)"]


def test_a_slice_without_page_views_is_left_out_of_the_chart():
    log = [{"step": s, "valid_page_auc_warm": 0.5 + s / 10, "valid_page_auc_cold": math.nan} for s in (0, 1)]
    assert "warm items" in validation_chart(log, 1) and "cold items" not in validation_chart(log, 1)
    assert validation_chart([], 0) == ""


def test_a_run_without_weights_says_so(tmp_path):
    write_json(tmp_path / "run.json", {"settings": {}})
    assert read_json(tmp_path / "run.json")
    with pytest.raises(UserError, match="first validation"):
        write_page(tmp_path)
