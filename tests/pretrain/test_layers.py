"""Freezing by stage and learning rates by depth, on towers that order their layers in different ways."""

import pytest
import torch

from data_tools.common.cli import UserError
from pretrain.encoder.families.timm_models import Timm
from pretrain.encoder.image_encoder import build_encoder
from pretrain.settings import Encoder, Optim
from pretrain.training.optim import build_optimizer

TOWERS = {
    "test_byobnet": {},
    "test_convnext": {},
    "test_vit": {"timm": Timm.Settings(arguments={"img_size": 32})},
    "open_clip:RN50": {},
    "open_clip:ViT-S-32-alt": {},
}


def encoder(name, **settings):
    torch.manual_seed(0)
    return build_encoder(Encoder(name=name, dimensions=4, image_size=32, **TOWERS[name], **settings))


@pytest.mark.parametrize("name", TOWERS)
def test_groups_follow_the_forward_pass(name):
    """A group's output cannot depend on a later group: its parameters get their gradients in backward order."""
    made = encoder(name)
    groups = made.layer_groups(stages=False)
    order = []
    for key, parameter in made.tower.named_parameters():
        parameter.register_post_accumulate_grad_hook(lambda _, key=key: order.append(groups[key]))
    made(torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)).sum().backward()
    assert sorted(set(groups.values())) == list(range(max(groups.values()) + 1))
    first = {group: order.index(group) for group in set(order)}
    assert sorted(first, key=first.get, reverse=True) == sorted(first)


@pytest.mark.parametrize("name", ["test_byobnet", "open_clip:ViT-S-32-alt"])
def test_frozen_stages_keep_weights_and_statistics(name):
    made = encoder(name, freeze_stages=2).train()
    before = {key: value.clone() for key, value in made.state_dict().items()}
    optimizer = build_optimizer(made, Optim(lr=0.1))
    made(torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)).square().sum().backward()
    optimizer.step()
    groups = made.layer_groups(stages=True)
    moved = {key for key, value in made.state_dict().items() if not torch.equal(value, before[key])}
    assert {groups[key] for key in groups if f"tower.{key}" in moved} == set(range(2, max(groups.values()) + 1))
    norms = {key for key in moved if "running" in key}
    assert not any(groups[key.removeprefix("tower.").rsplit(".", 1)[0] + ".weight"] < 2 for key in norms)


def test_learning_rates_fall_towards_the_stem():
    made = encoder("test_vit")
    optimizer = build_optimizer(made, Optim(lr=1.0, layer_decay=0.5))
    scales = {id(p): group["scale"] for group in optimizer.param_groups for p in group["params"]}
    found = {name: scales[id(parameter)] for name, parameter in made.named_parameters()}
    groups = made.layer_groups(stages=False)
    last = max(groups.values())
    assert found["head.weight"] == 1
    assert all(found[f"tower.{name}"] == 0.5 ** (last - group) for name, group in groups.items())
    assert found["tower.patch_embed.proj.weight"] < found["tower.blocks.0.attn.qkv.weight"]


def test_a_learning_rate_scales_the_step():
    """Adam's first step is the learning rate, whatever the gradient."""
    made = encoder("test_vit")
    before = {name: value.clone() for name, value in made.named_parameters()}
    optimizer = build_optimizer(made, Optim(lr=1.0, layer_decay=0.5, weight_decay=0.0))
    made(torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)).square().sum().backward()
    for group in optimizer.param_groups:
        group["lr"] = 1e-3 * group["scale"]  # as the trainer does
    optimizer.step()
    moved = {name: float((value - before[name]).detach().abs().max()) for name, value in made.named_parameters()}
    assert moved["head.weight"] == pytest.approx(1e-3, rel=0.01)
    groups = made.layer_groups(stages=False)
    expected = 1e-3 * 0.5 ** (max(groups.values()) - groups["patch_embed.proj.weight"])
    assert moved["tower.patch_embed.proj.weight"] == pytest.approx(expected, rel=0.01)


def test_nothing_left_to_train_is_refused():
    with pytest.raises(UserError, match="leaves nothing to train"):
        build_encoder(Encoder(name="test_byobnet", dimensions=0, image_size=32, freeze_stages=99))


def test_gradient_checkpointing_changes_no_gradient():
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    found = []
    for checkpointing in (False, True):
        made = encoder("test_vit", gradient_checkpointing=checkpointing)
        made(images).square().sum().backward()
        found.append([parameter.grad for parameter in made.parameters()])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.slow
def test_a_compiled_tower_gives_the_same_embeddings_for_any_number_of_pictures():
    plain, compiled = encoder("test_byobnet").eval(), encoder("test_byobnet", compile=True).eval()
    assert plain.state_dict().keys() == compiled.state_dict().keys()
    for count in (3, 5):
        images = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8)
        with torch.no_grad():
            torch.testing.assert_close(compiled(images), plain(images), rtol=1e-4, atol=1e-4)
