"""Search by what a person likes: scores of an order, tastes that are known, and answers that are wrong."""

from __future__ import annotations

import math
import random

import pytest
import torch

from noiseward import ArgumentError
from noiseward.noise.layout import Draw, Layout
from noiseward.optimizers.preference import PreferenceSearch, normal_scores
from noiseward.toys import GaussianModel

DIM = 400


@pytest.fixture(scope="module")
def layout():
    return Layout((Draw("start", (DIM,)),))


def play(layout, taste, *, looks, count=6, liked=2, wrong=0.0, seed=0, keep=1.0):
    """The taste of the center after some looks at a linear taste, in standard deviations."""
    rng, search = random.Random(seed), PreferenceSearch(layout, seed, keep=keep)
    for number in range(looks):
        look = search.propose(count, number)
        ratings = (look.noise.flatten(1) @ taste).tolist()
        order = sorted(range(count), key=lambda i: -ratings[i])[:liked]
        clicks = [rng.randrange(count) if rng.random() < wrong else i for i in order]
        search = search.update(look, [float(i in clicks) for i in range(count)])
    assert search.center is not None
    return (search.center.flatten() @ taste).item() / taste.norm().item(), search


def test_scores_are_those_of_normal_order_and_do_not_depend_on_the_scale():
    draws = torch.randn(200_000, 5, generator=torch.Generator().manual_seed(0)).sort(1).values.mean(0)
    assert normal_scores([1, 2, 3, 4, 5]) == pytest.approx(draws.tolist(), abs=0.03)  # Blom's approximation
    assert normal_scores([1, 20, 300]) == normal_scores([-3, 0, 0.1])
    liked = normal_scores([1, 0, 0, 1])
    assert liked[0] == liked[3] > 0 > liked[1] == liked[2] and sum(liked) == pytest.approx(0)
    assert normal_scores([2, 2, 2]) == pytest.approx([0, 0, 0])


def test_a_linear_taste_is_followed_as_the_evidence_says(layout):
    taste = torch.randn(DIM, generator=torch.Generator().manual_seed(1))
    found = [play(layout, taste, looks=15, seed=seed) for seed in range(24)]
    mean = sum(gain for gain, _ in found) / len(found)
    expected = math.sqrt(found[0][1].evidence)  # in closed form
    assert mean == pytest.approx(expected, rel=0.12) and expected > 5


def test_wrong_clicks_cost_their_share_and_no_more(layout):
    taste = torch.randn(DIM, generator=torch.Generator().manual_seed(1))
    gains = [play(layout, taste, looks=15, wrong=0.1, seed=seed)[0] for seed in range(24)]
    clean = [play(layout, taste, looks=15, seed=seed)[0] for seed in range(24)]
    best_of_360 = 2.95  # the expected largest of 360 normal numbers: four times as many images
    assert best_of_360 < sum(gains) / 24 < sum(clean) / 24


def test_what_is_shown_is_standard_normal_and_so_is_the_center(layout):
    taste = torch.randn(DIM, generator=torch.Generator().manual_seed(1))
    centers, shown = [], []
    for seed in range(40):
        _, search = play(layout, taste, looks=4, seed=seed, keep=0.85)
        centers.append(search.center.square().mean())
        shown.append(search.propose(4, 99).noise.square().mean())
    assert sum(centers) / 40 == pytest.approx(1, abs=0.03) and sum(shown) / 40 == pytest.approx(1, abs=0.03)


def test_no_image_is_shown_twice_and_the_same_number_shows_the_same(layout):
    search = PreferenceSearch(layout)
    one, other = search.propose(4, 0), search.propose(4, 1)
    assert torch.equal(one.noise, search.propose(4, 0).noise)
    every = torch.cat([one.noise, other.noise]).flatten(1)
    assert torch.corrcoef(every).sub(torch.eye(8)).abs().max() < 0.3
    assert torch.equal(one.noise[:2], search.propose(2, 0).noise)


def test_the_angle_shrinks_with_the_evidence_and_follows_the_spread(layout):
    search = PreferenceSearch(layout)
    angles = []
    for number in range(6):
        look = search.propose(6, number)
        angles.append(look.angle)
        search = search.update(look, [1, 0, 0, 0, 0, 0])
    assert angles[0] == math.pi / 2 and angles == sorted(angles, reverse=True)
    assert search.propose(6, 9, spread=0.5).angle < search.propose(6, 9).angle < search.propose(6, 9, spread=2).angle
    unit = torch.nn.functional.cosine_similarity(
        search.propose(6, 9).noise.flatten(1), search.center.flatten()[None]
    )  # fmt: skip
    assert unit.tolist() == pytest.approx([math.cos(search.propose(6, 9).angle)] * 6, abs=0.15)


def test_an_answer_that_says_nothing_changes_nothing_and_an_old_state_can_be_gone_back_to(layout):
    search = PreferenceSearch(layout)
    look = search.propose(4, 0)
    assert search.update(look, [0, 0, 0, 0]) is search and search.center is None
    after = search.update(look, [1, 0, 0, 0])
    assert search.center is None and after.center is not None
    assert torch.equal(search.update(look, [1, 0, 0, 0]).center, after.center)


def test_a_start_is_varied_rather_than_left(layout):
    start = torch.randn(1, DIM)
    search = PreferenceSearch.begin(layout, start)
    assert torch.allclose(search.center, start)
    look = search.propose(6, 0)
    near = torch.nn.functional.cosine_similarity(look.noise.flatten(1), start)
    assert (near > 0.7).all() and (near < 0.97).all()


def test_draws_that_may_not_change_stay():
    layout = Layout((Draw("start", (8,)), Draw("step 1", (8,), "step", live=False), Draw("other", (8,), "other")))
    search = PreferenceSearch(layout, seed=3)
    look = search.propose(4, 0)
    own = layout.draw_noise([3])[0]
    assert torch.equal(look.noise[:, 1:], own[1:].expand(4, 2, 8)) and not torch.equal(look.noise[0, 0], own[0])
    search = search.update(look, [1, 0, 0, 0])
    again = search.propose(4, 1)
    assert torch.equal(again.noise[:, 1:], own[1:].expand(4, 2, 8))


@pytest.mark.parametrize(
    ("count", "spread", "scores"),
    [(1, 1.0, None), (4, 0.0, None), (4, math.inf, None), (4, 1.0, [1, 0]), (4, 1.0, [math.nan] * 4)],
)
def test_what_cannot_be_is_refused(layout, count, spread, scores):
    search = PreferenceSearch(layout)
    with pytest.raises(ArgumentError, match="expected"):
        look = search.propose(count, 0, spread=spread)
        search.update(look, scores)


def test_it_beats_luck_on_a_model(layout):
    sampler = GaussianModel(steps=4, dim=64).sampler()
    taste = torch.randn(64, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    gains = []
    for seed in range(6):
        search = PreferenceSearch(sampler.layout, seed)
        for number in range(12):
            look = search.propose(6, number)
            search = search.update(look, (sampler(look.noise) @ taste.to(look.noise)).tolist())
        gains.append((sampler(search.center[None]) @ taste.to(search.center)).item())
    luck = (sampler(sampler.init(6 * 12)) @ taste.to(search.center)).max().item()
    assert sum(gains) / 6 > luck
