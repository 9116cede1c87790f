"""Pictures of the simulated world's products, drawn from their attributes.

A picture shows a silhouette (its category) in a colour, a pattern and a cut: the planted attributes. Background,
position, scale, rotation, lighting and the pattern's second colour vary at random and carry no taste, as in real
product photographs.
"""

from __future__ import annotations

import colorsys
import io
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageEnhance

COLOURS = ("red", "orange", "yellow", "lime", "green", "teal", "blue", "indigo", "purple", "pink")
PATTERNS = ("plain", "striped", "dotted", "checked", "banded")
CUTS = ("slim", "regular", "wide")
# Silhouettes as polygons in the unit square; the cut scales their width.
SHAPES: dict[str, list[tuple[float, float]]] = {
    "shirt": [
        (0.3, 0.1), (0.42, 0.16), (0.58, 0.16), (0.7, 0.1), (0.95, 0.32), (0.82, 0.46), (0.74, 0.38), (0.74, 0.92),
        (0.26, 0.92), (0.26, 0.38), (0.18, 0.46), (0.05, 0.32),
    ],
    "dress": [
        (0.36, 0.06), (0.43, 0.14), (0.57, 0.14), (0.64, 0.06), (0.68, 0.3), (0.6, 0.44), (0.88, 0.94), (0.12, 0.94),
        (0.4, 0.44), (0.32, 0.3),
    ],
    "trousers": [(0.28, 0.06), (0.72, 0.06), (0.8, 0.95), (0.58, 0.95), (0.5, 0.4), (0.42, 0.95), (0.2, 0.95)],
    "bag": [
        (0.1, 0.4), (0.32, 0.4), (0.34, 0.18), (0.42, 0.1), (0.58, 0.1), (0.66, 0.18), (0.68, 0.4), (0.9, 0.4),
        (0.84, 0.92), (0.16, 0.92),
    ],
    "cushion": [(0.1, 0.1), (0.5, 0.17), (0.9, 0.1), (0.83, 0.5), (0.9, 0.9), (0.5, 0.83), (0.1, 0.9), (0.17, 0.5)],
    "lamp": [
        (0.32, 0.08), (0.68, 0.08), (0.88, 0.56), (0.56, 0.56), (0.56, 0.84), (0.72, 0.94), (0.28, 0.94), (0.44, 0.84),
        (0.44, 0.56), (0.12, 0.56),
    ],
    "mug": [
        (0.14, 0.14), (0.7, 0.14), (0.7, 0.26), (0.92, 0.3), (0.92, 0.68), (0.7, 0.72), (0.68, 0.9), (0.16, 0.9),
    ],
    "scarf": [
        (0.3, 0.05), (0.7, 0.05), (0.78, 0.3), (0.62, 0.42), (0.74, 0.95), (0.5, 0.95), (0.44, 0.5), (0.34, 0.95),
        (0.14, 0.9), (0.34, 0.4), (0.22, 0.28),
    ],
}  # fmt: skip
CATEGORIES = tuple(SHAPES)
_CUT_WIDTH = {"slim": 0.68, "regular": 0.86, "wide": 1.06}


def _rgb(hue: float, saturation: float, value: float) -> tuple[int, int, int]:
    return tuple(round(255 * channel) for channel in colorsys.hsv_to_rgb(hue % 1.0, saturation, value))


def _stripes(draw: ImageDraw.ImageDraw, size: int, step: int, ink: tuple[int, int, int]) -> None:
    for x in range(0, size, step):
        draw.rectangle([x, 0, x + step // 3, size], fill=ink)


def _bands(draw: ImageDraw.ImageDraw, size: int, step: int, ink: tuple[int, int, int]) -> None:
    for y in range(0, size, step):
        draw.rectangle([0, y, size, y + step // 3], fill=ink)


def _dots(draw: ImageDraw.ImageDraw, size: int, step: int, ink: tuple[int, int, int]) -> None:
    for x in range(0, size, step):
        for y in range(0, size, step):
            draw.ellipse([x, y, x + step // 2, y + step // 2], fill=ink)


def _checks(draw: ImageDraw.ImageDraw, size: int, step: int, ink: tuple[int, int, int]) -> None:
    for row, y in enumerate(range(0, size, step // 2)):
        for x in range(step // 2 * (row % 2), size, step):
            draw.rectangle([x, y, x + step // 2, y + step // 2], fill=ink)


_DRAW_PATTERN: dict[str, Callable[..., None]] = {
    "striped": _stripes,
    "banded": _bands,
    "dotted": _dots,
    "checked": _checks,
}


def render(category: str, colour: str, pattern: str, cut: str, *, size: int, seed: int | list[int]) -> Image.Image:
    """Draw one product.

    Parameters
    ----------
    category, colour, pattern, cut : str
        One each of CATEGORIES, COLOURS, PATTERNS and CUTS.
    size : int
        Side of the square picture in pixels.
    seed : int or list of int
        Of what carries no taste (background, pose, light, second colour).

    Returns
    -------
    PIL.Image.Image
        RGB, ``size`` x ``size``.
    """
    rng = np.random.default_rng(seed)
    side = 2 * size
    hue = (COLOURS.index(colour) + rng.uniform(-0.25, 0.25)) / len(COLOURS)
    fabric = Image.new("RGB", (side, side), _rgb(hue, rng.uniform(0.7, 1.0), rng.uniform(0.6, 0.95)))
    if pattern != "plain":
        ink = _rgb(rng.uniform(), rng.uniform(0.0, 0.3), rng.choice([0.15, 0.95]))
        _DRAW_PATTERN[pattern](ImageDraw.Draw(fabric), side, int(side * rng.uniform(0.12, 0.17)), ink)
    mask = Image.new("L", (side, side))
    width, scale = _CUT_WIDTH[cut], side * rng.uniform(0.68, 0.84)
    outline = [(side / 2 + (x - 0.5) * scale * width, side / 2 + (y - 0.5) * scale) for x, y in SHAPES[category]]
    ImageDraw.Draw(mask).polygon(outline, fill=255)
    angle, shift = rng.uniform(-14, 14), rng.integers(-side // 16, side // 16 + 1, 2)
    mask = ImageChops.offset(mask.rotate(angle), *map(int, shift))
    fabric = fabric.rotate(angle)
    ground = Image.new("RGB", (side, side), _rgb(rng.uniform(), rng.uniform(0.0, 0.6), rng.uniform(0.55, 1.0)))
    ImageDraw.Draw(ground).rectangle(
        [0, int(side * rng.uniform(0.6, 0.95)), side, side],
        fill=_rgb(rng.uniform(), rng.uniform(0.0, 0.6), rng.uniform(0.45, 1.0)),
    )
    ground.paste(fabric, mask=mask)
    lit = ImageEnhance.Brightness(ground).enhance(rng.uniform(0.8, 1.15))
    return lit.resize((size, size), Image.Resampling.LANCZOS)


def encode(picture: Image.Image) -> bytes:
    """JPEG bytes of a picture."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=92)
    return buffer.getvalue()
