"""Any split of a global batch into processes and micro-batches gives the loss and the gradient of one pass over it."""

from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

from pretrain.encoder.families.timm_models import Timm
from pretrain.encoder.image_encoder import build_encoder
from pretrain.encoder.item_dropout import picture_seeds
from pretrain.objectives.clip import Clip
from pretrain.objectives.courier import Courier
from pretrain.objectives.scl import Scl
from pretrain.objectives.simsiam import SimSiam
from pretrain.runtime.distributed import gather, in_processes
from pretrain.settings import Encoder, Guards, Objective, Settings
from pretrain.training.state import build_objective
from pretrain.training.step import Step

# Layer norm: batch norm's statistics are each process's own. Dropout and stochastic depth are on.
ENCODER = Encoder(
    name="test_convnext",
    dimensions=16,
    image_size=32,
    timm=Timm.Settings(arguments={"drop_rate": 0.2, "drop_path_rate": 0.3}),
)
CASES = {
    "courier": Objective(),
    "simclr": Objective(name="simclr"),
    "supervised": Objective(name="supervised"),
    "scl": Objective(name="scl", scl=Scl.Settings(queue=9)),
    "simsiam": Objective(name="simsiam", simsiam=SimSiam.Settings(width=12, bottleneck=6)),
    "clip": Objective(name="clip", clip=Clip.Settings(context=8, width=8, layers=1, heads=2, learn_temperature=True)),
    "courier-everything": Objective(
        courier=Courier.Settings(
            temperature=0.2, learn_temperature=True, ctr_weight=1, page_weight=1, reconstruction="multihead",
            projection=8, page_negative_weight=3, log_q=1,
        ),
        guards=Guards(koleo=0.1, variance=1, covariance=1),
    ),
    "courier-sizes": Objective(
        courier=Courier.Settings(matryoshka=[4, 8], unclicked_negatives=False, reconstruction="mean")
    ),
    "courier-queue": Objective(courier=Courier.Settings(queue=9, page_positives=True)),
    "courier-without-contrast": Objective(courier=Courier.Settings(contrast=False)),
}  # fmt: skip


def global_batch(rows=6, history=4, slots=3, items=14):
    """Rows that share items, with padding and an empty history; and titles and categories of the items."""
    generator = torch.Generator().manual_seed(5)
    batch = {
        "images": torch.randint(0, 256, (items, 3, 32, 32), dtype=torch.uint8, generator=generator),
        "image_item": torch.arange(items) + 100,
        "history": torch.randint(0, items, (rows, history), generator=generator),
        "fresh": torch.tensor([1, 4, 0, 2, 0, 1]),  # one target in the first of two processes, five in the second
        "page": torch.randint(0, items, (rows, slots), generator=generator),
        "click": torch.randint(0, 2, (rows, slots), generator=generator).float(),
        "text": torch.randint(1, 100, (items, 8), generator=generator),
        "has_text": torch.arange(items) != 3,
        "category": torch.randint(-1, 2, (items,), generator=generator),
    }
    batch["history"][0, :2] = -1
    batch["history"][3] = -1
    batch["page"][1, 2] = -1
    return batch


def request_part(batch, rows):
    """Some rows of a batch, with only the pictures they mention."""
    used = sorted({int(k) for name in ("history", "page") for k in batch[name][rows].flatten()} - {-1})
    place = torch.full((len(batch["images"]) + 1,), -1)
    place[used] = torch.arange(len(used))
    return {
        "images": batch["images"][used],
        "image_item": batch["image_item"][used],
        "history": place[batch["history"][rows]],
        "fresh": batch["fresh"][rows],
        "page": place[batch["page"][rows]],
        "click": batch["click"][rows],
    }


def item_part(batch, pictures, views):
    """One view, or two (the second mirrored), of some pictures and what is said of them."""
    images = batch["images"][pictures]
    return {
        "images": torch.cat([images, images.flip(-1)][:views]),
        "image_item": batch["image_item"][pictures].repeat(views),
        **{name: batch[name][pictures] for name in ("text", "has_text", "category")},
    }


def loss_and_gradient(case, shards, micro_batch, rank=0, processes=1):
    """Of this process's share of the global batch: the loss, and the gradients of encoder and objective."""
    torch.manual_seed(0)
    encoder = build_encoder(ENCODER)
    objective = build_objective(Settings(data=shards, objective=CASES[case]), encoder)
    if hasattr(objective, "memory"):
        objective.memory.key[:4], objective.memory.item[:4] = torch.randn(4, 16), torch.tensor([3, 101, 104, 7])
    batch = global_batch()
    if objective.batches == "items":
        batch = item_part(batch, torch.arange(len(batch["images"]))[rank::processes], objective.views)
    else:
        batch = request_part(batch, torch.arange(len(batch["page"]))[rank::processes])
    model = DistributedDataParallel(encoder) if processes > 1 else encoder
    step = Step(model, in_processes(objective), micro_batch)
    views = 1 if "history" in batch else objective.views
    terms, _ = step.forward(batch, picture_seeds(batch["image_item"], views, 7, 3))
    loss = sum(term.loss for term in terms.values())
    step.backward(loss)
    learned = [*encoder.parameters(), *(p for p in objective.parameters() if p.requires_grad)]
    return loss.detach(), [parameter.grad for parameter in learned]


def micro_batches(case):
    """Splits tried in two processes: all of it in micro-batches, and two cases without them."""
    return (0, 3) if case in ("courier", "scl") else (3,)


def one_of_two(rank, folder, shards):
    torch.set_num_threads(1)
    limit = timedelta(seconds=120)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2, timeout=limit)
    for case in CASES:
        for micro_batch in micro_batches(case):
            loss, gradient = loss_and_gradient(case, shards, micro_batch, rank, 2)
            dist.all_reduce(loss)
            torch.save([loss / 2, *gradient], f"{folder}/{case}-{micro_batch}-{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_processes(tiny_world, tmp_path_factory):
    """Folder of what two processes, this one and another, found for every case, at once and in micro-batches."""
    folder = tmp_path_factory.mktemp("two")
    given = (str(folder), str(tiny_world / "shards"))
    other = mp.get_context("spawn").Process(target=one_of_two, args=(1, *given))
    other.start()
    one_of_two(0, *given)
    other.join()
    assert other.exitcode == 0
    return folder


@pytest.fixture(scope="module")
def whole(tiny_world):
    """Loss and gradient of one process in one pass, by case."""
    return {case: loss_and_gradient(case, str(tiny_world / "shards"), 0) for case in CASES}


def assert_same(found, expected):
    """Within 1e-5 of the loss, and of the whole gradient's scale.

    Single entries near 0 have no relative precision in float32.
    """
    (found_loss, *found_parts), (loss, parts) = found, expected
    torch.testing.assert_close(found_loss, loss, rtol=1e-5, atol=0)
    largest = max(float(part.abs().max()) for part in parts)
    for ours, theirs in zip(parts, found_parts, strict=True):
        torch.testing.assert_close(theirs, ours, rtol=1e-5, atol=1e-5 * largest)


@pytest.mark.parametrize(("case", "micro_batch"), [(case, size) for case in CASES for size in micro_batches(case)])
def test_two_processes_equal_one(case, micro_batch, two_processes, whole):
    for rank in range(2):
        assert_same(torch.load(two_processes / f"{case}-{micro_batch}-{rank}.pt", weights_only=True), whole[case])


@pytest.mark.parametrize("case", CASES)
def test_micro_batches_equal_the_whole(case, whole, tiny_world):
    loss, parts = loss_and_gradient(case, str(tiny_world / "shards"), 5)
    assert_same((loss, *parts), whole[case])


def test_dropout_is_on(whole, tiny_world, monkeypatch):
    monkeypatch.setitem(ENCODER.timm.arguments, "drop_path_rate", 0.0)
    loss, _ = loss_and_gradient("courier", str(tiny_world / "shards"), 0)
    assert not torch.isclose(loss, whole["courier"][0])


def test_one_process_gathers_itself():
    local = torch.randn(3, 2)
    assert gather(local) is local
