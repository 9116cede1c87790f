"""Files of weights as people have them."""

import argparse

import pytest
import safetensors.torch
import timm
import torch

from data_tools.common.cli import UserError
from data_tools.common.tensors import read_tensors
from pretrain.encoder.image_encoder import build_encoder
from pretrain.settings import Encoder

NAME = "test_resnet"


@pytest.fixture(scope="module")
def state():
    return timm.create_model(NAME, num_classes=10).state_dict()


def below(prefix, state):
    return {prefix + name: tensor for name, tensor in state.items()}


def tower(file, **named):
    given = {"name": NAME, "image_size": 32, "dimensions": 0, "weights": str(file)}
    return build_encoder(Encoder(**given | named)).tower


WRAPPED = {
    "module": lambda state: below("module.", state),
    "compiled": lambda state: below("_orig_mod.", state),
    "state_dict": lambda state: {
        "state_dict": state,
        "epoch": 3,
        "args": argparse.Namespace(lr=1),
        "optimizer": {"state": {0: {"step": torch.ones(1)}}},
    },
    "model": lambda state: {"model": below("module.", state), "epoch": 1},
    "averaged first": lambda state: {"state_dict": {k: v + 1 for k, v in state.items()}, "state_dict_ema": state},
    "lightning": lambda state: {"state_dict": below("model.", state), "hyper_parameters": {"lr": 1}},
    "part of a detector": lambda state: {"state_dict": below("backbone.", state) | {"neck.weight": torch.ones(1)}},
    "half": lambda state: {k: v.half().float() if v.is_floating_point() else v for k, v in state.items()},
}


@pytest.mark.parametrize("form", WRAPPED)
def test_checkpoints_of_trainings_are_unwrapped(form, state, tmp_path):
    torch.save(WRAPPED[form](state), tmp_path / "weights.pth")
    found = tower(tmp_path / "weights.pth").state_dict()
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, state[name], rtol=1e-3, atol=1e-3)


def test_safetensors_are_known_whatever_the_ending(state, tmp_path):
    safetensors.torch.save_file(state, tmp_path / "weights.bin")
    assert torch.equal(tower(tmp_path / "weights.bin").conv1[0].weight, state["conv1.0.weight"])


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"])
def test_weights_of_another_picture_size_are_resampled_as_timm_does(name, tmp_path):
    file = tmp_path / "weights.pth"
    torch.save({"model": timm.create_model(name, num_classes=10).state_dict()}, file)
    wanted = timm.create_model(
        name, num_classes=0, img_size=64, pretrained=True, pretrained_cfg_overlay={"file": str(file), "num_classes": 10}
    )
    found = tower(file, name=name, image_size=64).state_dict()
    assert all(torch.equal(found[key], tensor) for key, tensor in wanted.state_dict().items())


@pytest.mark.slow
def test_open_clip_weights_of_another_picture_size_are_resampled(tmp_path):
    named = {"name": "open_clip:ViT-B-32", "dimensions": 0}
    large = build_encoder(Encoder(**named, image_size=128)).tower.state_dict()
    torch.save({"state_dict": below("module.visual.", large)}, tmp_path / "weights.pth")
    found = tower(tmp_path / "weights.pth", **named, image_size=64).state_dict()
    assert torch.equal(found["conv1.weight"], large["conv1.weight"])
    assert torch.equal(found["positional_embedding"][0], large["positional_embedding"][0])
    assert found["positional_embedding"].shape[0] == 5


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda state: {"student": below("backbone.", state), "teacher": state}, "state dicts: student, teacher"),
        (
            lambda state: {"state_dict": below("module.encoder_q.", state) | below("module.encoder_k.", state)},
            "the model several times, under encoder_k., encoder_q.",
        ),
        (lambda state: [1, 2], "holds a list"),
        (lambda state: {"epoch": 3}, "holds no tensors; found: epoch"),
        (lambda state: {"w": print}, "code in files is never run"),
    ],
)
def test_what_holds_no_one_model_is_named(made, said, state, tmp_path):
    torch.save(made(state), tmp_path / "weights.pth")
    with pytest.raises(UserError) as error:
        tower(tmp_path / "weights.pth")
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"", "cannot be read as a file of tensors"),
    ],
)
def test_what_is_no_file_of_weights_is_named(content, said, tmp_path):
    (tmp_path / "weights.safetensors").write_bytes(content)
    with pytest.raises(UserError, match=said):
        tower(tmp_path / "weights.safetensors")


def test_a_folder_names_what_it_holds(tmp_path):
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(UserError, match=r"is a folder.*it holds model\.safetensors"):
        tower(tmp_path)


def test_weights_of_a_run_that_were_not_copied_whole_are_named(tmp_path):
    file = tmp_path / "best.safetensors"
    safetensors.torch.save_file({"w": torch.ones(100)}, file)
    whole = file.read_bytes()
    for cut in (0, 50, 300):
        file.write_bytes(whole[:cut])
        with pytest.raises(UserError, match=r"best\.safetensors is damaged, or cut to.*copy it again"):
            read_tensors(file)
    file.write_bytes(whole)
    assert read_tensors(file)["w"].tolist() == [1.0] * 100
