"""Images are what the pipeline shows: tensors in another range are mapped, or refused."""

from __future__ import annotations

import pytest
import torch

from noiseward import DiffusersSampler, ModelError
from noiseward.pipelines.calls import list_parameters
from noiseward.pipelines.ranges import Range, find_range, to_levels
from noiseward.samplers import function
from noiseward.samplers.cost import count_calls
from tests.families import pixels, raw, video
from tests.tiny import CALL, stable_diffusion

CASES = {
    "DeepFloyd IF": (raw.deepfloyd, {"height": 16, "width": 16, "num_inference_steps": 2}),
    "Kandinsky 3": (raw.kandinsky3, {"height": 16, "width": 16, "num_inference_steps": 2}),
    "Kandinsky 2.2": (
        raw.kandinsky22,
        {
            "height": 16, "width": 16, "num_inference_steps": 2, "image_embeds": raw.embeds(1),
            "negative_image_embeds": raw.embeds(2),
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_samples_are_the_images_that_are_shown(case, monkeypatch):
    build, call = case
    pipe = build()
    sampler = DiffusersSampler(pipe, **call)
    prompt = "a" if "prompt" in list_parameters(pipe) else None
    with monkeypatch.context() as patched, count_calls() as meter:
        patched.setattr(function, "count_calls", lambda apart: count_calls())  # discovery is counted apart
        noise = sampler.init(1, seed=5).requires_grad_()
    sample = sampler(noise, prompt)
    assert 0 <= sample.min() and sample.max() <= 1
    named = {} if prompt is None else {"prompt": prompt}
    shown = pipe(**named, **call, generator=torch.Generator().manual_seed(5), output_type="pil", return_dict=False)[0]
    assert (sample * 255 - to_levels(shown)).abs().max() <= 1.0
    raw_ = pipe(**named, **call, generator=torch.Generator().manual_seed(5), output_type="pt", return_dict=False)[0]
    assert (raw_ * 255 - to_levels(shown)).abs().max() > 60
    assert torch.equal(sample, (raw_ / 2 + 0.5).clamp(0, 1))
    assert torch.equal(sampler.run_stock(prompt, seed=5), sample)
    assert (sampler.show_stock(prompt, seed=5) - sample * 255).abs().max() <= 1
    assert torch.autograd.grad(sample.mean(), noise)[0].any()
    assert meter.nfe.forward == 2 * sampler.layout.steps  # a recording and a replay: comparing costs no call


@pytest.mark.parametrize(
    ("build", "call"), [(stable_diffusion, CALL), (pixels.dit, {"num_inference_steps": 2})], ids=["SD", "DiT"]
)
def test_samples_that_are_shown_as_they_are_stay_so(build, call):
    pipe = build()
    sampler = DiffusersSampler(pipe, **call)
    assert sampler.layout
    assert sampler._range is Range.UNIT


def test_videos_are_compared_too():
    sampler = DiffusersSampler(
        video.ltx(), height=32, width=32, num_frames=9, num_inference_steps=2, max_sequence_length=8
    )
    assert sampler.layout
    assert sampler._range is Range.UNIT


class Odd(type(stable_diffusion())):
    """Gives something else than it shows."""

    def __call__(self, *args, output_type="pil", **kwargs):
        result = super().__call__(*args, output_type=output_type, **kwargs)
        return (result[0] * 3 - 1, *result[1:]) if output_type == "pt" else result


class Blind(type(stable_diffusion())):
    """Cannot be cut short: what it shows is not made of its last state alone."""

    def __call__(self, *args, output_type="pil", generator=None, **kwargs):
        self.shift = getattr(self, "shift", 0)
        result = super().__call__(*args, output_type="pt", generator=generator, **kwargs)
        image = result[0] * 0.5 + self.unet_calls() * 0.0
        if output_type == "pil":
            return ([self.numpy_to_pil(image.permute(0, 2, 3, 1).detach().numpy())[0]], None)
        return (image * 2 - 1, None)

    def unet_calls(self):
        return 1


def make_pipeline(kind):
    parts = stable_diffusion().components
    return kind(**parts, requires_safety_checker=False)


def test_a_pipeline_that_shows_something_else_is_refused():
    with pytest.raises(
        ModelError, match=r"expected images with output_type='pt' in \[0, 1\] or \[-1, 1\], got ones"
    ) as caught:
        DiffusersSampler(make_pipeline(Odd), **CALL).init(1)
    assert "\n" not in str(caught.value)


def test_a_range_is_found_by_whole_runs_where_the_decoder_alone_does_not_tell(monkeypatch):
    pipe = make_pipeline(Blind)
    sampler = DiffusersSampler(pipe, **CALL)
    monkeypatch.setattr("noiseward.pipelines.adapter.track_state", _no_recording)
    sample = sampler(sampler.init(1), "a")
    assert sampler._range is Range.SIGNED and 0 <= sample.min() and sample.max() <= 0.5 + 1e-6


def _no_recording(_):
    import contextlib

    return contextlib.nullcontext([])


def test_what_cannot_be_compared_is_left_alone():
    sample = torch.rand(1, 3, 4, 4)
    assert find_range("P", sample, "no images", same_run=True) is Range.UNIT
    assert find_range("P", sample, [], same_run=False) is Range.UNIT
    assert to_levels(None) is None
