"""A diffusion model of handwritten digits, 8 x 8 pixels, and two readers of them, trained here in two minutes.

The images are the 1797 of scikit-learn's `load_digits`, from the UCI repository. The model is an unconditional DDPM: no
prompt tells it which digit to draw, only the reward does. The readers are small classifiers that differ in their seed;
one is the reward, the other is held out.

    noiseward align --model experiments/gallery/digits.py:make_sampler --reward experiments/gallery/digits.py:eight
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from noiseward import FunctionSampler

WEIGHTS = Path(__file__).resolve().parents[2] / ".experiments" / "gallery" / "weights"
STEPS, READER_STEPS, BATCH = 8000, 1000, 64
DENOISING, LEVELS = 20, 1000


class Denoiser(nn.Module):
    """Predicts the noise in `sqrt(a) x + sqrt(1 - a) noise`, from it and the level t in [0, 1]; a residual MLP."""

    def __init__(self, width: int = 192) -> None:
        super().__init__()
        self.first = nn.Linear(64 + 16, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
            for _ in range(3)
        )
        self.last = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 64))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        waves = t[:, None] * torch.pi * 2.0 ** torch.arange(-1, 7)
        hidden = self.first(torch.cat([x.flatten(1), waves.sin(), waves.cos()], 1))
        for block in self.blocks:
            hidden = hidden + block(hidden)
        return self.last(hidden).view_as(x)


def read_data() -> tuple[Tensor, Tensor]:
    """Images `(N, 1, 8, 8)` in [0, 1], and which digit each is."""
    from sklearn.datasets import load_digits

    data = load_digits()
    return torch.tensor(data.images, dtype=torch.float32)[:, None] / 16, torch.tensor(data.target)


def train(net: nn.Module, loss: Callable[[Tensor], Tensor], steps: int, *, rate: float) -> None:
    """Adam with a rate that falls to zero; the weights are an average over the last steps."""
    mean = torch.optim.swa_utils.AveragedModel(net, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.995))
    optimizer = torch.optim.Adam(net.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    count = len(read_data()[0])
    for _ in range(steps):
        optimizer.zero_grad()
        loss(torch.randint(count, (BATCH,))).backward()
        optimizer.step()
        schedule.step()
        mean.update_parameters(net)
    net.load_state_dict(mean.module.state_dict())


def load(name: str, net: nn.Module, fit: Callable[[nn.Module], None], seed: int) -> nn.Module:
    """A network with the weights that were trained before, or are now."""
    path = WEIGHTS / f"{name}.safetensors"
    if not path.exists():
        with torch.random.fork_rng(), torch.enable_grad():
            torch.manual_seed(seed)
            for module in net.modules():
                if hasattr(module, "reset_parameters"):
                    module.reset_parameters()
            fit(net)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(net.state_dict(), path)
    net.load_state_dict(load_file(path))
    return net.eval().requires_grad_(False)


def signal(t: Tensor) -> Tensor:
    """How much of the variance is still the image's at a level: the cosine schedule."""
    return torch.cos(t * torch.pi / 2).square().clamp(1e-4, 0.9999)


def make_sampler() -> FunctionSampler:
    """The model with DDIM, eta 1: twenty steps, fresh noise in each."""

    def fit(net: nn.Module) -> None:
        images = read_data()[0] * 2 - 1

        def loss(rows: Tensor) -> Tensor:
            noise, t = torch.randn(len(rows), 1, 8, 8), torch.rand(len(rows))
            a = signal(t).view(-1, 1, 1, 1)
            return F.mse_loss(net(a.sqrt() * images[rows] + (1 - a).sqrt() * noise, t), noise)

        train(net, loss, STEPS, rate=2e-3)

    net = load("digits", Denoiser(), fit, 0)

    def sample(batch: int) -> Tensor:
        x = torch.randn(batch, 1, 8, 8)
        levels = signal(torch.linspace(1, 0, DENOISING + 1))
        for number in range(DENOISING):
            a, b = levels[number], levels[number + 1]
            noise = net(x, torch.full((batch,), 1 - number / DENOISING))
            image = ((x - (1 - a).sqrt() * noise) / a.sqrt()).clamp(-1, 1)
            noise = (x - a.sqrt() * image) / (1 - a).sqrt()
            fresh = ((1 - b) / (1 - a) * (1 - a / b)).sqrt()
            x = b.sqrt() * image + (1 - b - fresh**2).sqrt() * noise + fresh * torch.randn(batch, 1, 8, 8)
        return (x / 2 + 0.5).clamp(0, 1)

    return FunctionSampler(sample, denoiser=net, name="digits")


@cache
def reader(seed: int) -> nn.Module:
    """A classifier of slightly shifted and noisy digits."""
    net = nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.SiLU(), nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.SiLU(),
        nn.Conv2d(64, 64, 3, padding=1), nn.SiLU(), nn.Flatten(), nn.Dropout(0.3), nn.Linear(1024, 10),
    )  # fmt: skip

    def fit(net: nn.Module) -> None:
        images, digits = read_data()

        def loss(rows: Tensor) -> Tensor:
            noisy = images[rows] + 0.15 * torch.rand(len(rows), 1, 1, 1) * torch.randn(len(rows), 1, 8, 8)
            return F.cross_entropy(net(noisy), digits[rows], label_smoothing=0.05)

        train(net, loss, READER_STEPS, rate=2e-3)

    return load(f"reader-{seed}", net, fit, seed)


def eight(sample: Tensor) -> Tensor:
    """The probability that an image is an 8, by the first reader."""
    return reader(1)(sample.mean(1, keepdim=True)).softmax(1)[:, 8]


def eight_by_another(sample: Tensor) -> Tensor:
    """The same by the second reader, which is not optimized."""
    return reader(2)(sample.mean(1, keepdim=True)).softmax(1)[:, 8]
