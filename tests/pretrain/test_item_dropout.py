import pytest
import torch

from pretrain.encoder.families.timm_models import Timm
from pretrain.encoder.image_encoder import build_encoder
from pretrain.encoder.item_dropout import ItemDropout, picture_seeds, uniform
from pretrain.settings import Encoder

DROPS = {"img_size": 32, "proj_drop_rate": 0.2, "attn_drop_rate": 0.3, "drop_path_rate": 0.4, "pos_drop_rate": 0.1}


def test_numbers_are_uniform_and_unrelated():
    numbers = uniform(torch.arange(400), 500)
    assert float(numbers.mean()) == pytest.approx(0.5, abs=0.005)
    assert float(numbers.var()) == pytest.approx(1 / 12, abs=0.002)
    centred = (numbers - 0.5) * 12**0.5
    assert float((centred[:-1] * centred[1:]).mean().abs()) < 0.01
    assert float((centred[:, :-1] * centred[:, 1:]).mean().abs()) < 0.01
    assert 0 <= float(numbers.min()) < float(numbers.max()) < 1


def test_seeds_tell_items_views_and_steps_apart():
    items = torch.tensor([3, 7, 3, 7])
    seeds = torch.cat([picture_seeds(items, 2, 0, step) for step in range(3)])
    assert len(seeds.unique()) == 12
    assert torch.equal(picture_seeds(items[[1, 3]], 2, 0, 1), picture_seeds(items, 2, 0, 1)[[1, 3]])


@pytest.mark.parametrize("whole", [False, True])
def test_drops_the_share_it_says_and_keeps_the_mean(whole):
    layer = ItemDropout(0.3, 0, whole)
    layer.seeds = torch.arange(20_000)
    found = layer(torch.ones(20_000, 4))
    assert float((found == 0).float().mean()) == pytest.approx(0.3, abs=0.01)
    assert float(found.mean()) == pytest.approx(1, abs=0.02)
    assert not whole or bool((found == found[:, :1]).all())
    assert torch.equal(layer.eval()(torch.ones(3, 4)), torch.ones(3, 4))


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("test_vit", DROPS),
        ("swin_tiny_patch4_window7_224",
         {"img_size": 32, "window_size": 4, "depths": [1, 1], "num_heads": [2, 2], "embed_dim": 8,
          "proj_drop_rate": 0.2, "attn_drop_rate": 0.3, "drop_path_rate": 0.4}),
    ],
)  # fmt: skip
def test_a_pictures_dropout_is_its_own(name, arguments):
    """Alone, or among others: the same embedding. Attention over windows included."""
    torch.manual_seed(0)
    encoder = build_encoder(Encoder(name=name, dimensions=4, image_size=32, timm=Timm.Settings(arguments=arguments)))
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    seeds = picture_seeds(torch.arange(4), 1, 0)
    with torch.no_grad():
        together = encoder(images, seeds)
        torch.testing.assert_close(encoder(images[2:3], seeds[2:3]), together[2:3], rtol=1e-4, atol=1e-5)
        assert not torch.allclose(encoder(images[2:3], seeds[1:2]), together[2:3], rtol=1e-2)
        assert not torch.allclose(encoder(images), together, rtol=1e-2)  # torch's own numbers
