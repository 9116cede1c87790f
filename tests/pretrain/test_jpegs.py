"""JPEGs that are decoded without Pillow, against Pillow: the same pixels, and the same ones are broken."""

import io

import numpy as np
import pytest
from PIL import Image

from data_tools.reading.images import BadImage, read_image
from pretrain.data import jpegs
from pretrain.data.jpegs import decode_plain, plain_size
from pretrain.data.transforms import plain_transform


def picture(height, width):
    rng = np.random.default_rng(height * 1000 + width)
    coarse = rng.integers(256, size=(height // 8 + 2, width // 8 + 2, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def saved(image, form="JPEG", **options):
    image.save(file := io.BytesIO(), form, **options)
    return file.getvalue()


@pytest.mark.parametrize("size", [(1, 1), (33, 47), (7, 130), (129, 128)])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("progressive", [False, True])
def test_pixels_are_pillows(size, subsampling, progressive):
    for quality in (30, 90, 100):
        options = {"quality": quality, "subsampling": subsampling, "progressive": progressive, "icc_profile": b"icc"}
        data = saved(picture(*size), **options)
        assert plain_size(data) == size
        assert np.array_equal(decode_plain(data, 128), np.asarray(read_image(data)))


def test_the_same_damaged_pictures_can_be_decoded():
    rng, transform, outcomes = np.random.default_rng(0), plain_transform(64), []
    whole = [saved(picture(90, 70), quality=80, progressive=progressive) for progressive in (False, True)]
    for number in range(200):
        damaged = bytearray(whole[number % 2])
        if number % 4 < 2:
            del damaged[rng.integers(2, len(damaged)) :]
        else:
            for place in rng.integers(20, len(damaged), size=3):
                damaged[place] ^= 1 << rng.integers(8)
        try:
            expected = np.asarray(read_image(bytes(damaged), 128))
        except BadImage:
            outcomes.append("broken")
            with pytest.raises(BadImage):
                transform.decode(bytes(damaged))
        else:
            outcomes.append("decoded")
            assert np.array_equal(transform.decode(bytes(damaged)), expected)
    assert min(map(outcomes.count, ("broken", "decoded"))) > 40


def turned():
    exif = Image.Exif()
    exif[0x0112] = 6
    return saved(picture(40, 60), exif=exif)


@pytest.mark.parametrize(
    "data",
    [
        turned(),
        saved(picture(40, 60).convert("L")),
        saved(picture(40, 60).convert("CMYK")),
        saved(picture(40, 60), "PNG"),
        saved(picture(300, 280)),  # a quarter of whose pixels suffices
        saved(picture(40, 60))[:300],
        b"\xff\xd8\xff\xc0",
        b"",
    ],
)
def test_pillow_decodes_the_others(data):
    assert decode_plain(data, 128) is None


def test_pillow_decodes_all_without_torchvisions_decoder(monkeypatch):
    data = saved(picture(40, 60))
    expected = plain_transform(64).decode(data)
    monkeypatch.setattr(jpegs, "DECODE", None)
    assert decode_plain(data, 128) is None
    assert np.array_equal(plain_transform(64).decode(data), expected)


def test_a_turned_picture_is_turned():
    assert plain_transform(64).decode(turned()).shape == (60, 40, 3)
