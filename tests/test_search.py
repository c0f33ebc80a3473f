"""Searches: what they try, what they keep, that it stays Gaussian, and toys on which each beats a simpler one."""

import math

import pytest
import torch

from noiseward.errors import ArgumentError
from noiseward.loop.budget import Budget
from noiseward.loop.collect import optimize
from noiseward.loop.loop import iterate
from noiseward.loop.objective import Objective
from noiseward.noise.layout import Draw, Layout
from noiseward.noise.regularize import Concentration, probability
from noiseward.noise.typicality import strict_probability
from noiseward.optimizers.evolve import ChannelEvolution, rank_utilities, rotate_channels
from noiseward.optimizers.search import BestOfN, TrustRegion, ZeroOrderSearch, turn
from noiseward.rewards.reward import FunctionReward
from noiseward.samplers.cost import NFE
from noiseward.samplers.function import FunctionSampler
from noiseward.samplers.sampler import Sampler
from noiseward.toys import GaussianModel, Linear, Quadratic

f64 = torch.float64
SEARCHES = {
    "best of n": BestOfN(6, chunk=7),
    "zero order": ZeroOrderSearch(6, chunk=7),
    "trust region": TrustRegion(6, 3, chunk=7),
    "evolution": ChannelEvolution(6, chunk=7),
}
searches = pytest.mark.parametrize("search", SEARCHES.values(), ids=SEARCHES)


def model(dim=3):
    return GaussianModel(steps=4, dim=dim, dtype=f64)


def pixel_sum(reward):
    """The sum of two draws of four channels: as many pixels as a small latent."""
    fn = lambda batch: torch.randn(batch, 4, 8, 8, dtype=f64) + torch.randn(batch, 4, 8, 8, dtype=f64)  # noqa: E731
    return Objective(FunctionSampler(fn), reward)


def run(objective, search, steps, rows=2, start=None):
    start = objective.sampler.init(rows) if start is None else start
    return list(iterate(objective, start, optimizer=search, budget=Budget(steps=steps)))


def gain(objective, search, steps, rows=4):
    return optimize(objective, objective.sampler.init(rows), optimizer=search, budget=Budget(steps=steps)).gain.mean()


# ---- what all have in common ----


@searches
def test_the_value_never_falls_and_counts_the_penalty(search):
    objective = Objective(model().sampler(), Linear(1.0), regularizer=Concentration(2.0, block=3, permutations=2))
    steps = run(objective, search, 8, start=objective.sampler.init(3) + 1.5)
    values = torch.stack([step.evaluation.value for step in steps])
    assert (values.diff(dim=0) >= -1e-12).all() and (values[-1] > values[0] + 0.1).all()
    assert steps[0].evaluation.penalty.min() > 0.1


@searches
@pytest.mark.parametrize("rows", [1, 3])
def test_a_step_costs_a_row_one_evaluation_and_its_own_candidates(search, rows):
    steps = run(Objective(model().sampler(), Linear(1.0)), search, 2, rows)
    assert [step.nfe for step in steps] == [NFE(4 * 7), NFE(4 * 14), NFE(4 * 15)]


@searches
def test_no_gradient_is_asked_of_anything(search):
    def fn(batch):
        assert not torch.is_grad_enabled()
        return torch.from_numpy(torch.randn(batch, 3).numpy())

    reward = FunctionReward(lambda x: [float(row.sum()) for row in x], differentiable=False, name="numbers")
    sampler = FunctionSampler(torch.no_grad()(fn))
    assert run(Objective(sampler, reward), search, 3)[-1].best.reward.isfinite().all()


@searches
def test_a_run_resumed_from_any_step_is_bit_for_bit_the_run_that_never_stopped(search):
    objective = Objective(model().sampler(), Quadratic(0.3))
    whole = run(objective, search, 5, 3)
    for k, step in enumerate(whole[:-1]):
        rest = list(iterate(objective, step, optimizer=search, budget=Budget(steps=5)))
        assert all(torch.equal(one.noise, two.noise) for one, two in zip(whole[k + 1 :], rest, strict=True))
        assert all(torch.equal(part, rest[-1].state[name]) for name, part in whole[-1].state.items())


@searches
def test_candidates_that_are_not_finite_lose(search):
    objective = Objective(model().sampler(), FunctionReward(lambda x: (x[:, 0] - 0.4).sqrt(), name="half"))
    start = objective.sampler.init(4)
    before = objective(start).reward
    after = run(objective, search, 6, start=start)[-1].best.reward
    assert before.isnan().any() and not before.isnan().all()
    assert (after > before).any()  # though some of the candidates have no value
    flat = Objective(model().sampler(), FunctionReward(lambda x: x[:, 0] * 0, name="flat"))
    assert torch.equal(run(flat, search, 3, start=start)[-1].noise, start)  # and what only draws level does not win


class FixedDraw(Sampler):
    """The sum of its draws, of which the layout holds some still."""

    layout = Layout((Draw("a", (2,), "start"), Draw("b", (2,), "other"), Draw("c", (2,), live=False)))
    nfe = NFE()

    def __call__(self, noise, prompt=None):
        return noise.sum(1)


@searches
def test_candidates_keep_fixed_draws(search):
    start = torch.tensor([[[0.3, -0.2], [1.0, 2.0], [3.0, 4.0]]])
    seen = []
    reward = FunctionReward(lambda x: seen.append(x) or x.sum(1), name="sum")
    last = run(Objective(FixedDraw(), reward), search, 4, start=start)[-1]
    assert torch.equal(last.noise[0, 1:], start[0, 1:])
    assert len({tuple(row.tolist()) for x in seen for row in x}) > 10


# ---- Gaussian by construction ----


@searches
def test_what_is_returned_has_the_norms_and_the_p_of_z_of_fresh_noise(search):
    way = torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(3), dtype=f64)
    objective = pixel_sum(FunctionReward(lambda x: (x * way).flatten(1).sum(1), name="way"))
    rows = 16
    steps = run(objective, search, 10, rows)
    noise, layout = steps[-1].noise, objective.sampler.layout
    assert (steps[-1].best.reward - steps[0].evaluation.reward).mean() > 8
    spheres = torch.stack([draw.flatten(1).norm(dim=1) for draw in layout.split(noise)])
    first = torch.stack([draw.flatten(1).norm(dim=1) for draw in layout.split(steps[0].noise)])
    if search is not SEARCHES["best of n"] and search is not SEARCHES["trust region"]:
        torch.testing.assert_close(spheres, first)  # each draw on its own sphere
    # |z| of n elements is normal to good approximation, with deviation 1 / sqrt 2 whatever n is
    deviations = (spheres - math.sqrt(4 * 64 - 0.5)) * math.sqrt(2)
    assert deviations.abs().max() < 4 and deviations.mean().abs() < 4 / math.sqrt(2 * rows)
    likely, fresh = probability(noise, layout), probability(layout.draw_noise(range(1000, 1000 + rows)), layout)
    assert (likely.mean() - fresh.mean()).abs() < 4 * fresh.std() * math.sqrt(2 / rows)
    assert likely.min() > 0.05
    assert (strict_probability(noise, layout)[0] > 1e-3).all()


def test_a_turn_keeps_each_draws_norm_and_has_the_angle_it_says():
    layout = Layout((Draw("a", (4, 32, 32), "start"), Draw("b", (4, 32, 32)), Draw("c", (4, 32, 32), live=False)))
    z, xi = layout.draw_noise([1]).double()[0], layout.draw_noise([2]).double()[0]
    for angle in (0.1, 0.7, math.pi / 2):
        new = turn(z, xi, angle, layout)
        torch.testing.assert_close(new.flatten(1).norm(dim=1), z.flatten(1).norm(dim=1))
        cosine = torch.cosine_similarity(new[:2].flatten(), z[:2].flatten(), dim=0)
        assert cosine.item() == pytest.approx(math.cos(angle), abs=0.04)
        assert torch.equal(new[2], z[2])
    assert torch.equal(turn(z, xi, 0.0, layout), z)
    part = torch.zeros(z.shape, dtype=torch.bool)
    part[:, 0] = True
    new = turn(z, xi, 0.7, layout, part)
    shares = new[0, 1:] / z[0, 1:]
    assert shares.std() < 1e-12 and shares.mean().item() == pytest.approx(1, abs=0.02)
    assert torch.cosine_similarity(new[0, 0].flatten(), z[0, 0].flatten(), dim=0).item() == pytest.approx(0.76, abs=0.1)


def test_a_draw_of_one_number_and_one_of_zeros_are_turned_without_harm():
    layout = Layout((Draw("a", (1,), "start"), Draw("b", (3,))))
    new = turn(torch.tensor([[2.0, 0.0, 0.0, 0.0]]), torch.ones(1, 4), 0.5, layout)
    assert new.tolist() == [[2, 0, 0, 0]]


# ---- each by itself ----


def test_best_of_n_gains_what_the_largest_of_so_many_normal_numbers_is_expected_to():
    toy, rows = model(), 120
    objective = Objective(toy.sampler(), Linear(1.0))
    last = run(objective, BestOfN(8, chunk=1000), 3, rows)[-1]
    deviation = toy.weights.norm().item() * math.sqrt(3)
    scores = (last.best.reward - 3 * toy.offset) / deviation
    count = 3 * 8 + 1
    x = torch.linspace(-8, 8, 4001, dtype=f64)  # E max = int x d(Phi^count)
    expected = torch.trapezoid(x * count * torch.special.ndtr(x) ** (count - 1) * (-(x**2) / 2).exp(), x) / math.sqrt(
        2 * math.pi
    )
    assert scores.mean().item() == pytest.approx(expected.item(), abs=4 * 0.5 / math.sqrt(rows))


def test_neighbors_stand_at_the_cosine_asked_for_and_differ_by_row_and_step():
    seen = []
    objective = pixel_sum(FunctionReward(lambda x: x.flatten(1).sum(1), name="sum"))
    inner = objective.sampler

    class RecordingSampler(FixedDraw):
        layout = inner.layout

        def __call__(self, noise, prompt=None):
            seen.append(noise)
            return noise.sum(1)

    start = inner.init(1).expand(2, -1, -1, -1, -1)
    run(Objective(RecordingSampler(), objective.reward), ZeroOrderSearch(5, 0.9, chunk=100), 1, start=start)
    pivot, tried = seen[0], seen[1]
    cosines = torch.cosine_similarity(tried.flatten(1), pivot[:1].flatten(1))
    assert cosines.mean().item() == pytest.approx(0.9, abs=0.02) and cosines.std() < 0.03
    between = torch.corrcoef((tried - cosines[:, None, None, None, None] * pivot[:1]).flatten(1)) - torch.eye(10)
    assert between.abs().max() < 0.25  # different ways all


def test_the_centers_of_a_trust_region_are_the_best_of_all_it_ever_saw():
    seen = []

    def fn(x):
        seen.append(x[:, 0])
        return x[:, 0]

    objective = Objective(model().sampler(), FunctionReward(fn, differentiable=False, name="first"))
    objective(objective.sampler.init(2))  # several rows: asks once whether they depend on each other
    seen.clear()
    steps = run(objective, TrustRegion(8, 3), 6, rows=1)
    calls = iter(seen)
    known = torch.empty(0, dtype=f64)
    for step in steps[:-1]:
        own, tried = next(calls), next(calls)
        known = torch.cat([known, own if step.index == 0 else known.new_empty(0), tried])
        torch.testing.assert_close(step.state["reward"][0], known.sort(descending=True).values[:3])
        torch.testing.assert_close(objective.rows([0])(step.state["center"][0]).reward, step.state["reward"][0])
        next_call = seen.pop()  # that check was not the search's
        assert len(next_call) == 3
        assert torch.equal(step.next_noise[0], step.state["center"][0, 0])


def test_a_trust_region_grows_with_success_and_shrinks_with_failure():
    flat = Objective(model().sampler(), FunctionReward(lambda x: x[:, 0] * 0, name="flat"))
    sines = [step.state["sine"][0, 0].item() for step in run(flat, TrustRegion(4, 1, 0.4), 22, 1)[:-1]]
    expected = [0.4] * 3 + [0.4 / 1.5] * 3 + [0.4 / 1.5**2] * 3  # the first step only draws
    assert sines[:9] == pytest.approx(expected)
    assert 0.4 / 1.5**5 > 0.05 > 0.4 / 1.5**6
    assert sines[15:19] == pytest.approx([0.4 / 1.5**5] * 3 + [0.4])  # too small: it starts again
    steep = Objective(GaussianModel(steps=2, dim=200, dtype=f64).sampler(), Linear(1.0))
    grown = [step.state["sine"][0, 0].item() for step in run(steep, TrustRegion(16, 1, 0.4), 10, 1)[:-1]]
    assert grown[0] == pytest.approx(0.4) and 0.8 < max(grown) <= 1.0


def test_a_rotation_keeps_norms_and_angles_and_at_zero_everything():
    layout = Layout((Draw("a", (4, 6, 5), "start"), Draw("b", (4, 6, 5)), Draw("c", (4, 6, 5), live=False)))
    z = layout.draw_noise([0]).double()[0]
    torch.testing.assert_close(rotate_channels(z, torch.zeros(20, dtype=f64), layout), z)
    unknowns = torch.randn(20, generator=torch.Generator().manual_seed(1), dtype=f64)
    new = rotate_channels(z, unknowns, layout)
    assert (new - z)[:2].flatten(1).norm(dim=1).min() > 1 and torch.equal(new[2], z[2])
    torch.testing.assert_close(new.flatten(1).norm(dim=1), z.flatten(1).norm(dim=1))
    before, after = z[1].flatten(1), new[1].flatten(1)
    torch.testing.assert_close(after.T @ after, before.T @ before)  # so it is an orthogonal map of the channels
    means, moved = z[0].mean((1, 2)), new[0].mean((1, 2))
    torch.testing.assert_close(moved.norm(), means.norm())
    expected = means + unknowns[:4] / math.sqrt(30)
    torch.testing.assert_close(moved / moved.norm(), expected / expected.norm())


def test_utilities_are_those_of_natural_evolution_and_do_not_prefer_among_equals():
    value = torch.tensor([[4.0, 1.0, 3.0, 2.0], [1.0, 1.0, 2.0, 2.0]], dtype=f64)
    by_rank = torch.tensor([math.log(3), math.log(3) - math.log(2), 0, 0], dtype=f64)
    by_rank = by_rank / by_rank.sum() - 0.25
    found = rank_utilities(value)
    torch.testing.assert_close(found[0], by_rank[[0, 3, 1, 2]])
    high, low = by_rank[:2].mean(), by_rank[2:].mean()
    torch.testing.assert_close(found[1], torch.stack([low, low, high, high]))


def test_evolution_refuses_what_has_no_channels():
    objective = Objective(GaussianModel(steps=2, dim=100).sampler(), Linear(1.0))
    with pytest.raises(
        ArgumentError, match=r"'start' must have at most 64 channels .*got shape \(100,\); search with Zero"
    ):
        run(objective, ChannelEvolution(4), 1)


# ---- toys on which each beats what is simpler, at the same cost ----


def test_around_a_pivot_is_better_than_anywhere_on_a_smooth_reward_of_many_dimensions():
    objective = Objective(GaussianModel(steps=3, dim=64).sampler(), Linear(1.0))
    assert gain(objective, ZeroOrderSearch(8, chunk=64), 25) > 2 * gain(objective, BestOfN(8, chunk=64), 25)


def test_a_trust_region_comes_nearer_to_a_target_than_neighbors_at_a_fixed_angle():
    target = torch.linspace(-0.5, 1.5, 8).tolist()
    objective = Objective(GaussianModel(steps=3, dim=8).sampler(), Quadratic(target))
    start = objective.sampler.init(4)
    fixed, adapting = (run(objective, search, 60, start=start)[-1].best.reward.mean() for search in (
        ZeroOrderSearch(8, chunk=64), TrustRegion(8, 2, chunk=64)
    ))  # fmt: skip
    assert adapting > 0.85 * fixed  # both are negative


def test_evolution_of_channels_finds_a_color_faster_than_chance_and_stays_plausible_where_turns_do_not():
    color = torch.tensor([1.0, -1.0, 0.5, 0.0], dtype=f64)
    objective = pixel_sum(FunctionReward(lambda x: x.mean((2, 3)) @ color, name="color"))
    start, layout = objective.sampler.init(4), objective.sampler.layout
    evolved, drawn, neighbors = (
        run(objective, search, 20, start=start)[-1].best
        for search in (ChannelEvolution(8, 0.4, chunk=64), BestOfN(8, chunk=64), ZeroOrderSearch(8, chunk=64))
    )
    assert evolved.reward.mean() > 1.1 * drawn.reward.mean() > 0.3
    plausible, pushed = (strict_probability(best.noise, layout)[0] for best in (evolved, neighbors))
    assert plausible.min() > 0.06 > pushed.max()  # neighbors have gone further, and it shows


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BestOfN(0), "samples must be a whole number >= 1, got 0"),
        (lambda: BestOfN(4, chunk=0), "chunk must be .*got 0"),
        (lambda: ZeroOrderSearch(cosine=1.0), r"cosine must be in \[0, 1\), got 1.0"),
        (lambda: ZeroOrderSearch(cosine=math.nan), "cosine must be .*got nan"),
        (lambda: TrustRegion(regions=0), "regions must be .*got 0"),
        (lambda: TrustRegion(4, 5), "regions must be <= samples, got 5 and 4"),
        (lambda: TrustRegion(sine=0.01), r"sine must be in \[0.05, 1\], got 0.01"),
        (lambda: ChannelEvolution(scale=0.0), "scale must be a positive number, got 0.0"),
    ],
)
def test_what_makes_no_sense_is_refused_at_construction(make, message):
    with pytest.raises(ArgumentError, match=message):
        make()
