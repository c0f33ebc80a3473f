"""A run that is asked for more: in total, or in addition to what is done."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import torch

from noiseward import ArgumentError, FunctionReward, FunctionSampler, RunError, align, steps
from noiseward.problem import prepare_spec
from noiseward.rewards.journal import Journal
from noiseward.runs import RunFolder, RunSpec, execute, resume
from noiseward.runs.extend import Spent, extend
from noiseward.runs.perform import perform
from tests.tiny import CALL


@pytest.fixture(scope="module")
def spec(model):
    return RunSpec(prompt="a", reward="brightness", model=model, steps=3, method="dno:lr=0.05,guard=none", **CALL)


def files(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, by name."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"steps": "+٣"}, "--steps must be a number in total, as 50, or in addition, as +20, got '+٣'"),
        ({"steps": "many"}, "--steps must be a number in total, as 50, or in addition, as +20, got 'many'"),
        ({"steps": "1.5"}, "got '1.5'"),
        ({"nfe": "-3"}, "got '-3'"),
        ({"steps": "2"}, "3 steps are done already; give more, as --steps +5"),
        ({"steps": "3"}, "3 steps are done already"),
        ({"steps": "+0"}, "3 steps are done already"),
        ({"nfe": "1200"}, "1,200 denoiser calls are spent already; give more, as --nfe +500"),
        ({"seconds": "2"}, "2.5 seconds are spent already; give more, as --seconds +60"),
    ],
)
def test_budgets_that_are_none_or_spent_are_refused(spec, given, says):
    with pytest.raises(ArgumentError, match=re.escape(says)):
        extend(spec, Spent(3, 2.5, 1200), **given)


def test_a_larger_budget_is_a_total_or_in_addition_to_what_is_done(spec):
    done = Spent(3, 2.5, 1200)
    assert extend(spec, done, steps="+3").steps == 6
    assert extend(spec, done, steps="9", seconds="4.5", nfe="+100") == spec.replace(steps=9, seconds=4.5, nfe=1300)
    assert extend(spec.replace(steps=None), done, steps="+5").steps == 8
    assert extend(spec, done, seconds="+10").limits == {"steps": 3, "seconds": 12.5, "nfe": None, "reward": None}
    assert extend(spec, Spent(), steps="+5").steps == 5  # nothing is done yet


def test_a_killed_run_takes_so_many_steps_more_than_were_done(spec, tmp_path):
    long = spec.replace(steps=4000)
    for _, _ in zip(range(3), perform(prepare_spec(long), long, tmp_path / "run"), strict=False):
        pass
    solution = resume(tmp_path / "run", steps="+2", quiet=True)
    assert [record["index"] for record in solution.history] == [0, 1, 2, 3, 4]
    assert RunFolder(tmp_path / "run").spec().steps == 4


@pytest.mark.parametrize("more", [("--steps", "2"), ("--steps", "3"), ("--nfe", "5"), ("--seconds", "0.0001")])
def test_a_budget_that_is_spent_changes_nothing(run, whole, tmp_path, more):
    shutil.copytree(whole, tmp_path / "run")
    before = files(tmp_path / "run")
    status, out, err = run("resume", "run", *more)
    assert (status, out) == (2, "") and "already; give more, as" in err and len(err.splitlines()) == 1
    assert files(tmp_path / "run") == before


def test_a_budget_that_is_not_enough_for_another_step_changes_nothing(spec, tmp_path):
    execute(spec.replace(steps=None, nfe=40), tmp_path / "run", quiet=True)
    before, spent = files(tmp_path / "run"), Spent.read(RunFolder(tmp_path / "run"))
    with pytest.raises(ArgumentError, match=f"not enough for another step.*; {spent.nfe} denoiser calls are spent"):
        resume(tmp_path / "run", nfe="+1", quiet=True)
    with pytest.raises(ArgumentError, match="--nfe 40 is not enough for another step"):
        resume(tmp_path / "run", steps="+1", quiet=True)
    assert files(tmp_path / "run") == before
    assert len(resume(tmp_path / "run", nfe="+100", quiet=True).history) > spent.steps + 1


@pytest.mark.parametrize("shape", [(8,), (4, 8)], ids=["vectors", "sound"])
def test_a_run_whose_samples_are_no_images_continues(tmp_path, shape):
    def ask(folder: str, steps: int) -> torch.Tensor:
        sampler = FunctionSampler(lambda batch: torch.randn(batch, *shape))
        reward = lambda x: -x.square().flatten(1).sum(1)  # noqa: E731
        kind = {"method": "dno", "progress": False, "batch": 2}
        return align(sampler, None, reward, steps=steps, out=tmp_path / folder, **kind).noise

    ask("cut", 2)
    assert torch.equal(ask("cut", 4), ask("whole", 4))


def begin(out, reward, steps=3, **how):
    """A run in a directory, or more of it."""
    sampler = FunctionSampler(lambda batch: torch.randn(batch, 8))
    how = {"method": "dno:lr=0.1", "batch": 2, "progress": False, **how}
    return align(sampler, None, reward, steps=steps, out=out, **how)


def scorer(function):
    return FunctionReward(function, name="score")


@pytest.mark.parametrize("cut", [False, True])
def test_another_reward_of_the_same_name_is_refused(tmp_path, cut):
    score = scorer(lambda x: x.mean(1))
    if cut:
        sampler = FunctionSampler(lambda batch: torch.randn(batch, 8))
        run = steps(sampler, None, score, method="dno:lr=0.1", batch=2, steps=6, progress=False, out=tmp_path / "run")
        for _ in zip(range(3), run, strict=False):
            pass
        run.close()
    else:
        begin(tmp_path / "run", score)
    before = files(tmp_path / "run")
    says = r"reward 'score' to score the best sample of row \d \S+, as it did, got \S+; give the same reward, or"
    for other in (lambda x: x.std(1), lambda x: 1.5 * x.mean(1), lambda x: x.mean(1) * torch.nan):
        with pytest.raises(RunError, match=says) as caught:
            begin(tmp_path / "run", scorer(other), 6)
        assert "\n" not in str(caught.value)
    assert files(tmp_path / "run") == before
    assert len(begin(tmp_path / "run", scorer(lambda x: x.bfloat16().mean(1).float()), 6).history) == 7
    assert begin(tmp_path / "new", scorer(lambda x: x.std(1)), start=str(tmp_path / "run")).gain.min() > 0


def test_a_reward_that_varies_is_continued(tmp_path):
    vary = scorer(lambda x: x.mean(1) + torch.rand(len(x)))
    begin(tmp_path / "run", vary)
    assert len(begin(tmp_path / "run", vary, 5).history) == 6


def test_a_judge_is_not_asked_again(tmp_path):
    asked = []
    judge = scorer(lambda x: asked.append(len(x)) or x.mean(1) + len(asked))
    judge.journal = Journal()
    begin(tmp_path / "run", judge, batch=1)
    before = len(asked)
    begin(tmp_path / "run", judge, 4, batch=1)
    assert len(asked) == before + 2  # the last noise once more, and the next
