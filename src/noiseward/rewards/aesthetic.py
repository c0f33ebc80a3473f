"""The LAION aesthetic predictor: how much people would like a picture, whatever it shows, from about 1 to 10.

Five linear layers on the unit vector of CLIP ViT-L/14. Since nothing stands between the layers, the head is one affine
function of that vector: easy to climb, and easy to climb too far.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import final

from torch import Tensor, nn

from noiseward.errors import ModelError
from noiseward.rewards.dual_encoder import DualEncoder, clip_folder, clip_repo
from noiseward.rewards.dual_encoder import repos as clip_repos
from noiseward.rewards.reward import Reward
from noiseward.rewards.weights import Repo, files, head, read

__all__ = ["CLIP", "HEAD", "Aesthetic", "aesthetic", "load_head", "repos"]

CLIP = clip_repo("openai/clip-vit-large-patch14")
HEAD = Repo("trl-lib/ddpo-aesthetic-predictor", ("aesthetic-model.pth",), (), 4)


@final
class Aesthetic(Reward):
    """The head's value of the picture's unit vector; the prompt does not matter.

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
        vectors = self.encoder.pictures(sample)
        return self.head.to(vectors.device)(vectors.float()).squeeze(1).to(vectors.dtype)


def load_head(path: Path) -> nn.Sequential:
    """The head from a file of weights `layers.0` ... `layers.7`."""
    return head(read(path), path)


def repos(path: str = "", *, model: str = CLIP.id) -> tuple[Repo, ...]:
    """What `aesthetic` takes from the hub."""
    return (*(() if path else (HEAD,)), *clip_repos(model))


def aesthetic(path: str = "", *, model: str = CLIP.id) -> Aesthetic:
    """The LAION aesthetic predictor.

    Arguments:
        path: the head's file (`sac+logos+ava1-l14-linearMSE.pth` or a copy of another name); default: the local cache.
        model: the CLIP it stands on, a hub id or a folder.
    """
    own = Path(os.path.expanduser(path))
    where = own if path and os.path.isfile(own) else files(HEAD, path, "aesthetic") / HEAD.wanted[0]
    top, encoder = load_head(where), DualEncoder.load(clip_folder(model, "aesthetic"), name="clip")
    wanted, given = top[0].in_features, encoder.model.config.projection_dim
    if wanted != given:
        raise ModelError(f"{where} takes vectors of {wanted} numbers, the CLIP gives {given}: use ViT-L/14, {CLIP.id}")
    return Aesthetic(encoder, top)
