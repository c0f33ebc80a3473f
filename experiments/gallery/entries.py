"""What is in the gallery: for each entry the commands, how it is drawn, and what to know about it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from experiments.gallery import draw

__all__ = ["ENTRIES", "Entry", "Run"]

HERE = "experiments/gallery"
OTHERS = "Other models"


@dataclasses.dataclass(frozen=True)
class Run:
    """One command.

    Arguments:
        name: of its run directory.
        line: the command, without `--out`.
        label: above its image and in the table; default: what the row of the table says anyway.
    """

    name: str
    line: str
    label: str = ""


@dataclasses.dataclass(frozen=True)
class Entry:
    """One image of the gallery.

    Arguments:
        name: of its files.
        title: of its section.
        text: what to see in it.
        runs: the commands.
        draw: makes the image from the run directories.
        unit: what the reward is counted in, for the head of the table.
        model: the model that the user has to name, in the commands as `{model}`.
        group: the heading that it is under.
    """

    name: str
    title: str
    text: str
    runs: tuple[Run, ...]
    draw: Callable[[list[tuple[str, Path]]], Image.Image] = draw.strips
    unit: str = "reward"
    model: str = ""
    group: str = "The built-in model"


FEW = "--num-inference-steps 10"
SAME_COST = f'noiseward align "an umbrella" --reward colorfulness {FEW} --nfe 400 --seed 0'
METHODS = ("best-of-n", "trust-region", "ntrk", "dno", "auto")
LEMON = f'noiseward align "a lemon" --reward darkness {FEW} --steps 15 --seed 0'
UNGUARDED = f"{LEMON} --method dno:lr=0.3,guard=none"

ENTRIES = (
    Entry(
        "rabbit",
        "A darker rabbit",
        "`auto`, the default method, and nothing else set. It starts from the image of seed 0, finds a darker one "
        "among nine samples, and refines it.",
        (Run("rabbit", 'noiseward align "a rabbit" --reward darkness --steps 30 --seed 0'),),
    ),
    Entry(
        "parrot",
        "A more colorful parrot",
        "The same with `colorfulness`, which rewards colors that differ.",
        (Run("parrot", 'noiseward align "a parrot" --reward colorfulness --steps 30 --seed 0'),),
    ),
    Entry(
        "hedgehog",
        "A reward without a gradient: the smallest JPEG",
        "`jpeg` is minus the size of the image as a JPEG file, in kB. It is a black box, so `auto` searches: trust "
        "regions around the best noise so far. An image with less detail takes fewer bytes.",
        (Run("hedgehog", f'noiseward align "a hedgehog" --reward jpeg {FEW} --nfe 600 --seed 0'),),
        unit="jpeg",
    ),
    Entry(
        "methods",
        "Five methods with the same budget",
        "The same start, and a budget of 400 denoiser calls each, where a backward pass counts 2; a step that begins "
        "within it is finished. [Choosing a method](how-to-choose.md) has measurements over many prompts; this is one.",
        tuple(Run(f"methods-{method}", f"{SAME_COST} --method {method}", method) for method in METHODS),
        draw=draw.ends,
    ),
    Entry(
        "lemon",
        "A failure, and two ways to prevent it",
        "**The first line is a failure.** With `guard=none` and a high rate nothing keeps the image plausible: the "
        "reward rises, and the lemon dissolves. This is reward hacking; the strict test of the noise says so. The "
        "second line requires that the image still fits its prompt (`--require`). The third is the default, whose "
        "tests refuse what the model would hardly have made. Here it even scores higher, since it starts from the "
        "darkest of nine samples.",
        (
            Run("lemon-none", UNGUARDED, "guard=none: reward hacking"),
            Run("lemon-require", f"{UNGUARDED} --require 'clip>=0.4'", "guard=none, with clip>=0.4 required"),
            Run("lemon-auto", LEMON, "the default"),
        ),
    ),
    Entry(
        "faces",
        "A greener face",
        "A DDPM of anime faces, 63 million parameters, 64 x 64 pixels, without prompts: Jerry Wang's "
        "[diffusion_model](https://github.com/wangjia184/diffusion_model) (MIT), as a diffusers pipeline that a file "
        "of your own makes. Neither its code nor its weights are part of this project. The reward is how much greener "
        "than red and blue the image is, and a row ends where it reaches 0.1 (`--target`). The first start is one of "
        "the samples in which the model draws no face. In the first three columns `auto` continues from another of its "
        "nine samples. In the second column the best is a face under a wash of yellow. **The third has lost its "
        "eyes**, and both tests let it pass: tests cannot judge taste, so look at the images on the way. The fourth "
        "was green from the start, and is left alone.",
        (
            Run(
                "faces",
                f"noiseward align --model {{model}} --reward {HERE}/rewards.py:greenness {FEW} --eta 1 --nfe 500 "
                "--batch 4 --seed 0 --target 0.1",
            ),
        ),
        draw=draw.pairs,
        unit="greenness",
        model="faces",
        group=OTHERS,
    ),
    Entry(
        "digits",
        "Become an 8",
        "A diffusion model of handwritten digits (the 1797 of scikit-learn, 8 x 8 pixels), which the script trains "
        "itself; MNIST is not used. It has no prompt and no classes: only the reward, a small classifier's "
        "probability of an 8, says what to draw. Ten seeds, 0 to 9. A second classifier, which is not optimized, is "
        "watched: both are sure of every best. To the eye, some are more of an X.",
        (
            Run(
                "digits",
                f"noiseward align --model {HERE}/digits.py:make_sampler --reward {HERE}/digits.py:eight "
                f"--watch {HERE}/digits.py:eight_by_another --batch 10 --steps 20 --seed 0",
            ),
        ),
        draw=draw.before_after,
        unit="probability of an 8",
        group=OTHERS,
    ),
    Entry(
        "terrain",
        "Terrain with a basin, from an ONNX file",
        "A published one-step generator of height maps in ONNX "
        "([adaptive-terrain-diffusion](https://pypi.org/project/adaptive-terrain-diffusion/), MIT). onnxruntime runs "
        "it, so there is no gradient at all, and the method searches. The reward is how much lower the middle is than "
        "the border, in standard deviations of the map. Colors and shading are added for this page: "
        "blue is below the median of each map.",
        (
            Run(
                "terrain",
                f"noiseward align --model {HERE}/terrain.py:make_sampler --reward {HERE}/terrain.py:basin "
                "--method trust-region --nfe 150 --seed 0",
            ),
        ),
        draw=draw.terrain,
        unit="depth of the basin",
        group=OTHERS,
    ),
    Entry(
        "tone",
        "A brighter tone",
        "Sound: a small model, which the script trains itself, draws the settings of a synthesizer (pitch, eight "
        "partials, decay), and a sample is one second of sound. The reward is the centroid of its spectrum, in kHz; "
        "the image shows pitch over time, brighter is louder. Listen: [start](sounds/gallery-tone-before.wav), "
        "[best](sounds/gallery-tone-after.wav).",
        (
            Run(
                "tone",
                f"noiseward align --model {HERE}/tones.py:make_sampler --reward {HERE}/tones.py:brightness "
                "--method auto:keep_seed=true --steps 30 --seed 0",
            ),
        ),
        draw=draw.tone,
        unit="centroid in kHz",
        group=OTHERS,
    ),
)
