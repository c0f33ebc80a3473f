"""Tiny decoders in their author's own files: read from the weights alone, and right for the latents they are for."""

import os
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderTiny
from torch.nn import functional as F

from noiseward import ArgumentError, DiffusersSampler, ModelError
from noiseward.pipelines.decoders import open_decoder
from noiseward.pipelines.tiny import read_tiny
from tests.catalog import CASES
from tests.tiny import CALL, stable_diffusion

PUBLISHED = os.environ.get("NOISEWARD_TAEF2", "")  # taef2_decoder.pth


def save(path: Path, channels: int = 4, *, pool: bool = False) -> Path:
    """A file as TAESD's author writes them, of a decoder to twice the size."""
    torch.manual_seed(3)
    made = AutoencoderTiny(
        latent_channels=channels, encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1),
    )  # fmt: skip
    state = {}
    for name, weight in made.decoder.layers.state_dict().items():
        place, _, rest = name.partition(".")
        state[f"{int(place) + 1}.{rest}"] = weight
    if pool:
        state |= {
            "3.pool.0.weight": torch.randn(16, 8, 1, 1) / 4, "3.pool.1.weight": torch.rand(16) + 0.5,
            "3.pool.1.bias": torch.randn(16) / 4, "3.pool.3.weight": torch.randn(8, 16, 1, 1) / 4,
        }  # fmt: skip
    torch.save(state, path)
    return path


def test_a_file_without_pools_is_the_decoder_of_diffusers(tmp_path):
    decoder, latent = read_tiny(save(tmp_path / "taesd_decoder.pth"), torch.float32), torch.randn(2, 4, 6, 5)
    torch.manual_seed(3)
    twin = AutoencoderTiny(
        latent_channels=4, encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1),
    )  # fmt: skip
    torch.testing.assert_close(decoder.decode(latent).sample, twin.decode(latent).sample)
    assert decoder.config.latent_channels == 4


def test_a_pool_is_added_before_its_block(tmp_path):
    path = save(tmp_path / "taef2_decoder.pth", pool=True)
    state, decoder, x = torch.load(path, weights_only=True), read_tiny(path, torch.float32), torch.randn(1, 8, 4, 4)
    grown = F.conv2d(x, state["3.pool.0.weight"])
    normal = F.group_norm(grown, 4, state["3.pool.1.weight"], state["3.pool.1.bias"])
    y = x + F.conv2d(normal.relu(), state["3.pool.3.weight"])
    z = y
    for k in (0, 2, 4):
        z = F.conv2d(z, state[f"3.conv.{k}.weight"], state[f"3.conv.{k}.bias"], padding=1)
        z = z.relu() if k < 4 else z
    torch.testing.assert_close(decoder.layers[3](x), (z + y).relu())


def test_safetensors_and_another_precision(tmp_path):
    from safetensors.torch import save_file

    path = save(tmp_path / "a.pth", pool=True)
    save_file(torch.load(path, weights_only=True), tmp_path / "a.safetensors")
    one, other = (read_tiny(tmp_path / f"a.{kind}", torch.float64) for kind in ("pth", "safetensors"))
    latent = torch.randn(1, 4, 4, 4, dtype=torch.float64)
    assert torch.equal(one(latent), other(latent)) and one.dtype == torch.float64


def test_latents_of_stable_diffusion_are_scaled_for_it(tmp_path):
    pipe, path, latent = stable_diffusion(), save(tmp_path / "taesd_decoder.pth"), torch.randn(1, 4, 8, 8)
    latent.requires_grad_()
    image = open_decoder(path, pipe).around(pipe.vae, pipe.vae.decode)(latent).sample
    (found,) = torch.autograd.grad(image.sum(), latent)
    given = latent * pipe.vae.config.scaling_factor
    (right,) = torch.autograd.grad(read_tiny(path, torch.float32)(given).sum(), latent)
    torch.testing.assert_close(found, right)


def flux2():
    pipe = CASES["Flux2KleinPipeline"].build()
    pipe.vae.bn.running_mean.copy_(torch.linspace(-1, 1, 16))
    pipe.vae.bn.running_var.copy_(torch.linspace(0.5, 2, 16))
    return pipe


def test_latents_of_flux_2_are_given_as_the_denoiser_has_them(tmp_path):
    pipe, path = flux2(), save(tmp_path / "taef2_decoder.pth", pool=True)
    unit = torch.randn(1, 16, 4, 4, requires_grad=True)  # patches of 2 x 2, in unit variance
    std = (pipe.vae.bn.running_var + pipe.vae.config.batch_norm_eps).sqrt().view(1, -1, 1, 1)
    latent = type(pipe)._unpatchify_latents(unit * std + pipe.vae.bn.running_mean.view(1, -1, 1, 1))
    image = open_decoder(path, pipe).around(pipe.vae, pipe.vae.decode)(latent).sample
    (found,) = torch.autograd.grad(image.sum(), unit)
    (right,) = torch.autograd.grad(read_tiny(path, torch.float32)(type(pipe)._unpatchify_latents(unit)).sum(), unit)
    torch.testing.assert_close(found, right)


@pytest.mark.parametrize("memory", ["fast", "low"])
def test_a_run_of_flux_2_shows_its_own_images(memory, tmp_path):
    case, path = CASES["Flux2KleinPipeline"], str(save(tmp_path / "taef2_decoder.pth", pool=True))
    own = DiffusersSampler(flux2(), memory=memory, **case.call)
    other = DiffusersSampler(flux2(), memory=memory, decoder=path, **case.call)
    noise = own.init(1, seed=0).requires_grad_()
    images = [sampler(noise, "a") for sampler in (own, other)]
    assert torch.equal(*images)
    slopes = [torch.autograd.grad(each.sum(), noise)[0] for each in images]
    assert all(each.isfinite().all() and each.any() for each in slopes) and not torch.allclose(*slopes)


def test_tiny_for_flux_2_says_which_file_to_get():
    with pytest.raises(ArgumentError, match=r"give the file taef2_decoder\.pth of .* by its path, or half"):
        DiffusersSampler(flux2(), decoder="tiny", **CASES["Flux2KleinPipeline"].call)


@pytest.mark.parametrize(
    ("write", "says"),
    [
        (lambda path: torch.save({"0.weight": torch.zeros(8, 3, 3, 3)}, path), "holds an encoder: expected a tiny"),
        (lambda path: torch.save({"vae.weight": torch.zeros(3)}, path), "holds another model"),
        (lambda path: torch.save([torch.zeros(3)], path), "cannot be loaded"),
        (lambda path: path.write_bytes(b"no weights"), "cannot be loaded, a file is missing or damaged"),
        (lambda path: save(path, channels=8), "expected a decoder of latents with 4 channels"),
        (
            lambda path: torch.save({f"{k}.weight": torch.zeros(8, 4, 3, 3) for k in ("1", "3.conv.0")}, path),
            "does not fit a tiny decoder: ",
        ),
    ],
    ids=["encoder", "another", "list", "bytes", "channels", "missing"],
)  # fmt: skip
def test_what_is_no_tiny_decoder_is_one_line(write, says, tmp_path):
    write(tmp_path / "taef2_decoder.pth")
    with pytest.raises(ModelError, match=says) as caught:
        DiffusersSampler(stable_diffusion(), decoder=str(tmp_path / "taef2_decoder.pth"), **CALL)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not PUBLISHED, reason="NOISEWARD_TAEF2 names no file")
def test_the_published_file_decodes_latents_of_flux_2():
    decoder = read_tiny(Path(PUBLISHED), torch.float32)
    assert decoder.config.latent_channels == 32
    latent = torch.randn(1, 32, 4, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    image = decoder.decode(latent).sample
    (slope,) = torch.autograd.grad(image.square().sum(), latent)
    assert image.shape == (1, 3, 32, 32) and slope.isfinite().all() and slope.abs().min() > 0
    black = decoder.decode(torch.zeros(1, 32, 4, 4)).sample
    assert black.min() > -1.3 and black.max() < 1.3  # an image, or close to one
