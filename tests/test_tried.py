"""What was tried next to the library's methods, and the experiment that compares it: it runs, and it reports right."""

from __future__ import annotations

import pytest
import torch

from experiments import methods, tried
from noiseward import Budget, FunctionReward, GradientAscent, Objective, Plausible, Seeds, iterate, optimize
from noiseward.noise.layout import Draw, Layout
from noiseward.toys import GaussianModel, Linear

BLACK = FunctionReward(lambda x: x.detach().mean(1), name="black", differentiable=False)


def problem(reward, steps=4):
    return Objective(GaussianModel(steps=steps, dim=64).sampler(), reward, plausible=Plausible())


@pytest.mark.parametrize("name", [*methods.TRIED, *methods.BLIND])
def test_what_was_tried_raises_the_reward_of_plausible_images_whatever_stands_next_to_them(name, monkeypatch):
    for part, steps in (("first", 2), ("ascend", 3), ("again", 1)):
        monkeypatch.setattr(tried.Rounds, part, steps)
    objective = problem(BLACK if name in methods.BLIND else Linear(1.0))
    optimizer = methods.build(name).optimizer
    start, budget = objective.sampler.init(2), Budget(steps=8)
    together = optimize(objective, start, optimizer=optimizer, budget=budget, seeds=Seeds((0, 1)))
    assert (together.gain >= 0).all() and (together.gain > 0).any()
    assert all(p >= 0.001 for p in together.strict_probability)
    alone = optimize(objective, start[1:2], optimizer=optimizer, budget=budget, seeds=Seeds((1,)))
    torch.testing.assert_close(together.noise[1], alone.noise[0], rtol=1e-4, atol=1e-4)


def test_a_pruned_candidate_costs_half_a_run():
    objective = Objective(problem(BLACK).sampler, BLACK)  # without tests, which cost runs of their own
    (step, _) = iterate(
        objective, objective.sampler.init(2), optimizer=tried.PrunedBestOfN(8, keep=2), budget=Budget(steps=1)
    )
    assert step.spent.cost == 4 + 8 * 2 + 2 * 2  # the noise, the halves, the rest


def test_transforms_are_what_they_say():
    layout = Layout((Draw("start", (2, 8, 8), "start"), Draw("step 1", (2, 8, 8))))
    noise = layout.draw_noise([0, 1])
    torch.testing.assert_close(tried.transform(tried.transform(noise, layout), layout), noise)
    torch.testing.assert_close(tried.transform(noise, layout).norm(), noise.norm())
    white = layout.split(tried.whiten(noise * torch.linspace(0.1, 9, 8), layout))[0]
    torch.testing.assert_close(torch.fft.fft2(white, norm="ortho").abs(), torch.ones(2, 2, 8, 8))
    assert not tried.whiten(torch.zeros_like(noise), layout).any()


def test_the_mean_of_opposite_neighbors_is_the_gradient_of_a_linear_reward():
    objective = problem(Linear(1.0))
    noise, seeds = objective.sampler.init(2), Seeds((0, 1))
    smooth, exact = (estimator(objective, noise, seeds)[1] for estimator in (tried.Smoothed(), tried.Backprop()))
    torch.testing.assert_close(smooth, exact)


def test_a_method_is_compared_with_auto_image_by_image():
    def look(mark, reward):
        return {"mark": mark, "reward": reward, "strict": [1.0] * 2, "image": [0.5, 0.005], "noun": [1.0, 0.0]}

    results = {
        "light": {
            "auto": [[look(0, [0.0, 0.5]), look(3, [0.25, 0.75])]],
            "auto, again and again": [[look(0, [0.0, 0.5]), look(3, [0.5, 1.0])]],
        }
    }
    row = methods.lines(results, [3])[-2]
    assert row == "| auto, again and again | 0.500 ± 0.000 | 0.250 ± 0.000 | 50% (9% to 91%) | 50% (9% to 91%) |"
    said = "significantly ahead of auto: auto, again and again under light at 3x by 0.250 ± 0.000"
    assert methods.verdict(results, [3]) == said


def test_the_experiment_reads_a_method_off_at_each_mark(tmp_path, monkeypatch):
    monkeypatch.setattr(methods, "CALL", {**methods.CALL, "num_inference_steps": 3})
    how = {"batch": 1, "seed": 1000, "marks": [1], "images": tmp_path, "work": tmp_path / "work"}
    looks = methods.run("brightness", "auto, with pcnl for ascent", [("duck", "blue")], **how)
    assert [look["mark"] for look in looks] == [0, 1] and looks[1]["reward"] >= looks[0]["reward"]
    assert all(methods.build(name) for reward in methods.REWARDS for name in methods.names(reward))
    assert isinstance(methods.build("auto"), str) and isinstance(tried.steady(tried.Backprop()).ascent, GradientAscent)
