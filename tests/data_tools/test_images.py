"""Pictures as they come: every mode ends as the RGB that a person sees, every broken file as BadImage."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from data_tools.reading.images import BadImage, check_image, copy_images, read_image

RED, WHITE = (255, 0, 0), (255, 255, 255)


def encoded(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def halves(mode, left, right):
    """A 16 x 8 picture of two colours."""
    image = Image.new(mode, (16, 8), right)
    image.paste(left, (0, 0, 8, 8))
    return image


def shown(data):
    image = read_image(data)
    assert image.mode == "RGB"
    return image.getpixel((2, 4)), image.getpixel((image.width - 3, 4))


def close(found, *expected):
    return np.abs(np.array(found) - np.array(expected)).max() <= 3


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF"])
def test_plain_pictures_of_every_format(kind):
    assert close(shown(encoded(halves("RGB", RED, WHITE), kind)), RED, WHITE)


def test_grey_and_one_bit():
    assert close(shown(encoded(halves("L", 10, 200))), (10,) * 3, (200,) * 3)
    assert close(shown(encoded(halves("1", 0, 1))), (0,) * 3, WHITE)


def test_16_bit_grey_is_scaled_not_cut():
    pixels = np.full((8, 16), 50_000, np.uint16)
    pixels[:, :8] = 1_000
    assert close(shown(encoded(Image.fromarray(pixels))), (1_000 // 257,) * 3, (50_000 // 257,) * 3)
    assert close(shown(encoded(Image.fromarray(pixels), "TIFF")), (1_000 // 257,) * 3, (50_000 // 257,) * 3)


def test_cmyk_jpeg():
    # No ink is white; magenta and yellow make red.
    assert close(shown(encoded(halves("CMYK", (0, 255, 255, 0), (0, 0, 0, 0)), "JPEG", quality=95)), RED, WHITE)


def test_transparency_is_laid_on_white():
    assert close(shown(encoded(halves("RGBA", (255, 0, 0, 255), (0, 0, 0, 0)))), RED, WHITE)
    assert close(shown(encoded(halves("LA", (0, 255), (0, 128)))), (0,) * 3, (127,) * 3)
    palette = halves("P", 1, 0)
    palette.putpalette([0, 0, 0, 255, 0, 0])
    assert close(shown(encoded(palette, transparency=0)), RED, WHITE)
    assert close(shown(encoded(palette, transparency=bytes([0, 255]))), RED, WHITE)


def test_exif_rotation_is_carried_out():
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: turn by 90 degrees
    image = read_image(encoded(halves("RGB", RED, WHITE), "JPEG", exif=exif, quality=95))
    assert image.size == (8, 16)
    assert close([image.getpixel((4, 2)), image.getpixel((4, 13))], RED, WHITE)


def test_broken_exif_does_not_spoil_a_picture():
    assert close(
        shown(encoded(halves("RGB", RED, WHITE), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff", quality=95)), RED, WHITE
    )


def png_of_size(width, height):
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "unreadable"),
        (b"<html>not found</html>", "unreadable"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "unreadable"),
        (encoded(Image.effect_noise((64, 64), 90), "JPEG")[:900], "unreadable"),
        (encoded(Image.effect_noise((64, 64), 90))[:900], "unreadable"),
        (png_of_size(9_000, 9_000), "too large"),
        (png_of_size(60_000, 60_000), "too large"),
    ],
    ids=["empty", "html", "eps", "truncated-jpeg", "truncated-png", "large", "bomb"],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_unusable_bytes_are_bad_images(data, reason, tmp_path):
    with pytest.raises(BadImage) as caught:
        read_image(data)
    assert caught.value.reason == reason
    (tmp_path / "picture.jpg").write_bytes(data)
    with pytest.raises(BadImage) as caught:
        check_image(tmp_path / "picture.jpg")
    assert caught.value.reason == reason


def test_copies_are_named_by_row_and_real_format(tmp_path):
    source = tmp_path / "in"
    (source / "sub").mkdir(parents=True)
    picture = encoded(halves("RGB", RED, WHITE))
    (source / "sub" / "really-png.jpg").write_bytes(picture)
    (tmp_path / "secret.png").write_bytes(picture)
    names = [
        "sub/really-png.jpg",
        None,
        "absent.jpg",
        "../secret.png",
        str(tmp_path / "secret.png"),
        "sub/../../secret.png",
    ]
    names += ["sub", "a\0b.png", "x" * 300, "./sub/./really-png.jpg"]
    copied, faults = copy_images(names, source, tmp_path / "out")
    outside = "outside the folder"
    assert copied == ["0.png", *[None] * 8, "9.png"]
    assert faults == [None, None, "missing", outside, outside, outside, "missing", outside, "unreadable", None]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["0.png", "9.png"]
    assert (tmp_path / "out" / "0.png").read_bytes() == picture
