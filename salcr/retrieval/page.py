"""Pages of pictures: one HTML file each, which loads nothing from anywhere.

File names may be anyone's: the templates escape all they show, and a page allows no script but the one in its template,
by its hash.
"""

import base64
import functools
import hashlib
import io
from pathlib import Path
from typing import Any

from salcr.data._images import read_image
from salcr.files import make_parent, write_atomically

THUMBNAIL = (160, 160)
"""Largest width and height of a picture on a page, in pixels."""


def write_page(path: Path, template: str, *, pixels: tuple[int, int] = THUMBNAIL, **values: Any) -> None:
    """Write what a template of this package makes of ``values``.

    In it ``thumbnail(path)`` is a picture's data URI, at most as wide and high as ``pixels``, and the filter ``sha256``
    gives the hash by which a page's policy allows a script.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    make_parent(path)
    environment = Environment(
        loader=PackageLoader("salcr.retrieval"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["sha256"] = lambda text: base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    small = functools.cache(functools.partial(thumbnail, pixels=pixels))
    text = environment.get_template(template).render(thumbnail=small, **values)
    write_atomically(path, text.encode(errors="backslashreplace"))  # names are bytes, and not all are text


def thumbnail(path: str, pixels: tuple[int, int] = THUMBNAIL) -> str | None:
    """A small JPEG of the picture as a data URI, or None where it cannot be read any more."""
    try:
        image = read_image(Path(path))
    except Exception:  # a damaged file makes Pillow's decoders raise nearly anything
        return None
    image.thumbnail(pixels)
    content = io.BytesIO()
    image.save(content, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}"
