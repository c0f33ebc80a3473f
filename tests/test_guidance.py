"""Guided runs: what they amount to is noise, and on linear-Gaussian toys what they do is known in closed form."""

import math

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler

from noiseward import DiffusersSampler
from noiseward.errors import ArgumentError, GradientError, NoisewardWarning, TapeError
from noiseward.loop.budget import Budget
from noiseward.loop.collect import optimize
from noiseward.loop.objective import Objective
from noiseward.noise.layout import Seeds
from noiseward.optimizers.guidance import DPS, LGD, NTRK, FKSteering, Guided
from noiseward.optimizers.search import BestOfN
from noiseward.rewards.reward import FunctionReward
from noiseward.samplers.cost import NFE, count_calls
from noiseward.samplers.function import FunctionSampler
from noiseward.samplers.guide import Guide, Redraw, Resampling, StateShift
from noiseward.samplers.steps import is_guided, run_guided
from noiseward.toys import GaussianModel, Linear, Quadratic
from tests import test_laws as laws
from tests.families import FAMILIES
from tests.tiny import CALL, stable_diffusion

f64 = torch.float64
STEERABLE = ("Stable Diffusion 1", "SDXL", "Latent Consistency", "ControlNet", "DDPM", "AnimateDiff")
STOCHASTIC_FLOW = "Stable Diffusion 3, stochastic"
SLOPE = 1.5


def model(steps=5, **changes):
    return GaussianModel(**{"steps": steps, "mean": 0.4, "std": 0.6, "dim": 2, "dtype": f64, **changes})


def run(sampler, noise, guide, score=lambda x: SLOPE * x.flatten(1).sum(1), prompt=None):
    seeds = Seeds(tuple(range(100, 100 + noise.shape[0])))
    return run_guided(sampler, noise, prompt, guide, score=score, seeds=seeds)


def sensitivity(toy, alpha):
    """How much the prediction of the toy moves with its noisy state."""
    return math.sqrt(alpha) * toy.std**2 / (alpha * toy.std**2 + 1 - alpha)


def pairs(toy):
    return zip(toy.alphas[:0:-1], toy.alphas[-2::-1], strict=True)


class Recording(Guide):
    """Answers what it is told to, and remembers what it saw."""

    def __init__(self, answer=lambda moment: None, *, gradient=False):
        self.gradient, self.answer, self.seen = gradient, answer, []

    def __call__(self, moment):
        self.seen.append(moment)
        return self.answer(moment)


# ---- the seam ----


def test_a_sampler_step_shows_the_state_the_exact_prediction_and_its_levels():
    toy = model()
    sampler, guide = toy.sampler(), Recording()
    noise = sampler.init(3)
    end = run(sampler, noise, guide)
    assert torch.equal(end.noise, noise) and torch.equal(end.sample, sampler(noise)) and not is_guided()
    assert [moment.index for moment in guide.seen] == list(range(5)) and {moment.of for moment in guide.seen} == {5}
    assert torch.equal(guide.seen[0].noisy, noise[:, 0])
    for moment, alpha in zip(guide.seen, toy.alphas[:0:-1], strict=True):
        assert (moment.signal, moment.sigma) == (math.sqrt(alpha), math.sqrt(1 - alpha))
        gain = sensitivity(toy, alpha)  # E[x_0 | x_t] of Gaussian data
        torch.testing.assert_close(moment.clean, toy.mean + gain * (moment.noisy - math.sqrt(alpha) * toy.mean))


def test_a_shift_is_made_by_the_draw_of_its_step():
    toy = model()
    sampler = toy.sampler()
    noise = sampler.init(2)
    by = torch.tensor([[1.0, -2.0], [0.5, 3.0]], dtype=f64)
    end = run(sampler, noise, Recording(lambda moment: StateShift(by) if moment.index == 2 else None, gradient=True))
    sigma = toy._step(toy.alphas[3], toy.alphas[2])[2]
    expected = noise.clone()
    expected[:, 3] += by / sigma
    torch.testing.assert_close(end.noise, expected)
    torch.testing.assert_close(end.sample, sampler(end.noise))


def test_a_shift_that_no_draw_can_express_is_left_out():
    sampler = model(eta=0.0).sampler()
    noise = sampler.init(2)
    end = run(sampler, noise, DPS())
    assert torch.equal(end.noise, noise) and torch.equal(end.sample, sampler(noise))


def test_a_picked_row_brings_its_draws_and_its_memory():
    sampler = model().sampler()
    noise = sampler.init(3)

    def answer(moment):
        if moment.index == 0:
            moment.memory["name"] = torch.tensor([0, 1, 2])
        return Resampling(torch.tensor([2, 2, 0])) if moment.index == 1 else None

    end = run(sampler, noise, Recording(answer))
    assert torch.equal(end.noise[:, :3], noise[[2, 2, 0], :3])  # the start and the draws of steps 0 and 1
    assert torch.equal(end.noise[:, 3:], noise[:, 3:])
    assert torch.equal(end.sample, sampler(end.noise)) and end.memory["name"].tolist() == [2, 2, 0]


def test_the_pulled_gradient_is_that_of_a_finite_difference():
    toy = model()
    sampler = toy.sampler()
    noise = sampler.init(2)

    seen = []

    def look(moment):
        scores = moment.clean.sin().sum(1)
        seen.append((scores.detach(), moment.pull(scores)))

    probe, width = torch.randn(noise.shape, dtype=f64), 1e-5
    probe[:, 1:] = 0
    for sign in (0, 1, -1):
        run(sampler, noise + sign * width * probe, Recording(look, gradient=True))
    (_, slope), (above, _), (below, _) = seen[0], seen[5], seen[10]  # the first step of each run
    torch.testing.assert_close((slope * probe[:, 0]).sum(1), (above - below) / (2 * width))


@pytest.mark.parametrize("recompute", [False, True])
def test_calls_are_counted_with_their_gradients(recompute):
    sampler = model(4).sampler(recompute=recompute)
    noise = sampler.init(2)
    for guide, cost in ((FKSteering(2), NFE(4)), (DPS(), NFE(4, 4, 4 if recompute else 0))):
        with count_calls() as meter:
            run(sampler, noise, guide)
        assert meter.nfe == cost


def test_a_sampler_that_announces_nothing_or_takes_rows_one_by_one_is_refused():
    silent = FunctionSampler(lambda batch: torch.randn(batch, 2) + torch.randn(batch, 2))
    with pytest.raises(TapeError, match="announced no step"):
        run(silent, silent.init(2), FKSteering(2))
    toy = model()
    single = FunctionSampler(lambda: toy.sample(1), denoiser=toy)
    with pytest.raises(TapeError, match="one at a time"):
        run(single, single.init(2), FKSteering(2))


def test_a_denoiser_that_runs_without_a_graph_is_an_error_not_a_zero_gradient():
    toy = model()
    plain = toy.forward
    toy.forward = torch.no_grad()(plain)
    with (
        pytest.warns(NoisewardWarning, match="GaussianModel returns a constant"),
        pytest.raises(GradientError, match="no_grad"),
    ):
        run(toy.sampler(), toy.sampler().init(1), DPS())


# ---- closed forms ----


def test_dps_shifts_each_draw_by_the_gradient_of_the_prediction():
    toy = model()
    sampler = toy.sampler()
    noise = sampler.init(2)
    end = run(sampler, noise, DPS(0.3, normalize=False))
    for k, (now, after) in enumerate(pairs(toy)):
        sigma = toy._step(now, after)[2]
        moved = 0.3 * SLOPE * sensitivity(toy, now) / sigma if sigma > 0 else 0.0
        torch.testing.assert_close(end.noise[:, k + 1] - noise[:, k + 1], torch.full((2, 2), moved, dtype=f64))


def test_normalized_shifts_have_one_length_whatever_the_scale_of_the_reward():
    toy = model()
    sampler = toy.sampler()
    noise = sampler.init(2)
    small, large = (run(sampler, noise, DPS(), lambda x, c=c: c * x.sum(1)) for c in (1e-3, 1e3))
    torch.testing.assert_close(small.noise, large.noise)
    sigma = toy._step(*next(iter(pairs(toy))))[2]
    length = (small.noise - noise)[:, 1].norm(dim=1) * sigma
    torch.testing.assert_close(length, torch.ones(2, dtype=f64))
    assert (run(sampler, noise, LGD(2, scale=1e-2)).sample > sampler(noise)).all()


def measure_tilt(steps, votes):
    """By how much LGD moves the samples of the toy, and by how much the tilted data are away from the data."""
    toy = model(steps, eta=1.0)
    sampler = toy.sampler()
    noise = sampler.init(2)
    moved = run(sampler, noise, LGD(votes, scale=2.0, normalize=False)).sample - sampler(noise)
    assert moved.max() - moved.min() < 1e-9  # everything is linear: the same for each noise
    return float(moved.mean()), 2.0 * SLOPE * toy.std**2


def test_a_redraw_replaces_the_draw_of_its_step():
    toy = model()
    sampler = toy.sampler()
    noise = sampler.init(2)

    def answer(moment):
        return Redraw(lambda draw: -2 * draw) if moment.index == 2 else None

    end = run(sampler, noise, Recording(answer, gradient=True))
    expected = noise.clone()
    expected[:, 3] *= -2
    torch.testing.assert_close(end.noise, expected)
    torch.testing.assert_close(end.sample, sampler(end.noise))


def test_lgd_is_exact_for_a_linear_reward_on_gaussian_data():
    errors = []
    for steps in (20, 40, 80):
        moved, expected = measure_tilt(steps, 3)
        errors.append(abs(moved / expected - 1))
    assert errors[2] < 0.05 and errors[0] > 1.6 * errors[1] > 1.6 * 1.6 * errors[2]  # first order in the step
    assert measure_tilt(20, 1)[0] == pytest.approx(measure_tilt(20, 8)[0])  # all votes agree on a slope


@pytest.mark.parametrize("adaptive", [False, True])
def test_fk_particles_follow_the_tilted_samples(adaptive):
    toy, k, scale = model(5), 20_000, 0.8
    sampler = toy.sampler()
    noise = sampler.init(k)
    guide = FKSteering(k, scale=scale, adaptive=adaptive)
    end = run(sampler, noise, guide)
    last = end.memory["weight"] + scale * (SLOPE * end.sample.sum(1) - end.memory["reward"])
    share = last.softmax(0)
    mean = share @ end.sample
    variance = float(toy.weights.square().sum())
    expected = toy.offset + scale * SLOPE * variance
    several = math.sqrt(variance / k * 20)  # k particles are worth less than k samples
    assert (mean - expected).abs().max() < 4 * several < 0.5 * (expected - toy.offset)


def test_fk_kills_the_worst_and_keeps_the_number_of_particles():
    toy = model(5)
    sampler = toy.sampler()
    guide = FKSteering(4, scale=100.0)
    noise = sampler.init(8)
    end = run(sampler, noise, guide)
    starts = end.noise[:, 0]
    for group in range(2):
        rows = slice(4 * group, 4 * group + 4)
        known = noise[rows, 0]
        matches = (starts[rows][:, None] == known[None]).all(-1)
        assert matches.any(1).all() and matches.any(0).sum() < 4  # all from this row's particles, not all of them
    assert end.sample.sum(1).mean() > sampler(noise).sum(1).mean()


def test_a_particle_without_a_finite_reward_dies():
    sampler = model(5).sampler()

    def score(x):
        return torch.where(x[:, 0] > 0.4, torch.nan, x[:, 0])

    end = run(sampler, sampler.init(4, seed=3), FKSteering(4, adaptive=False), score)
    assert torch.isfinite(end.memory["weight"]).all()


# ---- as searches ----

GUIDES = {
    "dps": Guided(DPS(0.2), samples=2, chunk=5),
    "dps, to the letter": Guided(DPS(0.05, normalize=False), samples=1),
    "lgd": Guided(LGD(2, length=0.2), samples=2, chunk=3),
    "ntrk": Guided(NTRK(0.3), samples=2, chunk=3),
    "fk": Guided(FKSteering(2), samples=4, chunk=5),
    "fk max": Guided(FKSteering(2, potential="max", adaptive=False), samples=2),
}
guides = pytest.mark.parametrize("guide", GUIDES.values(), ids=GUIDES)


@guides
@pytest.mark.parametrize("sampler", ["half", "sde", "sde recomputed"])
def test_the_row_law_holds(guide, sampler):
    laws.test_a_rows_whole_run_is_the_same_alone_and_in_a_batch(laws.SAMPLERS[sampler], guide)


@guides
def test_a_row_does_not_notice_its_neighbors(guide):
    laws.test_a_row_does_not_notice_neighbors_that_finished_or_failed(guide)


@guides
@pytest.mark.parametrize("reward", ["quadratic", "bumpy"])
def test_the_pair_law_holds(guide, reward):
    laws.test_every_reward_is_that_of_its_noise_and_the_best_is_the_running_maximum(
        laws.SAMPLERS["sde"], laws.REWARDS[reward], guide
    )


@guides
def test_a_step_costs_its_guided_runs_and_one_more(guide):
    objective = Objective(model(4).sampler(), Linear(1.0))
    solution = optimize(objective, objective.sampler.init(3), optimizer=guide, budget=Budget(steps=2))
    runs = 2 * (guide.samples + 1) + 1
    assert solution.nfe == NFE(4 * runs, 8 * guide.samples if guide.guide.gradient else 0)


@pytest.mark.parametrize(("guide", "samples"), [(DPS(), 4), (LGD(), 4), (NTRK(), 4), (FKSteering(16), 16)])
def test_guided_runs_beat_chance_at_the_same_cost(guide, samples):
    """A backward counts two forwards, so that best-of-n may try three times as many where the guide has a gradient."""
    objective = Objective(model(10, dim=32).sampler(), Quadratic(1.0))
    start = objective.sampler.init(8, seed=50)
    optimizers = Guided(guide, samples=samples), BestOfN(3 * samples if guide.gradient else samples)
    run_guided, chance = (optimize(objective, start, optimizer=o, budget=Budget(steps=2)) for o in optimizers)
    assert run_guided.nfe.cost <= chance.nfe.cost
    assert run_guided.gain.mean() > 1.25 * chance.gain.mean()


def test_a_guide_that_cannot_run_is_refused_before_anything_is_computed():
    black = FunctionReward(lambda x: x.sum(1), differentiable=False, name="black")
    sampler = model().sampler()
    with pytest.raises(GradientError, match="'black' is a black box, DPS follows its gradient: guide with FKSteering"):
        Guided(DPS()).check(Objective(sampler, black))
    Guided(FKSteering()).check(Objective(sampler, black))
    with pytest.raises(ArgumentError, match="FKSteering needs noise at .* set eta=1"):
        Guided(FKSteering()).check(Objective(model(eta=0.0).sampler(), black))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: DPS(0.0), "scale must be .*got 0.0"),
        (lambda: LGD(0), "samples must be .*got 0"),
        (lambda: LGD(length=-1.0), "length must be .*got -1.0"),
        (lambda: NTRK(1.5), r"share must be in \[0, 1\], got 1.5"),
        (lambda: FKSteering(1), "particles must be .*got 1"),
        (lambda: FKSteering(potential="sum"), "available: difference, max"),
        (lambda: FKSteering(every=0.7), "every must be .*got 0.7"),
        (lambda: Guided(FKSteering(4), samples=2), "multiple of the guide's 4 particles, got 2"),
    ],
)
def test_bad_arguments_are_refused(make, words):
    with pytest.raises(ArgumentError, match=words):
        make()


# ---- pipelines: nothing here knows a family ----


def brightness(x):
    return x.flatten(1).double().mean(1)


@pytest.mark.parametrize("name", [*STEERABLE, STOCHASTIC_FLOW])
@pytest.mark.parametrize("guide", [DPS(0.1), LGD(2, length=0.1), NTRK(), FKSteering(2, every=0.5, adaptive=False)])
def test_a_guided_pipeline_amounts_to_noise(name, guide):
    family = FAMILIES[name]
    sampler = DiffusersSampler(family.build(), **{**family.call, "num_inference_steps": 3})
    prompt = family.prompts[0] if family.prompts else None
    noise = sampler.init(2)
    with torch.no_grad():
        before = sampler(noise, prompt)
    end = run(sampler, noise, guide, brightness, prompt)
    with torch.no_grad():
        assert torch.equal(sampler(noise, prompt), before)  # nothing of the guide is left on the pipeline
        assert (sampler(end.noise, prompt) - end.sample).abs().max() < 1e-5
    if guide.gradient:
        assert (brightness(end.sample) > brightness(before)).all()


def test_a_pipelines_prediction_is_decoded_as_it_decodes_its_end():
    """At the last step the prediction of DDIM is its end, but for the noise of that step."""
    sampler = DiffusersSampler(stable_diffusion(), **CALL, eta=0.0)
    guide = Recording(lambda moment: moment.memory.update(seen=moment.score(moment.clean)))
    end = run(sampler, sampler.init(2), guide, lambda x: x.flatten(1)[:, 5], "a")
    last = guide.seen[-1]
    alpha = sampler.pipe.scheduler.final_alpha_cumprod
    assert end.memory["seen"].shape == (2,) and alpha > 0.99
    torch.testing.assert_close(end.memory["seen"], end.sample.flatten(1)[:, 5], atol=0.02, rtol=0.02)
    assert last.signal > 0.99 and last.time == 1


def test_particles_take_a_multistep_schedulers_history_along():
    pipe = stable_diffusion()
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config, algorithm_type="sde-dpmsolver++")
    sampler = DiffusersSampler(pipe, **{**CALL, "num_inference_steps": 6})
    noise = sampler.init(4)
    end = run(
        sampler,
        noise,
        Recording(lambda m: Resampling(torch.tensor([3, 3, 0, 1])) if m.index == 2 else None),
        prompt="a",
    )
    assert not torch.equal(end.noise, noise)
    with torch.no_grad():
        torch.testing.assert_close(sampler(end.noise, "a"), end.sample, atol=1e-5, rtol=0)
