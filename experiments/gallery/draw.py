"""The images of the gallery, from run directories alone."""

from __future__ import annotations

import io
import wave
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.colors import LightSource, LinearSegmentedColormap
from matplotlib.figure import Figure
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from noiseward.images import draw_grid, enlarge

__all__ = ["before_after", "ends", "pairs", "strips", "terrain", "tone"]

Runs = Sequence[tuple[str, Path]]  # a label and a run directory
FRAMES = 6
SOUNDS = Path(__file__).resolve().parents[2] / "docs" / "sounds"
RATE = 8000
GROUND = LinearSegmentedColormap.from_list(
    "ground", [(0, "#5b8c4a"), (0.35, "#a9b665"), (0.65, "#b08d5b"), (0.85, "#8d7f78"), (1, "#ffffff")]
)


def samples(folder: Path) -> tuple[Tensor, Tensor]:
    """The samples of a run: at the start, and the best."""
    return load_file(folder / "initial.safetensors")["sample"], load_file(folder / "best.safetensors")["sample"]


def strip(folder: Path, row: int = 0) -> list[Image.Image]:
    """Start, some images along the way, and best, of one row."""
    frames = [Image.open(path).convert("RGB") for path in sorted((folder / "frames").glob(f"*-{row:02d}.png"))]
    picks = np.linspace(0, len(frames) - 1, min(FRAMES, len(frames))).round().astype(int)
    ends = [Image.open(folder / part / f"{row:02d}.png").convert("RGB") for part in ("initial", "best")]
    return [ends[0], *(frames[pick] for pick in picks[1:-1]), ends[1]]


def strips(runs: Runs) -> Image.Image:
    """A line for every row of every run: from the start to the best."""
    lines, captions = [], []
    for label, folder in runs:
        for row in range(len(list((folder / "best").glob("*.png")))):
            lines.append([enlarge(image) for image in strip(folder, row)])
            captions.append(label)
    most = max(len(line) for line in lines)
    titles = ["start", *[""] * (most - 2), "best"]
    return draw_grid(lines, titles, captions if any(captions) else ())


def ends(runs: Runs) -> Image.Image:
    """The start they share, then the best of each run."""
    start = enlarge(Image.open(runs[0][1] / "initial" / "00.png").convert("RGB"))
    best = [enlarge(Image.open(folder / "best" / "00.png").convert("RGB")) for _, folder in runs]
    return draw_grid([[start, *best]], ["start", *(label for label, _ in runs)])


def before_after(runs: Runs) -> Image.Image:
    """The rows of a run, small images in large pixels: above before, below after."""
    lines = [[pixelate(one[0]) for one in part] for part in samples(runs[0][1])]
    return draw_grid(lines, captions=["start", "best"])


def pairs(runs: Runs) -> Image.Image:
    """The rows of a run: above before, below after."""
    lines = [
        [enlarge(Image.open(path).convert("RGB")) for path in sorted((runs[0][1] / part).glob("*.png"))]
        for part in ("initial", "best")
    ]
    return draw_grid(lines, captions=["start", "best"])


def pixelate(one: Tensor) -> Image.Image:
    """A gray image `(H, W)` in [0, 1], in large pixels."""
    image = Image.fromarray((one.clamp(0, 1) * 255).byte().numpy()).convert("RGB")
    return image.resize((72, 72), Image.Resampling.NEAREST)


def terrain(runs: Runs) -> Image.Image:
    """Height maps from above, shaded, with water below the median of each."""
    tiles = []
    for heights in (part[0, 0].numpy() for part in samples(runs[0][1])):
        level, top = float(np.median(heights)), float(heights.max())
        light = LightSource(azdeg=315, altdeg=45)
        unit = np.clip((heights - level) / (top - level), 0, 1)
        color = light.shade_rgb(GROUND(unit)[..., :3], heights, vert_exag=150, blend_mode="soft")
        depth = np.clip((level - heights) / max(level - float(heights.min()), 1e-6), 0, 1)[..., None]
        water = np.array([0.35, 0.65, 0.85]) * (1 - depth) + np.array([0.05, 0.2, 0.45]) * depth
        color = np.where(heights[..., None] < level, water, color)
        tile = Image.fromarray((np.clip(color, 0, 1) * 255).astype(np.uint8))
        tiles.append(tile.resize((224, 224), Image.Resampling.BICUBIC))
    return draw_grid([tiles], ["start", "best"])


def tone(runs: Runs) -> Image.Image:
    """Spectrograms before and after; the sounds are written, too."""
    SOUNDS.mkdir(exist_ok=True)
    figure = Figure(figsize=(6.4, 2.4), dpi=100, layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for ax, name, sound in zip(axes, ("before", "after"), samples(runs[0][1]), strict=True):
        write_sound(SOUNDS / f"gallery-tone-{name}.wav", sound[0])
        power = torch.stft(sound[0], 256, 64, window=torch.hann_window(256), return_complex=True).abs().square()
        level = 10 * torch.log10(power / power.max() + 1e-6)
        extent = (0, len(sound[0]) / RATE, 0, RATE / 2000)
        ax.imshow(level, origin="lower", aspect="auto", extent=extent, vmin=-50, vmax=0)
        ax.set_title("start" if name == "before" else "best", fontsize=10)
        ax.set_xlabel("seconds")
    axes[0].set_ylabel("kHz")
    file = io.BytesIO()
    figure.savefig(file)
    return Image.open(file).convert("RGB")


def write_sound(path: Path, sound: Tensor) -> None:
    """A waveform as a mono WAV file of 8-bit samples."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(1)
        file.setframerate(RATE)
        file.writeframes((sound.clamp(-1, 1) * 127 + 128).round().byte().numpy().tobytes())
