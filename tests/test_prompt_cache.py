"""Encoded prompts are remembered only as long as what encodes them stays what it is."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from noiseward import DiffusersSampler
from noiseward.pipelines.prompt_cache import _key
from tests.tiny import CALL, stable_diffusion


def edit(pipe):
    with torch.no_grad():
        pipe.text_encoder.get_input_embeddings().weight.mul_(1.5)


def replace(pipe):
    other = type(pipe.text_encoder)(pipe.text_encoder.config).eval()
    pipe.register_modules(text_encoder=other)


def adapt(pipe):
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    pipe.text_encoder.add_adapter(config)


def weaken(pipe):
    for part in pipe.text_encoder.modules():
        if hasattr(part, "set_scale"):
            part.set_scale("default", 0.1)


CHANGES = {
    "weights edited in place": [edit],
    "another encoder": [replace],
    "an adapter added": [adapt],
    "an adapter switched off": [adapt, lambda pipe: pipe.text_encoder.disable_adapters()],
    "an adapter switched on again": [
        adapt, lambda pipe: pipe.text_encoder.disable_adapters(), lambda pipe: pipe.text_encoder.enable_adapters(),
    ],
    "an adapter's scale": [adapt, weaken],
}  # fmt: skip


@pytest.mark.parametrize("changes", CHANGES.values(), ids=CHANGES)
def test_a_sampler_that_is_used_again_sees_the_encoder_as_it_is_now(changes):
    pipe = stable_diffusion()
    sampler = DiffusersSampler(pipe, **CALL)
    noise = sampler.init(1)
    seen = [sampler(noise, "a b")]
    for change in changes:
        change(pipe)
        seen.append(sampler(noise, "a b"))
        assert torch.equal(seen[-1], DiffusersSampler(pipe, **CALL)(noise, "a b"))
        assert not torch.equal(seen[-1], seen[-2])


def test_two_pipelines_that_share_a_memory_do_not_answer_for_each_other():
    first, second = stable_diffusion(), stable_diffusion()
    edit(second)
    samplers = [DiffusersSampler(pipe, **CALL) for pipe in (first, second)]
    samplers[1]._prompts = samplers[0]._prompts
    noise = samplers[0].init(1)
    assert not torch.equal(samplers[0](noise, "a"), samplers[1](noise, "a"))


def test_images_and_lists_are_distinguished_by_their_content():
    one, same, other = (Image.new("RGB", (2, 2), color) for color in ("red", "red", "blue"))
    assert _key([one, {"a": 1}]) == _key([same, {"a": 1}]) != _key([other, {"a": 1}])
    assert _key(1) != _key(True) != _key("1")
