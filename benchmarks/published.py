r"""The published implementation's procedure as a plain loop, to be timed against ours.

It is what the script for Stable Diffusion does in a step (Tang et al., github.com/TZW1998/Direct-Noise-Optimization):
DDIM written out on precomputed coefficients, torch's non-reentrant checkpoint around every call of the denoiser, the
latent decoded after every sampler step, and the penalty of 100 random orders of the noise, one order after another. Its
SDXL script leaves out the decoding, and the checkpoint there is of the reentrant kind that cuts the denoiser off; here
it is mended, so that both compute the same gradient. Half precision with loss scaling is left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

__all__ = ["Published"]

BLOCK, ORDERS = 4, 100


class Published:
    """One image's noise, optimized as published.

    Arguments:
        pipe: a Stable Diffusion or SDXL pipeline with a DDIM scheduler; its parameters are frozen.
        reward: of images `(1, 3, H, W)` in [0, 1].
        steps: sampler steps N.
        size: of the latent, height and width.
        decode_each: decode after every sampler step, as the script for Stable Diffusion does.
        penalty: add the penalty.
    """

    def __init__(
        self,
        pipe: Any,
        reward: Callable[[Tensor], Tensor],
        *,
        steps: int,
        size: tuple[int, int],
        prompt: str = "a",
        guidance: float = 5.0,
        eta: float = 1.0,
        decode_each: bool = True,
        penalty: bool = True,
    ) -> None:
        self.pipe, self.reward, self.guidance = pipe, reward, guidance
        self.decode_each, self.penalty = decode_each, penalty
        self.device, self.dtype = pipe.unet.device, pipe.unet.dtype
        with torch.no_grad():
            self.conditions = _conditions(pipe, prompt, size, self.device, self.dtype)
        scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config)
        scheduler.set_timesteps(steps)
        self.plan = [_coefficients(scheduler, int(t), eta) for t in scheduler.timesteps]
        self.optimizer: torch.optim.Optimizer | None = None

    def __call__(self, noise: Tensor) -> Tensor:
        """The image `(1, 3, H, W)` of noise `(N + 1, 4, h, w)`: the start, then every step's."""
        x = noise[:1]
        for draw, (t, keep, remove, sigma) in zip(noise[1:], self.plan, strict=True):

            def predict(x: Tensor, t: int = t) -> Tensor:
                both = torch.cat([x, x]).to(self.dtype)
                return self.pipe.unet(both, t, **self.conditions).sample

            without, with_text = checkpoint(predict, x, use_reentrant=False).float().chunk(2)
            x = keep * x + remove * (without + self.guidance * (with_text - without)) + sigma * draw
            if self.decode_each:
                with torch.no_grad():
                    self.decode(x).cpu()
        return self.decode(x)

    def decode(self, x: Tensor) -> Tensor:
        vae = self.pipe.vae
        return (vae.decode((x / vae.config.scaling_factor).to(vae.dtype)).sample.float() / 2 + 0.5).clamp(0, 1)

    def step(self, noise: Tensor) -> None:
        """One step of AdamW on a leaf of noise, in place."""
        if self.optimizer is None:
            self.optimizer = torch.optim.AdamW([noise], lr=0.01)
        self.optimizer.zero_grad()
        loss = -self.reward(self(noise)).sum()
        if self.penalty:
            loss = loss + penalty(noise.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_([noise], 1.0)
        self.optimizer.step()


def penalty(noise: Tensor) -> Tensor:
    """The penalty of noise in its own and in random orders, one after another."""
    count = len(noise) // BLOCK
    total = torch.zeros((), device=noise.device)
    for order in range(1 + ORDERS):
        permutation = torch.randperm(len(noise)).to(noise.device)
        blocks = (noise[permutation] if order else noise).view(count, BLOCK)
        far = blocks.mean(0).norm()
        spread = torch.linalg.matrix_norm(blocks.T @ blocks / count - torch.eye(BLOCK, device=noise.device), ord=2)
        excess = ((1 + spread).sqrt() - 1 - math.sqrt(BLOCK / count)).clamp(min=0)
        logs = (-count / (2 * BLOCK) * far**2).clamp(max=-math.log(2)) + (-count / 2 * excess**2).clamp(
            max=-math.log(2)
        )
        total = total - logs / (ORDERS if order else 1)
    return total


def _coefficients(scheduler: Any, t: int, eta: float) -> tuple[int, float, float, float]:
    """DDIM's step from timestep t: what is kept, removed, and added as noise."""
    before = t - scheduler.config.num_train_timesteps // scheduler.num_inference_steps
    now = float(scheduler.alphas_cumprod[t])
    after = float(scheduler.alphas_cumprod[before] if before >= 0 else scheduler.final_alpha_cumprod)
    sigma = eta * math.sqrt((1 - after) / (1 - now)) * math.sqrt(1 - now / after)
    keep = math.sqrt(after / now)
    return t, keep, math.sqrt(1 - after - sigma**2) - keep * math.sqrt(1 - now), sigma


def _conditions(pipe: Any, prompt: str, size: tuple[int, int], device: Any, dtype: Any) -> dict[str, Any]:
    """What the denoiser gets in addition to latents and time, for the empty prompt and for the prompt."""
    found = pipe.encode_prompt(prompt, device=device, num_images_per_prompt=1, do_classifier_free_guidance=True)
    words = torch.cat([found[1], found[0]]).to(dtype)
    if len(found) == 2:
        return {"encoder_hidden_states": words}
    pixels = tuple(pipe.vae_scale_factor * side for side in size)
    ids = torch.tensor([[*pixels, 0, 0, *pixels]] * 2, device=device, dtype=dtype)
    pooled = torch.cat([found[3], found[2]]).to(dtype)
    return {"encoder_hidden_states": words, "added_cond_kwargs": {"text_embeds": pooled, "time_ids": ids}}
