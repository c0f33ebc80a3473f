"""Damaged directories are named in one line and nothing is continued from them; whatever is not named is right."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from noiseward import RunError
from noiseward.problem import prepare_spec
from noiseward.runs import RunFolder, RunSpec, execute
from noiseward.runs.consistency import check_recorded, read_best
from noiseward.runs.images import read_images
from noiseward.runs.perform import perform
from noiseward.runs.record import read_record, tolerance
from noiseward.runs.resume_point import ResumePoint, find_resume_point
from tests.damage import copy, damages
from tests.older import downgrade
from tests.tiny import CALL

CPU = torch.device("cpu")
MANY = 24  # damages of each file at most


@pytest.fixture(scope="module")
def spec(model):
    return RunSpec(
        prompt=("a", "b"), reward="brightness", model=model, steps=3, seed=5, method="dno:lr=0.05,guard=none",
        watch="contrast", call={**CALL, "num_inference_steps": 2, "eta": 1.0},
    )  # fmt: skip


@pytest.fixture(scope="module")
def runs(spec, tmp_path_factory):
    """Run directories by name: finished, cut after two steps, another, and one of format 1."""
    folder = tmp_path_factory.mktemp("runs")
    execute(spec, folder / "done", quiet=True)
    for _, _ in zip(range(2), perform(prepare_spec(spec), spec, folder / "cut"), strict=False):
        pass
    execute(spec.replace(seed=9), folder / "other", quiet=True)
    execute(downgrade(spec, 1, lr=0.05), folder / "old", quiet=True)
    execute(downgrade(spec.replace(seed=9), 1, lr=0.05), folder / "old other", quiet=True)
    return folder


def plain(stood: ResumePoint | None) -> Any:
    """Where a run continues, in what can be compared; frames aside, of which some may be gone."""
    if stood is None:
        return None
    place, best = stood.place, stood.place.best
    assert best is not None
    parts = {} if place.multiplier is None else {"multiplier": place.multiplier}
    parts |= {"noise": place.noise, **place.state, **{f"best {name}": part for name, part in vars(best).items()}}
    seen = {} if stood.seen is None else {name: part.tolist() for name, part in stood.seen.highest.items()}
    return (
        {name: part.tolist() for name, part in parts.items()},
        (place.index, place.status, place.nfe, place.seconds, place.pace, seen),
        stood.past.history,
        stood.past.initial.sample.tolist(),
    )


def summarize(folder: RunFolder) -> Any:
    """What a run says and shows of itself."""
    record = read_record(folder)
    best, _ = read_best(folder, record.spec)
    check_recorded(best, record.lines, folder.path / "best.safetensors", apart=tolerance(folder, record.spec))
    images = [image.tobytes() for which in ("initial", "best") for image in read_images(folder, record, which)]
    return record.spec, record.status, record.steps, folder.read("env.json"), images


def outcome(what: Any, *arguments: Any) -> Any:
    """What a reader gives, or the line with which it refuses; anything else it raises is a failure."""
    try:
        return what(*arguments)
    except RunError as error:
        line = str(error)
        assert "\n" not in line and len(line) < 400, line
        return error


def right(found: Any, sound: Any) -> bool:
    return isinstance(found, RunError) or found == sound


@pytest.mark.parametrize("name", ["done", "cut"])
def test_a_damaged_run_is_refused_by_name_or_read_as_it_was(runs, tmp_path, name):
    folder = RunFolder(copy(runs / name, tmp_path / "run"))
    place, told = plain(find_resume_point(folder, CPU)), outcome(summarize, folder)
    wrong, refused = [], 0
    for damage in damages(runs / name, other=runs / "other", per_file=MANY):
        damage.do(folder.path)
        found = outcome(lambda: plain(find_resume_point(folder, CPU)))
        if not right(found, place):
            wrong.append(f"{damage.name}: continues from something else")
        shown = outcome(summarize, folder)
        if not right(shown, told):
            wrong.append(f"{damage.name}: shows something else")
        refused += isinstance(found, RunError) or isinstance(shown, RunError)
        if isinstance(found, RunError) and Path(damage.file).name not in str(found) and damage.file != "spec.json":
            wrong.append(f"{damage.name}: does not name it: {found}")
        restore(folder.path / damage.file, runs / name / damage.file)
    assert wrong == [] and refused > 200


def test_files_of_two_instants_are_refused_but_for_those_of_a_step_that_was_being_written(spec, runs, tmp_path):
    later = tmp_path / "later"
    for _, _ in zip(range(3), perform(prepare_spec(spec), spec, later), strict=False):
        pass
    for names, fits in (
        (("latest",), True),  # killed before the last of them was written
        (("latest", "best", "peaks"), True),
        (("best",), False),
        (("best", "peaks"), False),
    ):
        mixed = copy(later, tmp_path / "-".join((*names, "run")))
        for name in names:
            shutil.copy(runs / "cut" / f"{name}.safetensors", mixed / f"{name}.safetensors")
        found = outcome(find_resume_point, RunFolder(mixed), CPU)
        if fits:
            assert not isinstance(found, RunError) and found.place.index == 2
        else:
            assert "best.safetensors does not belong to the last step in steps.jsonl" in str(found)


def restore(damaged: Path, whole: Path) -> None:
    if damaged.is_dir():
        damaged.rmdir()
    shutil.copy(whole, damaged)


def test_a_damaged_run_of_format_1_never_ends_in_an_exception(runs, tmp_path):
    folder = RunFolder(copy(runs / "old", tmp_path / "run"))
    refused = set()
    for damage in damages(runs / "old", other=runs / "old other", per_file=MANY):
        damage.do(folder.path)
        found = [outcome(find_resume_point, folder, CPU), outcome(summarize, folder)]
        refused |= {damage.name} if any(isinstance(one, RunError) for one in found) else set()
        restore(folder.path / damage.file, runs / "old" / damage.file)
    for name in ("best.safetensors", "initial.safetensors", "peaks.safetensors", "status.json", "steps.jsonl"):
        for how in ("missing", "other"):
            shutil.copytree(runs / "old", tmp_path / f"{name} {how}")
            damage = next(
                one for one in damages(runs / "old", other=runs / "old other") if one.name == f"{name}: {how}"
            )
            damage.do(tmp_path / f"{name} {how}")
            folder = RunFolder(tmp_path / f"{name} {how}")
            found = [outcome(find_resume_point, folder, CPU), outcome(summarize, folder)]
            assert any(isinstance(one, RunError) for one in found), damage.name
    assert len(refused) > 100


@pytest.mark.parametrize("name", ["done", "cut"])
def test_the_commands_say_one_line_about_a_damaged_run_or_do_what_they_do_with_a_whole_one(runs, run, tmp_path, name):
    whole = copy(runs / name, tmp_path / "whole" / "run")
    sound = run_commands(run, whole)
    chosen = {one.name: one for one in damages(runs / name, other=runs / "other")}
    some = (
        "steps.jsonl: last line torn", "steps.jsonl: reversed", "spec.json: other", "status.json: best[0]=99",
        "latest.safetensors: other", "best.safetensors: flip", "frames/00000-00.png: another size",
        "status.json: deep",
    )  # fmt: skip
    for number, damage in enumerate(chosen[each] for each in some):
        folder = copy(runs / name, tmp_path / f"{number}" / "run")
        damage.do(folder)
        place = not isinstance(outcome(find_resume_point, RunFolder(folder), CPU), RunError)
        for command, (status, out, err) in run_commands(run, folder).items():
            assert "Traceback" not in err and (status, len(err.splitlines())) in ((0, 0), (1, 1)), (damage.name, err)
            if status == 0 and command != "list":
                assert out == sound[command][1], (damage.name, command)
            assert (status == 0) == place or command != "resume", (damage.name, err)
        for file in ("best.safetensors", "latest.safetensors", "peaks.safetensors", "strip.png", "best/01.png"):
            assert not place or (folder / file).read_bytes() == (whole / file).read_bytes(), (damage.name, file)


def run_commands(run: Any, folder: Path) -> dict[str, tuple[int, str, str]]:
    """What each command says of a run, without its name and the time it took; last, it is resumed."""
    found = {}
    table = str(folder.parent / "x.csv")
    for command, *rest in (("list",), ("show",), ("export", "--csv", table), ("replay",), ("resume", "-q")):
        status, told, err = run(command, str(folder.parent if command == "list" else folder), *rest)
        told = told.replace(str(folder.parent), "")
        found[command] = status, "\n".join(line.split(" s, ")[-1] for line in told.splitlines()), err
    return found
