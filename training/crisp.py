"""What makes outlines crisp: a patch critic and the features of `stickers-clip`.

A mean error rewards the average of all images that fit a latent, which is blurred. The critic C is a small
convolutional network that scores each patch of an image x as real or made. With the hinge loss,

    L(C) = mean max(0, 1 - C(x)) + mean max(0, 1 + C(x')),    L(decoder) = -mean C(x'),

a blurred patch is told from a real one and the decoder has to choose an outline. The feature loss is the mean square
distance of the tokens of some layers of the CLIP's image encoder, each token normalized. Both images are moved by the
same few pixels first, because a vision transformer sees a grid of patches and would leave it in the image. The judge
takes no part: it has to stay independent of what is trained.

The critic learns in the same backward pass. It scores the decoder's image twice: with its own weights frozen for the
decoder, and with the image detached for itself.

References:
    Patrick Esser et al., Taming Transformers for High-Resolution Image Synthesis, https://arxiv.org/abs/2012.09841
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm
from transformers import CLIPModel

from training.settings import CRISP


def critic() -> nn.Sequential:
    """The untrained critic: (N, 3, 64, 64) to scores (N, 1, 16, 16) of patches of 22 x 22 pixels."""
    torch.manual_seed(5)
    layers: list[nn.Module] = []
    before = 3
    for n, width in enumerate(CRISP.widths):
        size, stride = (4, 2) if n < 2 else (3, 1)
        layers += [spectral_norm(nn.Conv2d(before, width, size, stride, 1)), nn.LeakyReLU(0.2)]
        before = width
    return nn.Sequential(*layers, spectral_norm(nn.Conv2d(before, 1, 3, 1, 1)))


def verdicts(model: nn.Module, decoded: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    """The loss of the decoder by the critic, and the loss of the critic."""
    frozen = {name: p.detach() for name, p in model.named_parameters()}
    fools = -functional_call(model, frozen, (decoded,)).mean()
    scores = model(torch.cat([real, decoded.detach()]))
    right, wrong = scores.chunk(2)
    return fools, F.relu(1 - right).mean() + F.relu(1 + wrong).mean()


def shift(pixels: Tensor, down: int, right: int) -> Tensor:
    """The images moved by some pixels, their borders repeated."""
    height, width = pixels.shape[-2:]
    side = CRISP.shift
    padded = F.pad(pixels, (side,) * 4, mode="replicate")
    return padded[..., down : down + height, right : right + width]


def tokens(model: CLIPModel, pixels: Tensor) -> list[Tensor]:
    """Normalized tokens of the layers that are compared."""
    states = model.vision_model(pixel_values=pixels, output_hidden_states=True).hidden_states
    return [F.layer_norm(states[layer], states[layer].shape[-1:]) for layer in CRISP.layers]


def features(model: CLIPModel, decoded: Tensor, real: Tensor, number: int) -> Tensor:
    """The feature loss; `number` seeds the shift."""
    down, right = torch.randint(2 * CRISP.shift + 1, (2,), generator=torch.Generator().manual_seed(number)).tolist()
    with torch.no_grad():
        goal = tokens(model, shift(real, down, right))
    seen = tokens(model, shift(decoded, down, right))
    return torch.stack([F.mse_loss(a, b) for a, b in zip(seen, goal, strict=True)]).mean()


def balance(loss: Tensor, other: Tensor, decoded: Tensor, share: float) -> Tensor:
    """`other`, scaled so that its gradient at the image is `share` times as long as that of `loss`."""
    (pull,) = torch.autograd.grad(loss, decoded, retain_graph=True)
    (push,) = torch.autograd.grad(other, decoded, retain_graph=True)
    return share * pull.norm() / push.norm().clamp(min=1e-12) * other
