"""Several objectives at once: the weighted sum of what each finds alone, and what is refused."""

import pytest
import torch

from data_tools.common.cli import UserError
from data_tools.common.files import read_json_lines
from data_tools.common.plugins import in_use
from pretrain.data.stream import Both, loader
from pretrain.encoder.image_encoder import build_encoder
from pretrain.evaluation.collapse import likely_causes
from pretrain.objectives.base import catalogue_from
from pretrain.objectives.clip import Clip
from pretrain.objectives.courier import Courier
from pretrain.objectives.simclr import SimClr
from pretrain.objectives.sum import Sum
from pretrain.settings import Batch, Encoder, Evaluation, Objective, Optim, Settings
from pretrain.train import batch_seeds, train
from pretrain.training.state import build_objective

ENCODER = Encoder(image_size=32, dimensions=8)
TEXT = Clip.Settings(context=8, width=8, layers=1, heads=2)
WEIGHTS = {"courier": 2.0, "clip": 0.5, "simclr": 0.25}
CHOSEN = Objective(name="sum", sum=Sum.Settings(weights=WEIGHTS), clip=TEXT)


def settings(world, objective=CHOSEN, **changes):
    given = {
        "data": str(world / "shards"),
        "encoder": ENCODER,
        "objective": objective,
        "batch": Batch(rows=12, history=5, slots=4, workers=0),
        "optim": Optim(steps=3, lr=1e-3, warmup=1, precision="fp32"),
        "evaluation": Evaluation(every=3, requests=50, history=5),
        "log_every": 1,
    }
    return Settings(**given | changes)


@pytest.fixture(scope="module")
def built(tiny_world):
    wanted = settings(tiny_world)
    torch.manual_seed(0)
    return build_objective(wanted, build_encoder(ENCODER))


@pytest.fixture(scope="module")
def batches(tiny_world, built):
    """A batch of requests, one of two views of the catalogue, and both as one."""
    options = {"views": built.views, "annotate": built.annotate}
    made = [loader(tiny_world / "shards", kind, settings(tiny_world).batch, 32, 0, **options) for kind in KINDS]
    return *(next(iter(one)) for one in made), next(iter(Both(*made)))


KINDS = ("requests", "items")


def test_it_is_the_weighted_sum_of_what_each_part_finds_alone(built, batches):
    requests, items, both = batches
    assert (built.batches, built.views) == ("both", 2)
    count = len(requests["images"])
    embeddings = torch.randn(len(both["images"]), 8, generator=torch.Generator().manual_seed(1))
    shown, catalogue = embeddings[:count], embeddings[count:]
    first = {name: values[:12] if name in ("images", "image_item") else values for name, values in items.items()}
    parts = built.parts
    expected = {
        **{name: 2 * term.loss for name, term in parts["courier"].terms(shown, requests).items()},
        "clip_loss": 0.5 * parts["clip"].terms(catalogue[:12], first)["clip_loss"].loss,
        "simclr_loss": 0.25 * parts["simclr"].terms(catalogue, items)["simclr_loss"].loss,
    }
    found = {name: term.loss for name, term in built(embeddings, both).items()}
    assert found.keys() == expected.keys() == {"pv_loss", "ucs_loss", "clip_loss", "simclr_loss"}
    for name, loss in expected.items():
        torch.testing.assert_close(found[name], loss)


def test_a_batch_of_both_holds_requests_then_views_of_the_catalogue(batches):
    requests, items, both = batches
    first = catalogue_from(both)
    assert first == len(requests["images"]) and catalogue_from(requests) == first and catalogue_from(items) == 0
    assert torch.equal(both["image_item"], torch.cat([requests["image_item"], items["image_item"]]))
    assert torch.equal(both["images"][first:], items["images"]) and torch.equal(both["page"], requests["page"])
    seeds = batch_seeds(both, 2, 0, 1)
    assert torch.equal(seeds[first:], batch_seeds(items, 2, 0, 1))
    assert len(set(seeds[first:].tolist())) == len(items["images"])


def test_each_part_has_its_line_in_the_log(tiny_world, tmp_path):
    train(settings(tiny_world, out=str(tmp_path / "run")))
    lines = [line for line in read_json_lines(tmp_path / "run" / "log.jsonl") if "loss" in line]
    assert len(lines) == 3
    for line in lines:
        parts = [line[name] for name in ("pv_loss", "ucs_loss", "clip_loss", "simclr_loss")]
        assert line["loss"] == pytest.approx(sum(parts)) and line["clip_loss_chance"] > 0


def test_objectives_of_the_catalogue_alone_take_its_batches(tiny_world, tmp_path):
    two = Objective(name="sum", sum=Sum.Settings(weights={"clip": 1.0, "simclr": 1.0}), clip=TEXT)
    train(settings(tiny_world, two, out=str(tmp_path / "run")))
    lines = [line for line in read_json_lines(tmp_path / "run" / "log.jsonl") if "loss" in line]
    assert {name for name in lines[0] if name.endswith("_loss")} == {"clip_loss", "simclr_loss"}


def test_what_is_said_of_an_objective_is_said_of_its_parts(tiny_world):
    chosen = Objective(
        name="sum", sum=Sum.Settings(weights={"courier": 1.0, "simclr": 1.0}), courier=Courier.Settings(contrast=False)
    )
    assert "contrast is false" in likely_causes(settings(tiny_world, chosen))[0]
    assert set(chosen.parts) == {"courier", "simclr"}
    assert {"courier", "simclr", "sum"} <= set(in_use(chosen, chosen.parts)) and "clip" not in in_use(
        chosen, chosen.parts
    )


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"courier": 1.0}, "at least two"),
        ({}, "names nothing"),
        ({"courier": 1.0, "sum": 1.0}, "names sum itself"),
    ],
)
def test_weights_that_make_no_sum_are_refused(weights, message):
    with pytest.raises(UserError, match=message):
        Sum.Settings(weights=weights)


def test_unknown_parts_and_options_without_an_effect_are_refused(tiny_world):
    with pytest.raises(UserError, match="unknown objective 'curier'"):
        Objective(name="sum", sum=Sum.Settings(weights={"curier": 1.0, "clip": 1.0}))
    with pytest.raises(UserError, match="simclr"):
        Objective(name="sum", simclr=SimClr.Settings(temperature=0.3))
    with pytest.raises(UserError, match=r"catalogue is 8, but clip, simclr all take items"):
        made = Sum.Settings(weights={"clip": 1.0, "simclr": 1.0}, catalogue=8)
        build_objective(settings(tiny_world, Objective(name="sum", sum=made)), build_encoder(ENCODER))
