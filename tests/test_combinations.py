"""What is driven in a way of its own, with weights that are away and with another decoder: the same gradients."""

from __future__ import annotations

import contextlib
from unittest import mock

import pytest
import torch

from noiseward import DiffusersSampler
from tests import offloading
from tests.away import Depot, poison
from tests.catalog import CASES
from tests.test_tiny_files import flux2, save


@contextlib.contextmanager
def poison_but(kept):
    """Weights that are away are NaN, but for those that a pipeline reads itself, on whatever device they are."""
    store, names = Depot.store, {id(tensor) for tensor in kept}
    with mock.patch.object(Depot, "store", lambda self, all: store(self, [one for one in all if id(one) not in names])):
        with poison():
            yield


def gradient(pipe, case, mode, decoder):
    sampler = DiffusersSampler(pipe, memory=mode, decoder=decoder, **case.call)
    prompt = case.prompts and case.prompts[0]
    sampler.expect(prompt)
    noise = sampler.init(1, seed=3).requires_grad_()
    sample = sampler(noise, prompt)
    return sample.detach(), torch.autograd.grad(sample.sin().mean(), noise)[0]


@pytest.mark.filterwarnings("ignore:The decode_latents method is deprecated:FutureWarning")  # diffusers' own doing
@pytest.mark.parametrize(
    ("name", "setting", "mode", "decoder"),
    [
        ("HiDreamImagePipeline", offloading.offload_leaves, "low", None),  # experts, brought in one at a time
        ("HiDreamImagePipeline", offloading.offload_blocks, "balanced", None),
        ("Kandinsky5T2VPipeline", offloading.take_turns, "fast", None),  # copies of inputs
        ("StableDiffusionAdapterPipeline", offloading.offload_in_sequence, "low", "half"),  # arrays as tensors
        ("Flux2KleinPipeline", offloading.take_turns, "low", "file"),
        ("Flux2KleinPipeline", offloading.offload_leaves, "balanced", "file"),
        ("Flux2KleinPipeline", offloading.offload_in_sequence, "fast", "half"),
    ],
)
def test_gradients_are_those_of_weights_that_stay(name, setting, mode, decoder, tmp_path):
    case, build = CASES[name], flux2 if name.startswith("Flux2") else CASES[name].build
    decoder = str(save(tmp_path / "taef2_decoder.pth", pool=True)) if decoder == "file" else decoder
    right, pipe = gradient(build(), case, "fast", decoder), build()
    kept = [*pipe.vae.bn.buffers()] if hasattr(pipe.vae, "bn") else []
    with poison_but(kept):
        setting(pipe)
        found = gradient(pipe, case, mode, decoder)
    for one, other in zip(found, right, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5 * other.abs().max().item())
