"""The toys keep their promises: DDIM of exact Gaussian denoising, in closed form."""

import math

import pytest
import torch
from diffusers import DDIMScheduler

from noiseward.toys import GaussianModel, Linear, Quadratic

f64 = torch.float64
SETTINGS = [(steps, eta) for steps in (1, 2, 5, 12) for eta in (0.0, 0.5, 1.0)]


def gaussian(steps, eta, **changes):
    return GaussianModel(steps=steps, eta=eta, mean=0.8, std=0.3, dim=3, dtype=f64, **changes)


@pytest.mark.parametrize(("steps", "eta"), SETTINGS)
def test_the_sampler_equals_its_closed_form(steps, eta):
    model = gaussian(steps, eta)
    sampler = model.sampler()
    noise = 3 * sampler.init(4)
    assert sampler.noise_shape == (steps + 1 if eta else 1, 3)
    exact = model.offset + torch.einsum("k,bkd->bd", model.weights, noise)
    torch.testing.assert_close(sampler(noise), exact, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("steps", "eta"), [(steps, eta) for steps, eta in SETTINGS if steps > 1])
def test_the_sampler_is_the_ddim_of_diffusers(steps, eta):
    model = gaussian(steps, eta)
    levels = torch.tensor(model.alphas)
    scheduler = DDIMScheduler(
        num_train_timesteps=steps, trained_betas=(1 - levels[1:] / levels[:-1]).numpy(), clip_sample=False,
        timestep_spacing="trailing",
    )  # fmt: skip
    scheduler.set_timesteps(steps)
    sampler = model.sampler()
    noise = sampler.init(2)
    x = noise[:, 0]
    for k, t in enumerate(scheduler.timesteps):
        variance = noise[:, k + 1] if eta else None
        x = scheduler.step(model(x, model.alphas[int(t) + 1]), t, x, eta=eta, variance_noise=variance).prev_sample
    torch.testing.assert_close(sampler(noise), x.to(f64), rtol=1e-4, atol=1e-5)  # diffusers' levels are in float32


@pytest.mark.parametrize("alpha", [0.999, 0.5, 0.01])
def test_the_denoiser_is_the_score_of_the_noised_data(alpha):
    model = gaussian(3, 1.0)
    x = torch.linspace(-3, 3, 7, dtype=f64, requires_grad=True)
    scale = math.sqrt(alpha * 0.3**2 + 1 - alpha)
    likelihood = torch.distributions.Normal(math.sqrt(alpha) * 0.8, scale).log_prob(x)
    (score,) = torch.autograd.grad(likelihood.sum(), x)
    torch.testing.assert_close(model(x.detach(), alpha), -math.sqrt(1 - alpha) * score, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("recompute", [False, True])
def test_the_sampler_passes_gradcheck(eta, recompute):
    sampler = gaussian(4, eta).sampler(recompute=recompute)
    assert torch.autograd.gradcheck(sampler, sampler.init(2).requires_grad_(True))


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_the_gradient_is_the_weights_and_the_last_of_several_draws_has_none(eta):
    model = gaussian(6, eta)
    sampler = model.sampler()
    noise = sampler.init(2).requires_grad_(True)
    (gradient,) = torch.autograd.grad(sampler(noise)[:, 1].sum(), noise)
    assert not gradient[:, :, [0, 2]].any()
    torch.testing.assert_close(gradient[:, :, 1], model.weights.expand(2, -1), rtol=1e-12, atol=1e-12)
    assert (model.weights[-1] == 0) == (eta > 0)


def test_the_ode_converges_at_first_order_to_its_flow():
    def errors(steps):
        model = gaussian(steps, 0.0)
        last = model.alphas[-1]
        weight = 0.3 / math.sqrt(last * 0.3**2 + 1 - last)
        return abs(model.weights.item() - weight), abs(model.offset - 0.8 * (1 - weight * math.sqrt(last)))

    for coarse, fine in zip(errors(200), errors(400), strict=True):
        assert fine < 0.01
        assert coarse / fine == pytest.approx(2, rel=0.1)


@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_the_sde_converges_at_first_order_to_the_data(eta):
    def error(steps):
        return abs(gaussian(steps, eta).weights.norm().item() - 0.3)

    assert error(800) < 0.005
    assert error(400) / error(800) == pytest.approx(2, rel=0.15)


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("steps", [3, 200])
def test_many_samples_have_mean_and_deviation_of_the_closed_form_and_with_many_steps_of_the_data(steps, eta):
    model, count = gaussian(steps, eta), 20_000
    torch.manual_seed(0)
    samples = model.sample(count // 3)
    mean, std = samples.mean().item(), samples.std().item()
    deviation = model.weights.norm().item()
    assert abs(mean - model.offset) < 4 * deviation / math.sqrt(count)
    assert abs(std / deviation - 1) < 4 / math.sqrt(2 * count)
    if steps == 200:
        assert (mean, std) == (pytest.approx(0.8, abs=0.02), pytest.approx(0.3, abs=0.02))


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_the_nearest_noise_that_reaches_a_target_is_the_one_of_the_docstring(eta):
    model = gaussian(5, eta)
    sampler, target = model.sampler(), torch.tensor([2.0, -1.0, 0.0], dtype=f64)
    z = sampler.init(1)
    near = z + torch.einsum("k,bd->bkd", model.weights, target - sampler(z)) / model.weights.square().sum()
    torch.testing.assert_close(sampler(near)[0], target, rtol=1e-12, atol=1e-12)
    for seed in range(20):  # any other noise that reaches it is farther: near plus what the sampler does not see
        other = near + sampler.init(1, seed=seed)
        other = other + torch.einsum("k,bd->bkd", model.weights, target - sampler(other)) / model.weights.square().sum()
        torch.testing.assert_close(sampler(other)[0], target, rtol=1e-12, atol=1e-12)
        assert (other - z).norm() >= (near - z).norm() - 1e-12


def test_linear_and_quadratic_have_their_gradients_row_by_row():
    x = torch.tensor([[1.0, 2.0], [-3.0, 0.5]], dtype=f64, requires_grad=True)
    linear, quadratic = Linear([2.0, -1.0])(x, None), Quadratic([1.0, 1.0])(x, None)
    assert linear.tolist() == [0.0, -6.5]
    assert quadratic.tolist() == [-0.5, -8.125]
    assert torch.autograd.grad(linear.sum(), x)[0].tolist() == [[2, -1], [2, -1]]
    assert torch.equal(torch.autograd.grad(quadratic.sum(), x)[0], 1 - x.detach())
