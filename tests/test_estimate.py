"""Estimators: the direction is the gradient, where there is one, and an error where there is none."""

import pytest
import torch
from torch import nn

from noiseward.errors import ArgumentError, GradientError
from noiseward.loop.objective import Objective
from noiseward.noise.layout import Draw, Layout, Seeds
from noiseward.noise.regularize import Concentration
from noiseward.optimizers.gradient import Annealed, Backprop
from noiseward.rewards.reward import FunctionReward, WeightedSum
from noiseward.samplers.cost import NFE, count_calls
from noiseward.samplers.function import FunctionSampler
from noiseward.samplers.recompute import hold_constant
from noiseward.samplers.sampler import Sampler
from noiseward.toys import GaussianModel, Linear, Quadratic

f64 = torch.float64


def estimate(objective, noise):
    return Backprop()(objective, noise, Seeds(tuple(range(len(noise)))))


def model(eta=1.0):
    return GaussianModel(steps=4, eta=eta, dim=3, dtype=f64)


def curved_sampler():
    """A sampler that is not linear in its noise, with a denoiser to recompute."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 3)).double()

    def fn(batch):
        x = torch.randn(batch, 3, dtype=f64)
        for _ in range(3):
            x = x + net(x) + 0.3 * torch.randn(batch, 3, dtype=f64)
        return x.sin()

    return net, fn


SAMPLERS = {
    "ode": lambda: model(0.0).sampler(),
    "sde": lambda: model().sampler(),
    "sde recomputed": lambda: model().sampler(recompute=True),
    "curved": lambda: FunctionSampler(curved_sampler()[1]),
    "curved recomputed": lambda: FunctionSampler(*reversed(curved_sampler()), recompute=True),
}
REWARDS = {
    "linear": Linear([1.0, -2.0, 0.5]),
    "quadratic": Quadratic([1.0, 0.0, -3.0]),
    "sum": WeightedSum({Linear(1.0): 0.3, Quadratic(2.0): -1.5}),
    "bumpy": FunctionReward(lambda x: (3 * x).sin().prod(1) + x[:, 0].exp(), name="bumpy"),
}


@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
@pytest.mark.parametrize("reward", REWARDS.values(), ids=REWARDS)
@pytest.mark.parametrize("regularized", [False, True])
def test_backprop_agrees_with_finite_differences_of_the_value_in_every_coordinate(sampler, reward, regularized):
    sampler = sampler()
    regularizer = Concentration(0.1, block=3, permutations=2) if regularized else None
    objective = Objective(sampler, reward, regularizer=regularizer)
    noise = sampler.init(2, seed=5) + 2.5 * regularized  # far enough out for the penalty to have a slope
    evaluation, direction = estimate(objective, noise)
    assert (evaluation.penalty.min() > 0.1) == regularized
    flat, h = noise[0].flatten(), 1e-5
    shifts = h * torch.eye(len(flat), dtype=f64)
    up, down = ((flat + sign * shifts).view(-1, *sampler.noise_shape) for sign in (1, -1))
    slopes = (objective(up).value - objective(down).value) / (2 * h)
    still = ~sampler.layout.zero_fixed(torch.ones_like(noise[:1])).flatten().bool()
    assert not slopes[still].any()
    torch.testing.assert_close(direction[0].flatten(), slopes, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("recompute", [False, True])
def test_the_gradient_of_a_linear_reward_is_slope_times_weights(eta, recompute):
    toy = model(eta)
    sampler = toy.sampler(recompute=recompute)
    slope = torch.tensor([1.0, -2.0, 0.5], dtype=f64)
    _, direction = estimate(Objective(sampler, Linear(slope)), sampler.init(2))
    exact = toy.weights[:, None] * slope
    torch.testing.assert_close(direction, exact.expand(2, -1, -1), rtol=1e-12, atol=1e-12)


def test_the_evaluation_is_that_of_the_noise_and_holds_no_graph():
    sampler = model().sampler()
    objective, noise = Objective(sampler, Quadratic(1.0)), sampler.init(2)
    evaluation, direction = estimate(objective, noise)
    assert torch.equal(evaluation.reward, objective(noise).reward)
    assert not evaluation.value.requires_grad and not evaluation.sample.requires_grad and not direction.requires_grad
    assert not noise.requires_grad and noise.grad is None


def test_backprop_works_where_gradients_are_switched_off_around_it():
    sampler = model().sampler()
    objective, noise = Objective(sampler, Quadratic(1.0)), sampler.init(2)
    with torch.no_grad():
        _, direction = estimate(objective, noise)
    assert torch.equal(direction, estimate(objective, noise)[1])


def test_one_estimate_costs_a_forward_and_a_backward_of_every_call():
    sampler = model().sampler(recompute=True)
    noise = sampler.init(3)
    with count_calls() as meter:
        estimate(Objective(sampler, Linear(1.0)), noise)
    assert meter.nfe == NFE(forward=4, backward=4, recomputed=4)


class FixedDraw(Sampler):
    """The sum of its draws, of which the layout holds some still."""

    layout = Layout((Draw("a", (2,), "start"), Draw("b", (2,), "other"), Draw("c", (2,), live=False)))

    def __call__(self, noise, prompt=None):
        return noise.sum(1)


def test_the_direction_is_zero_on_fixed_draws():
    _, direction = estimate(Objective(FixedDraw(), Linear(1.0)), torch.zeros(1, 3, 2))
    assert direction.tolist() == [[[1, 1], [0, 0], [0, 0]]]


def test_a_black_box_is_refused_by_name_before_anything_runs():
    def never(batch):
        raise AssertionError

    black = FunctionReward(lambda x: x.sum(1), differentiable=False, name="jpeg")
    for reward in (black, WeightedSum({Linear(1.0): 1.0, black: 2.0})):
        with pytest.raises(GradientError, match="reward 'jpeg' is a black box.*differentiable=True"):
            Backprop().check(reward)
        with pytest.raises(GradientError, match="'jpeg'"):
            estimate(Objective(FunctionSampler(never), reward), torch.zeros(1, 1, 2))


LEAKY = nn.Linear(2, 2)  # not frozen: gives samples and scores a graph that does not lead to the noise

BROKEN = {
    "sampler under no_grad": (
        torch.no_grad()(lambda batch: 2 * torch.randn(batch, 2)),
        Linear(1.0),
        "reaches the sample",
    ),
    "sampler through numpy": (
        lambda batch: torch.from_numpy(torch.randn(batch, 2).detach().numpy()),
        Linear(1.0),
        "reaches the sample",
    ),
    "sampler detaching beside its own graph": (
        lambda batch: LEAKY(torch.randn(batch, 2).detach()),
        Linear(1.0),
        "Tensor.detach at .*detach=True",
    ),
    "reward that detaches": (None, FunctionReward(lambda x: x.detach().sum(1), name="cut"), "reward 'cut'.*detaches"),
    "reward through numbers": (None, FunctionReward(lambda x: [1.0] * len(x), name="cut"), "reward 'cut'"),
    "reward detaching beside its own graph": (
        None,
        FunctionReward(lambda x: LEAKY(x.detach()).sum(1), name="cut"),
        "reward 'cut'",
    ),
}


@pytest.mark.parametrize("regularized", [False, True])
@pytest.mark.parametrize(("fn", "reward", "message"), BROKEN.values(), ids=BROKEN)
def test_a_gradient_that_does_not_reach_the_noise_is_an_error_and_not_a_zero(fn, reward, message, regularized):
    sampler = FunctionSampler(fn or (lambda batch: 2 * torch.randn(batch, 2)))
    regularizer = Concentration(block=2) if regularized else None
    with pytest.raises(GradientError, match=message):
        estimate(Objective(sampler, reward, regularizer=regularizer), sampler.init(3))


# ---- the cheaper gradients: what each of them is, in closed form ----


def path(toy, last):
    """How much each draw weighs in the sample when the denoiser's Jacobian counts in the last so many steps alone."""
    weights, alphas = [1.0], list(zip(toy.alphas[:0:-1], toy.alphas[-2::-1], strict=True))
    for number, (now, after) in enumerate(alphas):
        keep, remove, sigma = toy._step(now, after)
        kept = keep + (remove * toy._denoise(now)[0] if number >= len(alphas) - last else 0.0)
        weights = [weight * kept for weight in weights] + [sigma] * (toy.eta > 0)
    return torch.tensor(weights, dtype=f64)


def along(toy, estimator, *, recompute=False, step=0):
    """The direction of a linear reward of slope 1, as weights of the draws, and what it cost."""
    sampler = toy.sampler(recompute=recompute)
    noise = sampler.init(1)
    with count_calls() as meter:
        _, direction = estimator(Objective(sampler, Linear(1.0)), noise, Seeds((0,), step=step))
        assert torch.equal(direction, direction[..., :1].expand_as(direction))
    return direction[0, :, 0], meter.nfe


@pytest.mark.parametrize("last", [1, 2, 3, 4, 9])
@pytest.mark.parametrize("recompute", [False, True])
def test_draws_of_the_last_steps_have_their_exact_gradient_and_earlier_ones_are_fixed(last, recompute):
    toy, last_of = model(), min(last, 4)
    direction, spent = along(toy, Backprop(last), recompute=recompute)
    exact = toy.weights.clone()
    exact[: 4 - last_of] = 0
    torch.testing.assert_close(direction, exact, rtol=1e-12, atol=1e-12)
    assert spent == NFE(forward=4, backward=last_of, recomputed=last_of * recompute)


@pytest.mark.parametrize("last", [None, 1, 2, 4, 9])
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_linear_drops_the_jacobian_of_all_but_the_last_steps_and_keeps_the_samplers_path(last, eta):
    toy = model(eta)
    direction, spent = along(toy, Backprop(last, through="linear"))
    kept = min(last or 0, 4)
    torch.testing.assert_close(direction, path(toy, kept), rtol=1e-12, atol=1e-12)
    assert spent == NFE(forward=4, backward=kept)
    assert (kept == 4) == torch.allclose(direction, toy.weights, rtol=1e-6)


def test_annealing_goes_from_linear_to_exact_and_depends_on_the_step_alone():
    toy = model()
    for move, last in ((0, 0), (1, 1), (2, 2), (3, 4), (50, 4)):
        direction, spent = along(toy, Annealed(3), step=move)
        torch.testing.assert_close(direction, path(toy, last), rtol=1e-12, atol=1e-12)
        assert spent.backward == last


def test_a_step_ends_when_a_denoiser_is_called_again():
    """Two denoisers called in turn make one step; draws know after how many steps they are made."""
    nets = [nn.Linear(3, 3).double() for _ in range(2)]

    def fn(batch):
        x = torch.randn(batch, 3, dtype=f64)
        for _ in range(3):
            x = x + nets[0](x) * nets[1](x) + torch.randn(batch, 3, dtype=f64)
        return x

    sampler = FunctionSampler(fn, nets)
    noise = sampler.init(1)
    with count_calls() as meter:
        assert sampler.layout.steps == 3 and [draw.after for draw in sampler.layout] == [0, 1, 2, 3]
        _, direction = Backprop(1)(Objective(sampler, Linear(1.0)), noise, Seeds((0,)))
        assert direction.flatten(2).abs().amax(2)[0].bool().tolist() == [False, False, True, True]
    assert meter.nfe == NFE(forward=6, backward=2)


def test_leaving_out_jacobians_ends_with_the_estimate():
    sampler = model().sampler()
    objective, noise = Objective(sampler, Quadratic(1.0)), sampler.init(2)
    exact = estimate(objective, noise)[1]
    cheap = Backprop(through="linear")(objective, noise, Seeds((0, 1)))[1]
    assert torch.equal(estimate(objective, noise)[1], exact) and not torch.allclose(exact, cheap)


def test_discovery_uses_the_whole_gradient_whatever_is_asked_first():
    sampler = model().sampler()
    with hold_constant(4):
        layout = sampler.layout
    assert layout.dead == ("step 4",) and layout == model().sampler().layout


def test_cheaper_gradients_that_cannot_be_are_refused_by_what_they_lack():
    with pytest.raises(ArgumentError, match="steps must be >= 1, got 0"):
        Backprop(0)
    with pytest.raises(ArgumentError, match="unknown through 'lin'; did you mean 'linear'"):
        Backprop(through="lin")
    with pytest.raises(ArgumentError, match="until must be >= 1, got 0"):
        Annealed(0)
    unknown = Objective(FunctionSampler(lambda batch: 2 * torch.randn(batch, 2)), Linear(1.0))
    for estimator in (Backprop(1), Backprop(through="linear"), Annealed()):
        with pytest.raises(GradientError, match="its denoiser is not known"):
            estimator(unknown, torch.zeros(1, 1, 2), Seeds((0,)))
    with pytest.raises(GradientError, match="no draw that may change is made in the last 2 of 4 steps.*eta=1"):
        Backprop(2)(Objective(model(0.0).sampler(), Linear(1.0)), torch.zeros(1, 1, 3, dtype=f64), Seeds((0,)))
