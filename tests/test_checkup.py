"""The doctor's questions, asked of samplers that are known to be well and ill."""

from __future__ import annotations

import pytest
import torch
from PIL import Image
from torch import nn

from noiseward import (
    DiffusersSampler,
    Draw,
    FunctionReward,
    FunctionSampler,
    GradientAscent,
    Layout,
    NoisewardWarning,
    Sampler,
)
from noiseward.doctor import Finding, examine, verdict
from noiseward.options.run import Settings
from noiseward.problem import prepare
from noiseward.samplers.cost import NFE
from tests.tiny import CALL, stable_diffusion

MEAN = FunctionReward(lambda sample: sample.flatten(1).mean(1), name="mean")


def findings(sampler):
    return list(examine(prepare(sampler, "a", MEAN, Settings(steps=0), method=GradientAscent())))


def toy(fn):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    return FunctionSampler(lambda batch: fn(net, torch.randn(batch, 3, dtype=torch.float64)), net)


def test_a_good_sampler_is_fit():
    found = findings(toy(lambda net, x: net(net(x))))
    assert all(finding.fine for finding in found)
    assert verdict(found) == "fit for noise optimization"


def test_a_gradient_that_misses_the_denoiser_is_not():
    with pytest.warns(NoisewardWarning, match="off finite differences: Tensor.detach at test_checkup.py"):
        found = findings(toy(lambda net, x: x + 3 * net(x).detach()))
    one, other = (finding.says for finding in found if not finding.fine)
    assert "against finite difference " in one and "random directions" in other
    assert verdict(found).startswith("not fit")


def test_a_gradient_that_is_right_along_itself_alone_is_not():
    """It lacks a part at right angles to what there is of it."""

    def fn(net, x):
        return x @ torch.diag(x.new_tensor([1.0, 0.0, 0.0])) + (30 * x[:, 1:2]).detach()

    with pytest.warns(NoisewardWarning, match="off finite differences: Tensor.detach"):
        found = findings(toy(fn))
    wrong = [finding.says for finding in found if not finding.fine]
    assert len(wrong) == 1 and "random directions" in wrong[0]


def test_a_sampler_without_a_gradient_is_not():
    found = findings(toy(lambda net, x: net(x).detach()))
    assert not found[-1].fine and verdict(found).startswith("not fit")


LEANING = {
    "a mean over the batch": lambda net, x: net(x - 0.5 * x.mean(0)),
    "the first row": lambda net, x: net(x) + x[:1],
    "the number of rows": lambda net, x: net(x) + len(x),
}


@pytest.mark.parametrize("fn", LEANING.values(), ids=LEANING)
def test_rows_that_lean_on_each_other_are_named_and_sampled_alone(fn):
    with pytest.warns(NoisewardWarning, match="one at a time"):
        found = findings(toy(fn))
    (exception,) = [finding for finding in found if not finding.fine]
    assert "a row depends on the others in its batch" in exception.says and "one at a time" in exception.says
    assert "a row is the same alone and in a batch, to 0" in [finding.says for finding in found]
    assert verdict(found).startswith("fit")


class Together(Sampler):
    """A sampler of its own kind, whose rows have a mean of zero."""

    layout = Layout((Draw("start", (3,), "start"),))
    nfe = NFE()

    def __call__(self, noise, prompt=None):
        return (noise - noise.mean(0)).flatten(1) + (noise.flatten(1) if len(noise) == 1 else 0)


def test_rows_that_lean_on_each_other_in_a_sampler_of_another_kind_are_not_fit():
    found = findings(Together())
    assert not found[2].fine and found[2].says.startswith("a row is the same alone and in a batch")
    assert verdict(found).startswith("not fit")


def test_an_exception_that_harms_nothing_is_named_in_the_verdict():
    assert verdict([Finding(True, ""), Finding(False, "", must=False)]).endswith("with the exception above")


def test_memory_is_that_of_the_graph():
    """Each call adds its activations where they are kept, and next to nothing where they are recomputed."""
    kept = {}
    for memory in ("fast", "balanced"):
        for steps in (2, 4):
            sampler = DiffusersSampler(stable_diffusion(), memory=memory, **{**CALL, "num_inference_steps": steps})
            says = findings(sampler)[-1].says
            assert f"{steps} denoiser calls" in says
            kept[memory, steps] = float(says.split("keeps ")[1].split()[0])
    assert kept["fast", 4] - kept["fast", 2] > 20 * (kept["balanced", 4] - kept["balanced", 2])
    assert kept["balanced", 2] > 0


def test_the_pipelines_own_image_is_compared():
    found = findings(DiffusersSampler(stable_diffusion(), **CALL))
    (says,) = [finding.says for finding in found if "shows" in finding.says]
    assert says.startswith("samples are the images that the pipeline shows, to 0.") and says.endswith("of 255 levels")
    pipe = stable_diffusion()
    sampler = DiffusersSampler(pipe, **CALL)
    sampler.layout  # noqa: B018 (found out now, before the pipeline shows something else)
    pipe.image_processor.numpy_to_pil = lambda images: [Image.new("RGB", (16, 16), "white") for _ in images]
    (wrong,) = [finding.says for finding in findings(sampler) if not finding.fine]
    assert wrong.startswith("samples are the images that the pipeline shows, to 2")


def test_a_sampler_of_your_own_file_is_examined_with_the_steps_it_has(run, tmp_path):
    (tmp_path / "mine.py").write_text(
        "from noiseward.toys import GaussianModel\ndef make_sampler():\n    return GaussianModel(steps=4).sampler()\n"
    )
    status, out, err = run("doctor", "--model", "mine.py:make_sampler")
    assert status == 0 and "5 draws are seen and replayed (1 start, 4 step)" in out, err
    assert "verdict: fit for noise optimization" in out
    status, _, err = run("doctor", "--model", "mine.py:make_sampler", "--num-inference-steps", "3")
    assert status == 2 and "num_inference_steps, got a sampler" in err  # what is asked for is not dropped
