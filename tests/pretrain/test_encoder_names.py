"""Names of models as people paste them, and sizes and arguments that a model may not fit."""

import warnings

import pytest
import torch

from data_tools.common.cli import UserError
from pretrain.encoder.families.open_clip_models import OpenClip
from pretrain.encoder.families.timm_models import Timm
from pretrain.encoder.image_encoder import build_encoder
from pretrain.settings import Encoder


def embedded(image_size=64, **named):
    """What an encoder makes of two pictures."""
    encoder = build_encoder(Encoder(dimensions=8, image_size=image_size, **named)).eval()
    with torch.no_grad():
        return encoder(torch.zeros(2, 3, image_size, image_size, dtype=torch.uint8))


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("vit_tiny_patch16_224", 64),
        ("swin_tiny_patch4_window7_224", 64),
        ("levit_128s", 64),
        ("vit_small_patch14_dinov2", 98),
        ("maxvit_rmlp_pico_rw_256", 64),
        ("lambda_resnet26t", 64),  # of three-dimensional convolutions
    ],
)
def test_models_are_built_for_the_size_of_the_pictures(name, size):
    assert embedded(size, name=name).shape == (2, 8)


def test_a_size_in_the_arguments_stays():
    encoder = build_encoder(
        Encoder(name="vit_tiny_patch16_224", image_size=96, timm=Timm.Settings(arguments={"img_size": 96}))
    )
    assert encoder.tower.patch_embed.img_size == (96, 96)


def test_a_size_that_no_model_can_be_built_for_names_one_that_works():
    with pytest.raises(UserError, match=r"does not take pictures of 64 x 64 pixels.*--encoder\.image_size 240 works"):
        embedded(name="crossvit_tiny_240")
    with pytest.raises(UserError, match=r"--encoder\.image_size 32 works"):
        embedded(20, name="open_clip:ViT-B-32")


def test_pixels_that_no_patch_covers_are_named():
    with pytest.warns(UserWarning, match=r"the last 8 of 64 pixels .* --encoder\.image_size 56 uses all"):
        embedded(name="vit_small_patch14_dinov2")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"features_only": True}, "gives a list of"),
        ({"global_pool": ""}, "gives a tensor of shape"),
        ({"in_chans": 1}, "1 channels"),
        ({"num_classes": 10}, "do not fit"),
    ],
)
def test_arguments_that_leave_no_vector_a_picture_are_named(arguments, said):
    with pytest.raises(UserError, match=said) as error:
        embedded(name="test_resnet", timm=Timm.Settings(arguments=arguments))
    assert next(iter(arguments)) in str(error.value)


@pytest.mark.parametrize("setting", ["mean", "std"])
def test_statistics_are_three(setting):
    with pytest.raises(UserError, match=rf"--encoder\.{setting} is \[0\.5\]; must be three numbers"):
        Encoder(**{setting: [0.5]})


def test_there_is_no_picture_without_pixels():
    with pytest.raises(UserError, match="image_size is 0; must be > 0"):
        Encoder(image_size=0)


@pytest.mark.parametrize(
    ("pasted", "family", "name"),
    [
        ("timm/resnet18.a1_in1k", "timm", "resnet18.a1_in1k"),
        ("hf-hub:timm/resnet18.a1_in1k", "timm", "resnet18.a1_in1k"),
        ("hf_hub:timm/resnet18.a1_in1k", "timm", "resnet18.a1_in1k"),
        ("https://huggingface.co/timm/resnet18.a1_in1k", "timm", "resnet18.a1_in1k"),
        ("timm:resnet18", "timm", "resnet18"),
        ("hf-hub:someone/model", "timm", "hf-hub:someone/model"),
        ("ViT-B/32", "open_clip", "ViT-B-32"),
        ("open_clip:ViT-B/32", "open_clip", "ViT-B-32"),
        ("RN50", "open_clip", "RN50"),
        ("open_clip:hf-hub:laion/model", "open_clip", "hf-hub:laion/model"),
    ],
)
def test_names_may_be_those_of_hubs(pasted, family, name):
    named = Encoder(name=pasted)
    assert (named.family, named.name) == (family, name)


def test_a_tag_alone_loads_nothing_and_says_so():
    with pytest.warns(UserWarning, match=r"random weights; --encoder\.timm\.pretrained true loads those called r160"):
        embedded(name="timm/test_resnet.r160_in1k")


def test_no_word_of_weights_where_a_run_s_own_follow():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        build_encoder(Encoder(name="test_resnet.r160_in1k"), initial_weights=False)


def test_unknown_tags_list_those_known():
    with pytest.raises(UserError, match=r"timm has no weights 'nonsense' of resnet18; choose one of .*a1_in1k"):
        embedded(name="resnet18.nonsense")
    with pytest.raises(UserError, match=r"open_clip has no weights 'laion2b' of ViT-B-32; choose one of openai"):
        embedded(name="ViT-B/32", open_clip=OpenClip.Settings(tag="laion2b"))


def test_a_hub_out_of_reach_is_a_message(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"cannot be built: .*name the file with --encoder\.weights"):
        embedded(name="hf-hub:nobody/no-such-model")


def test_coca_gives_its_vector_alone():
    assert embedded(name="open_clip:coca_ViT-B-32").shape == (2, 8)
