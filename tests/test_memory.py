"""Memory modes: the same gradient from less, chosen by what is free, and a line when it runs out."""

from __future__ import annotations

import gc
import itertools
import json
import weakref

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.resnet import ResnetBlock2D
from torch import nn

from noiseward import DiffusersSampler, FunctionReward, FunctionSampler, GradientAscent, Objective, align
from noiseward.errors import NoisewardWarning, OutOfMemory, RewardError, is_out_of_memory
from noiseward.loop.budget import Budget, Status
from noiseward.loop.collect import optimize
from noiseward.loop.loop import iterate
from noiseward.options.run import Settings
from noiseward.pipelines import adapter
from noiseward.pipelines.blocks import recompute_blocks
from noiseward.pipelines.strips import use_strips
from noiseward.problem import prepare
from noiseward.runs import RunFolder, RunSpec, execute, resume
from noiseward.samplers import memory
from noiseward.samplers.blocks import find_blocks
from noiseward.samplers.cost import Meter, count_calls
from noiseward.samplers.memory import MODES, attempt, choose_mode, free_memory, lower_mode
from noiseward.samplers.recompute import recompute_call
from noiseward.toys import GaussianModel, Linear, Quadratic
from tests.holding import peak
from tests.tiny import CALL, stable_diffusion

MEAN = FunctionReward(lambda images: images.sin().mean((1, 2, 3)), name="mean")


def gradient(sampler, noise):
    leaf = noise.clone().requires_grad_()
    return torch.autograd.grad(MEAN(sampler(leaf, "a"), None).sum(), leaf)[0]


def make_sampler(pipe, mode, steps=4):
    return DiffusersSampler(pipe, memory=mode, eta=1.0, **{**CALL, "num_inference_steps": steps})


# ---- equal gradients, less memory ----


@pytest.mark.parametrize("elements", [1, 300, 2**23])
def test_gradients_are_equal_in_all_modes_whatever_the_strips(elements, monkeypatch):
    monkeypatch.setitem(use_strips.__wrapped__.__kwdefaults__, "elements", elements)
    pipe = stable_diffusion().to(torch.float64)
    noise = make_sampler(pipe, "fast").init(2, seed=1).double()
    fast, balanced, low = (gradient(make_sampler(pipe, mode), noise) for mode in MODES)
    assert torch.equal(fast, balanced)
    torch.testing.assert_close(low, fast, rtol=1e-10, atol=1e-16)


def measure_peak(pipe, mode, steps):
    sampler = make_sampler(pipe, mode, steps)
    noise = sampler.init(1)
    return peak(lambda: gradient(sampler, noise), [pipe.unet, pipe.vae, pipe.text_encoder])


def test_memory_grows_with_steps_by_activations_in_fast_and_by_latents_in_balanced():
    pipe = stable_diffusion()
    few, many = ({mode: measure_peak(pipe, mode, steps) for mode in MODES} for steps in (3, 7))
    assert few["low"] < few["balanced"] < few["fast"]
    call = (many["fast"] - few["fast"]) / 4
    latents = 4 * 4 * 8 * 8  # bytes
    assert call > 100 * latents
    for mode in ("balanced", "low"):
        grown = (many[mode] - few[mode]) / 4
        assert 0 < grown <= 8 * latents, mode  # both guided latents, what the scheduler keeps, the draw itself


def block(**config):
    torch.manual_seed(0)
    made = ResnetBlock2D(**{"in_channels": 8, "out_channels": 8, "temb_channels": None, "groups": 4, **config})
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.3)
    return made.double().requires_grad_(False).eval()


BLOCKS = {
    "plain": {},
    "with a shortcut": {"out_channels": 12},
    "scaled": {"output_scale_factor": 1.7, "non_linearity": "gelu"},
}


@pytest.mark.parametrize("config", BLOCKS.values(), ids=BLOCKS)
@pytest.mark.parametrize("elements", [1, 2 * 8 * 5, 2 * 8 * 5 * 3, 10**9], ids=["1 row", "1 row ", "3 rows", "all"])
def test_a_residual_blocks_gradient_in_strips_is_its_own(config, elements):
    made = block(**config)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 8, 7, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    own = made(x, None)
    weights = torch.randn(own.shape, generator=generator, dtype=torch.float64)
    (right,) = torch.autograd.grad(own, x, weights)
    with use_strips(made, elements=elements):
        out = made(x, None)
        (found,) = torch.autograd.grad(out, x, weights)
    assert torch.equal(out, own)
    torch.testing.assert_close(found, right, rtol=1e-10, atol=1e-12)
    assert "forward" not in vars(made)


def test_in_low_precision_strips_are_as_near_to_the_truth_as_the_block_itself():
    exact, made = block(), block().bfloat16()
    x = torch.randn(1, 8, 16, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    weights = torch.randn(x.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)

    def slope(block, dtype):
        leaf = x.to(dtype).requires_grad_()
        return torch.autograd.grad(block(leaf, None), leaf, weights.to(dtype))[0].double()

    right, rough = slope(exact, torch.float64), slope(made, torch.bfloat16)
    with use_strips(made, elements=8 * 16 * 3):
        strips = slope(made, torch.bfloat16)
    assert 0 < (strips - right).norm() < 1.5 * (rough - right).norm()


def test_blocks_of_another_make_are_left_alone():
    timed = block(temb_channels=6)
    grouped = block()
    grouped.conv1 = nn.Conv2d(8, 8, 3, padding=1, groups=2)
    wrapped = block()
    wrapped.conv2 = nn.Sequential(wrapped.conv2)
    for made in (timed, grouped, wrapped):
        with use_strips(made):
            assert "forward" not in vars(made)


def test_a_models_own_settings_are_back_afterwards():
    pipe = stable_diffusion()
    pipe.vae.enable_gradient_checkpointing()
    for module, strips in ((pipe.unet, False), (pipe.vae, True)):
        before = [dict(vars(part)) for part in module.modules()]
        with pytest.raises(KeyError), recompute_blocks(module, strips=strips):
            assert all("forward" in vars(block) for block in find_blocks(module))
            raise KeyError
        assert [dict(vars(part)) for part in module.modules()] == before


def test_a_module_without_blocks_is_left_as_it_is():
    with recompute_blocks(nn.Sequential(nn.Linear(2, 2))) as nothing:
        assert nothing is None


def test_blocks_inside_a_recomputed_call_are_recomputed_from_their_inputs():
    pipe = stable_diffusion()
    x = torch.randn(2, 4, 8, 8, requires_grad=True)
    words = torch.randn(2, 8, 16)

    def call(x):
        with recompute_blocks(pipe.unet):
            return pipe.unet(x, 5, words).sample

    def backpropagate():
        torch.autograd.grad(recompute_call(call, Meter(), (x,), {}).sum(), x)

    def backpropagate_whole():
        torch.autograd.grad(recompute_call(lambda x: pipe.unet(x, 5, words).sample, Meter(), (x,), {}).sum(), x)

    assert peak(backpropagate, [pipe.unet]) < 0.6 * peak(backpropagate_whole, [pipe.unet])


class Thoughtless(nn.Module):
    """A layer that turns gradients off, as layers written for inference do."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    @torch.no_grad()
    def forward(self, x):
        return self.layer(x)


def test_what_turns_gradients_off_within_a_block_is_lifted_when_the_block_is_repeated():
    pipe = stable_diffusion().to(torch.float64)
    attention = next(part for part in pipe.unet.modules() if isinstance(part, BasicTransformerBlock)).attn1
    attention.to_q = Thoughtless(attention.to_q)
    noise = make_sampler(pipe, "fast").init(1, seed=1).double()
    fast, balanced, low = (gradient(make_sampler(pipe, mode), noise) for mode in MODES)
    assert torch.equal(fast, balanced)
    torch.testing.assert_close(low, fast, rtol=1e-10, atol=1e-16)


# ---- auto ----


def test_auto_takes_the_first_mode_that_fits_into_what_is_free(monkeypatch):
    pipe, chosen = stable_diffusion(), []
    step, rest = make_sampler(pipe, "fast")._inner.measure_memory("a", [pipe.unet, pipe.vae, pipe.text_encoder])
    assert step > 100 * 4 * 4 * 8 * 8 and rest > 0
    for available in (1e12, 1.6 * (3 * step + rest), 1.4 * (3 * step + rest), 1.4 * (step + rest), None):
        monkeypatch.setattr(adapter, "free_memory", lambda device, available=available: available)
        sampler = make_sampler(pipe, "auto", 3)
        assert (sampler.memory, sampler.lighter) == ("auto", "memory='low'")
        noise = sampler.init(1)
        with count_calls() as meter:
            with torch.no_grad():
                sampler(noise, "a")
            assert sampler.memory == "auto"  # nothing was asked to be kept
            gradient(sampler, noise)
        assert meter.nfe.forward == 6  # discovery is not counted
        chosen.append((sampler.memory, sampler.lighter))
    names = ["fast", "fast", "balanced", "low", "balanced"]
    assert [mode for mode, _ in chosen] == names
    assert [said for _, said in chosen] == [
        f"memory='{lower_mode(mode)}'" if lower_mode(mode) else None for mode in names
    ]


def test_auto_asks_for_the_whole_batch(monkeypatch):
    pipe = stable_diffusion()
    step, rest = make_sampler(pipe, "fast")._inner.measure_memory("a", [pipe.unet, pipe.vae, pipe.text_encoder])
    monkeypatch.setattr(adapter, "free_memory", lambda device: 2 * (4 * step + rest))
    for batch, mode in ((1, "fast"), (2, "balanced")):
        sampler = make_sampler(pipe, "auto")
        sampler.settle(batch, "a")
        assert sampler.memory == mode


def test_a_run_keeps_the_mode_that_was_chosen_for_it(model, tmp_path, monkeypatch):
    monkeypatch.setattr(adapter, "free_memory", lambda device: None)
    spec = RunSpec(prompt=("a",), reward=("brightness",), model=model, steps=1, memory="auto", call=CALL)
    execute(spec, tmp_path / "run", quiet=True)
    assert RunFolder(tmp_path / "run").spec().memory == "balanced"
    monkeypatch.setattr(adapter, "free_memory", lambda device: 1e15)
    resume(tmp_path / "run", steps="2", quiet=True)
    assert RunFolder(tmp_path / "run").spec().memory == "balanced"


def test_free_memory_is_part_of_the_total(monkeypatch, tmp_path):
    found = free_memory(torch.device("cpu"))
    assert found is None or 0 < found < 2**50
    monkeypatch.setattr(memory, "_available", lambda: 8e9)
    monkeypatch.setattr(memory, "_container_limit", lambda: 3e9)  # a container's limit counts
    assert free_memory(torch.device("cpu")) == 3e9
    monkeypatch.setattr(memory, "_container_limit", lambda: None)
    assert free_memory(torch.device("cpu")) == 8e9


def test_modes_in_order():
    assert [lower_mode(mode) for mode in MODES] == ["balanced", "low", None]
    assert choose_mode(step=1.0, rest=2.0, steps=10, available=18.0) == "fast"
    assert choose_mode(step=1.0, rest=2.0, steps=10, available=17.9) == "balanced"
    assert choose_mode(step=1.0, rest=2.0, steps=10, available=4.4) == "low"


# ---- when it runs out ----

ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:120] err == 0. DefaultCPUAllocator: can't allocate memory"),
    RuntimeError("MPS backend out of memory (MPS allocated: 5 GB)"),
    MemoryError(),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: f"{type(error).__name__} {error}"[:30])
def test_out_of_memory_errors_are_recognized(error):
    assert is_out_of_memory(error)


def test_what_does_not():
    assert not is_out_of_memory(RuntimeError("shape mismatch")) and not is_out_of_memory(ValueError("out of memory"))
    with pytest.raises(RuntimeError, match="size"):
        attempt(lambda: torch.zeros(2) @ torch.zeros(3), "now", None)


class Full(nn.Module):
    """A denoiser that runs out of memory at a given call."""

    def __init__(self, at):
        super().__init__()
        self.model, self.at, self.calls = GaussianModel(steps=2), at, itertools.count(1)
        self.failed = None

    def forward(self, x, alpha):
        if next(self.calls) == self.at:
            graph = x * 2
            self.failed = weakref.ref(graph)
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.model(x, alpha)


def make_full(at, **how):
    full = Full(at)
    return full, FunctionSampler(lambda batch: GaussianModel.sample(stand_in(full), batch), full, **how)


def stand_in(full):
    made = GaussianModel(steps=2)
    object.__setattr__(made, "forward", full)
    return made


def calls_of_discovery():
    full, sampler = make_full(0)
    assert sampler.layout
    return next(full.calls) - 1


def test_out_of_memory_keeps_the_best_so_far_and_names_what_takes_less():
    full, sampler = make_full(calls_of_discovery() + 4 + 2 * 3 + 1)  # in the fourth evaluation; two rows were compared
    objective = Objective(sampler, Quadratic(3.0))
    with pytest.warns(NoisewardWarning, match="at step 3: take recompute=True, or a smaller batch; the best so far"):
        solution = optimize(objective, sampler.init(2), optimizer=GradientAscent(lr=0.1), budget=Budget(steps=9))
    assert set(solution.status) == {Status.MEMORY} and len(solution.history) == 3
    assert (solution.gain > 0).all() and (solution.index == 2).all()
    gc.collect()
    assert full.failed() is None  # what filled the memory is gone
    on = list(iterate(objective, solution.last, optimizer=GradientAscent(lr=0.1), budget=Budget(steps=9)))
    assert [step.index for step in on] == list(range(3, 10))


def test_out_of_memory_at_the_first_step_or_before_is_an_error_in_one_line():
    for at, when in ((calls_of_discovery() + 1, "at step 0"), (2, "when the sampler was first run")):
        _, sampler = make_full(at)
        with pytest.raises(OutOfMemory, match=when) as caught:
            optimize(
                Objective(sampler, Linear(1.0)), sampler.init(1), optimizer=GradientAscent(), budget=Budget(steps=1)
            )
        assert "\n" not in str(caught.value) and caught.value.__context__ is None
    _, sampler = make_full(2, recompute=True)
    with pytest.raises(OutOfMemory, match="take a smaller batch, smaller samples or fewer steps"):
        sampler.init(1)


def fail_at(monkeypatch, at):
    """Let UNets run out of memory at some call."""
    calls, forward = itertools.count(1), UNet2DConditionModel.forward

    def fails(self, *args, **kwargs):
        if next(calls) == at:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(UNet2DConditionModel, "forward", fails)


@pytest.mark.parametrize(("mode", "named"), [("fast", "balanced"), ("balanced", "low")])
def test_a_pipeline_names_the_next_lower_mode(monkeypatch, mode, named):
    pipe = stable_diffusion()
    sampler = make_sampler(pipe, mode, 2)
    assert sampler.layout
    fail_at(monkeypatch, {"fast": 2 * 2 + 1, "balanced": 2 * 4 + 1}[mode])  # calls, some made twice
    with pytest.warns(NoisewardWarning, match=f"at step 2: take memory='{named}'"):
        solution = align(sampler, "a", MEAN, steps=5, method="dno:lr=0.05,guard=none", progress=False)
    assert solution.status == (Status.MEMORY,) and solution.gain.item() > 0


def test_a_reward_that_runs_out_of_memory_says_so_too():
    def big(images):
        raise ERRORS[0]

    def bad(images):
        raise RuntimeError("shape mismatch")

    sampler = GaussianModel().sampler()
    for fn, error in ((big, OutOfMemory), (bad, RewardError)):
        problem = prepare(sampler, None, FunctionReward(fn), Settings(steps=1))
        with pytest.raises(error):
            next(problem.iterate())


@pytest.mark.filterwarnings("always::noiseward.errors.NoisewardWarning")
def test_a_run_on_disk_continues_in_the_mode_below(run, small, monkeypatch, tmp_path):
    whole = (
        "align",
        "a",
        *small,
        "--reward",
        "brightness",
        "--memory",
        "fast",
        "--steps",
        "4",
        "--method",
        "dno:lr=0.05,guard=none",
    )
    assert run(*whole, "--out", "whole")[0] == 0
    with monkeypatch.context() as patch:
        fail_at(patch, 4 + 4 + 2 * 4 + 1)
        status, out, err = run(*whole, "--out", "run")
    assert "noiseward: out of memory at step 2: take memory='balanced'" in err
    assert status == 0 and "memory: out of memory" in out
    folder = RunFolder(tmp_path / "run")
    assert folder.read("status.json")["state"] == "interrupted" and len(folder.steps()) == 2
    assert run("resume", "run", "--memory", "balanced")[0] == 0
    assert folder.spec().memory == "balanced"
    one, two = (json.loads((tmp_path / name / "status.json").read_text())["best"] for name in ("run", "whole"))
    assert one == pytest.approx(two, rel=1e-5)
