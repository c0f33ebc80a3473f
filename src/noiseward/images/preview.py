"""Images for pages and notebooks: no larger than they are shown, inside the page itself."""

from __future__ import annotations

import base64
import io

from PIL import Image

__all__ = ["shrink", "to_data_url", "to_png"]


def shrink(image: Image.Image, side: int) -> Image.Image:
    """Scale an image down so that its longer side is at most `side` pixels; a smaller one is returned as it is.

    Example:
        >>> shrink(Image.new("RGB", (1000, 500)), 100).size
        (100, 50)
    """
    factor = side / max(image.size)
    return image if factor >= 1 else image.resize((round(image.width * factor), round(image.height * factor)))


def to_png(image: Image.Image) -> bytes:
    """The bytes of an image as a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def to_data_url(png: Image.Image | bytes) -> str:
    """An image, or the bytes of a PNG file, as the address of itself."""
    content = png if isinstance(png, bytes) else to_png(png)
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"
