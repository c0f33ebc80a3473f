"""The progress bar: what it says where nobody looks, and when it says that a run is done."""

import dataclasses
import functools
import io
import re
import threading
import time

import pytest
import torch
from rich.console import Console

from noiseward.api import align
from noiseward.loop.budget import Budget
from noiseward.loop.loop import iterate
from noiseward.loop.objective import Objective
from noiseward.loop.progress import Bars, describe_cost, describe_numbers, describe_time_left, share_spent
from noiseward.optimizers.ascend import GradientAscent
from noiseward.optimizers.coarse_to_fine import coarse_to_fine
from noiseward.samplers.function import FunctionSampler
from noiseward.samplers.nested import Nested
from noiseward.toys import GaussianModel, Linear

FEW, MANY = (GaussianModel(steps=steps) for steps in (2, 4))


def lines(steps, budget):
    out = io.StringIO()
    passed = list(Bars(Console(file=out, width=200)).track(steps, budget))
    return passed, [line for line in out.getvalue().splitlines() if "the first step took" not in line]


def test_a_line_for_every_tenth_of_the_budget_and_the_steps_themselves():
    objective, budget = Objective(MANY.sampler(), Linear(1.0)), Budget(steps=40)
    how = {"optimizer": GradientAscent(lr=0.1), "budget": budget}
    passed, said = lines(iterate(objective, objective.sampler.init(2), **how), budget)
    assert [step.index for step in passed] == list(range(41))
    assert [line.split()[1] for line in said] == [str(4 * tenth) for tenth in range(11)]
    assert all("mean reward" in line and "P(z)" in line for line in said)
    assert "s left" in said[5] and "done in" not in said[5] and "done in" in said[-1]


def test_whichever_limit_is_nearest_counts():
    objective = Objective(MANY.sampler(), Linear(1.0))
    steps = list(iterate(objective, objective.sampler.init(1), optimizer=GradientAscent(), budget=Budget(steps=4)))
    assert [share_spent(step, Budget(steps=4)) for step in steps] == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert share_spent(steps[1], Budget(steps=4, nfe=2 * steps[1].nfe.cost)) == 0.5


def test_the_cost_of_the_estimate_of_the_bars_and_of_the_end_is_the_same_number():
    objective, budget = Objective(MANY.sampler(), Linear(1.0)), Budget(steps=4)
    steps = list(iterate(objective, objective.sampler.init(1), optimizer=GradientAscent(lr=0.1), budget=budget))
    first = describe_cost(steps[0], budget)
    assert first is not None and first.startswith(f"the first step took {steps[0].nfe.cost} NFE ")
    assert f"NFE {steps[3].nfe.cost}" in describe_numbers(steps[3]) and steps[3].nfe.backward > 0


def test_the_time_left_is_that_of_the_steps_to_come_or_of_the_budget():
    objective, budget = Objective(MANY.sampler(), Linear(1.0)), Budget(steps=4)
    steps = list(iterate(objective, objective.sampler.init(1), optimizer=GradientAscent(lr=0.1), budget=budget))
    at = {index: dataclasses.replace(steps[index], seconds=10.0 * (index + 1)) for index in (0, 1, 3)}
    assert [describe_time_left(at[index], budget) for index in at] == ["", "30 s left", "10 s left"]
    assert describe_time_left(at[1], Budget(steps=4, seconds=25)) == "5 s left"
    assert describe_time_left(at[1], Budget(nfe=2 * at[1].nfe.cost)) == "20 s left"
    assert describe_time_left(steps[4], budget).startswith("done in ")


def few_first(**how):
    few, many = (Objective(model.sampler(), Linear(1.0)) for model in (FEW, MANY))
    nested = Nested(*(model.alphas[::-1] for model in (FEW, MANY)))
    how |= {"nested": nested, "optimizer": GradientAscent(lr=0.1), "first": Budget(steps=5), "budget": Budget(steps=10)}
    return coarse_to_fine(few, many, many.sampler.init(1), **how)


def test_a_run_that_takes_few_steps_first_is_not_done_at_its_start():
    _, said = lines(few_first(), Budget(steps=10))
    assert "few steps first" in said[0] and "done" not in said[0]
    assert [line.split()[1] for line in said[1:]] == ["5", "6", "7", "8", "9", "10"] and "done in" in said[-1]


def test_few_steps_are_shown_below_the_run_they_are_part_of():
    out = io.StringIO()
    bars = Bars(Console(file=out, width=200))
    steps = few_first(through=functools.partial(bars.track, budget=Budget(steps=5), name="few"))
    assert [step.index for step in bars.track(steps, Budget(steps=10))] == [0, 5, 6, 7, 8, 9, 10]
    said = [line for line in out.getvalue().splitlines() if "the first step took" not in line]
    coarse = [line for line in said if line.startswith("few: step")]
    assert said.index(coarse[0]) == 1 and len(coarse) == 6 and said.index(coarse[-1]) == 6
    assert all("P(z)" in line for line in coarse) and len(said) == 6 + 7


def test_on_a_terminal_one_bar_stands_below_the_other_and_both_go():
    screen = io.StringIO()
    bars = Bars(Console(file=screen, width=160, force_terminal=True, force_interactive=True))
    steps = few_first(through=functools.partial(bars.track, budget=Budget(steps=5), name="few"))
    shown = []
    for step in bars.track(steps, Budget(steps=10)):
        shown.append((step.index, [task.description.split("  ")[0] for task in bars._progress.tasks]))
    assert [names for _, names in shown] == [[f"step {index}"] for index, _ in shown]
    assert not bars._progress.tasks and not bars._progress.live.is_started
    seen = screen.getvalue()
    assert "few: " in seen and "few steps first" in seen


@pytest.mark.parametrize(("width", "seen", "gone"), [(70, "P(z)", "best"), (120, "best", None)])
def test_a_line_says_what_it_has_room_for_the_most_telling_first(width, seen, gone):
    screen = io.StringIO()
    console = Console(file=screen, width=width, force_terminal=True, force_interactive=True, color_system=None)
    bars = Bars(console)
    for _ in bars.track(few_first(), Budget(steps=10)):
        bars._progress.refresh()  # sooner than its own pace, which toys outrun
    shown = screen.getvalue()
    assert seen in shown and "\u2026" not in shown and (gone is None or gone not in shown)
    lines = [part for part in shown.replace("\r", "\n").split("\n") if "step" in part]
    assert lines and max(len(re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line)) for line in lines) <= width


def test_a_bar_ends_with_what_it_watches_however_that_ends():
    def fail():
        yield next(iter(few_first()))
        raise RuntimeError

    bars = Bars(Console(file=io.StringIO(), force_terminal=True))
    with pytest.raises(RuntimeError):
        list(bars.track(fail(), Budget(steps=10)))
    assert not bars._progress.tasks and not bars._progress.live.is_started


def slow(seconds):
    net = torch.nn.Tanh()

    def fn(batch):
        x = torch.randn(batch, 2)
        for _ in range(5):
            time.sleep(seconds)
            x = net(x)
        return x + torch.randn(batch, 2)

    return FunctionSampler(fn, net)


def test_finding_out_the_draws_gives_a_sign_of_life_once_it_takes_a_while():
    out = io.StringIO()
    with Bars(Console(file=out, width=200)).show_discovery(patience=0.05):
        slow(0.03).init()
    (line,) = out.getvalue().splitlines()
    assert re.fullmatch(r"finding out the sampler's draws: \d+ calls", line)
    out = io.StringIO()
    with Bars(Console(file=out, width=200)).show_discovery(patience=5.0):
        slow(0.0).init()
    for timer in [one for one in threading.enumerate() if isinstance(one, threading.Timer)]:
        timer.join(1.0)  # it was cancelled: long before its five seconds are over
        assert not timer.is_alive()
    assert out.getvalue() == ""


def test_on_a_terminal_its_calls_are_counted_and_it_goes():
    screen = io.StringIO()
    bars = Bars(Console(file=screen, width=160, force_terminal=True, force_interactive=True))
    with bars.show_discovery(patience=0.02):
        slow(0.03).init()
        assert not bars._progress.tasks
    assert re.search(r"finding out the sampler's draws: \d+ calls", screen.getvalue())
    assert not bars._progress.live.is_started


def test_a_sign_of_life_ends_with_what_fails():
    def fn(batch):
        time.sleep(0.1)
        raise ValueError("mine")

    bars = Bars(Console(file=io.StringIO(), width=160, force_terminal=True))
    with pytest.raises(ValueError, match="mine"), bars.show_discovery(patience=0.02):
        FunctionSampler(fn).init()
    assert not bars._progress.tasks and not bars._progress.live.is_started


def test_align_says_so_where_progress_is_shown(capsys, monkeypatch):
    monkeypatch.setattr("noiseward.loop.progress.PATIENCE", 0.02)
    for progress in (True, False):
        align(slow(0.02), None, Linear(1.0), steps=0, progress=progress)
        assert ("finding out" in capsys.readouterr().err) == progress
