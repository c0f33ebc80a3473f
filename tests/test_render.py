"""Render: the noise of a run carried over to other steps, solvers and sizes where that is exact, and its neighbors."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from noiseward.errors import ArgumentError, RunError
from noiseward.images.metadata import read_metadata
from noiseward.options.run import RunSpec
from noiseward.pipelines.carry import carry_noise, change_sampler, resize_noise
from noiseward.pipelines.coarsen import list_levels
from noiseward.pipelines.open import open_sampler
from noiseward.rewards.parse import parse_rewards
from noiseward.runs import RunFolder, execute, render
from noiseward.runs.files import read_tensors
from noiseward.samplers.nested import Nested
from noiseward.toys import GaussianModel
from tests.task_models import write_models
from tests.tiny import CALL

SETTINGS = {"reward": "brightness", "method": "dno:lr=0.05,guard=none", "watch": ()}


@pytest.fixture(scope="module")
def spec(model):
    return RunSpec(prompt=("a", "b"), model=model, steps=2, seed=5, **SETTINGS, call={**CALL, "eta": 1.0})


def best(folder):
    return read_tensors(folder / "best.safetensors")[0]


def sampler(model, **call):
    return open_sampler(model, call={**CALL, "eta": 1.0, **call})


# ---- carrying noise over ----


@pytest.mark.parametrize(
    "changes",
    [
        {"num_inference_steps": 8},
        {"num_inference_steps": 2},
        {"height": 32},
        {"height": 32, "width": 32},
        {"num_inference_steps": 8, "height": 32, "width": 48},
        {"num_inference_steps": 2, "height": 32},
        {"height": 8, "width": 32},
    ],
    ids=str,
)
def test_carried_noise_is_exactly_standard_normal(model, changes):
    """It is linear in independent noises, so the covariance along u is |A'u|^2 + |B'u|^2; that must be |u|^2."""
    old = sampler(model)
    new = change_sampler(old, **changes)
    noise = torch.randn(1, *old.noise_shape, dtype=torch.float64, requires_grad=True)
    rest = torch.randn(1, *new.noise_shape, dtype=torch.float64, requires_grad=True)
    carried = carry_noise(noise, old, new, rest=rest)
    assert carried.shape == rest.shape
    for seed in range(5):
        along = torch.randn(carried.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        parts = torch.autograd.grad((carried * along).sum(), (noise, rest), retain_graph=True, materialize_grads=True)
        assert sum(part.square().sum() for part in parts).item() == pytest.approx(along.square().sum().item())
        assert parts[0].norm() > 0


def test_more_steps_and_a_larger_size_lead_back_to_the_noise_that_was_found(model):
    old = sampler(model)
    noise = old.init(1, seed=3).double()
    for changes in ({"num_inference_steps": 8}, {"height": 32, "width": 32}, {"num_inference_steps": 20, "width": 48}):
        new = change_sampler(old, **changes)
        carried = carry_noise(noise, old, new, rest=new.init(1, seed=4).double())
        again = carry_noise(carried, new, old, rest=old.init(1, seed=9).double())
        assert torch.allclose(again, noise, atol=1e-12)


def test_steps_are_carried_as_coarse_to_fine_does(model):
    old = sampler(model)
    new = change_sampler(old, num_inference_steps=8)
    noise, rest = old.init(2, seed=3), new.init(2, seed=4)
    expected = Nested(list_levels(old), list_levels(new)).refine(noise, rest=rest)
    assert torch.equal(carry_noise(noise, old, new, rest=rest), expected)


@pytest.mark.parametrize("changes", [{"num_inference_steps": 7}, {"scheduler": "euler"}, {"scheduler": "dpm"}], ids=str)
def test_the_one_draw_of_an_ode_is_the_same_for_every_solver(model, changes):
    old = sampler(model, eta=0.0)
    new = change_sampler(old, **changes)
    noise = old.init(1, seed=3)
    assert torch.equal(carry_noise(noise, old, new, rest=new.init(1, seed=4)), noise)
    assert old.pipe.unet is new.pipe.unet and type(old.pipe.scheduler).__name__ == "DDIMScheduler"  # it is left alone


def test_a_larger_noise_looks_like_the_small_one():
    small, rest = torch.randn(1, 1, 4, 8, 8), torch.randn(1, 1, 4, 16, 24)
    large = resize_noise(small, rest)
    blocks = large.unflatten(3, (8, 2)).unflatten(5, (8, 3)).mean((4, 6))
    assert torch.allclose(blocks * 6**0.5, small, atol=1e-6)


@pytest.mark.parametrize(
    "call, changes, message",
    [
        ({}, {"num_inference_steps": 6}, "num_inference_steps=6 is not nested with the 4 of the run, .* give one of 1"),
        ({}, {"scheduler": "euler"}, "DDIMScheduler with eta=1 draws noise at its steps and Euler"),
        ({"eta": 0.0}, {"scheduler": "euler-a"}, "EulerAncestralDiscreteScheduler draws noise at its steps and DDIM"),
        ({}, {"scheduler": "euler-a"}, "samplers of DDIM with eta=1 alone, got EulerAncestralDiscrete"),
        ({"eta": 0.5}, {"num_inference_steps": 8}, "DDIM with eta=1 alone, got DDIMScheduler with eta=0.5; run"),
        ({}, {"height": 24}, "multiples or whole parts of its height and width, got 8 x 8 to 8 x 12 latents"),
    ],
)  # fmt: skip
def test_what_cannot_be_carried_over_exactly_is_refused_in_one_line(model, call, changes, message):
    old = sampler(model, **call)
    new = change_sampler(old, **changes)
    with pytest.raises(ArgumentError, match=message) as refused:
        carry_noise(old.init(1), old, new, rest=new.init(1))
    assert "\n" not in str(refused.value)


def test_a_sampler_of_ones_own_cannot_be_changed():
    own = GaussianModel(steps=4).sampler()
    assert change_sampler(own) is own
    with pytest.raises(ArgumentError, match="num_inference_steps can be changed for a diffusers pipeline, got a Funct"):
        change_sampler(own, num_inference_steps=8)


# ---- rendering a run ----


def test_the_same_settings_give_the_same_images_and_more_steps_the_reward_of_the_carried_noise(whole, model):
    known = best(whole)
    (same,) = render(RunFolder(whole))
    assert torch.equal(same.sample, known["sample"]) and torch.equal(same.noise, known["noise"])
    (more,) = render(RunFolder(whole), num_inference_steps=8)
    direct = sampler(model, num_inference_steps=8)
    with torch.no_grad():
        assert torch.equal(more.sample, direct(more.noise, ["a", "b"]))
    assert torch.equal(more.reward, parse_rewards(["brightness"])(more.sample, ["a", "b"]))
    again = next(iter(render(RunFolder(whole), num_inference_steps=8)))
    assert torch.equal(again.sample, more.sample)


def test_neighbors_are_at_the_angle_that_is_asked_for_and_on_the_same_sphere(whole):
    found = list(render(RunFolder(whole), seeds=3, cosine=0.9))
    assert [one.neighbor for one in found] == [0, 1, 2, 3]
    (start, *neighbors) = [one.noise.flatten(2) for one in found]
    for noise in neighbors:
        cosine = torch.cosine_similarity(noise, start, dim=2)
        assert (cosine - 0.9).abs().max() < 0.1  # the directions are random: they are not quite orthogonal
        assert torch.allclose(noise.norm(dim=2), start.norm(dim=2))
    assert not torch.equal(neighbors[0], neighbors[1])


def test_a_sampler_of_the_users_own_has_neighbors_too(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import torch\nfrom noiseward import FunctionSampler\n\n\ndef make():\n"
        "    return FunctionSampler(lambda batch: torch.randn(batch, 3, 4, 4).sigmoid())\n"
    )
    spec = RunSpec(model=f"{tmp_path / 'mine.py'}:make", steps=1, **SETTINGS)
    execute(spec, tmp_path / "run", quiet=True)
    found = list(render(RunFolder(tmp_path / "run"), seeds=2))
    assert len(found) == 3
    with pytest.raises(ArgumentError, match="height, width can be changed for a diffusers pipeline"):
        list(render(RunFolder(tmp_path / "run"), height=8))


def test_the_images_a_run_was_given_fix_its_size_and_steps(tmp_path_factory, tmp_path):
    models = write_models(tmp_path_factory.mktemp("models"))
    spec = RunSpec(prompt="a", model=str(models / "sd"), image=models / "photo.png", num_inference_steps=4, steps=1,
                   **SETTINGS)  # fmt: skip
    execute(spec, tmp_path / "run", quiet=True)
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(ArgumentError, match="height and width are those of the images that the run was given"):
        list(render(folder, height=32))
    with pytest.raises(ArgumentError, match="starts from an image, where noise of 4 steps fits no other number"):
        list(render(folder, num_inference_steps=8))
    assert len(list(render(folder, seeds=1))) == 2
    ode = spec.replace(eta=0.0)
    execute(ode, tmp_path / "ode", quiet=True)
    assert torch.equal(
        next(render(RunFolder(tmp_path / "ode"), num_inference_steps=8)).noise, best(tmp_path / "ode")["noise"]
    )


def test_a_damaged_run_is_refused(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    (tmp_path / "run" / "best.safetensors").write_bytes(b"no")
    with pytest.raises(RunError, match="best.safetensors cannot be read"):
        list(render(RunFolder(tmp_path / "run")))


# ---- the command ----


def test_the_command_writes_images_and_a_table(run, whole, tmp_path):
    shutil.copytree(whole, tmp_path / "r")
    status, out, errors = run("render", "r", "--num-inference-steps", "8", "--seeds", "1")
    assert status == 0, errors
    lines = out.splitlines()
    assert lines[0].split() == ["row", "prompt", "noise", "run's", "best", "render", "change", "file"]
    assert [line.split()[2] for line in lines[1:5]] == ["best", "neighbor"] * 2
    assert [line.split()[-1] for line in lines[1:5]] == ["00.png", "00-1.png", "01.png", "01-1.png"]
    assert lines[-1] == "r/render/num-inference-steps-8_seeds-1_cosine-0.95"
    found = read_metadata(tmp_path / lines[-1] / "01-1.png")
    assert (found["prompt"], found["num_inference_steps"], found["neighbor"], found["cosine"]) == ("b", 8, 1, 0.95)


def test_the_command_prints_json_and_writes_where_it_is_asked_to(run, whole, tmp_path):
    shutil.copytree(whole, tmp_path / "r")
    status, out, _ = run("render", "r", "--height", "32", "--width", "32", "--out", "large", "--json")
    content = json.loads(out)
    assert status == 0 and content["folder"] == "large"
    first = content["rows"][0]
    assert list(first) == ["run", "row", "prompt", "neighbor", "best", "reward", "change", "file"]
    assert first["change"] == pytest.approx(first["reward"] - first["best"])
    assert read_metadata(tmp_path / first["file"])["size"] == "32x32"


@pytest.mark.parametrize(
    "flags, message",
    [
        (("--num-inference-steps", "6"), "num_inference_steps=6 is not nested with the 4 of the run"),
        (("--num-inference-steps", "0"), "--num-inference-steps must be >= 1, got '0'"),
        (("--seeds", "-1"), "--seeds must be >= 0, got '-1'"),
        (("--cosine", "1"), "--cosine must be < 1, got '1'"),
        (("--cosine", "0.9"), "--cosine is for neighbors, got no --seeds; say how many, as --seeds 8"),
        (("--scheduler", "eulr"), "unknown scheduler 'eulr'; did you mean 'euler'"),
        (("--height", "24"), "noise is carried over exactly to multiples or whole parts"),
    ],
)
def test_what_cannot_be_rendered_is_one_line_and_leaves_nothing(run, whole, tmp_path, flags, message):
    shutil.copytree(whole, tmp_path / "r")
    status, _, errors = run("render", "r", *flags)
    assert status == 2 and errors.startswith(f"noiseward: {message}") and errors.count("\n") == 1, errors
    assert not (tmp_path / "r" / "render").exists()


def test_a_batch_is_rendered_run_by_run(run, model, tmp_path):
    (tmp_path / "prompts.txt").write_text("a\nb\nc\n")
    sizes = [part for name, value in CALL.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    asked = ["prompts.txt", "--model", model, *sizes, "--reward", "brightness", "--steps", "0", "--pack", "2"]
    assert run("batch", *asked, "--out", "out", "--quiet")[0] == 0
    status, out, errors = run("render", "out", "--num-inference-steps", "8")
    assert status == 0 and out.splitlines()[0].split()[0] == "run", errors
    folder = tmp_path / "out" / "render" / "num-inference-steps-8"
    assert sorted(str(file.relative_to(folder)) for file in folder.rglob("*.png")) == [
        "0000/00.png", "0000/01.png", "0001/00.png"
    ]  # fmt: skip
