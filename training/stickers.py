"""`python -m training.stickers --stage STAGE`: train the built-in model, stage by stage.

warm           only if asked for: frozen and denoiser begin as the shipped weights, not from nothing
data           sample images of the training data
autoencoder    both halves; then the encoder is frozen
latents        encode the denoiser's images
denoiser       the U-Net and its text encoder, on latents of the frozen encoder
judge, clip    the two CLIP models; they need images only
decoder        the decoder continues against the frozen encoder; needs latents, and clip for its features
tiny           a tiny autoencoder for the same latents, which imitates the decoder
export         weights into `src/noiseward/stickers/`

Every stage resumes from its checkpoint in `.training/checkpoints/`. `training/settings.py` holds all the
numbers.
"""

from __future__ import annotations

import argparse
import os

import torch

STAGES = ("warm", "data", "autoencoder", "latents", "denoiser", "judge", "clip", "decoder", "tiny", "export")


def run(stage: str) -> None:
    """Run one stage."""
    from training import autoencoder, clip, decoder, denoiser, export, glyphs, latents, tiny, warm
    from training.settings import WORK

    WORK.mkdir(exist_ok=True)
    if stage == "warm":
        warm.begin()
    elif stage == "data":
        pixels, scenes = glyphs.batch("heldout", 0, 64, autoencoder.ALL)
        glyphs.sheet(pixels, 8).save(WORK / "data-samples.png")
        print("\n".join(scene.caption for scene in scenes))
    elif stage == "autoencoder":
        autoencoder.train()
        if os.environ.get("RANK", "0") == "0":
            latents.freeze()
    elif stage == "decoder":
        decoder.train()
    elif stage == "latents":
        latents.encode()
    elif stage == "denoiser":
        denoiser.train()
    elif stage in ("judge", "clip"):
        clip.train(stage)
    elif stage == "tiny":
        tiny.train()
    else:
        export.export()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", required=True, choices=(*STAGES, "all"))
    stage = parser.parse_args().stage
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    for name in STAGES[1:] if stage == "all" else (stage,):
        run(name)


if __name__ == "__main__":
    main()
