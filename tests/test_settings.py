"""Ways people set up a pipeline: each works, with the stock sample and a right gradient, or is refused in one line."""

from __future__ import annotations

import sys
import types

import pytest
import torch
from torch import nn

from noiseward import ArgumentError, DiffusersSampler, FunctionSampler, ModelError
from noiseward.errors import NoisewardWarning
from tests.battery import slopes, weigh
from tests.families import guided, pixels
from tests.quantized import KINDS
from tests.test_support import first_cells
from tests.tiny import CALL, stable_diffusion


@pytest.fixture(scope="module")
def pipe():
    return stable_diffusion()


def same_as_stock(pipe, prompt: str | None = "a", **call) -> bool:
    sampler = DiffusersSampler(pipe, **{**CALL, **call})
    named = {} if "prompt_embeds" in call else {"prompt": prompt}
    stock = pipe(**named, **{**CALL, **call}, generator=torch.Generator().manual_seed(2), output_type="pt").images
    return torch.equal(sampler(sampler.init(1, seed=2), prompt), stock)


def add_lora(pipe, folder):
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    donor = stable_diffusion()
    torch.manual_seed(1)
    donor.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
    type(donor).save_lora_weights(folder, unet_lora_layers=get_peft_model_state_dict(donor.unet))
    pipe.load_lora_weights(folder)


def test_lora_weights_are_part_of_the_sample_and_of_the_gradient(pipe, tmp_path):
    tuned = stable_diffusion()
    add_lora(tuned, tmp_path)
    assert same_as_stock(tuned)
    plain, with_lora = (DiffusersSampler(which, **CALL) for which in (pipe, tuned))
    assert not torch.equal(plain(plain.init(1), "a"), with_lora(with_lora.init(1), "a"))
    assert max(slopes(DiffusersSampler(tuned.to(torch.float64), eta=1.0, **CALL), "a", 1e-4).values()) < 1e-6


def test_bfloat16_gives_the_stock_sample_and_nearly_the_gradient_of_float32(pipe):
    half = stable_diffusion().to(torch.bfloat16)
    assert same_as_stock(half, eta=1.0)
    gradients = []
    for which in (pipe, half):
        sampler = DiffusersSampler(which, eta=1.0, **CALL)
        noise = DiffusersSampler(pipe, eta=1.0, **CALL).init(1).requires_grad_()
        gradients.append(torch.autograd.grad(weigh(sampler(noise, "a")).sum(), noise)[0])
    assert gradients[1].dtype == torch.float32
    assert torch.cosine_similarity(*(gradient.flatten() for gradient in gradients), dim=0) > 0.99


def test_guidance_rescale_has_the_stock_sample_and_a_right_gradient(pipe):
    assert same_as_stock(pipe, guidance_rescale=0.7)
    wide = DiffusersSampler(stable_diffusion().to(torch.float64), guidance_rescale=0.7, **CALL)
    assert max(slopes(wide, "a", 1e-4).values()) < 1e-6


def test_a_negative_prompt_is_every_rows(pipe):
    assert same_as_stock(pipe, negative_prompt="d e")
    sampler = DiffusersSampler(pipe, negative_prompt="d e", **CALL)
    plain = DiffusersSampler(pipe, **CALL)
    noise = sampler.init(2, seed=[3, 3])
    rows = sampler(noise, "a")
    assert torch.equal(rows[0], rows[1]) and not torch.equal(rows, plain(noise, "a"))


def test_embeddings_stand_for_the_prompt_in_every_row(pipe):
    with torch.no_grad():
        embeds, negative = pipe.encode_prompt("b c", "cpu", 1, True)
    given = {"prompt_embeds": embeds, "negative_prompt_embeds": negative}
    assert same_as_stock(pipe, None, **given)
    embedded, spoken = DiffusersSampler(pipe, **given, **CALL), DiffusersSampler(pipe, **CALL)
    noise = spoken.init(2)
    assert torch.equal(embedded(noise), spoken(noise, "b c"))
    with pytest.raises(ArgumentError, match=r"prompt_embeds: expected 1 or 3 entries .*, got 2"):
        DiffusersSampler(pipe, prompt_embeds=embeds.repeat(2, 1, 1), **CALL)(spoken.init(3))


def test_what_was_set_on_the_scheduler_is_kept():
    pipe = stable_diffusion()
    before = DiffusersSampler(pipe, **CALL)
    noise = before.init(1)
    first = before(noise, "a")
    pipe.scheduler.final_alpha_cumprod = torch.tensor(0.9999)
    assert not torch.equal(DiffusersSampler(pipe, **CALL)(noise, "a"), first)
    assert same_as_stock(pipe)


def test_a_class_is_named_by_number_or_name():
    pipe = pixels.dit()
    sampler = DiffusersSampler(pipe, num_inference_steps=2)
    noise = sampler.init(1)
    number, name = sampler(noise, "1"), sampler(noise, "goldfish")
    assert torch.equal(number, name) and not torch.equal(number, sampler(noise, "cock"))
    assert torch.equal(DiffusersSampler(pipe, num_inference_steps=2, class_labels=1)(noise), number)
    for wrong, says in [("goldfisch", "did you mean 'goldfish'"), (None, "DiTPipeline needs a class, got none")]:
        with pytest.raises(ArgumentError, match=says):
            sampler(noise, wrong)
    two = DiffusersSampler(pipe, num_inference_steps=2, class_labels=[1, 7])
    assert torch.equal(two(torch.cat([noise, noise])), torch.cat([number, sampler(noise, "7")]))
    with pytest.raises(ArgumentError, match="class_labels: expected 1 entries .*, got 2"):
        two(noise)


def test_a_prompt_is_refused_where_none_is_taken():
    sampler = DiffusersSampler(pixels.ddpm(), num_inference_steps=2)
    with pytest.raises(ArgumentError, match="DDPMPipeline takes no prompt, got 'a duck'"):
        sampler(sampler.init(1), "a duck")


class Watermarker:
    def apply_watermark(self, images):
        return torch.from_numpy(images.numpy())


def test_a_watermark_is_set_aside_with_a_warning():
    pipe = stable_diffusion()
    pipe.watermark = Watermarker()
    with pytest.warns(UserWarning, match="watermark leaves the graph and is skipped"):
        sampler = DiffusersSampler(pipe, **CALL)
    sampler(sampler.init(1), "a")
    assert isinstance(pipe.watermark, Watermarker)


def test_a_image_may_be_named_by_its_path(tmp_path):
    from PIL import Image

    picture = Image.effect_noise((16, 16), 80).convert("RGB")
    picture.save(tmp_path / "start.png")
    pipe = guided.img2img()
    named, given = (
        DiffusersSampler(pipe, image=image, strength=0.5, num_inference_steps=2)
        for image in (str(tmp_path / "start.png"), picture)
    )
    assert torch.equal(named(named.init(1), "a"), given(given.init(1), "a"))
    with pytest.raises(ArgumentError, match="image: expected the path of an image, got 'nowhere.png'"):
        DiffusersSampler(pipe, image="nowhere.png")


def test_a_pipelines_own_errors_are_one_line():
    sampler = DiffusersSampler(guided.controlnet(), **CALL)  # no image
    with pytest.raises(ModelError, match="StableDiffusionControlNetPipeline refuses this call: .*image") as caught:
        sampler.init(1)
    assert "\n" not in str(caught.value)


def cache(pipe):
    from diffusers import PyramidAttentionBroadcastConfig, apply_pyramid_attention_broadcast

    config = PyramidAttentionBroadcastConfig(
        cross_attention_block_skip_range=2, current_timestep_callback=lambda: 500,
        cross_attention_block_identifiers=("blocks",),
    )  # fmt: skip
    apply_pyramid_attention_broadcast(pipe.unet, config)


class QuantizedLinear(nn.Module):
    """Stands for torch's own quantized layer, which warns that it is deprecated as soon as it is touched."""

    __module__ = "torch.ao.nn.quantized.dynamic.modules.linear"


def quantize(pipe):
    pipe.unet.time_embedding.linear_1 = QuantizedLinear()


def use_nunchaku(pipe):
    kind = type("SVDQW4A4Linear", (nn.Linear,), {"__module__": "nunchaku.models.linear"})
    pipe.unet.time_embedding.linear_1 = kind(2, 2)


def fuse_gguf(pipe):
    sys.modules["kernels_of_a_test"] = types.SimpleNamespace(ops=object())
    kind = type("GGUFLinear", (nn.Linear,), {"__module__": "kernels_of_a_test"})
    pipe.unet.time_embedding.linear_1 = kind(2, 2)


def multiply_in_few_bits(pipe):
    pipe.unet.time_embedding.linear_1.sdnq_dequantizer = types.SimpleNamespace(use_quantized_matmul=True)


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        (cache, "unet keeps something from call to call .PyramidAttentionBroadcastHook."),
        (quantize, "unet is quantized .*bfloat16"),
        (use_nunchaku, "unet is quantized .nunchaku.models.linear., which has no gradient"),
        (fuse_gguf, "unet multiplies its GGUF weights in a fused kernel.*DIFFUSERS_GGUF_CUDA_KERNELS=false"),
        (multiply_in_few_bits, "unet multiplies in few bits .SDNQ.*use_quantized_matmul=False"),
    ],
)
def test_what_a_gradient_cannot_pass_is_refused_in_one_line(setting, says, monkeypatch):
    monkeypatch.setitem(sys.modules, "kernels_of_a_test", None)  # and gone afterwards
    pipe = stable_diffusion()
    setting(pipe)
    with pytest.raises(ModelError, match=says) as caught:
        DiffusersSampler(pipe, **CALL)
    assert "\n" not in str(caught.value)


def round_as_torchao(pipe):
    pipe.unet.time_embedding.linear_1.weight.act_quant_kwargs = object()


def round_as_quanto(pipe):
    pipe.unet.time_embedding.linear_1.activation_qtype = object()


def round_as_bitsandbytes(pipe):
    pipe.unet.time_embedding.linear_1 = type("Linear8bitLt", (nn.Linear,), {})(2, 2)


def test_each_way_to_quantize_has_its_line_in_the_page():
    assert first_cells("quantized") == list(KINDS)


@pytest.mark.parametrize("setting", [round_as_torchao, round_as_quanto, round_as_bitsandbytes])
def test_activations_rounded_to_few_bits_are_warned_of(setting):
    """The layers themselves are in tests/strangers, where their packages are installed."""
    pipe = stable_diffusion()
    setting(pipe)
    with pytest.warns(NoisewardWarning, match="unet rounds its activations to a few bits.*weights alone"):
        DiffusersSampler(pipe, **CALL)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # the compiler's own doing
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("recompute", [False, True])
def test_a_compiled_denoiser_gives_the_sample_and_gradient_of_the_plain_one(in_place, recompute):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 3))

    def samples(module):
        sampler = FunctionSampler(
            lambda batch: module(module(torch.randn(batch, 3)) + torch.randn(batch, 3)), module, recompute=recompute
        )
        noise = sampler.init(2).requires_grad_()
        sample = sampler(noise)
        return sample, torch.autograd.grad(sample.sin().sum(), noise)[0]

    plain = samples(net)
    if in_place:
        net.compile(backend="eager")
    compiled = samples(net if in_place else torch.compile(net, backend="eager"))
    assert all(torch.equal(one, other) for one, other in zip(plain, compiled, strict=True))


def sharp(pipe):
    """With an encoder that is sure of its latents, so that its posterior draws change nothing."""
    vae = pipe.vae
    last = vae.encoder.conv_out if vae.quant_conv is None else vae.quant_conv
    with torch.no_grad():
        last.weight[vae.config.latent_channels :] = 0
        last.bias[vae.config.latent_channels :] = -60
    return pipe


def test_a_seed_gives_the_pipelines_image_where_an_encoder_draws_without_the_generator():
    pipe = sharp(guided.sd3_controlnet())
    call = {"num_inference_steps": 2, "height": 16, "width": 16, "control_image": guided.make_image()}
    sampler = DiffusersSampler(pipe, **call)
    assert [(draw.role, draw.from_generator) for draw in sampler.layout] == [("other", False), ("start", True)]
    stock = pipe("a", generator=torch.Generator().manual_seed(5), output_type="pt", **call).images
    torch.testing.assert_close(sampler(sampler.init(1, seed=5), "a"), stock, rtol=0, atol=1e-5)


def test_a_crop_that_is_pasted_back_is_refused_by_its_own_name():
    with pytest.raises(ArgumentError, match="StableDiffusionInpaintPipeline takes no padding_mask_crop= here: its"):
        DiffusersSampler(guided.inpaint(), image=guided.make_image(), mask_image=guided.mask(), padding_mask_crop=4)
