"""A terrain model that torch never sees: height maps of 128 x 128 points from an ONNX file, in one step.

The network is the consistency model inside the package `adaptive-terrain-diffusion` (Youwei Yu, MIT), run by
onnxruntime. Torch draws its noise, and that is all that is needed: there is no gradient, so the method has to search.

    pip install --no-deps adaptive-terrain-diffusion && pip install onnxruntime
    noiseward align --model experiments/gallery/terrain.py:make_sampler \\
        --reward experiments/gallery/terrain.py:basin --method trust-region --nfe 150
"""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from noiseward import FunctionSampler

SIGMA, DIFFICULTY = 80.0, 0.6  # of the first noise; difficulty 60 of 100
HIGHEST, SCALE = 22.16864013671875, 0.1  # of the package's heights, in their units, and of its asinh


@cache
def session() -> Any:
    """The network, on one thread."""
    import onnxruntime

    package = importlib.util.find_spec("terrain_diffusion")
    if package is None or package.origin is None:
        raise ImportError("run: pip install --no-deps adaptive-terrain-diffusion")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    path = Path(package.origin).parent / "weights" / "terrain_consistency_unet_difficulty100.onnx"
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def make_sampler() -> FunctionSampler:
    """Heights `(B, 1, 128, 128)`, 0 for the lowest and 1 for the highest that the model knows."""

    def sample(batch: int) -> Tensor:
        noise = torch.randn(batch, 1, 128, 128) * SIGMA
        given = {"noisy": noise.numpy(force=True)}
        given |= {"sigma": np.full(batch, SIGMA, np.float32), "difficulty": np.full(batch, DIFFICULTY, np.float32)}
        unit = torch.from_numpy(session().run(["denoised"], given)[0]) / 2 + 0.5
        return SCALE * torch.sinh(unit.clamp(0, 1) * np.arcsinh(HIGHEST / SCALE)) / HIGHEST

    return FunctionSampler(sample, name="terrain")


def basin(sample: Tensor) -> Tensor:
    """How much higher the border is than the middle, in units of the map's own relief: a lake would be there."""
    side = torch.linspace(-1, 1, sample.shape[-1])
    middle = torch.exp(-(side[:, None] ** 2 + side**2) / (2 * 0.3**2))
    border = (torch.maximum(side[:, None].abs(), side.abs()) > 0.8).float()
    weights = middle / middle.sum() - border / border.sum()
    return -(sample[:, 0] * weights).sum((1, 2)) / sample[:, 0].flatten(1).std(1).clamp_min(1e-6)
