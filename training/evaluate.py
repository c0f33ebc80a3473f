"""`python -m training.evaluate`: measure the shipped model and write `training/RESULTS.md`.

* Autoencoder: PSNR on held-out compositions.
* Judge and clip: nouns among all 64 and colors among 12, on held-out real compositions.
* Pipeline, 25 steps, eta 1, guidance 3: captions with a named background. The color is right when the median pixel
  of the picture's border is nearest to the named one of the 12 colors. The noun is right when the judge prefers it
  to 31 others, drawn at random from the 64.

Shares come with Wilson's 95 % interval; means with 1.96 standard errors. The interval of a share drawn is
that of independent pictures.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from training import autoencoder, clip, denoiser, glyphs, language
from training.settings import PACKAGE, VERSION, WORK
from training.words import COLORS, NOUNS, caption

RESULTS = Path(__file__).with_name("RESULTS.md")
_COLORS = tuple(COLORS)


def wilson(hits: int, count: int) -> tuple[float, float]:
    """The 95 % interval of a share."""
    z = 1.96
    share, scale = hits / count, 1 + z * z / count
    middle = (share + z * z / (2 * count)) / scale
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count)) / scale
    return middle - half, middle + half


def share(hits: int, count: int) -> str:
    """A share in words: `87.5 % (n = 64, 77.2 to 93.5 %)`."""
    low, high = wilson(hits, count)
    return f"{hits / count:.1%} (n = {count}, {low:.1%} to {high:.1%})".replace("%", " %")


def backgrounds(pictures: Tensor) -> list[str]:
    """The name of the color nearest to the median border pixel of each picture (N, 3, H, W) in [-1, 1]."""
    edges = [pictures[..., 0, :], pictures[..., -1, :], pictures[..., 1:-1, 0], pictures[..., 1:-1, -1]]
    border = torch.cat(edges, -1).median(-1).values.add(1).mul(127.5)
    table = torch.tensor([COLORS[color] for color in _COLORS]).float()
    return [_COLORS[n] for n in torch.cdist(border, table).argmin(1).tolist()]


def judged(pictures: Tensor, nouns: list[str], among: int = 32) -> list[bool]:
    """Whether the judge prefers the right noun to the others."""
    model, words = clip.shipped("judge"), language.tokenizer()
    seen = clip.pictures_of(model, pictures)
    names = clip.texts_of(model, language.tokens([caption(noun) for noun in clip.ALL], words))
    scores = seen @ names.T
    right = []
    generator = torch.Generator().manual_seed(7)
    for row, noun in zip(scores, nouns, strict=True):
        at = clip.ALL.index(noun)
        others = torch.randperm(len(clip.ALL) - 1, generator=generator)[: among - 1]
        others = others + (others >= at)
        right.append(bool(row[at] > row[others].max()))
    return right


def pipeline_lines(seeds: int) -> list[str]:
    """Draw every noun on a named background, `seeds` times, and measure."""
    pipe = StableDiffusionPipeline.from_pretrained(PACKAGE / "model", local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    nouns = tuple(NOUNS)[: VERSION.nouns]
    wanted = [(noun, _COLORS[(n + 5 * seed) % 12]) for seed in range(seeds) for n, noun in enumerate(nouns)]
    pictures = denoiser.draw(pipe, [caption(*pair) for pair in wanted], seed=10_000, steps=25)
    glyphs.sheet(pictures[: len(nouns)], 8).save(WORK / "contact.png")
    colors = sum(seen == color for seen, (_, color) in zip(backgrounds(pictures), wanted, strict=True))
    verdicts = judged(pictures, [noun for noun, _ in wanted])
    per_noun = {noun: [v for v, (other, _) in zip(verdicts, wanted, strict=True) if other == noun] for noun in nouns}
    missed = [noun for noun, values in per_noun.items() if sum(values) * 2 < len(values)]
    return [
        f"| pipeline, named background right | {share(colors, len(wanted))} | 90 % |",
        f"| pipeline, right noun of 32 by the judge | {share(sum(verdicts), len(wanted))} | 80 % |",
        "",
        f"Nouns the judge misses in most pictures: {', '.join(missed) or 'none'}.",
    ]


def autoencoder_line(count: int) -> str:
    """PSNR of the shipped autoencoder."""
    pipe = StableDiffusionPipeline.from_pretrained(PACKAGE / "model", local_files_only=True)
    values = []
    for first in range(0, count, 64):
        pixels, _ = glyphs.batch("heldout", first, 64, autoencoder.ALL)
        made = pipe.vae.decode(pipe.vae.encode(pixels).latent_dist.mean).sample
        values.append(autoencoder.psnr(made, pixels))
    psnr = torch.cat(values)
    half = 1.96 * psnr.std() / math.sqrt(len(psnr))
    return f"| autoencoder, PSNR on held-out compositions | {psnr.mean():.2f} +- {half:.2f} dB (n = {count}) | 24 dB |"


def clip_lines(name: str, count: int) -> list[str]:
    """Nouns and colors of one CLIP model, on real pictures."""
    pixels, pictures = glyphs.batch("heldout", 0, count, clip.ALL)
    nouns, colors = clip.accuracy(clip.shipped(name), pixels, pictures)
    return [
        f"| {name}, noun of 64, held-out real compositions | {share(round(nouns * count), count)} | 97 % |",
        f"| {name}, color of 12, held-out real compositions | {share(round(colors * count), count)} | 99 % |",
    ]


@torch.no_grad()
def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=4, help="pictures of each noun")
    parser.add_argument("--held", type=int, default=1024, help="held-out compositions")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    lines = [
        f"# stickers {VERSION.name}: measured by `python -m training.evaluate`",
        "",
        "| what | measured (95 % interval) | goal |",
        "|---|---|---|",
        autoencoder_line(arguments.held),
        *(line for name in VERSION.clips for line in clip_lines(name, arguments.held)),
        *pipeline_lines(arguments.seeds),
    ]
    RESULTS.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
