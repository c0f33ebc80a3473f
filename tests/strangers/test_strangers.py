"""k-diffusion, denoising-diffusion-pytorch, azula, flow_matching, torchdiffeq: untouched, through FunctionSampler.

For each: the stranger's own sample of a seed bit for bit, a gradient that agrees with finite differences for every draw
that weighs in, rows that are their own runs, and an ascent that gains.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from noiseward import FunctionReward, FunctionSampler, GradientAscent, Objective
from noiseward.loop.budget import Budget
from noiseward.loop.loop import iterate
from tests.strangers.absent import stand_ins

f64 = torch.float64


class Net(nn.Module):
    """Looks at x and a time, whatever their shapes, and gives something of the shape of x."""

    def __init__(self, dim: int = 3) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(dim + 1, 16), nn.Tanh(), nn.Linear(16, dim))

    def forward(self, x: Tensor, t: Any, **_: Any) -> Tensor:
        time = torch.as_tensor(t, dtype=x.dtype).reshape(-1, *[1] * (x.ndim - 1)).expand(*x.shape[:-1], 1)
        return self.body(torch.cat([x, time], dim=-1))


@dataclasses.dataclass(frozen=True)
class Stranger:
    """A sampler of someone else's.

    Arguments:
        fn: what FunctionSampler gets.
        denoiser: the module it calls.
        stock: what a user of theirs would call for one sample, gradients off and all.
        draws: in one run.
        dead: which do not matter.
        exact: float64 all the way.
    """

    fn: Callable[..., Tensor]
    denoiser: nn.Module
    stock: Callable[[], Tensor]
    draws: int
    dead: tuple[str, ...] = ()
    exact: bool = True


def k_diffusion(name: str, draws: int, dead: tuple[str, ...] = ()) -> Stranger:
    """Functions `sample_x(model, x, sigmas)` under `torch.no_grad()`: `__wrapped__` is the same without."""
    with stand_ins():
        import k_diffusion as k

    model = Net().double()
    sigmas = k.sampling.get_sigmas_karras(4, 0.1, 10.0).double()
    sample = getattr(k.sampling, name)

    def run(sample: Callable[..., Tensor], batch: int) -> Tensor:
        return sample(model, 10.0 * torch.randn(batch, 3, dtype=f64), sigmas, disable=True)

    return Stranger(lambda batch: run(sample.__wrapped__, batch), model, lambda: run(sample, 1), draws, dead)


def lucidrains(steps: int | None, draws: int, dead: tuple[str, ...] = ()) -> Stranger:
    """Methods that call each other, each under `torch.inference_mode()`: a subclass of the methods without."""
    with stand_ins():
        from denoising_diffusion_pytorch import GaussianDiffusion, Unet

    torch.manual_seed(0)
    unet = Unet(dim=8, dim_mults=(1, 2), channels=3, attn_dim_head=4, attn_heads=2)
    settings: dict[str, Any] = {"image_size": 8, "timesteps": 4, "sampling_timesteps": steps, "ddim_sampling_eta": 1.0}
    theirs = GaussianDiffusion(unet, **settings).eval()
    plain = {name: each.__wrapped__ for name, each in vars(GaussianDiffusion).items() if hasattr(each, "__wrapped__")}
    ours = type("Differentiable", (GaussianDiffusion,), plain)(unet, **settings).eval()
    return Stranger(
        lambda batch: ours.sample(batch_size=batch), unet, lambda: theirs.sample(batch_size=1), draws, dead, exact=False
    )


def azula(name: str, draws: int, dead: tuple[str, ...] = (), **settings: Any) -> Stranger:
    """Objects whose methods are under `torch.no_grad()`, the one that draws the start included: `__wrapped__` again."""
    import azula.denoise
    import azula.noise
    import azula.sample

    net = Net().double()
    denoiser = azula.denoise.SimpleDenoiser(net, azula.noise.VPSchedule()).double()
    sampler = getattr(azula.sample, name)(denoiser, start=1.0, stop=0.0, steps=4, silent=True, **settings)

    init, call = type(sampler).init.__wrapped__, type(sampler).__call__.__wrapped__

    def differentiable(batch: int) -> Tensor:
        return call(sampler, init(sampler, (batch, 3), dtype=f64))

    return Stranger(differentiable, net, lambda: sampler(sampler.init((1, 3), dtype=f64)), draws, dead)


def flow_matching() -> Stranger:
    """Gradients are an argument: `enable_grad=True`."""
    from flow_matching.solver import ODESolver

    net = Net().double()
    solver = ODESolver(velocity_model=net)

    def run(batch: int, **settings: Any) -> Tensor:
        grid = torch.tensor([0.0, 1.0], dtype=f64)
        return solver.sample(
            torch.randn(batch, 3, dtype=f64), step_size=0.25, method="midpoint", time_grid=grid, **settings
        )

    return Stranger(lambda batch: run(batch, enable_grad=True), net, lambda: run(1), draws=1)


def torchdiffeq(method: str) -> Stranger:
    """Nothing to undo."""
    from torchdiffeq import odeint

    net = Net().double()

    def run(batch: int) -> Tensor:
        grid = torch.linspace(0.0, 1.0, 4, dtype=f64)
        return odeint(lambda t, x: net(x, t), torch.randn(batch, 3, dtype=f64), grid, method=method)[-1]

    return Stranger(run, net, lambda: run(1).detach(), draws=1)


STRANGERS = {
    "k-diffusion, Euler ancestral": lambda: k_diffusion("sample_euler_ancestral", 4),
    "k-diffusion, DPM++ 2S ancestral": lambda: k_diffusion("sample_dpmpp_2s_ancestral", 4),
    "k-diffusion, DPM++ 2M": lambda: k_diffusion("sample_dpmpp_2m", 1),
    "denoising-diffusion-pytorch, DDPM": lambda: lucidrains(None, 4),
    "denoising-diffusion-pytorch, DDIM": lambda: lucidrains(3, 3),
    "azula, DDPM": lambda: azula("DDPMSampler", 5),
    "azula, DDIM": lambda: azula("DDIMSampler", 5, eta=1.0),
    "azula, Heun": lambda: azula("HeunSampler", 1),
    "flow_matching, midpoint": flow_matching,
    "torchdiffeq, RK4": lambda: torchdiffeq("rk4"),
    "torchdiffeq, Dormand-Prince": lambda: torchdiffeq("dopri5"),
}


@pytest.fixture(scope="module", params=STRANGERS.values(), ids=STRANGERS)
def stranger(request) -> Stranger:
    torch.manual_seed(0)
    return request.param()


@pytest.fixture(params=[False, True], ids=["kept", "recomputed"])
def sampler(stranger, request) -> FunctionSampler:
    return FunctionSampler(stranger.fn, stranger.denoiser, recompute=request.param)


def weigh(sample: Tensor) -> Tensor:
    weights = torch.randn(sample.shape[1:], generator=torch.Generator().manual_seed(3), dtype=f64)
    return (sample.double() * weights).flatten(1).sum(1)


def test_the_strangers_own_sample_of_a_seed_bit_for_bit(stranger, sampler):
    assert (len(sampler.layout), sampler.layout.dead) == (stranger.draws, stranger.dead)
    torch.manual_seed(7)
    theirs = stranger.stock()
    assert not theirs.requires_grad
    assert torch.equal(sampler(sampler.init(1, seed=7)), theirs)


def test_every_draw_that_weighs_in_has_the_gradient_of_finite_differences(stranger, sampler):
    width, tolerance = (1e-5, 1e-6) if stranger.exact else (1e-2, 1e-2)
    noise = sampler.init(1, seed=4).double().requires_grad_()
    (gradient,) = torch.autograd.grad(weigh(sampler(noise)).sum(), noise)
    for k, (draw, part) in enumerate(zip(sampler.layout, sampler.layout.split(gradient), strict=True)):
        if not draw.live:
            continue
        along = sampler.layout.keep([j == k for j in range(stranger.draws)], gradient) / part.norm()
        with torch.no_grad():
            up, down = (weigh(sampler(noise + sign * width * along)).item() for sign in (1, -1))
        assert abs(part.norm().item() - (up - down) / (2 * width)) < tolerance * part.norm(), draw.name


def test_rows_are_their_own_runs(stranger, sampler):
    noise = sampler.init(3, seed=1)
    together = sampler(noise)
    alone = torch.cat([sampler(noise[row : row + 1]) for row in range(3)])
    # An adaptive solver chooses its steps for the whole batch: its rows agree to its own tolerance only.
    slack = 1e-5 if not stranger.exact or stranger.draws == 1 else 1e-12
    torch.testing.assert_close(together, alone, rtol=0, atol=slack)


def test_ascent_gains(sampler):
    objective = Objective(sampler, FunctionReward(lambda sample: sample.flatten(1).mean(1), name="mean"))
    steps = list(iterate(objective, sampler.init(2), optimizer=GradientAscent(lr=0.05), budget=Budget(steps=4)))
    assert (steps[-1].evaluation.reward > steps[0].evaluation.reward).all()
