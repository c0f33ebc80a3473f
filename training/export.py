"""Write what was trained to `src/noiseward/stickers/`: the pipeline, the words, the tiny
autoencoder, and the CLIPs that are good enough.

The pipeline is float32. The CLIPs are stored in half precision, each a `CLIPModel` folder of its own with
the pipeline's tokenizer and an image processor that maps [0, 1] to [-1, 1].
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from transformers import CLIPImageProcessorPil

from training import clip, denoiser, language, latents, loop, tiny
from training.settings import CLIPS, PACKAGE, VERSION
from training.words import COLORS


def size(folder: Path) -> float:
    """Megabytes of a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6


def export_pipeline() -> None:
    """The pipeline and `words.json`, from the averaged weights."""
    parts = denoiser.networks().eval()
    parts.load_state_dict(loop.load_averaged("denoiser"))
    fresh = PACKAGE / "model.partial"
    shutil.rmtree(fresh, ignore_errors=True)
    denoiser.pipeline(parts).save_pretrained(fresh, safe_serialization=True)
    shutil.rmtree(PACKAGE / "model", ignore_errors=True)
    fresh.rename(PACKAGE / "model")
    words = {"version": VERSION.name, "nouns": latents.nouns(), "colors": tuple(COLORS)}
    (PACKAGE / "words.json").write_text(json.dumps(words, indent=1) + "\n", encoding="utf-8")
    print(f"export: {PACKAGE / 'model'}, {size(PACKAGE / 'model'):.1f} MB", flush=True)


def export_clip(name: str) -> None:
    """One CLIP model, half precision on disk."""
    model = clip.build(CLIPS[name])
    model.load_state_dict(loop.load_averaged(name))
    folder = PACKAGE / name
    model.to(torch.float16).save_pretrained(folder)
    language.tokenizer().save_pretrained(folder)
    half = [0.5, 0.5, 0.5]
    sides = {"height": 64, "width": 64}
    CLIPImageProcessorPil(size=sides, crop_size=sides, image_mean=half, image_std=half).save_pretrained(folder)
    print(f"export: {folder}, {size(folder):.1f} MB", flush=True)


def export_tiny() -> None:
    """The tiny autoencoder."""
    model = tiny.build()
    model.load_state_dict(loop.load_averaged("tiny"))
    folder = PACKAGE / "tiny"
    model.save_pretrained(folder, safe_serialization=True)
    print(f"export: {folder}, {size(folder):.1f} MB", flush=True)


def export() -> None:
    """The stage `export`."""
    export_pipeline()
    export_tiny()
    for name in VERSION.clips:
        export_clip(name)
    for file in PACKAGE.rglob("*"):
        if file.is_file():
            file.chmod(0o644)  # safetensors writes files that nobody else may read, and a wheel keeps that
