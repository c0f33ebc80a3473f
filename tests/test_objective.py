"""The equation as code: value = reward of the sample - penalty of the noise."""

import pytest
import torch

from noiseward.errors import ArgumentError
from noiseward.loop.objective import Objective
from noiseward.noise.regularize import Concentration, Regularizer
from noiseward.rewards.reward import FunctionReward, WeightedSum
from noiseward.samplers.function import FunctionSampler
from noiseward.toys import GaussianModel, Linear, Quadratic


class Squares(Regularizer):
    def __call__(self, noise, layout):
        return 0.25 * layout.movable_part(noise).square().sum(1)

    def check(self, layout):
        pass


def sample_by_prompt(batch, prompt):
    return torch.randn(batch, 2) + torch.tensor([[float(len(text))] for text in prompt])


def length(sample, prompt):
    return sample[:, 0] * 0 + torch.tensor([float(len(text)) for text in prompt])


def test_value_is_reward_less_penalty_of_the_same_noise():
    model = GaussianModel(steps=4, dtype=torch.float64)
    sampler = model.sampler()
    noise = sampler.init(3)
    evaluation = Objective(sampler, Quadratic(2.0), regularizer=Squares())(noise)
    assert torch.equal(evaluation.sample, sampler(noise))
    assert torch.equal(evaluation.reward, -0.5 * (evaluation.sample - 2).square().sum(1))
    assert torch.allclose(evaluation.penalty, 0.25 * noise[:, :-1].square().sum((1, 2)), atol=1e-12)
    assert torch.equal(evaluation.value, evaluation.reward - evaluation.penalty)


def test_without_a_regularizer_value_is_reward():
    sampler = GaussianModel().sampler()
    evaluation = Objective(sampler, Linear(1.0))(sampler.init(2))
    assert torch.equal(evaluation.value, evaluation.reward) and not evaluation.penalty.any()


def test_a_penalty_does_not_change_the_precision_of_the_reward():
    sampler = GaussianModel(dtype=torch.float64).sampler()
    evaluation = Objective(sampler, Linear(1.0), regularizer=Concentration(block=2))(sampler.init(2).float())
    assert evaluation.value.dtype == evaluation.reward.dtype


def test_every_row_is_sampled_and_scored_with_its_own_prompt():
    objective = Objective(FunctionSampler(sample_by_prompt), FunctionReward(length), ["a", "duck"])
    evaluation = objective(torch.zeros(2, 1, 2))
    assert evaluation.sample[:, 0].tolist() == evaluation.reward.tolist() == [1, 4]


def test_one_prompt_is_every_rows():
    evaluation = Objective(FunctionSampler(sample_by_prompt), FunctionReward(length), "duck")(torch.zeros(3, 1, 2))
    assert evaluation.reward.tolist() == [4, 4, 4]


def test_repeat_puts_the_copies_of_a_row_side_by_side():
    objective = Objective(FunctionSampler(sample_by_prompt), FunctionReward(length), ["a", "duck"])
    noise = objective.sampler.init(2)
    evaluation = objective.repeat(3)(noise.repeat_interleave(3, dim=0))
    assert torch.equal(evaluation.sample, objective(noise).sample.repeat_interleave(3, dim=0))
    assert evaluation.reward.tolist() == [1, 1, 1, 4, 4, 4]


def test_rows_takes_those_rows():
    objective = Objective(FunctionSampler(sample_by_prompt), FunctionReward(length), ["a", "duck", "on"])
    noise = objective.sampler.init(3)
    assert torch.equal(objective.rows([2, 0])(noise[[2, 0]]).sample, objective(noise).sample[[2, 0]])


@pytest.mark.parametrize("prompt", [None, "duck"])
def test_repeat_and_rows_of_a_common_prompt_take_any_number_of_rows(prompt):
    objective = Objective(FunctionSampler(lambda batch: torch.randn(batch, 2)), Linear(1.0), prompt)
    noise = objective.sampler.init(4)
    assert torch.equal(objective.repeat(2)(noise).reward, objective(noise).reward)
    assert torch.equal(objective.rows([1])(noise[:1]).reward, objective(noise[:1]).reward)


def test_repeat_and_rows_keep_the_penalty():
    objective = Objective(FunctionSampler(sample_by_prompt), FunctionReward(length), ["a", "b"], Squares())
    noise = objective.sampler.init(2)
    assert torch.equal(objective.repeat(1)(noise).penalty, objective(noise).penalty)
    assert torch.equal(objective.rows([1])(noise[1:]).penalty, objective(noise).penalty[1:])


def test_a_detached_evaluation_has_the_same_numbers_and_no_graph():
    sampler = GaussianModel().sampler()
    reward = WeightedSum({Linear(1.0): 1.0, Quadratic(0.0): 2.0})
    evaluation = Objective(sampler, reward, regularizer=Squares())(sampler.init(2).requires_grad_(True))
    plain = evaluation.detach()
    for name in ("sample", "reward", "penalty", "value"):
        before, after = getattr(evaluation, name), getattr(plain, name)
        assert before.requires_grad and not after.requires_grad and torch.equal(before, after)
    for name, term in evaluation.terms.items():
        assert term.requires_grad and not plain.terms[name].requires_grad and torch.equal(term, plain.terms[name])


@pytest.mark.parametrize(
    ("sampler", "reward", "message"),
    [
        (lambda: torch.randn(2), Linear(1.0), "expected a Sampler, got .* wrap a function in FunctionSampler"),
        (GaussianModel().sampler(), lambda x: x, "expected a Reward, got .* wrap a function in FunctionReward"),
    ],
)
def test_bare_functions_are_refused_with_what_to_wrap_them_in(sampler, reward, message):
    with pytest.raises(ArgumentError, match=message):
        Objective(sampler, reward)
