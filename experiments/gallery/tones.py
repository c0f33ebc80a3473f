"""A diffusion model of tones: sound of one second, made by a synthesizer whose settings the model draws.

Every tone has a pitch, eight partials with their strengths, and a rate at which it dies away. The model is an MLP that
is trained in half a minute on four instruments made up here (a plucked string, an organ, a bell, a flute), and the
synthesizer turns what it draws into a waveform `(B, 8000)` at 8 kHz. Rewards hear the waveform alone.

    noiseward align --model experiments/gallery/tones.py:make_sampler --reward experiments/gallery/tones.py:brightness
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from noiseward import FunctionSampler

WEIGHTS = Path(__file__).resolve().parents[2] / ".experiments" / "gallery" / "weights" / "tones.safetensors"
RATE, PARTIALS, SIZE = 8000, 8, 10
DENOISING, STEPS, BATCH = 20, 8000, 256
INSTRUMENTS = torch.tensor([  # log strength of each partial, then log of the decay per second
    [0.0, -0.4, -0.8, -1.2, -1.6, -2.0, -2.4, -2.8, 1.2],  # a plucked string
    [0.0, -0.2, -3.0, -0.6, -3.5, -3.0, -4.0, -1.2, -1.5],  # an organ
    [0.0, -2.5, -0.5, -3.0, -0.3, -3.0, -0.8, -1.0, 0.6],  # a bell
    [0.0, -2.0, -3.0, -4.0, -4.5, -5.0, -5.0, -5.0, -1.0],  # a flute
])  # fmt: skip
SPREAD = 2.0  # of the settings, by which they are divided


def draw_settings(count: int) -> Tensor:
    """Settings `(count, 10)` of about unit size: the pitch in octaves around 311 Hz, then those of the instrument."""
    octave = torch.rand(count, 1) * 2 - 1
    chosen = INSTRUMENTS[torch.randint(len(INSTRUMENTS), (count,))]
    return torch.cat([octave, (chosen + 0.15 * torch.randn(chosen.shape)) / SPREAD], 1)


def synthesize(settings: Tensor) -> Tensor:
    """The waveforms of settings, at most 1 loud."""
    time = torch.arange(RATE) / RATE
    pitch = 311.0 * 2.0 ** settings[:, :1].clamp(-1.2, 1.2)
    strength = (SPREAD * settings[:, 1 : 1 + PARTIALS]).clamp(-6, 1).exp()
    decay = (SPREAD * settings[:, -1:]).clamp(-3, 2).exp()
    order = torch.arange(1, 1 + PARTIALS)
    waves = torch.sin(2 * torch.pi * pitch[..., None] * order[:, None] * time)
    audible = torch.sigmoid((0.45 * RATE - pitch * order) / 100)  # below half the rate
    sound = ((strength * audible)[..., None] * waves).sum(1) / strength.sum(1, keepdim=True)
    return sound * torch.exp(-decay * time) * (time / 0.01).clamp(max=1)


class Denoiser(nn.Module):
    """Predicts the noise in noisy settings at a level t."""

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(SIZE + 8, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(),
            nn.Linear(width, width), nn.SiLU(), nn.Linear(width, SIZE),
        )  # fmt: skip

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        waves = t[:, None] * torch.pi * 2.0 ** torch.arange(-1, 3)
        return self.net(torch.cat([x, waves.sin(), waves.cos()], 1))


def signal(t: Tensor) -> Tensor:
    """How much of the variance is the tone's at a level: the cosine schedule."""
    return torch.cos(t * torch.pi / 2).square().clamp(1e-4, 0.9999)


def load_denoiser() -> Denoiser:
    """The model, with the weights that were trained before, or are now."""
    net = Denoiser()
    if not WEIGHTS.exists():
        with torch.random.fork_rng(), torch.enable_grad():
            torch.manual_seed(0)
            net = Denoiser()
            optimizer = torch.optim.Adam(net.parameters())
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
            for _ in range(STEPS):
                x, noise, t = draw_settings(BATCH), torch.randn(BATCH, SIZE), torch.rand(BATCH)
                a = signal(t)[:, None]
                optimizer.zero_grad()
                F.mse_loss(net(a.sqrt() * x + (1 - a).sqrt() * noise, t), noise).backward()
                optimizer.step()
                schedule.step()
        WEIGHTS.parent.mkdir(parents=True, exist_ok=True)
        save_file(net.state_dict(), WEIGHTS)
    net.load_state_dict(load_file(WEIGHTS))
    return net.eval().requires_grad_(False)


def make_sampler() -> FunctionSampler:
    """Twenty denoising steps with fresh noise in each, then the synthesizer."""
    net = load_denoiser()

    def sample(batch: int) -> Tensor:
        x = torch.randn(batch, SIZE)
        levels = signal(torch.linspace(1, 0, DENOISING + 1))
        for number in range(DENOISING):
            a, b = levels[number], levels[number + 1]
            noise = net(x, torch.full((batch,), 1 - number / DENOISING))
            tone = ((x - (1 - a).sqrt() * noise) / a.sqrt()).clamp(-3, 3)
            noise = (x - a.sqrt() * tone) / (1 - a).sqrt()
            fresh = ((1 - b) / (1 - a) * (1 - a / b)).sqrt()
            x = b.sqrt() * tone + (1 - b - fresh**2).sqrt() * noise + fresh * torch.randn(batch, SIZE)
        return synthesize(x)

    return FunctionSampler(sample, denoiser=net, name="tones")


def brightness(sample: Tensor) -> Tensor:
    """How bright a sound is: the centroid of its spectrum, in kHz."""
    power = torch.fft.rfft(sample).abs().square()
    return (power * torch.linspace(0, RATE / 2000, power.shape[1])).sum(1) / power.sum(1).clamp_min(1e-9)
