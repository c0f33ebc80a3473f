"""The LAION aesthetic predictor: how much people would like an image, whatever it shows, from about 1 to 10.

Five linear layers on the unit vector of CLIP ViT-L/14. Since nothing stands between the layers, the head is one affine
function of that vector: easy to optimize, and easy to over-optimize.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from torch import Tensor, nn

from noiseward.errors import ModelError
from noiseward.rewards.checkpoints import build_head, read_checkpoint
from noiseward.rewards.dual_encoder import DualEncoder, load_clip
from noiseward.rewards.hub import find_checkpoint
from noiseward.rewards.repos import AESTHETIC, CLIP
from noiseward.rewards.reward import Reward

__all__ = ["Aesthetic", "aesthetic"]


@final
class Aesthetic(Reward):
    """The head's value of the image's unit vector; the prompt does not matter.

    Arguments:
        encoder: a CLIP ViT-L/14.
        head: from its unit vectors `(B, D)` to `(B, 1)`.

    References:
        LAION-Aesthetics
        https://laion.ai/blog/laion-aesthetics/
    """

    differentiable = True
    name = "aesthetic"

    def __init__(self, encoder: DualEncoder, head: nn.Module) -> None:
        self.encoder, self.head = encoder, head.eval().requires_grad_(False)

    def __call__(self, sample: Tensor, prompt: Sequence[str] | None) -> Tensor:
        vectors = self.encoder.encode_images(sample)
        return self.head.to(vectors.device)(vectors.float()).squeeze(1).to(vectors.dtype)


def aesthetic(path: str = "", *, model: str = CLIP.id) -> Aesthetic:
    """The LAION aesthetic predictor.

    Arguments:
        path: the head's file (`sac+logos+ava1-l14-linearMSE.pth` or a copy of another name); default: the local cache.
        model: the CLIP below it, a hub id or a folder.
    """
    file = find_checkpoint(AESTHETIC, path, "aesthetic")
    head, encoder = build_head(read_checkpoint(file), file), load_clip(model, "aesthetic")
    width, dim = head[0].in_features, encoder.model.config.projection_dim
    if width != dim:
        raise ModelError(f"{file} takes vectors of {width} numbers, the CLIP gives {dim}: use ViT-L/14, {CLIP.id}")
    return Aesthetic(encoder, head)
