"""Images: in and out, next to each other, and plots.

Everything is a Pillow image, so that a notebook shows it and `.save(path)` keeps it.
"""

from noiseward.images.convert import (
    convert_image,
    has_images,
    open_rgb,
    read_image,
    read_sample,
    to_images,
    turn_upright,
)
from noiseward.images.tiles import GAP, TILE, draw_grid, draw_strip, enlarge

__all__ = [
    "GAP",
    "TILE",
    "convert_image",
    "draw_grid",
    "draw_strip",
    "enlarge",
    "has_images",
    "open_rgb",
    "read_image",
    "read_sample",
    "to_images",
    "turn_upright",
]
