"""Comparisons: equal budgets, best so far that was paid for, honest ties, and a directory that goes on."""

import dataclasses
import json
import math

import pytest

from noiseward.errors import ArgumentError, RunError
from noiseward.options.commands import CompareOptions
from noiseward.sweep.compare import compare, local
from noiseward.sweep.comparison import CompareSpec, Pack, prompts
from noiseward.sweep.looks import Bench, made
from noiseward.sweep.measure import Interval, interval, measured, ranks
from tests.tiny import CALL


@pytest.fixture
def spec(model):
    call = {**CALL, "num_inference_steps": 2}
    methods = ("best-of-n:samples=2", "dno:lr=0.1", "fk:particles=2")
    return CompareSpec(
        ("brightness",), ("a", "b"), methods, amount=40, seeds=2, seed=5, watch=("contrast",), model=model, call=call
    )


def test_every_method_gets_the_same_packs_in_turn():
    spec = CompareSpec(("brightness",), ("a", "b"), ("dno", "reno"), seeds=6, seed=10)
    packs = spec.packs()
    for method in spec.methods:
        own = [(pack.prompt, pack.seeds) for pack in packs if pack.method == method]
        assert own == [(0, (10, 11, 12, 13)), (1, (10, 11, 12, 13)), (0, (14, 15)), (1, (14, 15))]
    assert [pack.method for pack in packs[:2]] == ["dno", "reno"]
    assert len({pack.name for pack in packs}) == len(packs)


def test_what_was_paid_for_counts(spec):
    found = made(Bench(spec), Pack("dno:lr=0.1", 0, (5, 6)))
    curve = found["curve"]
    assert curve["cost"] == sorted(curve["cost"]) and curve["cost"][-1] <= 40 == round(spec.amount)
    for share in (0.25, 0.5, 1.0):
        paid = [best for cost, best in zip(curve["cost"], curve["reward"], strict=True) if cost <= share * 40]
        assert found["at"][str(share)]["reward"] == (paid[-1] if paid else found["start"]["reward"])
    assert found["at"]["1.0"]["reward"] > found["start"]["reward"]
    assert set(found["at"]["1.0"]["held"]) == {"contrast"} and len(found["features"]) == 2
    assert json.loads(json.dumps(found)) == found


def test_a_method_that_does_not_apply_says_why(spec):
    spec = dataclasses.replace(spec, reward=("jpeg",))
    assert "black box" in made(Bench(spec), Pack("dps", 0, (5,)))["refused"]


def test_a_comparison_is_written_and_goes_on(spec, tmp_path):
    out, lines, done = tmp_path / "out", [], []

    def stopping(spec, packs, folder):
        for pack, result in local(spec, packs, folder):
            if len(done) == 4:
                raise KeyboardInterrupt
            done.append(pack)
            yield pack, result

    with pytest.raises(KeyboardInterrupt):
        compare(spec, out, engine=stopping)
    assert not (out / "report.html").exists()
    found = compare(spec, out, said=lines.append)
    assert len(lines) == 2 and len(spec.packs()) == 6  # what was done is not done again
    assert {row.method for row in found.rows("1.0")} == set(spec.methods) and not found.refused
    assert all(row.gain.mean >= 0 and row.gain.n == 4 for row in found.rows("1.0"))
    page = (out / "report.html").read_text()
    assert "http" not in page.replace("http-equiv", "") and page.count("data:image/png") == 2 + 3 * 2
    for name in ("report.md", "table.json", "reward.png", "fidelity.png", "pictures/dno-lr-0.1-p0-s5-6.png"):
        assert (out / name).stat().st_size > 0
    assert json.loads((out / "table.json").read_text())["table"]["1.0"][0]["rank"] == 1
    again = compare(spec, out, engine=None)  # nothing is left to do
    assert again == found or str(again.table) == str(found.table)
    with pytest.raises(RunError, match="another amount"):
        compare(dataclasses.replace(spec, amount=50), out)


def test_another_directory_is_left_alone(spec, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(RunError, match="not an empty folder"):
        compare(spec, tmp_path)


def result(rewards, start=0.0):
    look = {"reward": rewards, "held": {}, "probability": [0.5] * 2, "strict": [0.5] * 2}
    begun = {**look, "reward": [start] * 2}
    curve = {"cost": [1, 5, 9], "seconds": [0.1, 0.5, 0.9], "reward": [[start] * 2, rewards, rewards]}
    return {
        "start": begun,
        "at": {"1.0": look},
        "curve": curve,
        "features": [[0.0], [3.0]],
        "memory": None,
        "seconds": 1.0,
    }


def tables(**methods):
    spec = CompareSpec(("brightness",), ("a",), tuple(methods), amount=10, seeds=2)
    return measured(spec, [(pack, methods[pack.method]) for pack in spec.packs()])


def test_tables_rank_by_differences_within_cases():
    found = tables(dno=result([1.0, 2.0]), reno=result([0.9, 1.9]), fk={"refused": "no noise"})
    first, second = found.rows("1.0")
    assert (first.method, first.rank, second.rank) == ("dno", 1, 2)  # 0.1 in both cases, however far these lie apart
    assert found.refused == {"fk": "no noise"} and first.diversity == 3.0 and first.gain.mean == 1.5
    costs, gains = found.curves["dno"]
    assert [gain.mean for gain, cost in zip(gains, costs, strict=True) if cost < 5] == [0.0] * 19 and gains[
        -1
    ].mean == 1.5


def test_ties_are_ties():
    assert ranks({"a": [1.0, 2.0], "b": [2.0, 1.0]}) == {"a": 1, "b": 1}
    assert ranks({"a": [1.0], "b": [9.0]}) == {"a": 1, "b": 1}  # one case says nothing
    assert ranks({"a": [1.0, 1.1, 1.2], "b": [9.0, 9.1, 9.2], "c": [9.1, 9.0, 9.2]}) == {"a": 3, "b": 1, "c": 1}


def test_intervals_hold_the_mean_as_often_as_they_say():
    import torch

    samples = torch.randn(4000, 6, generator=torch.Generator().manual_seed(0)).tolist()
    inside = sum(abs(one.mean) <= one.half for one in map(interval, samples)) / 4000
    assert 0.94 < inside < 0.96
    assert (
        math.isnan(interval([2.0]).half) and str(interval([2.0])) == "2" and str(Interval(1.0, 0.25, 3)) == "1 ± 0.25"
    )


def test_budgets_and_prompts_are_read(tmp_path):
    assert CompareOptions(out="out", budget="nfe=2000").limit == ("nfe", 2000.0)
    for text in ("2000", "steps=3", "nfe=-1", "nfe=many", "seconds=inf"):
        with pytest.raises(ArgumentError, match="--budget must be nfe=NUMBER or seconds=NUMBER, got"):
            CompareOptions(out="out", budget=text).limit  # noqa: B018
    path = tmp_path / "prompts.txt"
    path.write_text("a duck\n\na heart\n")
    assert prompts([str(path), "a rabbit", "a duck"]) == ("a duck", "a heart", "a rabbit")
    with pytest.raises(ArgumentError, match="cannot be read"):
        prompts([str(tmp_path / "missing.txt")])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"methods": ("dna",)}, "unknown method 'dna'"),
        ({"methods": ("dno", "dno")}, "named twice"),
        ({"methods": ()}, "no method given"),
        ({"kind": "steps"}, "nfe=2000 or seconds=60"),
        ({"amount": 0.0}, "budget nfe=0"),
        ({"seeds": 0}, "seeds=0"),
    ],
)
def test_bad_arguments_are_refused(change, words):
    with pytest.raises(ArgumentError, match=words):
        CompareSpec(("brightness",), ("a",), **change)


def test_the_command_compares(small, run):
    arguments = ("--reward", "brightness", "--prompts", "a", "--methods", "best-of-n:samples=2,reno", "--seeds", "2")
    status, out, errors = run("compare", *small, *arguments, "--budget", "nfe=60", "--watch", "none", "--out", "out")
    assert status == 0, errors
    assert "best-of-n:samples=2" in out and out.strip().endswith("out/report.html")
    assert run("compare", *small, *arguments, "--budget", "nfe=70", "--out", "out")[0] == 1
