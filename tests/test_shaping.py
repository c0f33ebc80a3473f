"""Rewards made of rewards: gradients of norm 1, crops, and targets."""

from __future__ import annotations

import pytest
import torch

from noiseward import ArgumentError, GradientError, RewardError
from noiseward.rewards.reward import FunctionReward, UnitGradient, WeightedSum, score
from noiseward.rewards.shaping import Augmented, Clamped

f64 = torch.float64
steep = FunctionReward(lambda x: 1000 * (x[:, 0] ** 2).sum((1, 2)), name="steep")
slight = FunctionReward(lambda x: 1e-3 * x[:, 1].sin().sum((1, 2)), name="slight")
box = FunctionReward(lambda x: -x.mean((1, 2, 3)), differentiable=False, name="box")


def make_images(rows=3):
    return torch.rand(rows, 3, 10, 14, generator=torch.Generator().manual_seed(0), dtype=f64)


def gradient(reward, sample, upstream=None):
    leaf = sample.clone().requires_grad_()
    scores = reward(leaf, None)
    return torch.autograd.grad(scores, leaf, torch.ones_like(scores) if upstream is None else upstream)[0]


def unit(rows):
    return rows / rows.flatten(1).norm(dim=1).view(-1, 1, 1, 1)


def test_a_normalized_sum_has_the_value_of_the_sum_and_the_weighted_directions():
    sample = make_images()
    rewards = {steep: 1.0, slight: -0.25}
    plain, normalized = WeightedSum(rewards), WeightedSum(rewards, normalize=True)
    for one, two in zip(score(plain, sample, None), score(normalized, sample, None), strict=True):
        assert one.keys() == two.keys() if isinstance(one, dict) else torch.equal(one, two)
    by_hand = unit(gradient(steep, sample)) - 0.25 * unit(gradient(slight, sample))
    torch.testing.assert_close(gradient(normalized, sample), by_hand)
    assert not torch.allclose(unit(gradient(plain, sample)), unit(by_hand), atol=0.01)


def test_a_unit_gradient_is_linear_in_what_comes_down_to_it():
    sample, upstream = make_images(), torch.tensor([2.0, 0.0, -3.0], dtype=f64)
    expected = upstream.view(-1, 1, 1, 1) * unit(gradient(steep, sample))
    torch.testing.assert_close(gradient(UnitGradient(steep), sample, upstream), expected)


def test_a_gradient_of_zero_stays_zero_and_no_graph_costs_none():
    calls = []
    flat = FunctionReward(lambda x: calls.append(torch.is_grad_enabled()) or (0 * x).sum((1, 2, 3)), name="flat")
    assert (gradient(UnitGradient(flat), make_images()) == 0).all()
    calls.clear()
    with torch.no_grad():
        assert UnitGradient(flat)(make_images(), None).tolist() == [0, 0, 0]
    assert calls == [False]


def test_rows_are_normalized_alone():
    sample = make_images()
    alone = torch.cat([gradient(UnitGradient(steep), sample[row : row + 1]) for row in range(3)])
    torch.testing.assert_close(gradient(UnitGradient(steep), sample), alone)


def test_what_has_no_gradient_cannot_be_normalized():
    with pytest.raises(ArgumentError, match="reward 'box' has no gradient to normalize"):
        WeightedSum({box: 1.0}, normalize=True)
    cut = FunctionReward(lambda x: x.detach().mean((1, 2, 3)), name="cut")
    with pytest.raises(GradientError, match="reward 'cut' returned scores without a gradient"):
        gradient(UnitGradient(cut), make_images())


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), "2", None])
def test_a_weight_is_a_finite_number(weight):
    with pytest.raises(ArgumentError, match="the weight of reward 'steep' must be finite"):
        WeightedSum({steep: weight})


def test_cutouts_are_the_mean_over_square_crops_that_stay_the_same():
    seen = []
    mean = FunctionReward(lambda x: seen.append(x) or x.mean((1, 2, 3)), name="mean")
    reward = Augmented(mean, cutouts=5, least=0.4)
    first, second = reward(make_images(), None), reward(make_images(), None)
    assert torch.equal(first, second) and len(seen) == 10
    torch.testing.assert_close(first, torch.stack([crop.mean((1, 2, 3)) for crop in seen[:5]]).mean(0))
    sides = [crop.shape[2:] for crop in seen[:5]]
    assert all(tall == wide and 4 <= tall <= 10 for tall, wide in sides) and len(set(sides)) > 1
    assert not torch.equal(first, Augmented(mean, cutouts=5, least=0.4, seed=1)(make_images(), None))


def test_cutouts_hold_the_row_law_and_have_the_gradient_of_their_value():
    sample, reward = make_images(), Augmented(steep, cutouts=3)
    alone = torch.cat([reward(sample[row : row + 1], None) for row in range(3)])
    torch.testing.assert_close(reward(sample, None), alone)
    assert torch.autograd.gradcheck(lambda x: reward(x, None), make_images(1).requires_grad_())


def test_a_clamped_reward_stops_pulling_at_its_target():
    sample = make_images()
    scores = slight(sample, None)
    target = scores.sort().values[1].item() + 1e-9
    reward = Clamped(slight, target=target)
    torch.testing.assert_close(reward(sample, None), scores.clamp(max=target))
    pulls = gradient(reward, sample).flatten(1).norm(dim=1) > 0
    assert torch.equal(pulls, scores < target) and pulls.sum() == 2


def test_wrappers_keep_name_and_kind():
    for wrap in (lambda r: Augmented(r, cutouts=2), lambda r: Clamped(r, target=0.0)):
        assert [(wrap(r).name, wrap(r).differentiable) for r in (steep, box)] == [("steep", True), ("box", False)]
    listed = Clamped(FunctionReward(lambda x: [1.0, 3.0, 5.0], name="list"), target=2.0)
    assert listed(make_images(), None).tolist() == [1, 2, 2]


@pytest.mark.parametrize("kind", [torch.Tensor.long, torch.Tensor.tolist, torch.Tensor.numpy])
def test_wrappers_take_whatever_a_reward_may_return(kind):
    counts = FunctionReward(lambda x: kind((10 * x.mean((1, 2, 3))).long()), False, name="count")
    images = torch.tensor([0.25, 0.55]).view(2, 1, 1, 1).expand(2, 3, 8, 8)
    assert Augmented(counts, cutouts=3)(images, None).tolist() == [2, 5]
    assert Clamped(counts, target=4.5)(images, None).tolist() == [2, 4.5]
    with pytest.raises(RewardError, match=r"reward 'one' must return shape \(2,\) for 2 rows"):
        Augmented(FunctionReward(lambda x: 1, name="one"), cutouts=3)(images, None)


@pytest.mark.parametrize("wrong", [{"cutouts": 0}, {"least": 0.0}, {"least": 1.5}])
def test_bad_arguments_are_refused(wrong):
    with pytest.raises(ArgumentError, match="must be .*, got "):
        Augmented(steep, **wrong)
    with pytest.raises(ArgumentError, match="target must be finite, got inf"):
        Clamped(steep, target=float("inf"))
