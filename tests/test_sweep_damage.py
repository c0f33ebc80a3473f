"""Damaged batches and comparisons are named; what is not named is right."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest

from noiseward import RunError
from noiseward.cli.sweep import show_sweep
from noiseward.runs import RunSpec
from noiseward.sweep.compare import compare
from noiseward.sweep.comparison import Comparison
from noiseward.sweep.directory import Sweep
from noiseward.sweep.engine import Local
from noiseward.sweep.pack_task import PackTask
from noiseward.sweep.packs import plan, read_packs
from noiseward.sweep.report import report
from noiseward.sweep.rows import Row
from tests.damage import copy, damages
from tests.test_damage import outcome, restore
from tests.test_sweep import outcomes
from tests.tiny import CALL

SMALL = {**CALL, "num_inference_steps": 2}


def rows(model: str, reward: str = "brightness") -> list[Row]:
    spec = RunSpec(prompt=(), reward=(reward,), model=model, steps=1, method="dno:lr=0.05", call=SMALL)
    return [Row(name, spec.replace(prompt=(name,)), 1) for name in "ab"]


@pytest.fixture(scope="module")
def whole(model, tmp_path_factory):
    """A batch of two packs, of a row each."""
    out = tmp_path_factory.mktemp("batch") / "out"
    batch = Sweep.begin(out, rows(model), size=1)
    list(batch.run(Local()))
    report(batch)
    assert [one.state for one in outcomes(batch)] == ["done", "done"]
    return out


@pytest.fixture
def out(whole, tmp_path):
    return copy(whole, tmp_path / "out")


def states(out: Path) -> list[tuple[str, str]]:
    return [(one.state, one.error) for one in outcomes(Sweep.read(out))]


def test_packs_that_were_swapped_are_named_and_left_alone(out, model):
    packs = out / "packs"
    for one, other in (("0000", "x"), ("0001", "0000"), ("x", "0001")):
        (packs / one).rename(packs / other)
    before = {file: file.read_bytes() for file in packs.rglob("*") if file.is_file()}
    assert [state for state, _ in states(out)] == ["damaged", "damaged"]
    assert all("holds another run than this sweep asks for" in error for _, error in states(out))
    beats = [beat for beat in Sweep.begin(out, rows(model), size=1).run(Local()) if beat.state != "running"]
    assert [(beat.state, "was asked for something else" in (beat.error or "")) for beat in beats] == [
        ("failed", True)
    ] * 2
    assert before == {file: file.read_bytes() for file in packs.rglob("*") if file.is_file()}


@pytest.mark.parametrize("how", ["missing", "empty", "flip", "reward, nan"])
def test_a_pack_without_its_best_is_not_done_and_not_done_over(out, model, how):
    (damage,) = (one for one in damages(out) if one.name == f"packs/0001/best.safetensors: {how}")
    damage.do(out)
    assert [state for state, _ in states(out)] == ["done", "damaged"]
    beats = [beat for beat in Sweep.begin(out, rows(model), size=1).run(Local()) if beat.state != "running"]
    assert [(beat.pack, beat.state) for beat in beats] == [("0001", "failed")]
    assert "best.safetensors" in str(beats[0].error)


@pytest.mark.parametrize("file", ["best/00.png", "initial/00.png", "status.json"])
def test_a_pack_without_what_can_be_made_again_is_continued(whole, out, model, file):
    (out / "packs/0000" / file).unlink()
    assert PackTask(Sweep.read(out).packs[0], out).inspect().name != "done"
    list(Sweep.begin(out, rows(model), size=1).run(Local()))
    assert [state for state, _ in states(out)] == ["done", "done"]
    if file.endswith("png"):
        assert (out / "packs/0000" / file).read_bytes() == (whole / "packs/0000" / file).read_bytes()


def test_a_damaged_pack_is_an_outcome_that_names_it_or_reads_as_before(whole, out):
    sound, wrong = outcomes(Sweep.read(out)), []
    other = whole / "packs/0001"
    for damage in damages(whole / "packs/0000", other=other, per_file=12):
        damage.do(out / "packs/0000")
        found = outcomes(Sweep.read(out))
        if (
            found != sound
            and (found[0].state != "damaged" or not found[0].error)
            and damage.name != "status.json: missing"
        ):
            wrong.append(damage.name)
        restore(out / "packs/0000" / damage.file, whole / "packs/0000" / damage.file)
    assert wrong == []


def test_a_damaged_plan_of_a_batch_is_refused_or_read_as_it_was(whole, out, model):
    sound = read_packs(out)
    for damage in damages(whole):
        if damage.file == "batch.json" and damage.name != "batch.json: missing":
            damage.do(out)
            found = outcome(read_packs, out)
            assert found == sound or isinstance(found, RunError), damage.name
            restore(out / damage.file, whole / damage.file)
    with pytest.raises(RunError, match="another prompt"):
        plan(out, [dataclasses.replace(one, id="ba"[k]) for k, one in enumerate(rows(model))], 1)


def test_a_batch_planned_by_two_at_once_is_done_by_one(out, model):
    mine = Sweep.begin(out, rows(model), size=1)
    Sweep.begin(out, [*rows(model), dataclasses.replace(rows(model)[0], id="c")], size=1)
    with pytest.raises(RunError, match="another process gave .* other rows meanwhile; give the command again"):
        list(mine.run(Local()))


def test_a_row_whose_reward_was_never_finite_has_failed(model, tmp_path, capsys):
    (tmp_path / "mine.py").write_text(
        "def mine(images, prompts):\n"
        "    return images.mean((1, 2, 3)) * images.new_tensor([float('nan') if p == 'b' else 1.0 for p in prompts])\n"
    )
    batch = Sweep.begin(tmp_path / "out", rows(model, f"{tmp_path}/mine.py:mine"), size=2)
    assert [beat.state for beat in batch.run(Local())][-1] == "done"
    found = report(batch)
    assert [(one.state, one.error) for one in found] == [("done", ""), ("failed", "its reward was never finite")]
    assert found[1].best is None and "nan" not in (tmp_path / "out/index.csv").read_text()
    show_sweep(tmp_path / "out")
    shown = capsys.readouterr().out + found[1].caption + (tmp_path / "out/report.html").read_text()
    assert "never finite" in shown and "not met" not in shown


def test_a_batch_whose_every_pack_fails_ends_with_a_line_that_says_so(run, small, tmp_path):
    (tmp_path / "p.txt").write_text("a\nb\n")
    (tmp_path / "mine.py").write_text("def mine(images):\n    raise ValueError('no more')\n")
    for more in ((), ("--quiet",), ("--json",)):
        status, _, err = run(
            "batch", "p.txt", "--reward", "mine.py:mine", "--out", "out", "--steps", "1", *small, *more
        )
        last = err.splitlines()[-1]
        assert status == 1 and last.startswith("noiseward: 2 of 2 rows are failed, first 'a' with seed 0 (")
        assert "no more" in last and last.endswith("correct that, and give the same command again to continue")


@pytest.fixture(scope="module")
def comparison(model, tmp_path_factory):
    """A comparison of two methods on two prompts, and the same from another seed on."""
    base = RunSpec(reward="brightness", watch="contrast", model=model, call=SMALL)
    asked = Comparison(base, ("a", "b"), ("best-of-n:samples=2", "dno:lr=0.1"), "nfe", 20, seeds=2)
    out, other = (tmp_path_factory.mktemp("compared") / name for name in ("out", "other"))
    compare(asked, out)
    compare(dataclasses.replace(asked, base=base.replace(seed=2)), other)
    return asked, out, other


def test_damaged_measurements_are_named_or_read_as_they_were(comparison, tmp_path):
    _, whole, other = comparison
    out, packs = copy(whole, tmp_path / "out"), Sweep.read(whole).packs
    sound, wrong = [PackTask(pack, whole).inspect() for pack in packs], []
    for damage in damages(whole, other=other, per_file=30):
        if damage.file.endswith(("looks.json", "best.safetensors")) or "/best/" in damage.file:
            damage.do(out)
            for pack, right in zip(packs, sound, strict=True):
                found = PackTask(pack, out).inspect(closely=True)
                if (found.measurements, found.name) != (right.measurements, "done") and found.name != "damaged":
                    wrong.append(damage.name)
            restore(out / damage.file, whole / damage.file)
    assert wrong == []


def test_a_pack_of_a_comparison_copied_over_another_is_named_and_not_done_over(comparison, tmp_path):
    asked, whole, _ = comparison
    out = copy(whole, tmp_path / "out")
    for name in ("looks.json", "0001"):
        place = out / "packs/0001/looks.json" if name == "looks.json" else out / "packs/0001"
        source = whole / "packs/0000/looks.json" if name == "looks.json" else whole / "packs/0000"
        shutil.copy(source, place) if place.is_file() else (shutil.rmtree(place), shutil.copytree(source, place))
        assert PackTask(Sweep.read(out).packs[1], out).inspect().name == "damaged"
        with pytest.raises(RunError, match="2 of 8 rows are damaged, first 'dno-lr-0.1-a' with seed 0"):
            compare(asked, out)
    shutil.rmtree(out / "packs/0001")
    assert [line.gain.n for line in compare(asked, out).rows("1.0")] == [4, 4]
