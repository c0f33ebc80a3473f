"""`python -m training.evaluate`: measure the shipped model and write `training/RESULTS.md`.

* Autoencoder: PSNR and edge width on held-out compositions.
* Judge and clip: nouns among all and colors among 12, on held-out real compositions.
* Pipeline, 25 steps, eta 1, guidance 3: captions with a named background. The color is right when the median pixel
  of the image's border is nearest to the named one of the 12 colors. The noun is right when the judge prefers it
  to 31 others, drawn at random from the rest. The ten nouns it misses most are named, and drawn in
  `.training/worst.png`, a row each.

Shares come with Wilson's 95 % interval; means with 1.96 standard errors. The interval of a share drawn is
that of independent images.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from training import autoencoder, clip, denoiser, glyphs, language, sharpness
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


def mean(values: Tensor, unit: str) -> str:
    """A mean in words: `24.58 +- 0.16 dB (n = 1024)`."""
    half = 1.96 * values.std() / math.sqrt(len(values))
    return f"{values.mean():.2f} +- {half:.2f} {unit} (n = {len(values)})"


def backgrounds(images: Tensor) -> list[str]:
    """The name of the color nearest to the median border pixel of each image (N, 3, H, W) in [-1, 1]."""
    edges = [images[..., 0, :], images[..., -1, :], images[..., 1:-1, 0], images[..., 1:-1, -1]]
    border = torch.cat(edges, -1).median(-1).values.add(1).mul(127.5)
    table = torch.tensor([COLORS[color] for color in _COLORS]).float()
    return [_COLORS[n] for n in torch.cdist(border, table).argmin(1).tolist()]


def judge_nouns(images: Tensor, nouns: list[str], among: int = 32) -> list[bool]:
    """Whether the judge prefers the right noun to the others."""
    model, words = clip.load_shipped("judge"), language.tokenizer()
    seen = clip.embed_images(model, images)
    names = clip.embed_texts(model, language.tokens([caption(noun) for noun in clip.ALL], words))
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
    expected = [(noun, _COLORS[(n + 5 * seed) % 12]) for seed in range(seeds) for n, noun in enumerate(nouns)]
    images = denoiser.draw(pipe, [caption(*pair) for pair in expected], seed=10_000, steps=25)
    glyphs.sheet(images[: len(nouns)], 8).save(WORK / "contact.png")
    colors = sum(seen == color for seen, (_, color) in zip(backgrounds(images), expected, strict=True))
    verdicts = judge_nouns(images, [noun for noun, _ in expected])
    rows = {noun: [n for n, (other, _) in enumerate(expected) if other == noun] for noun in nouns}
    right = {noun: sum(verdicts[n] for n in drawn) for noun, drawn in rows.items()}
    worst = sorted(nouns, key=lambda noun: right[noun])[:10]
    missed = ", ".join(f"{noun} {right[noun]}" for noun in worst if right[noun] < seeds)
    glyphs.sheet(images[[n for noun in worst for n in rows[noun]]], seeds).save(WORK / "worst.png")
    return [
        f"| pipeline, named background right | {share(colors, len(expected))} | 99 % |",
        f"| pipeline, right noun of 32 by the judge | {share(sum(verdicts), len(expected))} | 97 % |",
        "",
        f"The nouns that the judge misses most, with how many of {seeds} it finds: {missed}."
        if missed
        else f"The judge finds every noun in all of its {seeds} images.",
    ]


def autoencoder_lines(count: int) -> list[str]:
    """PSNR and edge width of the shipped autoencoder."""
    pipe = StableDiffusionPipeline.from_pretrained(PACKAGE / "model", local_files_only=True)
    values, widths, goals = [], [], []
    for first in range(0, count, 64):
        pixels, _ = glyphs.batch("heldout", first, 64, autoencoder.ALL)
        decoded = pipe.vae.decode(pipe.vae.encode(pixels).latent_dist.mean).sample
        values.append(autoencoder.psnr(decoded, pixels))
        widths.append(sharpness.edge_width(decoded))
        goals.append(sharpness.edge_width(pixels))
    goal = torch.cat(goals).mean()
    return [
        f"| autoencoder, PSNR on held-out compositions | {mean(torch.cat(values), 'dB')} | 24 dB |",
        f"| autoencoder, edge width on the same | {mean(torch.cat(widths), 'pixels')} | {goal:.2f} in real ones |",
    ]


def clip_lines(name: str, count: int) -> list[str]:
    """Nouns and colors of one CLIP model, on real images."""
    pixels, scenes = glyphs.batch("heldout", 0, count, clip.ALL)
    nouns, colors = clip.accuracy(clip.load_shipped(name), pixels, scenes)
    known = len(clip.ALL)
    return [
        f"| {name}, noun of {known}, held-out real compositions | {share(round(nouns * count), count)} | 97 % |",
        f"| {name}, color of 12, held-out real compositions | {share(round(colors * count), count)} | 99 % |",
    ]


@torch.no_grad()
def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=4, help="images of each noun")
    parser.add_argument("--held", type=int, default=1024, help="held-out compositions")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    lines = [
        f"# stickers {VERSION.name}: measured by `python -m training.evaluate`",
        "",
        "| what | measured (95 % interval) | goal |",
        "|---|---|---|",
        *autoencoder_lines(arguments.held),
        *(line for name in VERSION.clips for line in clip_lines(name, arguments.held)),
        *pipeline_lines(arguments.seeds),
    ]
    RESULTS.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
