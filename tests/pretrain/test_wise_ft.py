import pytest
import torch

from data_tools.common.cli import UserError
from data_tools.common.files import read_json, write_json
from data_tools.common.tensors import write_tensors
from data_tools.tables.table import read_table
from pretrain.encoder.image_encoder import build_encoder
from pretrain.evaluation import wise_ft
from pretrain.evaluation.page_auc import Requests
from pretrain.evaluation.wise_ft import FACTORS, choose_factor, interpolate
from pretrain.export import Settings, export
from pretrain.settings import Encoder
from pretrain.settings import Settings as Pretrain

ENCODER = {"name": "test_byobnet", "dimensions": 8, "image_size": 32}


class Colours(torch.nn.Module):
    """An encoder of two numbers a picture: its red and its green, weighed."""

    def __init__(self, red, green):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([red, green]))

    def forward(self, images):
        return images.float().mean((2, 3))[:, :2] * self.weight


def test_weights_are_in_between_and_counts_are_the_tuned_ones():
    initial = {"w": torch.tensor([0.0, 4.0]), "n": torch.tensor(1)}
    tuned = {"w": torch.tensor([1.0, 0.0]), "n": torch.tensor(9)}
    found = interpolate(initial, tuned, 0.25)
    assert found["w"].tolist() == [0.25, 3.0]
    assert int(found["n"]) == 9


def test_the_factor_is_the_one_that_ranks_best():
    """Clicks ask for green as much as red: only weights in between put the balanced picture first."""
    colour = torch.tensor([[200, 200, 0], [250, 100, 0], [100, 250, 0]])  # history: the first
    requests = Requests(
        images=colour.to(torch.uint8)[:, :, None, None].expand(3, 3, 2, 2),
        history=torch.tensor([[0], [0]]),
        page=torch.tensor([[0, 1], [0, 2]]),
        click=torch.tensor([[True, False], [True, False]]),
        warm=torch.zeros(2, 2, dtype=torch.bool),
        oracle=None,
    )
    # a weight of 0 for one colour makes every picture the same direction: a tie, AUC one half
    factor, curve = choose_factor(
        Colours(1.0, 0.0),
        {"weight": torch.tensor([1.0, 0.0])},
        {"weight": torch.tensor([0.0, 1.0])},
        requests=requests,
        choose_on="cold",
    )
    assert [line["factor"] for line in curve] == list(FACTORS)
    assert curve[0]["cold"] == curve[-1]["cold"] == 0.5
    assert factor == 0.9  # of equal ones the nearest to the tuned
    assert curve[9]["cold"] == 1.0


@pytest.fixture
def run_folder(tmp_path):
    for seed, name in enumerate(("initial", "best")):
        torch.manual_seed(seed)
        write_tensors(tmp_path / f"{name}.safetensors", build_encoder(Encoder(**ENCODER)).state_dict())
    settings = {"encoder": ENCODER, "evaluation": vars(Pretrain().evaluation), "seed": 0}
    write_json(tmp_path / "run.json", {"settings": settings})
    return tmp_path


def test_a_table_of_weights_in_between(run_folder, tiny_world, monkeypatch):
    monkeypatch.setattr(wise_ft, "FACTORS", (0.0, 0.5, 1.0))
    data = str(tiny_world / "shards")
    for name, settings in {
        "start": {"weights": "initial"},
        "zero": {"wise_ft": 0.0},
        "end": {},
        "one": {"wise_ft": 1.0},
        "chosen": {"wise_ft": "validation"},
    }.items():
        export(Settings(data=data, run=str(run_folder), out=str(run_folder / name), **settings))
    vectors = {name: read_table(run_folder / name).vectors for name in ("start", "zero", "end", "one")}
    assert (vectors["start"] == vectors["zero"]).all()
    assert (vectors["end"] == vectors["one"]).all()
    said = read_json(run_folder / "chosen" / "table.json")["wise_ft"]
    best = max(said["validation"], key=lambda line: (line["cold"], line["factor"]))
    assert said["factor"] == best["factor"]


@pytest.mark.parametrize("settings", [{"wise_ft": 1.5}, {"wise_ft": "always"}, {"wise_ft": 0.5, "weights": "initial"}])
def test_a_wrong_factor_is_refused(settings):
    with pytest.raises(UserError, match="wise_ft"):
        Settings(data="D", out="O", run="R", **settings)
