import pytest
import safetensors.torch
import timm
import torch

from data_tools.common.cli import UserError
from pretrain.encoder.families.timm_models import Timm
from pretrain.encoder.image_encoder import build_encoder
from pretrain.settings import Encoder

TINY = {"name": "test_byobnet", "dimensions": 8, "image_size": 32}


def test_weights_from_a_file_give_the_models_own_features(tmp_path):
    model = timm.create_model("test_byobnet", num_classes=10)
    safetensors.torch.save_file(model.state_dict(), tmp_path / "w.safetensors")
    encoder = build_encoder(
        Encoder(**TINY, weights=str(tmp_path / "w.safetensors"), mean=[0.5] * 3, std=[0.25] * 3)
    ).eval()
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    model.eval()
    with torch.no_grad():
        expected = model.forward_head(model.forward_features((images / 255 - 0.5) / 0.25), pre_logits=True)
        torch.testing.assert_close(encoder.features(images), expected, rtol=1e-4, atol=1e-5)
        assert encoder(images).shape == (3, 8)


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_pictures_are_normalised_to_the_bit_as_the_formula_says(memory):
    encoder = build_encoder(Encoder(**TINY))
    images = torch.randint(0, 256, (5, 3, 7, 9), dtype=torch.uint8).contiguous(memory_format=memory)
    found = encoder.family.prepared(images, encoder.mean, encoder.std)
    assert torch.equal(found, (images.float() / 255 - encoder.mean) / encoder.std)
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_statistics_follow_the_weights():
    expected = timm.data.resolve_model_data_config(timm.create_model("test_byobnet"))
    encoder = build_encoder(Encoder(**TINY))
    assert encoder.mean.flatten().tolist() == pytest.approx(expected["mean"])
    assert encoder.std.flatten().tolist() == pytest.approx(expected["std"])


def test_weights_that_do_not_fit_are_refused(tmp_path):
    state = timm.create_model("test_byobnet", num_classes=0).state_dict()
    state.pop(next(iter(state)))
    safetensors.torch.save_file(state, tmp_path / "short.safetensors")
    with pytest.raises(UserError, match="1 parameters missing"):
        build_encoder(Encoder(**TINY, weights=str(tmp_path / "short.safetensors")))


def test_weights_of_code_are_refused(tmp_path):
    torch.save({"w": TINY, "f": print}, tmp_path / "code.pth")
    with pytest.raises(UserError, match="cannot be read as a file of tensors"):
        build_encoder(Encoder(**TINY, weights=str(tmp_path / "code.pth")))


def test_an_unknown_model_names_its_neighbours():
    with pytest.raises(UserError, match="resnet50"):
        build_encoder(Encoder(name="resnet50x"))


def test_frozen_norm_keeps_its_statistics():
    encoder = build_encoder(Encoder(**TINY, freeze_norm=True)).train()
    before = {name: value.clone() for name, value in encoder.named_buffers()}
    encoder(torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8))
    assert all(torch.equal(before[name], value) for name, value in encoder.named_buffers())


def test_open_clip_towers_work():
    encoder = build_encoder(Encoder(family="open_clip", name="RN50", dimensions=8, image_size=32))
    assert encoder.eval()(torch.zeros(2, 3, 32, 32, dtype=torch.uint8)).shape == (2, 8)


def test_a_name_may_begin_with_its_family():
    assert Encoder(name="open_clip:RN50") == Encoder(family="open_clip", name="RN50")


def test_an_unknown_family_lists_those_known():
    with pytest.raises(UserError, match="unknown encoder family 'tim'; choose one of open_clip, table, timm"):
        Encoder(family="tim")


def test_options_of_another_family_are_refused():
    with pytest.raises(UserError, match=r"--encoder\.timm\.pretrained is True, but encoder\.family is 'open_clip'"):
        Encoder(family="open_clip", name="RN50", timm=Timm.Settings(pretrained=True))


def test_arguments_that_do_not_fit_are_named():
    with pytest.raises(UserError, match=r"--encoder\.timm\.arguments do not fit test_byobnet"):
        build_encoder(Encoder(timm=Timm.Settings(arguments={"no_such": 1})))
