"""Every number of the recipe."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / ".training"  # checkpoints, logs, sample images; ignored by git
PACKAGE = ROOT / "src" / "noiseward" / "stickers"


@dataclass(frozen=True)
class Data:
    """How an image is composed; lengths in pixels, the tilt in degrees, colors in 8-bit levels."""

    font: str = "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"
    size: int = 64
    border: int = 5
    scale: tuple[float, float] = (0.65, 0.95)
    tilt: float = 20.0
    jitter: int = 8
    mirrored: float = 0.0  # half of what the autoencoder and the judge of 0.2 saw; none of what its denoiser saw
    named: float = 0.5
    seed: int = 20


@dataclass(frozen=True)
class Stage:
    """How one network is trained: Muon and AdamW, linear warm-up, cosine decay to `final` times the peak rates.

    The rates fall over the last share `fall` of the steps. With `half`, the forward pass runs in bfloat16.
    """

    steps: int
    batch: int
    rate: float = 1.5e-3  # AdamW
    matrix_rate: float = 0.01  # Muon
    warmup: int = 200
    final: float = 0.02
    fall: float = 1.0
    decay: float = 0.01
    average: float = 0.999  # of the weights
    clip: float = 1.0
    half: bool = False
    minutes: float = 3.0  # between checkpoints
    pause: float = 5.0  # minutes between sample images


DATA = Data()
# 0.1: 30,000 images in trial runs with AdamW, then these steps in two processes; 24.5 dB.
AUTOENCODER = Stage(steps=2_000, batch=8, warmup=50)


@dataclass(frozen=True)
class Text:
    """The text encoder of the pipeline; `length` is also the tokenizer's."""

    length: int = 16
    width: int = 128
    layers: int = 2
    heads: int = 4


TEXT = Text()


@dataclass(frozen=True)
class Clip:
    """One of the two CLIP models: sizes, and how strongly its training images are spoiled."""

    seed: int
    stage: Stage
    width: int
    layers: int
    text_width: int
    text_layers: int
    projection: int = 128
    blur: int = 1
    noise: float = 0.2
    hide: int = 0


SEEN = Stage(steps=2_400, batch=64, rate=1e-3, half=True)  # 0.2: 1,600 steps in float32
CLIPS = {
    "judge": Clip(11, SEEN, 160, 4, 128, 2, blur=2, noise=0.2, hide=16),
    "clip": Clip(12, SEEN, 128, 5, 128, 2, blur=1, noise=0.3, hide=0),
}


@dataclass(frozen=True)
class Latents:
    """How many compositions are encoded for the denoiser."""

    chunk: int = 8192
    chunks: int = 24


@dataclass(frozen=True)
class Version:
    """What the shipped model knows: the first `nouns` of the list; and which CLIPs are shipped with it."""

    name: str = "0.3"
    nouns: int = 104
    clips: tuple[str, ...] = ("clip", "judge")


LATENTS = Latents()
VERSION = Version()


@dataclass(frozen=True)
class Crisp:
    """The critic and the feature loss: when they join, how strong they are, and what they see."""

    begin: int = 1_000
    growth: int = 2_000  # steps until the critic has its full share
    adversary: float = 0.4
    feature: float = 0.4
    noise: float = 0.1  # of the latents, at most
    shift: int = 4
    layers: tuple[int, ...] = (1, 2, 3)
    widths: tuple[int, ...] = (32, 64, 96)


CRISP = Crisp()
# 0.2: 12,000 steps of 8 images in float32 without the critic; 24.58 dB.
DECODER = Stage(steps=24_000, batch=16, rate=4e-4, matrix_rate=4e-3, fall=0.3, average=0.999, half=True)
TINY = Stage(steps=16_000, batch=16, rate=1e-3, matrix_rate=5e-3, fall=0.5, half=True)
# 0.1 was exported at step 2,350, its rate decayed to the end by then, in two processes: 64 minutes, 150,000 images.
# 0.2 began as 0.1 (stage `warm`); the first steps in one process while the CLIPs were trained in the other, then two:
# 192,000 images in batches of 32 at rates of 1.5e-3 and 0.01.
# 0.3 begins as 0.2 and sees 2 million more. Images a second on one core with avx512_bf16, measured in alternation:
# batch 32 float32 82, 64 float32 100, 64 half 150, 128 half 177. Muon costs 0.1 s a step whatever the batch.
# torch.compile gains nothing (its compilation takes 90 s), channels_last loses 5 %. The batch is four times that of
# 0.2, the rates grow by about the square root of that. `steps` may be raised until 0.7 of them are done.
DENOISER = Stage(steps=16_000, batch=128, rate=2e-3, matrix_rate=0.014, fall=0.3, average=0.999, half=True, pause=15.0)
