"""Comparisons: equal budgets, the best so far that was paid for, honest ties, and a directory that can be continued."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
import torch

from noiseward.cli.sweep import show_sweep
from noiseward.errors import ArgumentError, RunError
from noiseward.loop.panel import Panel
from noiseward.options.commands import CompareOptions
from noiseward.options.run import RunSpec
from noiseward.runs.spec import to_text
from noiseward.sweep.compare import compare, report
from noiseward.sweep.comparison import Comparison
from noiseward.sweep.directory import Sweep
from noiseward.sweep.engine import Beat, Context
from noiseward.sweep.intervals import Interval, interval, rank
from noiseward.sweep.looks import Measurements
from noiseward.sweep.measure import measure
from noiseward.sweep.pack_task import PackTask
from noiseward.sweep.packs import Pack, cut
from noiseward.sweep.prompt_files import read_prompts
from noiseward.sweep.tables import format_lines
from tests.tiny import CALL

BRIGHT = RunSpec(reward="brightness")


@pytest.fixture(scope="module")
def comparison(model):
    call = {**CALL, "num_inference_steps": 2}
    base = RunSpec(reward="brightness", model=model, seed=5, watch="contrast", call=call)
    methods = ("best-of-n:samples=2", "dno:lr=0.1", "fk:particles=2")
    return Comparison(base, ("a", "b"), methods, "nfe", 40, seeds=2)


def plain(sweep: Sweep) -> dict[str, Measurements]:
    """What was measured of each pack, but for times and memory."""
    found = {pack.name: PackTask(pack, sweep.out).inspect().measurements for pack in sweep.parts()}
    return {name: dataclasses.replace(one, seconds=[], memory=None) for name, one in found.items() if one is not None}


@pytest.fixture(scope="module")
def whole(comparison, tmp_path_factory):
    """A comparison never disturbed."""
    out = tmp_path_factory.mktemp("whole") / "out"
    compare(comparison, out)
    return Sweep.read(out)


def test_every_method_gets_the_same_packs_in_turn():
    comparison = Comparison(BRIGHT.replace(seed=10), ("a", "b"), ("dno", "reno"), seeds=6)
    packs = cut(list(comparison.rows()), 4, ())
    for method in comparison.methods:
        own = [(pack.spec.prompt, pack.spec.seed, pack.spec.batch) for pack in packs if pack.spec.method == method]
        assert own == [(("a",), 10, 4), (("b",), 10, 4), (("a",), 14, 2), (("b",), 14, 2)]
    assert [pack.ids for pack in packs[:4]] == [("dno-a",), ("reno-a",), ("dno-b",), ("reno-b",)]


def test_a_model_without_prompts_has_a_row_per_seed():
    (row,) = Comparison(BRIGHT, (), ("dno",), seeds=2).rows()
    (pack,) = cut([row], 4, ())
    assert list(pack.rows()) == [("dno", "", 0), ("dno", "", 1)] and pack.spec.prompt == ()


def test_what_was_paid_for_counts(whole):
    for pack in whole.packs:
        found = PackTask(pack, whole.out).inspect().measurements
        assert found is not None and found.cost == sorted(found.cost)
        for share in (0.25, 0.5, 1.0):
            paid = [best for cost, best in zip(found.cost, found.reward, strict=True) if cost <= share * 40]
            assert found.at[str(share)]["reward"] == (paid[-1] if paid else found.start["reward"])
        assert set(found.at["1.0"]["held"]) == {"contrast"} and len(found.features) == 2
        assert "image" not in found.at["0.25"] and "image" not in found.start
        assert len(image := found.at["1.0"]["image"]) == 2 and all(0 <= p <= 1 for p in image)  # best-of-n's, too
    ascent = PackTask(whole.packs[1], whole.out).inspect().measurements
    assert ascent is not None and ascent.at["1.0"]["reward"] > ascent.start["reward"] and ascent.cost[-1] <= 40


def test_a_method_that_does_not_apply_is_refused_with_its_reason(comparison, tmp_path, capsys):
    black = dataclasses.replace(
        comparison, base=comparison.base.replace(reward=("jpeg",)), prompts=("a",),
        methods=("dps", "best-of-n:samples=2", "dno:lr=0.1", "dno:estimator=hybrid2,lr=0.1"),
    )  # fmt: skip
    found = compare(black, tmp_path / "out")
    assert "black box" in found.refused["dps"]
    assert found.refused["dno:estimator=hybrid2,lr=0.1"] == "the same as dno:lr=0.1 here"
    assert {line.method for line in found.rows("1.0")} == {"best-of-n:samples=2", "dno:lr=0.1"}
    assert "does not apply: " in (tmp_path / "out/report.md").read_text()
    show_sweep(tmp_path / "out")
    shown = capsys.readouterr().out
    assert len(found.refused) == 2
    assert all(f"{method} does not apply: {why}" in shown for method, why in found.refused.items())


def test_a_reward_that_cannot_be_made_is_no_method_that_does_not_apply(comparison, tmp_path):
    wrong = dataclasses.replace(comparison, base=comparison.base.replace(reward=("brightness:clamp=high",)))
    with pytest.raises(RunError, match="must be a number, got 'high'"):
        compare(wrong, tmp_path / "out")


def test_a_comparison_is_written_and_continued(comparison, whole, tmp_path):
    out, beats = tmp_path / "out", list[Beat]()

    def stop(some):
        for beat in some:
            if sum(one.state == "done" for one in beats) == 4:
                raise KeyboardInterrupt
            beats.append(beat)
            yield beat

    with pytest.raises(KeyboardInterrupt):
        compare(comparison, out, view=stop)
    assert not (out / "report.html").exists()
    beats.clear()
    found = compare(comparison, out, view=lambda some: _note(some, beats))
    assert {beat.pack for beat in beats} == {"0004", "0005"}  # what was done is not done again
    assert plain(Sweep.read(out)) == plain(whole)
    assert {line.method for line in found.rows("1.0")} == set(comparison.methods) and not found.refused
    assert all(line.gain.mean >= 0 and line.gain.n == 4 for line in found.rows("1.0"))
    page = (out / "report.html").read_text()
    assert "http" not in page and page.count("data:image/png") == 2 + 3 * 4
    for name in ("report.md", "table.json", "reward.png", "fidelity.png", "index.csv", "packs/0001/best/01.png"):
        assert (out / name).stat().st_size > 0
    assert not (out / "packs/0001/plot.png").exists()
    assert json.loads((out / "table.json").read_text())["table"]["1.0"][0]["rank"] == 1
    beats.clear()
    assert str(compare(comparison, out, view=lambda some: _note(some, beats)).table) == str(found.table)
    assert beats == []


def _note(some, beats):
    for beat in some:
        beats.append(beat)
        yield beat


def test_a_pack_cut_at_any_step_is_measured_once_and_the_same(comparison, whole, tmp_path, monkeypatch):
    measured = []
    scores = Panel.scores
    monkeypatch.setattr(Panel, "scores", lambda self, sample: measured.append(1) or scores(self, sample))
    for number, steps in ((1, 2), (1, 4), (0, 3), (2, 3)):
        pack, out = whole.packs[number], tmp_path / f"{number}-{steps}"
        begun = PackTask(pack, out).run(Context())
        (out / "packs").mkdir(parents=True)
        measured.clear()
        for _, beat in zip(range(steps), begun, strict=False):
            assert beat.state == "running"
        begun.close()  # as a kill would leave it
        assert list(PackTask(pack, out).run(Context()))[-1].state == "done"
        assert plain(Sweep(out, (pack,)))[pack.name] == plain(whole)[pack.name]
        assert len(measured) <= 4, "at the start, and at three shares of the budget"


def test_measurements_that_are_gone_are_named(comparison, whole, tmp_path):
    pack = whole.packs[1]
    (tmp_path / "packs").mkdir()
    begun = PackTask(pack, tmp_path).run(Context())
    for _ in range(4):
        next(begun)
    begun.close()
    (tmp_path / "packs/0001/looks.json").unlink()
    last = list(PackTask(pack, tmp_path).run(Context()))[-1]
    assert last.state == "failed" and "looks.json is missing; remove" in (last.error or "")


def test_more_methods_and_prompts_are_added_and_other_settings_refused(comparison, tmp_path):
    few = dataclasses.replace(comparison, prompts=("a",), methods=comparison.methods[:1])
    compare(few, tmp_path)
    beats = list[Beat]()
    compare(comparison, tmp_path, view=lambda some: _note(some, beats))
    assert {beat.pack for beat in beats} == {"0001", "0002", "0003", "0004", "0005"}
    for change, says in (
        ({"amount": 50}, r"other settings \(nfe\)"),
        ({"base": comparison.base.replace(watch=("jpeg",))}, r"other settings \(watch\)"),
        ({"methods": comparison.methods[1:]}, "which is not asked for now"),
    ):
        with pytest.raises(RunError, match=says):
            compare(dataclasses.replace(comparison, **change), tmp_path)


def test_a_row_that_fails_is_left_out_of_the_tables_and_reported(comparison, tmp_path):
    (tmp_path / "mine.py").write_text(
        "def mine(images, prompts):\n"
        "    if 'b' in prompts:\n        raise ValueError('no b')\n"
        "    return images.mean((1, 2, 3))\n"
    )
    mine = dataclasses.replace(comparison, base=comparison.base.replace(reward=(f"{tmp_path / 'mine.py'}:mine",)))
    with pytest.raises(RunError, match=r"6 of 12 rows are failed, first 'best-of-n-samples-2-b' with seed 5 .*no b"):
        compare(mine, tmp_path / "out")
    sweep = mine.begin(tmp_path / "out")
    found, outcomes = report(mine, sweep)
    assert all(line.gain.n == 2 for line in found.rows("1.0")) and len(found.rows("1.0")) == 3
    assert sum(one.state == "done" for one in outcomes) == 6


def test_another_directory_is_left_alone(comparison, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(RunError, match="is not empty and holds no batch.json"):
        compare(comparison, tmp_path)
    old = tmp_path / "old"
    (old / "packs").mkdir(parents=True)
    (old / "spec.json").write_text("{}")
    with pytest.raises(RunError, match="holds a comparison of an earlier version; .* give another --out"):
        compare(comparison, old)


def make_measurements(rewards, start=0.0):
    look = {"reward": rewards, "held": {}, "probability": [0.5] * 2, "strict": [0.5] * 2}
    curve = [[start] * 2, list(rewards), list(rewards)]
    return Measurements(
        start={**look, "reward": [start] * 2}, at={"1.0": look}, cost=[1, 5, 9], seconds=[0.1, 0.5, 0.9],
        reward=curve, features=[[0.0], [3.0]], memory=None,
    )  # fmt: skip


def make_tables(refused=(), **methods):
    packs = {name: Pack("0000", (name,), BRIGHT.replace(prompt=("a",), method=name, batch=2)) for name in methods}
    results = [(packs[name], one) for name, one in methods.items()]
    return measure(results, dict(refused), kind="nfe", amount=10)


def test_tables_rank_by_differences_within_cases():
    table = make_tables({"fk": "no noise"}, dno=make_measurements([1.0, 2.0]), reno=make_measurements([0.9, 1.9]))
    first, second = table.rows("1.0")
    assert (first.method, first.rank, second.rank) == ("dno", 1, 2)  # 0.1 in both cases, however far these lie apart
    assert table.refused == {"fk": "no noise"} and first.diversity == 3.0 and first.gain.mean == 1.5
    assert first.seconds == 0.9
    costs, gains = table.curves["dno"]
    assert [gain.mean for gain, cost in zip(gains, costs, strict=True) if cost < 5] == [0.0] * 19
    assert gains[-1].mean == 1.5


def test_images_that_fail_are_counted_where_any_was_tested():
    plain, some = make_measurements([1.0, 2.0]), make_measurements([1.0, 2.0])
    some.at["1.0"] = {**some.at["1.0"], "image": [0.05, 0.5]}
    none = dataclasses.replace(some, at={"1.0": {**some.at["1.0"], "image": [None, None]}})
    shares = {line.method: line.implausible for line in make_tables(a=plain, b=some, c=none).rows("1.0")}
    assert shares == {"a": None, "b": 0.5, "c": None}
    head, table = format_lines(make_tables(a=plain, b=some).rows("1.0"))
    assert [row[head.index("P(image) < 0.1")] for row in table] == ["not tested", "50%"]
    assert "P(image) < 0.1" not in format_lines(make_tables(a=plain).rows("1.0"))[0]


def test_a_best_found_after_the_budget_was_spent_is_noted():
    inside, late = make_measurements([1.0, 2.0]), make_measurements([0.9, 1.9])
    late.reward[-1][1] = 2.5
    assert make_tables(dno=inside).note is None
    note = make_tables(dno=inside, reno=late).note
    assert note is not None and note.startswith("the last step of reno went past the budget and found something better")


def test_ties_are_ties():
    assert rank({"a": [1.0, 2.0], "b": [2.0, 1.0]}) == {"a": 1, "b": 1}
    assert rank({"a": [1.0], "b": [9.0]}) == {"a": 1, "b": 1}  # one case says nothing
    assert rank({"a": [1.0, 1.1, 1.2], "b": [9.0, 9.1, 9.2], "c": [9.1, 9.0, 9.2]}) == {"a": 3, "b": 1, "c": 1}


def test_intervals_hold_the_mean_as_often_as_they_say():
    samples = torch.randn(4000, 6, generator=torch.Generator().manual_seed(0)).tolist()
    inside = sum(abs(one.mean) <= one.half for one in map(interval, samples)) / 4000
    assert 0.94 < inside < 0.96
    assert math.isnan(interval([2.0]).half) and str(interval([2.0])) == "2"
    assert str(Interval(1.0, 0.25, 3)) == "1 ± 0.25"


def test_budgets_and_prompts_are_read(tmp_path):
    assert (
        CompareOptions(out="out", budget="nfe=2000").limit
        == CompareOptions(out="out", budget="nfe=2e3").limit
        == ("nfe", 2000.0)
    )
    for text in ("2000", "steps=3", "nfe=-1", "nfe=many", "nfe=0.5", "nfe=1.5", "nfe=٣", "seconds=inf", "seconds=0"):
        with pytest.raises(
            ArgumentError, match="--budget must be nfe=NUMBER, an integer >= 1, or seconds=NUMBER, > 0, got"
        ):
            CompareOptions(out="out", budget=text).limit  # noqa: B018
    path = tmp_path / "prompts.txt"
    path.write_text("a duck\n\n# birds\na heart\n")
    (tmp_path / "more.csv").write_text("prompt\na rabbit\n")
    assert read_prompts([str(path), str(tmp_path / "more.csv"), "a duck"]) == ("a duck", "a heart", "a rabbit")
    (tmp_path / "more.jsonl").write_text('{"prompt": "a", "steps": 3}\n')
    for name, says in (("missing.txt", "cannot be read"), ("more.jsonl", "expected a prompt alone, got prompt, steps")):
        with pytest.raises(ArgumentError, match=says):
            read_prompts([str(tmp_path / name)])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"methods": ("dna",)}, "unknown method 'dna'"),
        ({"methods": ("reno", "dno:guard=shel")}, "unknown guard 'shel'; did you mean 'shell'"),
        ({"base": BRIGHT.replace(reward=("brightnes",))}, "unknown reward 'brightnes'; did you mean 'brightness'"),
        ({"methods": ("dno", "dno")}, "method 'dno' is given twice"),
        ({"methods": ()}, "at least one method, got none"),
        ({"kind": "steps"}, "must be nfe=NUMBER or seconds=NUMBER, got steps=2000"),
        ({"amount": 0.0}, "must be .* got nfe=0"),
        ({"seeds": 0}, "seeds must be >= 1, got 0"),
        ({"prompts": ("a", " ")}, "expected prompts with words, got an empty one"),
        ({"prompts": ("",)}, "expected prompts with words, got an empty one"),
    ],
)
def test_bad_arguments_are_refused(change, words):
    with pytest.raises(ArgumentError, match=words):
        Comparison(**{"base": BRIGHT, "prompts": ("a",), **change})


def test_two_methods_and_two_prompts_that_make_one_word_have_two_ids(tmp_path):
    asked = Comparison(BRIGHT, ("a duck", "coarse 2 a duck"), ("dno:coarse=2", "dno"), seeds=5)
    rows = list(asked.rows())
    assert len({(row.id, row.spec.seed) for row in rows}) == len(rows) == 8
    assert {row.id for row in rows} >= {"dno-coarse-2-a-duck", "dno-coarse-2-a-duck-"}
    for _ in range(2):
        asked.begin(tmp_path / "out")


def test_the_same_methods_and_prompts_in_another_order_continue(tmp_path):
    methods = ("dno", "best-of-n", "dno:estimator=hybrid2")  # of a black box, the last is the same as the first
    asked = Comparison(RunSpec(reward="jpeg"), ("a duck", "A duck!"), methods, seeds=5)
    first = asked.begin(tmp_path)
    for pack in first.packs:
        (tmp_path / "packs" / pack.name).mkdir(parents=True)
        (tmp_path / "packs" / pack.name / "spec.json").write_text(to_text(pack.spec))
    again = dataclasses.replace(asked, methods=methods[::-1], prompts=asked.prompts[::-1]).in_order_of(tmp_path)
    assert again.begin(tmp_path) == first and {*again.refused} == {*asked.refused} == {methods[2]}
    more = dataclasses.replace(asked, methods=("fk", *methods[::-1]), prompts=("A DUCK", *asked.prompts))
    assert more.in_order_of(tmp_path).begin(tmp_path).packs[: len(first.packs)] == first.packs


def test_a_budget_of_seconds_is_one_per_pack(comparison, tmp_path):
    timed = dataclasses.replace(comparison, kind="seconds", amount=0.2, prompts=("a",), methods=("dno:lr=0.1",))
    (line,) = compare(timed, tmp_path / "out").rows("1.0")
    assert line.gain.n == 2 and "0.05 seconds" in (tmp_path / "out/report.md").read_text()


def test_the_command_compares(small, run, tmp_path):
    arguments = ("--reward", "brightness", "--prompts", "a", "--methods", "best-of-n:samples=2,reno", "--seeds", "2")
    status, out, errors = run("compare", *small, *arguments, "--budget", "nfe=60", "--watch", "none", "--out", "out")
    assert status == 0, errors
    assert "best-of-n:samples=2" in out and out.strip().endswith("out/report.html") and "4/4 done" in errors
    status, _, errors = run("compare", *small, *arguments, "--budget", "nfe=70", "--watch", "none", "--out", "out")
    assert status == 1 and "began 'best-of-n-samples-2-a' with other settings (nfe)" in errors
    status, _, errors = run("compare", *small, *arguments[2:], "--reward", "brightness:clamp=high", "--out", "other")
    assert status == 1 and "4 of 4 rows are failed" in errors.splitlines()[-1] and "high" in errors
    status, _, errors = run("resume", "out")
    assert status == 1 and "run its 'noiseward batch' or 'compare' command again" in errors
    assert (tmp_path / "out/index.csv").exists()
