"""Images as a chat model is shown them, and as they are recognized again."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import io
from typing import Any

from torch import Tensor

from noiseward.images import to_images
from noiseward.rewards.preprocess import check_images

__all__ = ["JudgeImage", "digest_image", "prepare_images"]


@dataclasses.dataclass(frozen=True)
class JudgeImage:
    """An image on its way to a judge.

    Attributes:
        image: in RGB, 8 bits.
        digest: of its size and pixels.
        side: the longest side that is sent; 0 for the image as it is.
    """

    image: Any
    digest: str
    side: int = 0

    def png(self) -> bytes:
        """The file that is sent."""
        image, file = self.image, io.BytesIO()
        if self.side and max(image.size) > self.side:
            image = image.copy()
            image.thumbnail((self.side, self.side))
        image.save(file, format="PNG")
        return file.getvalue()

    def url(self) -> str:
        """The image as a data URL."""
        return "data:image/png;base64," + base64.b64encode(self.png()).decode()


def digest_image(image: Any) -> str:
    """A digest of an image's size and pixels.

    Example:
        >>> from PIL import Image
        >>> digest_image(Image.new("RGB", (2, 1))) == digest_image(Image.new("RGB", (1, 2)))
        False
    """
    return hashlib.sha256(repr(image.size).encode() + image.convert("RGB").tobytes()).hexdigest()[:32]


def prepare_images(sample: Tensor, side: int) -> list[JudgeImage]:
    """Samples `(B, 3, H, W)` in [0, 1] as they are sent, one per row."""
    return [JudgeImage(image, digest_image(image), side) for image in to_images(check_images(sample.detach().float()))]
