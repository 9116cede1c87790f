"""Any number of processes and any strategy must give the loss, gradients and weights of one with all features."""

import numpy as np
import pytest
import torch
import torch.distributed as dist
from ams_group import SMALL, run_group
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from downstream.ams.averaging import exclude_from_ddp
from downstream.ams.feature_store import open_store
from downstream.ams.ids import whole
from downstream.ams.paper.workload import Workload, build
from downstream.ams.strategies import STRATEGIES
from downstream.layers.blocks import gather, id_embedding, mlp
from downstream.settings import ServerSettings

STEPS = 20
WORK = Workload(**SMALL)
CASES = {
    **{name: ServerSettings(name) for name in STRATEGIES},
    "ams, hot images, ids sharded": ServerSettings("ams", hot=7, shard_ids=True),
    "server, hot images": ServerSettings("server", hot=7),
}
HALF = ServerSettings("ams", wire="bfloat16", shard_ids=True)
# Uneven parts of the batch: items that the store lacks, a process without any image, one image that all ask for.
LACKING = 9


def row_of_item() -> np.ndarray:
    rows = np.arange(WORK.items)
    rows[np.random.default_rng(1).permutation(WORK.items)[:LACKING]] = -1
    return rows


def global_batches(steps=STEPS):
    """Batches of four parts, in which each part names its images itself."""
    random = np.random.default_rng(3)
    parts = [WORK.batches(part) for part in range(4)]
    lacking, there = np.flatnonzero(row_of_item() < 0), np.flatnonzero(row_of_item() >= 0)
    for step in range(steps):
        batch = [next(part) for part in parts]
        if step % 5 == 1:
            batch[step % 4]["row"] = torch.from_numpy(np.resize(lacking, WORK.images))
        if step % 5 == 2:
            for part in batch:
                part["row"] = torch.full((WORK.images,), int(random.choice(there)))
        if step == 3:
            for part in batch:
                part["row"] = torch.from_numpy(np.resize(lacking, WORK.images))
        yield batch


class Reference(nn.Module):
    """The same model with nothing of the server in it: all features in memory, in float64."""

    def __init__(self, features):
        super().__init__()
        torch.manual_seed(0)
        self.layers = mlp([WORK.width, *WORK.hidden], WORK.size)
        self.no_image = nn.Parameter(torch.zeros(WORK.size))
        self.ids = nn.ModuleDict({"id": id_embedding(WORK.vocabulary, WORK.size)})
        self.mlp = mlp([2 * WORK.size, 32], 1)
        self.double()
        features = torch.from_numpy(features).double()
        self.features = (features - features.mean(0)) / (features - features.mean(0)).std(correction=0)

    def forward(self, batch):
        rows = torch.from_numpy(row_of_item())[batch["row"]]
        images = torch.where((rows < 0)[:, None], self.no_image, self.layers(self.features[rows.clamp(min=0)]))
        images = gather(images, batch["image"]).mean(1)
        ids = gather(self.ids["id"](batch["code"]), batch["id"]).mean(1)
        logits = self.mlp(torch.cat([images, ids], dim=1)).squeeze(-1)
        return nn.functional.binary_cross_entropy_with_logits(logits, batch["click"].double())


def named(state):
    """Names without the server's and DDP's own prefixes."""
    return {name.removeprefix("module.").removeprefix("server."): value for name, value in state.items()}


def reference(features, steps):
    model = Reference(features)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    losses = []
    for parts in global_batches(steps):
        loss = sum(model(part) for part in parts) / 4
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    gradients = {f"gradient {name}": weight.grad for name, weight in model.named_parameters()}
    return {"losses": torch.stack(losses), **gradients, **model.state_dict()}


def train(rank, processes, folder, settings, steps=STEPS):
    """This process's part of every batch; losses, last gradients and weights, as all processes have them together."""
    model = build(WORK, open_store(f"{folder}/store"), settings, row_of_item())
    exclude_from_ddp(model)
    wrapped = DistributedDataParallel(model) if processes > 1 else model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    losses = []
    for parts in global_batches(steps):
        # With fewer processes than parts each has several, as one DDP step with gradients accumulated.
        own = parts[rank::processes]
        optimizer.zero_grad()
        loss = torch.zeros(())
        for part in own:
            share = wrapped(part) / len(own)
            share.backward()
            loss += share.detach()
        if processes > 1:
            dist.all_reduce(loss)
        optimizer.step()
        losses.append(loss / processes)
    gradients = {f"gradient {name}": weight.grad for name, weight in named(dict(model.named_parameters())).items()}
    found = whole({**gradients, **named(dict(model.named_parameters()))})
    return {"losses": torch.stack(losses), **{name: value.detach() for name, value in found.items()}}


def every_case(rank, processes, folder):
    for number, settings in enumerate(CASES.values()):
        torch.save(train(rank, processes, folder, settings), f"{folder}/{processes}-{number}-{rank}.pt")
    torch.save(train(rank, processes, folder, HALF, steps=1), f"{folder}/{processes}-half-{rank}.pt")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Folder with the store, and the reference after all steps and after one."""
    folder = tmp_path_factory.mktemp("ams")
    features = WORK.make_store(folder / "store").partition().read(np.arange(WORK.items))
    return folder, reference(features, STEPS), reference(features, 1)


def errors(found, expected):
    """Largest error of each tensor over the tensor's largest number; of a gradient over the whole gradient's.

    Single entries near 0, and a slope's gradient that is the rest of a long sum, have no relative precision in float32.
    """
    assert found.keys() == expected.keys()
    steepest = max(value.abs().max() for name, value in expected.items() if name.startswith("gradient"))
    scale = {n: steepest if n.startswith("gradient") else value.abs().max() for n, value in expected.items()}
    return {name: float((found[name] - value).abs().max() / scale[name]) for name, value in expected.items()}


@pytest.mark.parametrize("processes", [1, 2, pytest.param(4, marks=pytest.mark.slow)])
def test_every_strategy_equals_the_reference(processes, trained):
    folder, expected, after_one = trained
    if processes == 1:
        every_case(0, 1, folder)
    else:
        run_group(every_case, processes, str(folder))
    for rank in range(processes):

        def found(case, rank=rank):
            return torch.load(folder / f"{processes}-{case}-{rank}.pt", weights_only=True)

        for number, name in enumerate(CASES):
            assert max(errors(found(number), expected).values()) < 1e-5, (name, rank, errors(found(number), expected))
        half = errors(found("half"), after_one)
        if processes == 1:  # nothing moves
            assert max(half.values()) < 1e-5
        else:
            gradient = max(error for name, error in half.items() if name.startswith("gradient"))
            assert half["losses"] < 1e-3 and 1e-5 < gradient < 2e-2, half
