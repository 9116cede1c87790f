"""The lazy Adam of ID tables: as dense Adam where every row is shown, as torch's SparseAdam elsewhere; resume; DDP."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from ams_group import run_group
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from data_tools.common.errors import UserError
from downstream.data.ctr_data import load_ctr_data
from downstream.layers.click_model import ClickModel
from downstream.settings import DataSettings, OptimSettings, ServerSettings
from downstream.training.checkpoints import Checkpoints
from downstream.training.fit import fit
from downstream.training.optimizer import make_optimizer
from downstream.training.settings import ModelSettings, TrainingSettings


@pytest.fixture(scope="module")
def data(small_world):
    return load_ctr_data(small_world.folder, DataSettings(history=6))


def settings(data, **optim):
    model = ModelSettings("din", l2=0.01)
    return TrainingSettings(
        data.settings, model, optim=OptimSettings(id_optimizer="sparse_adam", **{"batch_size": 256, **optim})
    )


class Table(ClickModel):
    """A table and a layer over it."""

    def __init__(self, rows: int = 12) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.ids = nn.ModuleDict({"item": nn.Embedding(rows, 4, padding_idx=0)})
        self.layer = nn.Linear(4, 1)

    def forward(self, codes):
        return self.layer(torch.tanh(self.ids["item"](codes))).squeeze(-1)


def batches(rows, every, steps=30):
    """Codes and labels; every batch shows all rows, or some, some of them several times."""
    drawn = torch.Generator().manual_seed(1)
    for _ in range(steps):
        some = torch.randint(rows, (5,), generator=drawn)
        codes = torch.cat([torch.arange(rows), some]) if every else torch.cat([some, some[:2]])
        yield codes, torch.rand(len(codes), generator=drawn).round()


def trained(optimizers, every):
    model = Table()
    made = optimizers(model)
    for group in (group for one in made for group in one.param_groups):
        group["eps"] = 1e-14  # SparseAdam adds it to the root before the bias correction, Adam after it
    for codes, labels in batches(12, every):
        nn.functional.binary_cross_entropy_with_logits(model(codes), labels).backward()
        for one in made:
            one.step()
            one.zero_grad()
    return model.state_dict()


def lazy(model, id_optimizer="sparse_adam"):
    return [make_optimizer(model, TrainingSettings(optim=OptimSettings(lr=0.05, id_optimizer=id_optimizer)))]


def sparse(model):
    model.ids["item"].sparse = True
    table = torch.optim.SparseAdam(model.ids.parameters(), lr=0.05)
    return [table, torch.optim.Adam(model.layer.parameters(), lr=0.05)]


def dense(model):
    return [torch.optim.Adam(model.parameters(), lr=0.05)]


@pytest.mark.parametrize(("other", "every"), [(dense, True), (sparse, True), (sparse, False)])
def test_it_learns_what_adam_learns_of_the_rows_that_are_shown(other, every):
    ours, theirs = trained(lazy, every), trained(other, every)
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-5, atol=1e-6)
    start = Table().state_dict()["ids.item.weight"]
    assert (ours["ids.item.weight"] - start).abs().max() > 0.1


def test_it_differs_from_adam_where_rows_are_not_shown():
    ours, theirs = trained(lazy, False), trained(dense, False)
    assert (ours["ids.item.weight"] - theirs["ids.item.weight"]).abs().max() > 0.01


@pytest.mark.parametrize(("large", "same_as"), [(11, sparse), (12, dense)])
def test_by_default_the_size_of_a_table_decides(monkeypatch, large, same_as):
    assert OptimSettings().id_optimizer == "auto"
    monkeypatch.setattr("downstream.training.optimizer.LARGE", large)
    ours, theirs = trained(lambda model: lazy(model, "auto"), False), trained(same_as, False)
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-5, atol=1e-6)


def test_rows_that_no_batch_shows_keep_every_bit():
    model = Table(rows=1000)
    before = model.ids["item"].weight.detach().clone()
    (optimizer,) = lazy(model)
    for codes, labels in batches(12, False):
        nn.functional.binary_cross_entropy_with_logits(model(codes), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    after = model.ids["item"].weight.detach()
    assert torch.equal(after[12:], before[12:]) and torch.equal(after[0], before[0])
    assert not torch.equal(after[1:12], before[1:12])


class Stop(Exception):
    """Someone pulls the plug."""


def test_an_interrupted_training_continues_bit_for_bit(data, small_world, tmp_path, monkeypatch):
    whole, done = fit(data, small_world.table, settings(data), seed=1), []

    def count(self, lr):
        done.append(lr)
        if len(done) == 5:
            raise Stop

    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(ClickModel, "after_step", count)
        fit(data, small_world.table, settings(data), 1, checkpoints=Checkpoints(tmp_path, 2))
    again = fit(data, small_world.table, settings(data), 1, checkpoints=Checkpoints(tmp_path, 2))
    assert all(torch.equal(again.state[name], weight) for name, weight in whole.state.items())
    assert np.array_equal(again.test_scores, whole.test_scores)
    adam = fit(data, small_world.table, replace(settings(data), optim=OptimSettings(batch_size=256)), seed=1)
    assert not torch.equal(adam.state["ids.user.weight"], whole.state["ids.user.weight"])


def in_a_group(rank: int, processes: int) -> None:
    """Each process takes its part of each batch: the table becomes that of one process with the whole batches."""
    model = Table()
    (optimizer,) = lazy(model)
    wrapped = DistributedDataParallel(model)
    for codes, labels in batches(12, False, steps=10):
        own = slice(rank, len(codes) // processes * processes, processes)
        nn.functional.binary_cross_entropy_with_logits(wrapped(codes[own]), labels[own]).backward()
        optimizer.step()
        optimizer.zero_grad()
    alone = Table()
    (optimizer,) = lazy(alone)
    for codes, labels in batches(12, False, steps=10):
        all_ = slice(0, len(codes) // processes * processes)
        nn.functional.binary_cross_entropy_with_logits(alone(codes[all_]), labels[all_]).backward()
        optimizer.step()
        optimizer.zero_grad()
    for name, weight in alone.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], weight, rtol=1e-5, atol=1e-6)


def test_several_processes_learn_what_one_does():
    run_group(in_a_group, 2)


def test_sharded_tables_are_refused(data):
    with pytest.raises(UserError, match=r"server\.shard_ids splits the ID tables"):
        replace(settings(data), server=ServerSettings(shard_ids=True))
