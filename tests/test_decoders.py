"""Another decoder for gradients: the image, its reward and the start stay the pipeline's own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderTiny
from torch import nn

from noiseward import ArgumentError, DiffusersSampler, GradientError, ModelError, align, stickers
from noiseward.doctor import examine, verdict
from noiseward.errors import NoisewardWarning
from noiseward.options.run import Settings
from noiseward.pipelines.cards import find_decoder, load_decoders
from noiseward.pipelines.decoders import open_decoder
from noiseward.pipelines.load import load_pipeline
from noiseward.problem import prepare
from noiseward.runs import RunFolder
from noiseward.runs.replay import replay
from noiseward.toys import GaussianModel
from tests.families import flows, pixels, unets, video
from tests.tiny import CALL, stable_diffusion

SD = {**CALL, "num_inference_steps": 2, "eta": 1.0}
FLOW = {**CALL, "num_inference_steps": 2}
WEIGHTS = torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(0))


def tiny(channels=4):
    """Twice the size of its latents, as the autoencoders of the small pipelines."""
    torch.manual_seed(5)
    made = AutoencoderTiny(
        latent_channels=channels, encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1),
    ).eval()  # fmt: skip
    made.decoder.layers[-1].weight.data.mul_(0.1)
    made.decoder.layers[-1].bias.data.fill_(0.5)
    return made


def gray(pipe):
    """The pipeline with images near gray, so that no pixel is clamped."""
    pipe.vae.decoder.conv_out.weight.data.mul_(0.01)
    pipe.vae.decoder.conv_out.bias.data.zero_()
    return pipe


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny")
    tiny().save_pretrained(path)
    return str(path)


def gradient(sampler, noise):
    leaf = noise.clone().requires_grad_()
    sample = sampler(leaf, "a")
    return sample.detach(), torch.autograd.grad((sample * WEIGHTS).sum(), leaf)[0]


@pytest.mark.parametrize("mode", ["fast", "balanced", "low"])
@pytest.mark.parametrize(("build", "call"), [(stable_diffusion, SD), (flows.flux, FLOW)])
def test_images_are_the_pipelines_own_and_gradients_those_of_the_tiny_decoder(build, call, mode, folder):
    own = DiffusersSampler(gray(build()), memory=mode, **call)
    noise = own.init(2, seed=1)
    image, exact = gradient(own, noise)
    shown, found = gradient(DiffusersSampler(gray(build()), memory=mode, decoder=folder, **call), noise)
    assert torch.equal(shown, image)
    assert not torch.allclose(found, exact, rtol=0.1)
    swapped = build()  # a pipeline that decodes with it: of a linear reward, the gradient is the same
    swapped.vae = tiny()
    _, right = gradient(DiffusersSampler(swapped, memory=mode, **call), noise)
    torch.testing.assert_close(found, right, rtol=1e-4, atol=1e-5 * right.abs().max().item())


def test_statistics_of_channels_are_taken_out_for_it():
    pipe, latent = stable_diffusion(), torch.randn(1, 4, 8, 8, requires_grad=True)
    pipe.vae.register_to_config(latents_mean=[1.0, 2.0, 3.0, 4.0], latents_std=[0.5, 1.0, 2.0, 4.0])
    module = tiny()
    image = open_decoder(module, pipe).around(pipe.vae, pipe.vae.decode)(latent).sample
    (found,) = torch.autograd.grad(image.sum(), latent)
    mean, std = (torch.tensor(pipe.vae.config[f"latents_{name}"]).view(1, 4, 1, 1) for name in ("mean", "std"))
    unit = (latent - mean) * pipe.vae.config.scaling_factor / std
    (right,) = torch.autograd.grad(module.decode(unit).sample.sum(), latent)
    torch.testing.assert_close(found, right)


def test_a_run_is_scored_and_shown_by_the_pipelines_own_decoder(model, folder, tmp_path):
    how = {"steps": 3, "out": tmp_path / "run", "progress": False, "device": "cpu", "memory": "balanced"}
    solution = align(model, "a", "brightness", decoder=folder, method="dno:lr=0.05,guard=none", **how, **SD)
    images = DiffusersSampler(stable_diffusion(), **SD)(solution.noise, "a")
    assert torch.equal(solution.sample, images)
    torch.testing.assert_close(solution.reward, images.mean((1, 2, 3)))
    run = RunFolder(tmp_path / "run")
    assert run.spec().decoder == folder
    again = replay(RunFolder(tmp_path / "run"))
    assert torch.equal(again.sample, images)


def test_the_decoders_part_of_the_memory_is_that_of_the_tiny_one(folder):
    pipe = stable_diffusion()
    parts = [pipe.unet, pipe.vae, pipe.text_encoder]
    (step, rest), (same, less) = (
        DiffusersSampler(pipe, decoder=decoder, **SD)._inner.measure_memory("a", parts) for decoder in (None, folder)
    )
    assert same == step and less < 0.5 * rest


def test_half_size_and_modules_of_another_kind():
    class Mean(nn.Module):
        def forward(self, latent):
            return latent.mean(1, keepdim=True).expand(-1, 3, -1, -1)

    noise = DiffusersSampler(stable_diffusion(), **SD).init(1)
    image, exact = gradient(DiffusersSampler(stable_diffusion(), **SD), noise)
    for decoder, says in (("half", "its decoder at half size"), (Mean(), "a decoder of another kind (Mean)")):
        sampler = DiffusersSampler(stable_diffusion(), decoder=decoder, **SD)
        shown, found = gradient(sampler, noise)
        assert torch.equal(shown, image) and sampler.stand_in == says
        assert found.isfinite().all() and found.any() and not torch.equal(found, exact)
        assert sampler.with_call(eta=0.0).stand_in == says


def test_a_doctor_says_that_gradients_are_biased(folder):
    problem = prepare(
        stable_diffusion(), "a", lambda images: images.mean((1, 2, 3)), Settings(steps=0, decoder=folder, call=SD)
    )
    findings = list(examine(problem))
    (said,) = [finding for finding in findings if "go through a tiny decoder, and are biased" in finding.says]
    assert not said.must and verdict(findings).startswith("fit for noise optimization")


def note_source(asked, channels=4):
    """A stand-in for `from_pretrained` that notes what is asked for."""
    return lambda source, **_: asked.append(source) or (tiny(channels), {"missing_keys": []})


@pytest.mark.filterwarnings("ignore:.upcast_vae. is deprecated")
def test_a_bias_that_is_meant_is_not_blamed_on_the_pipeline(recwarn, capfd):
    pipe = unets.sdxl()
    pipe.vae.to(torch.float16).register_to_config(force_upcast=True)
    capfd.readouterr()
    sampler = DiffusersSampler(pipe, decoder="half", **SD)
    assert gradient(sampler, sampler.init(1, seed=3))[1].any()
    assert not [each for each in recwarn if each.category is NoisewardWarning]
    assert "float32" not in capfd.readouterr().err


@pytest.mark.parametrize("name", load_decoders())
def test_tiny_is_the_published_one_for_the_latents(name, monkeypatch):
    about, asked = load_decoders()[name], []
    pipe = stable_diffusion()
    pipe.vae.register_to_config(latent_channels=about["channels"], scaling_factor=about["scale"])
    if "widths" in about:
        pipe.vae.register_to_config(block_out_channels=about["widths"])
    monkeypatch.setattr(AutoencoderTiny, "from_pretrained", note_source(asked, about["channels"]))
    open_decoder("tiny", pipe)
    assert asked == [str(find_decoder(about))]


def test_tiny_for_the_built_in_model_comes_with_it_and_decodes_its_latents():
    pipe, seed = load_pipeline("stickers", device="cpu"), torch.Generator().manual_seed(0)
    latent = pipe(["a duck"] * 2, num_inference_steps=10, guidance_scale=3.0, generator=seed, output_type="latent")[0]
    own = pipe.vae.decode(latent)[0].detach()
    shown = open_decoder("tiny", pipe).around(pipe.vae, pipe.vae.decode)(latent.requires_grad_()).sample
    made = AutoencoderTiny.from_pretrained(stickers.path("tiny")).decode(latent).sample
    assert torch.equal(shown, own) and (made - own).abs().mean() < 0.2 * own.abs().mean()
    found, right = (torch.autograd.grad(image.sin().sum(), latent)[0] for image in (shown, made))
    assert torch.cosine_similarity(found.flatten(), right.flatten(), dim=0) > 0.95


def test_a_folder_of_another_model_is_one_line(tmp_path):
    pipe = stable_diffusion()
    pipe.vae.save_pretrained(tmp_path / "vae")
    tiny(8).save_pretrained(tmp_path / "eight")
    with pytest.raises(ModelError, match=r"expected an AutoencoderTiny for decoder .* without \d+ of its weights"):
        open_decoder(tmp_path / "vae", pipe)
    with pytest.raises(ModelError, match="latents with 4 channels, as StableDiffusionPipeline's have, got .* of 8"):
        open_decoder(tmp_path / "eight", pipe)


def test_a_name_wins_over_a_folder_of_that_name(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").symlink_to(folder)
    asked = []
    monkeypatch.setattr(AutoencoderTiny, "from_pretrained", note_source(asked))
    for decoder in ("tiny", "./tiny", Path("tiny")):
        open_decoder(decoder, stable_diffusion())
    assert asked == ["madebyollin/taesd", "./tiny", "tiny"]


def test_a_tiny_decoder_that_is_not_cached_is_one_line_that_says_how_to_fetch_it(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match=r"decoder 'tiny' is no folder here .*hf download madebyollin/taesd"):
        DiffusersSampler(stable_diffusion(), decoder="tiny", **SD)


def test_what_does_not_fit_is_one_line(folder, tmp_path):
    pipe = stable_diffusion()
    pipe.vae.register_to_config(scaling_factor=0.7)
    cases = [
        (pipe, "tiny", ArgumentError, "no tiny decoder is known for StableDiffusionPipeline's latents"),
        (pipe, 1, ArgumentError, "decoder must be tiny, half, a folder, a hub id or a module, got 1"),
        (pipe, pipe.vae, ArgumentError, "decoder= is StableDiffusionPipeline's own autoencoder; leave it out"),
        (pipe, "tinny", ArgumentError, "unknown decoder 'tinny': .*did you mean 'tiny'"),
        (pipe, str(tmp_path), ModelError, "cannot be loaded, a file is missing or damaged"),
        (pixels.ddpm(), folder, ArgumentError, "needs a pipeline with an autoencoder 'vae', got DDPMPipeline"),
    ]
    for built, decoder, kind, says in cases:
        with pytest.raises(kind, match=says) as caught:
            DiffusersSampler(built, decoder=decoder, num_inference_steps=2)
        assert "\n" not in str(caught.value)
    with pytest.raises(ArgumentError, match="decoder= is for pipelines, got a FunctionSampler"):
        prepare(GaussianModel().sampler(), None, lambda x: x.mean(1), Settings(steps=1, decoder="half"))
    for decoder in ("half", folder):
        with pytest.raises(ArgumentError, match="is for images, got the autoencoder of video AutoencoderKLLTXVideo"):
            DiffusersSampler(video.ltx(), decoder=decoder, num_inference_steps=1)
    wrong = DiffusersSampler(stable_diffusion(), decoder=nn.Identity(), **SD)
    with (
        pytest.warns(NoisewardWarning, match="its gradient fails"),
        pytest.raises(GradientError, match=r"expected a decoder of samples .*, got \(1, 4, 8, 8\)"),
    ):
        wrong(wrong.init(1).requires_grad_(), "a")


def test_slices_of_the_own_decoder_keep_its_gradient():
    noise = DiffusersSampler(stable_diffusion(), **SD).init(2)
    image, exact = gradient(DiffusersSampler(stable_diffusion(), **SD), noise)
    pipe = stable_diffusion()
    pipe.vae.enable_slicing()
    shown, found = gradient(DiffusersSampler(pipe, **SD), noise)
    torch.testing.assert_close(shown, image, rtol=0, atol=1e-5)
    torch.testing.assert_close(found, exact, rtol=1e-3, atol=1e-5)


def test_it_is_an_option_of_the_command_line(run, small):
    status, out, err = run("align", "a", *small, "--reward", "brightness", "--steps", "1", "--decoder", "half")
    assert status == 0, err
    assert run("align", "a", *small, "--reward", "brightness", "--decoder", "hafl")[0] == 2
    assert "go through its decoder at half size, and are biased" in run("doctor", *small, "--decoder", "half")[1]
