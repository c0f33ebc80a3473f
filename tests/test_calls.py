"""A pipeline's call, however it turns gradients off: a subclass, a pipeline in a pipeline, one made of blocks."""

from __future__ import annotations

import pytest
import torch
from diffusers import DiffusionPipeline
from diffusers.guiders import (
    AdaptiveProjectedGuidance,
    ClassifierFreeGuidance,
    ClassifierFreeZeroStarGuidance,
    SkipLayerGuidance,
    TangentialClassifierFreeGuidance,
)
from diffusers.hooks import LayerSkipConfig
from diffusers.modular_pipelines import ModularPipelineBlocks, StableDiffusionXLModularPipeline
from diffusers.modular_pipelines.modular_pipeline_utils import OutputParam

from noiseward import (
    ArgumentError,
    DiffusersSampler,
    FunctionReward,
    ModelError,
    align,
)
from noiseward.pipelines.calls import list_parameters
from tests.battery import weigh
from tests.families import modular, unets
from tests.tiny import CALL, stable_diffusion

SMALL = {"height": 16, "width": 16, "num_inference_steps": 2, "eta": 1.0}
MEAN = FunctionReward(lambda sample: sample.flatten(1).mean(1), name="mean")


def slope_error(sampler: DiffusersSampler, prompt: str = "a", *, width: float = 1e-4) -> float:
    """Relative error between the gradient's slope and a central difference, along a random direction."""
    noise = sampler.init(1, seed=4).double().requires_grad_()
    along = torch.randn(noise.shape, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    (gradient,) = torch.autograd.grad(weigh(sampler(noise, prompt)).sum(), noise)
    with torch.no_grad():
        up, down = (weigh(sampler(noise + sign * width * along, prompt)).item() for sign in (1, -1))
    slope, measured = (gradient * along).sum().item(), (up - down) / (2 * width)
    return abs(slope - measured) / max(abs(slope), abs(measured))


def louder(kind: type) -> type:
    class Louder(kind):
        def __call__(self, *args, **kwargs):
            return super().__call__(*args, **kwargs)

    return Louder


def decorate(kind: type) -> type:
    class Decorator(kind):
        @torch.no_grad()
        def __call__(self, prompt=None, *, twice=False, **kwargs):
            return super().__call__(f"{prompt[0]} b" if twice else prompt, **kwargs)

    return Decorator


def within(kind: type) -> type:
    class Within(kind):
        def __call__(self, *args, **kwargs):
            with torch.no_grad():
                return super().__call__(*args, **kwargs)

    return Within


def infer(kind: type) -> type:
    class Inference(kind):
        @torch.inference_mode()
        def __call__(self, *args, **kwargs):
            return super().__call__(*args, **kwargs)

    return Inference


@pytest.mark.parametrize("memory", ["fast", "balanced", "low"])
@pytest.mark.parametrize("make", [louder, decorate, within, infer])
def test_a_subclass_that_calls_its_base_class_has_the_right_gradient(make, memory):
    made = stable_diffusion().to(torch.float64)
    pipe = make(make(type(made)))(**made.components, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    own, base = (DiffusersSampler(each, memory=memory, eta=1.0, **CALL) for each in (pipe, made))
    noise = own.init(1, seed=4)
    assert torch.equal(own(noise, "a"), base(noise, "a"))
    assert slope_error(own) < 1e-6


def test_a_subclass_takes_its_own_arguments_and_those_of_its_base_class():
    made = stable_diffusion()
    pipe = decorate(type(made))(**made.components, requires_safety_checker=False)
    assert {"twice", "guidance_scale", "eta"} <= list_parameters(pipe) and "kwargs" not in list_parameters(pipe)
    twice, plain = DiffusersSampler(pipe, twice=True, **CALL), DiffusersSampler(made, **CALL)
    twice.expect("a")
    noise = twice.init(1)
    assert torch.equal(twice(noise, "a"), plain(noise, "a b"))
    with pytest.raises(ArgumentError, match="no argument 'guidance_scal'; did you mean 'guidance_scale'"):
        DiffusersSampler(pipe, guidance_scal=3.0)


class Outer(DiffusionPipeline):
    """A pipeline that runs another, as combined pipelines do."""

    def __init__(self, unet, vae, text_encoder, tokenizer, scheduler):
        super().__init__()
        parts = {"unet": unet, "vae": vae, "text_encoder": text_encoder, "tokenizer": tokenizer, "scheduler": scheduler}
        self.register_modules(**parts)
        self.inner = type(stable_diffusion())(
            **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
        )

    @torch.no_grad()
    def __call__(self, prompt=None, num_inference_steps=4, height=16, width=16, output_type="pil", generator=None):
        return self.inner(
            prompt, num_inference_steps=num_inference_steps, height=height, width=width, output_type=output_type,
            generator=generator, return_dict=False,
        )  # fmt: skip


def test_a_pipeline_that_runs_another_has_the_right_gradient_and_shows_no_bars(capfd):
    made = stable_diffusion().to(torch.float64)
    names = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
    held = Outer(**{name: made.components[name] for name in names})
    own, base = (DiffusersSampler(each, **CALL) for each in (held, made))
    noise = own.init(1, seed=4)
    assert torch.equal(own(noise, "a"), base(noise, "a"))
    assert slope_error(own) < 1e-6
    assert "it/s" not in capfd.readouterr().err
    assert held.inner.scheduler is made.scheduler and "encode_prompt" not in vars(held.inner)


def test_prompts_are_encoded_without_a_graph(monkeypatch):
    pipe = stable_diffusion()
    modes = []
    encode = type(pipe).encode_prompt
    monkeypatch.setattr(
        type(pipe),
        "encode_prompt",
        lambda self, *a, **k: modes.append(torch.is_grad_enabled()) or encode(self, *a, **k),
    )
    sampler = DiffusersSampler(pipe, **CALL)
    sampler(sampler.init(1).requires_grad_(), "a").sum().backward()
    assert modes and not any(modes)


def test_gradients_are_off_again_afterwards():
    pipe = stable_diffusion()
    sampler = DiffusersSampler(pipe, **CALL)
    sampler(sampler.init(1), "a")
    weight = torch.ones(1, requires_grad=True)
    with torch.no_grad():
        assert not (weight * 2).requires_grad
    assert not pipe("a", output_type="pt", **CALL).images.requires_grad


@pytest.fixture(scope="module")
def blocks():
    return modular.sdxl()


def test_a_modular_pipeline_gives_its_own_image_of_a_seed_bit_for_bit(blocks, capfd):
    sampler = DiffusersSampler(blocks, **SMALL)
    ours = sampler(sampler.init(1, seed=7), "a")
    assert "it/s" not in capfd.readouterr().err
    generator = torch.Generator().manual_seed(7)
    stock = blocks(prompt="a", generator=generator, output="images", output_type="pt", **SMALL)
    assert torch.equal(ours, stock)
    assert [draw.role for draw in sampler.layout] == ["start", "step", "step"]
    assert torch.equal(sampler.run_stock("a", seed=7), stock)


def test_a_modular_pipeline_is_what_the_plain_one_is(blocks):
    ours, plain = DiffusersSampler(blocks, **SMALL), DiffusersSampler(unets.sdxl(), guidance_scale=5.0, **SMALL)
    noise = plain.init(2)
    torch.testing.assert_close(ours(noise, ["a", "b c"]), plain(noise, ["a", "b c"]), rtol=0, atol=1e-5)


def test_align_raises_a_reward_on_a_modular_pipeline(blocks):
    before = {name: id(part) for name, part in blocks.components.items()}
    assert align(blocks, "a", MEAN, steps=2, method="dno:lr=0.05", progress=False, **SMALL).gain.item() > 0
    assert {name: id(part) for name, part in blocks.components.items()} == before


SKIP = {"skip_layer_guidance_start": 0.0, "skip_layer_guidance_stop": 1.0}
FEED_FORWARD = LayerSkipConfig(
    indices=[0], fqn="transformer_blocks", skip_attention=False, skip_ff=True, skip_attention_scores=False
)
GUIDERS = {
    "classifier-free": (modular.sdxl, lambda: ClassifierFreeGuidance(3.0)),
    "adaptive projected": (
        modular.sdxl, lambda: AdaptiveProjectedGuidance(3.0, adaptive_projected_guidance_momentum=-0.5),
    ),
    "zero star": (modular.sdxl, lambda: ClassifierFreeZeroStarGuidance(3.0, zero_init_steps=0)),
    "tangential": (modular.sdxl, lambda: TangentialClassifierFreeGuidance(3.0)),
    "classifier-free, a transformer": (modular.sd3, lambda: ClassifierFreeGuidance(3.0)),
    "skip layer": (modular.sd3, lambda: SkipLayerGuidance(3.0, 1.0, skip_layer_config=FEED_FORWARD, **SKIP)),
}  # fmt: skip


@pytest.mark.parametrize("memory", ["fast", "balanced", "low"])
@pytest.mark.parametrize("make", GUIDERS.values(), ids=GUIDERS)
def test_guiders_have_the_right_gradient(make, memory):
    """Several of them compute in float32; skip layer guidance puts hooks on blocks for one of its calls."""
    build, guider = make
    pipe = build(guider()).to(torch.float64)
    call = {name: value for name, value in SMALL.items() if name in list_parameters(pipe)}
    sampler = DiffusersSampler(pipe, memory=memory, **call)
    assert slope_error(sampler, width=3e-3) < 3e-4


class NoSample(ModularPipelineBlocks):
    """Blocks that end before there is a sample."""

    @property
    def intermediate_outputs(self):
        return [OutputParam("latents")]


def test_blocks_without_a_decoder_are_one_line():
    with pytest.raises(ModelError, match="expected blocks that produce one of images, .* got latents; add the block"):
        DiffusersSampler(StableDiffusionXLModularPipeline(NoSample()))
