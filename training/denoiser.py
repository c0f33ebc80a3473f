"""The denoiser: a U-Net on 8 x 8 latents, trained together with its text encoder.

With x_t = a_t x + s_t n it predicts v = a_t n - s_t x; the loss is the mean square error of v. The times of
a batch are stratified over the 1000 steps, and one caption in ten is emptied, for classifier-free guidance.
"""

from __future__ import annotations

import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor, nn
from torch.nn import functional as F

from training import glyphs, language, latents, loop, precision
from training.settings import DENOISER, LATENTS, TEXT, WORK
from training.words import COLORS, caption


def scheduler() -> DDIMScheduler:
    """The noise schedule."""
    return DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.02,
        num_train_timesteps=1000,
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,  # what the pipeline asks for; trailing spacing does not use it
        prediction_type="v_prediction",
        timestep_spacing="trailing",
    )


def build() -> UNet2DConditionModel:
    """The untrained denoiser."""
    torch.manual_seed(3)
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=8,
        out_channels=8,
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        block_out_channels=(96, 128),
        layers_per_block=1,
        cross_attention_dim=TEXT.width,
        attention_head_dim=4,
        norm_num_groups=16,
    )


def networks() -> nn.ModuleDict:
    """What is trained: `unet` and `text`."""
    return nn.ModuleDict({"unet": build(), "text": language.encoder(language.tokenizer())})


def pipeline(parts: nn.ModuleDict) -> StableDiffusionPipeline:
    """The pipeline of these networks and the best decoder there is."""
    pipe = StableDiffusionPipeline(
        vae=latents.load_frozen(),
        text_encoder=parts["text"],
        tokenizer=language.tokenizer(),
        unet=parts["unet"],
        scheduler=scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(pipe: StableDiffusionPipeline, captions: list[str], seed: int, steps: int = 20) -> Tensor:
    """One image for each caption, (N, 3, 64, 64) in [-1, 1]."""
    drawn = []
    for first in range(0, len(captions), 32):
        part = captions[first : first + 32]
        generators = [torch.Generator().manual_seed(seed + first + n) for n in range(len(part))]
        images = pipe(
            part, num_inference_steps=steps, guidance_scale=3.0, eta=1.0, generator=generators, output_type="pt"
        ).images
        drawn.append(images.clamp(0, 1) * 2 - 1)
    return torch.cat(drawn)


def contact(count: int) -> list[str]:
    """Captions of a contact sheet: the nouns in order, every second one with a named background."""
    nouns, colors = latents.nouns(), tuple(COLORS)
    return [caption(nouns[n % len(nouns)], colors[n // 2 * 5 % len(colors)] if n % 2 else None) for n in range(count)]


def train() -> None:
    """The stage `denoiser`."""
    parts, words, cache = networks(), language.tokenizer(), latents.Cache()
    levels = scheduler().alphas_cumprod
    ids: dict[str, Tensor] = {}
    size, count = LATENTS.chunk * LATENTS.chunks, DENOISER.batch

    def loss(step: int) -> Tensor:
        generator = torch.Generator().manual_seed(step)
        clean, scenes = cache.batch(torch.randint(size, (count,), generator=generator).tolist())
        noise = torch.randn(clean.shape, generator=generator)
        times = (torch.arange(count) + torch.rand(count, generator=generator)) * (1000 / count)
        times = times.long().clamp(max=999)
        empty = (torch.rand(count, generator=generator) < 0.1).tolist()
        texts = ["" if blank else scene.caption for blank, scene in zip(empty, scenes, strict=True)]
        for text in texts:
            if text not in ids:
                ids[text] = language.tokens([text], words)[0]
        signal = levels[times].sqrt()[:, None, None, None]
        spread = (1 - levels[times]).sqrt()[:, None, None, None]
        with precision.half(DENOISER.half):
            states = parts["text"](torch.stack([ids[text] for text in texts])).last_hidden_state
            guess = parts["unet"](signal * clean + spread * noise, times, states).sample
        return F.mse_loss(guess.float(), signal * noise - spread * clean)

    def sample() -> str:
        captions = contact(len(latents.nouns()))
        glyphs.sheet(draw(pipeline(parts), captions, seed=100), 13).save(WORK / "denoiser-samples.png")
        return "sampled"

    loop.Trainer("denoiser", parts, DENOISER, loss, sample).run()
