"""What pages share: one jinja environment and inline pictures."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

TEMPLATES = Path(__file__).parent / "templates"  # with style.css, the house style of pages
MISSING = "–"


def render(template: str, context: dict[str, Any], *folders: Path) -> str:
    """A page from a template in one of ``folders`` or in ``data_tools/common/templates``.

    HTML is escaped in ``*.html.j2`` and left alone in other templates; a name missing in ``context`` is an error.
    """
    environment = Environment(
        loader=FileSystemLoader([*folders, TEMPLATES]),
        autoescape=lambda name: bool(name) and name.endswith(".html.j2"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(template).render(context)


def jpeg_uri(picture: Image.Image, side: int | None = None, quality: int = 85) -> str:
    """A picture as the address of an inline JPEG, reduced to at most ``side`` pixels a side where that is given."""
    picture = picture.convert("RGB")
    if side is not None:
        picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
