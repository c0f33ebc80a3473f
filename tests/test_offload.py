"""Weights that are elsewhere between calls: the same samples and gradients, to the last bit, however they come."""

from __future__ import annotations

import contextlib
import gc
import re
import weakref

import pytest
import torch
from torch import nn

from noiseward import ArgumentError, DiffusersSampler, GradientError, ModelError, align
from noiseward.doctor import examine
from noiseward.errors import NoisewardWarning
from noiseward.options.run import Settings
from noiseward.pipelines import adapter
from noiseward.pipelines.load import load_pipeline
from noiseward.pipelines.offload import OffloadedWeights
from noiseward.problem import prepare
from tests import offloading
from tests.away import poison
from tests.families import flows, guided, unets
from tests.offloading import ROUNDING, SETTINGS, compare, gradient
from tests.test_support import first_cells
from tests.tiny import CALL, stable_diffusion

KINDS = [offloading.take_turns, offloading.offload_leaves, offloading.offload_in_sequence, offloading.offload_blocks]
MOVED = [setting for setting in SETTINGS if "device_map" not in setting]
SD = {**CALL, "num_inference_steps": 2, "eta": 1.0}


@pytest.mark.parametrize(
    ("kind", "mode"), [("UNet", "fast"), ("UNet", "low"), ("transformer", "balanced"), ("transformer", "low")]
)
@pytest.mark.parametrize("setting", SETTINGS)
def test_samples_and_gradients_are_those_without_it_to_the_last_bit(setting, mode, kind):
    gap, fetched = compare(setting, kind, mode)
    assert gap <= (ROUNDING if "disk" in setting else 0)
    assert (fetched > 0) == (setting in MOVED)


def test_the_page_has_a_line_for_each_setting():
    assert first_cells("offload") == list(SETTINGS)


@pytest.mark.filterwarnings("ignore::noiseward.errors.NoisewardWarning")
@pytest.mark.parametrize("setting", MOVED)
def test_a_graph_that_saves_the_weights_themselves_is_found_out(setting, monkeypatch):
    monkeypatch.setattr(OffloadedWeights, "_saving", lambda self: contextlib.nullcontext())
    pipe = stable_diffusion()
    with poison():
        SETTINGS[setting][0](pipe)
        try:
            _, found = gradient(pipe, "fast", SD)
        except (RuntimeError, GradientError):  # none was found, or it met a weight of another type
            return
    assert not found.isfinite().all()


def test_models_that_come_later_are_sent_away_before_one_is_repeated():
    pipe, here = flows.flux(), []

    class Turn(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            here.append({
                name: bool(next(part.parameters()).isfinite().all())
                for name, part in pipe.components.items() if isinstance(part, nn.Module)
            })  # fmt: skip
            return gradient

    inner = pipe.transformer.x_embedder.forward
    pipe.transformer.x_embedder.forward = lambda x: inner(Turn.apply(x))
    with poison():
        pipe.enable_model_cpu_offload(device="cpu")
        gradient(pipe, "balanced", CALL)
    expected = {"vae": False, "text_encoder": False, "text_encoder_2": False, "transformer": True}
    assert here and all(each == expected for each in here)


def test_prompts_are_read_once_and_never_next_to_the_denoiser(monkeypatch):
    pipe, read = stable_diffusion(), []
    with poison():
        pipe.enable_model_cpu_offload(device="cpu")
        encode = pipe.encode_prompt

        def note(*args, **kwargs):
            result = encode(*args, **kwargs)
            read.append(bool(next(pipe.unet.parameters()).isfinite().all()))
            return result

        monkeypatch.setattr(pipe, "encode_prompt", note)
        sampler = DiffusersSampler(pipe, **SD)
        noise = sampler.init(1)
        for prompt in ("a", "b", "a", "b"):
            sampler(noise, prompt)
    assert read == [False] * len(read) and len(read) == 3  # "", "a", "b"


@pytest.mark.parametrize("setting", [offloading.take_turns, offloading.offload_leaves, offloading.cast_layers])
def test_afterwards_the_pipeline_runs_as_it_did(setting):
    pipe, plain = stable_diffusion(), stable_diffusion()
    if setting is offloading.cast_layers:
        offloading.round_weights(plain)
    with poison():
        setting(pipe)
        gradient(pipe, "balanced", SD)
        images = pipe("a", generator=torch.Generator().manual_seed(1), output_type="pt", **SD).images
    right = plain("a", generator=torch.Generator().manual_seed(1), output_type="pt", **SD).images
    assert torch.equal(images, right)
    assert "maybe_free_model_hooks" not in vars(pipe) and "decode" not in vars(pipe.vae)


@pytest.mark.parametrize("setting", [offloading.take_turns, offloading.offload_leaves, offloading.offload_in_sequence])
@pytest.mark.parametrize("build", [guided.img2img, guided.controlnet, unets.sdxl])
def test_other_tasks_and_several_denoisers(build, setting):
    family = {guided.img2img: {"image": torch.rand(1, 3, 16, 16), "strength": 0.5}, unets.sdxl: CALL}.get(
        build, {**CALL, "image": torch.rand(1, 3, 16, 16)}
    )
    call = {**family, "num_inference_steps": 4 if build is guided.img2img else 2}
    sample, right = gradient(build(), "low", call)
    with poison():
        pipe = build()
        setting(pipe)
        again, found = gradient(pipe, "low", call)
    assert torch.equal(sample, again) and torch.equal(right, found)


@pytest.mark.filterwarnings("ignore:.upcast_vae. is deprecated")
@pytest.mark.parametrize("mode", ["balanced", "low"])
@pytest.mark.parametrize("setting", KINDS)
def test_an_autoencoder_that_is_upcast_to_decode(setting, mode):
    def build():
        pipe = unets.sdxl()
        pipe.vae.to(torch.float16).register_to_config(force_upcast=True)
        return pipe

    call = {**CALL, "num_inference_steps": 2}
    sample, right = gradient(build(), mode, call)
    with poison():
        pipe = build()
        setting(pipe)
        again, found = gradient(pipe, mode, call)
    assert torch.equal(sample, again) and torch.equal(right, found)


def test_a_gradient_holds_no_weights_and_auto_counts_activations_alone(monkeypatch):
    plain, moved = stable_diffusion(), stable_diffusion()
    parts = [plain.unet, plain.vae, plain.text_encoder]
    right = DiffusersSampler(plain, memory="auto", **SD)._inner.measure_memory("a", parts)
    with poison():
        offloading.offload_leaves(moved)
        sampler = DiffusersSampler(moved, memory="auto", **SD)
        found = sampler._inner.measure_memory("a", [moved.unet, moved.vae, moved.text_encoder])
        assert found == right
        monkeypatch.setattr(adapter, "free_memory", lambda device: 1.6 * (right[0] + right[1]))
        sampler.settle(1, "a")
    assert sampler.memory == "balanced"


@pytest.mark.parametrize("setting", KINDS)
@pytest.mark.parametrize("mode", ["balanced", "low"])
def test_a_pipeline_that_is_deleted_leaves_the_device(setting, mode):
    pipe, parts = stable_diffusion(), weakref.WeakSet()
    setting(pipe)
    for model in offloading.modules(pipe):
        parts.update(model.modules())
    assert gradient(pipe, mode, SD)[1].any()
    del pipe, model
    gc.collect()
    assert not parts


def test_a_doctor_finds_nothing_wrong():
    with poison():
        pipe = stable_diffusion().to(torch.float64)
        offloading.offload_blocks(pipe)
        problem = prepare(pipe, "a", lambda images: images.mean((1, 2, 3)), Settings(steps=0, call=SD))
        findings = list(examine(problem))
    assert all(finding.fine for finding in findings), [finding.says for finding in findings if not finding.fine]


@pytest.mark.parametrize("offload", ["models", "layers"])
def test_by_name_it_is_an_option(model, offload):
    plain = align(model, "a", "brightness", steps=1, progress=False, device="cpu", **SD)
    with poison() as depot:
        moved = align(model, "a", "brightness", steps=1, progress=False, device="cpu", offload=offload, **SD)
        gc.collect()
    assert torch.equal(moved.noise, plain.noise) and depot.fetched > 0


def test_an_unknown_way_to_offload_and_a_missing_package_are_one_line(model, monkeypatch):
    with pytest.raises(ArgumentError, match=re.escape("unknown offload 'model'; did you mean 'models'?")):
        load_pipeline(model, offload="model")
    monkeypatch.setattr("noiseward.pipelines.load.importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelError, match="offload needs accelerate: pip install accelerate"):
        load_pipeline(model, offload="models")


def test_a_model_without_such_hooks_is_driven_without_any_of_this():
    sampler = DiffusersSampler(stable_diffusion(), memory="balanced", **SD)
    assert not sampler._weights and sampler._inner._inside is None


def test_what_only_a_model_with_another_precision_warns_of_is_not_said(recwarn):
    pipe = stable_diffusion()
    offloading.cast_layers(pipe)
    DiffusersSampler(pipe, **SD).init(1)
    assert not [one for one in recwarn if issubclass(one.category, NoisewardWarning)]
