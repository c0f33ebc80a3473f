r"""Whether there is a face: the log-probability of the best window by MTCNN, three small networks of growing size.

The first looks at every place in several sizes and proposes windows; the second shifts the best of these; the third
says how likely each is a face. The reward is that of the likeliest window,

.. math:: r(x) = \max_w \log p(\text{face} \mid x_w).

Which windows are looked at is not differentiable, what the third network sees in them is. No window is dropped for a
low probability, so that there is a value and a gradient where no face is yet. It is easily fooled by its own gradient:
from noise, ten steps on pixels take it to 0. It is meant as a requirement, or for a choice among images.

The weights are inside the package facenet-pytorch, which asks for an old torch, so it is installed alone.

References:
    Joint Face Detection and Alignment using Multi-task Cascaded Convolutional Networks
    https://arxiv.org/abs/1604.02878
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from noiseward.rewards.checkpoints import read_checkpoint
from noiseward.rewards.count import keep_apart
from noiseward.rewards.onnx.packages import find_file
from noiseward.rewards.preprocess import check_images
from noiseward.rewards.reward import Reward

__all__ = ["Face", "FaceNet", "face"]

SMALLEST, CELL, SHRINK = 20, 12, 0.709  # pixels of a face, of the first network's window, and steps of the pyramid
PROPOSED, MOVED = 24, 8  # windows that the second and the third network look at
SIZES = (24, 48)  # of what these see
Shape = tuple[tuple[tuple[int, int, int], ...], tuple[int, ...]]
SHAPES: dict[str, Shape] = {  # of convolutions: channels, side, and side of the pooling after it; then of dense layers
    "pnet": (((10, 3, 2), (16, 3, 0), (32, 3, 0)), ()),
    "rnet": (((28, 3, 3), (48, 3, 3), (64, 2, 0)), (576, 128)),
    "onet": (((32, 3, 3), (64, 3, 3), (64, 3, 2), (128, 2, 0)), (1152, 256)),
}


@final
class FaceNet(nn.Module):
    """One of the three networks: the probability of a face, and how its box is to be shifted.

    Arguments:
        kind: pnet, rnet or onet.
    """

    def __init__(self, kind: str) -> None:
        super().__init__()
        layers, dense = SHAPES[kind]
        self.pools = [pool for _, _, pool in layers]
        before = 3
        for number, (channels, side, _) in enumerate(layers, start=1):
            self.add_module(f"conv{number}", nn.Conv2d(before, channels, side))
            self.add_module(f"prelu{number}", nn.PReLU(channels))
            before = channels
        self.name, ends = f"conv{len(layers) + 1}" if not dense else f"dense{len(layers) + 1}", (2, 4, 10)
        self.head = self.name.replace(str(len(layers) + 1), str(len(layers) + 2)) if dense else self.name
        if dense:
            self.add_module(self.name, nn.Linear(dense[0], dense[1]))
            self.add_module(f"prelu{len(layers) + 1}", nn.PReLU(dense[1]))
        for number, size in enumerate(ends[: 3 if kind == "onet" else 2], start=1):
            end: nn.Module = nn.Linear(dense[1], size) if dense else nn.Conv2d(before, size, 1)
            self.add_module(f"{self.head}_{number}", end)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities and shifts, `(B, ...)` and `(B, 4, ...)`, of images from -1 to 1."""
        parts = dict(self.named_children())
        for number, pool in enumerate(self.pools, start=1):
            x = parts[f"prelu{number}"](parts[f"conv{number}"](x))
            x = F.max_pool2d(x, pool, 2, ceil_mode=True) if pool else x
        if self.head != self.name:
            x = x.permute(0, 3, 2, 1).flatten(1)
            x = parts[f"prelu{len(self.pools) + 1}"](parts[self.name](x))
        return parts[f"{self.head}_1"](x).log_softmax(1)[:, 1], parts[f"{self.head}_2"](x)


@final
class Face(Reward):
    """The log-probability of a face, below 0.

    Arguments:
        networks: by kind.
    """

    differentiable = True
    name = "face"

    def __init__(self, networks: dict[str, nn.Module]) -> None:
        self.networks = nn.ModuleDict(networks).eval().requires_grad_(False)

    def __call__(self, sample: Tensor, prompt: Sequence[str] | None) -> Tensor:
        self.networks.to(sample.device, torch.float32)
        images = 2 * check_images(sample.float()) - 1
        return torch.stack([self._look(image[None]) for image in images]).to(sample.dtype)

    def _look(self, image: Tensor) -> Tensor:
        with torch.no_grad():
            boxes = self._propose(image)
            scores, moves = self.networks["rnet"](_cut(image, boxes, SIZES[0]))
            moved = _square(_move(boxes, moves))
            kept = keep_apart(moved, scores, 0.7)[:MOVED]
        return self.networks["onet"](_cut(image, moved[kept], SIZES[1]))[0].amax()

    def _propose(self, image: Tensor) -> Tensor:
        """Square windows where the first network sees faces, the likeliest ones."""
        scale, found = CELL / SMALLEST, []
        short = min(image.shape[2:])
        while short * scale >= CELL or not found:
            size = [max(CELL, int(side * scale + 1)) for side in image.shape[2:]]
            scores, moves = (part[0] for part in self.networks["pnet"](F.interpolate(image, size, mode="area")))
            rows, columns = torch.meshgrid(*(torch.arange(n, device=image.device) for n in scores.shape), indexing="ij")
            corner = 2 * torch.stack([columns, rows], 2).flatten(0, 1).float()
            boxes = torch.cat([corner + 1, corner + CELL], 1) / scale
            best = scores.flatten().topk(min(PROPOSED, scores.numel()))
            found.append((_move(boxes[best.indices], moves.flatten(1).T[best.indices]), best.values))
            scale *= SHRINK
        boxes, scores = (torch.cat(parts) for parts in zip(*found, strict=True))
        return _square(boxes[keep_apart(boxes, scores, 0.7)[:PROPOSED]])


def _move(boxes: Tensor, moves: Tensor) -> Tensor:
    """Boxes shifted by parts of their width and height."""
    sides = boxes[:, 2:] - boxes[:, :2]
    return boxes + moves * torch.cat([sides, sides], 1)


def _square(boxes: Tensor) -> Tensor:
    """The squares around the centers of boxes, with their longer side."""
    center, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]).amax(1, keepdim=True) / 2
    return torch.cat([center - half, center + half], 1)


def _cut(image: Tensor, boxes: Tensor, side: int) -> Tensor:
    """What is in boxes, as far as they lie in the image, `(N, 3, side, side)`."""
    height, width = image.shape[2:]
    cuts = []
    for left, top, right, bottom in boxes.round().long().tolist():
        left, top = min(max(left, 0), width - 2), min(max(top, 0), height - 2)
        cut = image[:, :, top : max(top + 2, min(bottom, height)), left : max(left + 2, min(right, width))]
        cuts.append(F.interpolate(cut, (side, side), mode="area"))
    return torch.cat(cuts)


def face() -> Face:
    """The log-probability of a face."""
    networks: dict[str, nn.Module] = {}
    for kind in SHAPES:
        file = find_file("facenet_pytorch", f"data/{kind}.pt", extra="", name="reward 'face'")
        networks[kind] = FaceNet(kind)
        networks[kind].load_state_dict(read_checkpoint(file))
    return Face(networks)
