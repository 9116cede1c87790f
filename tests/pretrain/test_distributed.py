"""Two processes must give the loss and the gradient of one, on the same global batch."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

from pretrain.distributed import gather
from pretrain.encoder import build_encoder
from pretrain.objectives import OBJECTIVES
from pretrain.settings import Encoder, Objective, Settings
from pretrain.train import step_losses

# Layer norm: batch norm's statistics are each process's own.
ENCODER = Encoder(name="test_convnext", dimensions=16, image_size=32)


def global_batch(rows=6, history=4, slots=3, items=14):
    """Rows that share items, with padding and an empty history."""
    generator = torch.Generator().manual_seed(5)
    batch = {
        "images": torch.randint(0, 256, (items, 3, 32, 32), dtype=torch.uint8, generator=generator),
        "image_item": torch.arange(items) + 100,
        "history": torch.randint(0, items, (rows, history), generator=generator),
        "page": torch.randint(0, items, (rows, slots), generator=generator),
        "click": torch.randint(0, 2, (rows, slots), generator=generator).float(),
    }
    batch["history"][0, :2] = -1
    batch["history"][3] = -1
    batch["page"][1, 2] = -1
    return batch


def part(batch, rows):
    """Some rows of a batch, with only the pictures they mention."""
    used = sorted({int(k) for name in ("history", "page") for k in batch[name][rows].flatten()} - {-1})
    place = torch.full((len(batch["images"]) + 1,), -1)
    place[used] = torch.arange(len(used))
    return {
        "images": batch["images"][used],
        "image_item": batch["image_item"][used],
        "history": place[batch["history"][rows]],
        "page": place[batch["page"][rows]],
        "click": batch["click"][rows],
    }


def loss_and_gradient(model, batch, objective):
    terms, _ = step_losses(model, batch, Settings(objective=Objective(name=objective)))
    loss = sum(term.loss for term in terms.values())
    loss.backward()
    return loss.detach(), [parameter.grad.clone() for parameter in model.parameters()]


def item_batch(batch, pictures):
    """Two views (the second mirrored) of some pictures, as SimCLR wants them."""
    views = batch["images"][pictures]
    return {
        "images": torch.cat([views, views.flip(-1)]),
        "image_item": batch["image_item"][pictures].repeat(2),
    }


def share(batch, objective, rank, processes):
    if objective == "simclr":
        return item_batch(batch, torch.arange(len(batch["images"]))[rank::processes])
    return part(batch, torch.arange(len(batch["page"]))[rank::processes])


def one_of_two(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    for objective in OBJECTIVES:
        torch.manual_seed(0)
        model = DistributedDataParallel(build_encoder(ENCODER))
        loss, gradient = loss_and_gradient(model, share(global_batch(), objective, rank, 2), objective)
        dist.all_reduce(loss)
        torch.save([loss / 2, *gradient], f"{folder}/{objective}-{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """Folder of what two processes found for every objective."""
    folder = tmp_path_factory.mktemp("two")
    mp.spawn(one_of_two, (str(folder),), nprocs=2)
    return folder


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_two_processes_equal_one(objective, two_processes):
    torch.manual_seed(0)
    loss, gradient = loss_and_gradient(build_encoder(ENCODER), share(global_batch(), objective, 0, 1), objective)
    largest = max(float(part.abs().max()) for part in gradient)
    for rank in range(2):
        found_loss, *found = torch.load(two_processes / f"{objective}-{rank}.pt", weights_only=True)
        torch.testing.assert_close(found_loss, loss, rtol=1e-5, atol=0)
        for ours, theirs in zip(gradient, found, strict=True):
            # relative to the whole gradient's scale: single entries near 0 have no relative precision in float32
            torch.testing.assert_close(theirs, ours, rtol=1e-5, atol=1e-5 * largest)


def test_one_process_gathers_itself():
    local = torch.randn(3, 2)
    assert gather(local) is local
