"""Going on is as safe as beginning: killed meanwhile, a run of any format is what it was, or one step further."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from noiseward import RunError
from noiseward.problem import prepare_spec
from noiseward.runs import RunFolder, RunSpec, execute, resume
from noiseward.runs.files import read_tensors
from noiseward.runs.perform import perform
from noiseward.runs.record import read_record
from noiseward.runs.resume_point import find_resume_point
from tests.crash import run_killed
from tests.older import downgrade
from tests.test_resume import INSTANTS, assert_equal, assert_same, begin, write_interrupting_reward
from tests.tiny import CALL

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")


@pytest.fixture(scope="module")
def spec(model):
    return RunSpec(
        prompt=("a", "b"), reward=("brightness",), model=model, steps=4, seed=5, method="dno:lr=0.05",
        watch=("contrast",), call={**CALL, "num_inference_steps": 2, "eta": 1.0},
    )  # fmt: skip


@pytest.fixture(scope="module")
def short_run(spec, whole, tmp_path_factory):
    """The same run asked for two steps less, and how many operations on files it takes to continue to the end."""
    folder = tmp_path_factory.mktemp("short") / "run"
    execute(spec.replace(steps=2), folder, quiet=True)
    other = folder.parent / "counted"
    shutil.copytree(folder, other)
    count, _ = run_killed(lambda report: resume(other, steps="4", quiet=True) and None, other, at=0)
    assert_same(other, whole)
    return folder, count


@pytest.mark.parametrize("instant", range(INSTANTS))
def test_a_run_that_continues_killed_at_any_instant_is_readable_and_continues(short_run, whole, tmp_path, instant):
    folder, count = tmp_path / "run", short_run[1]
    shutil.copytree(short_run[0], folder)
    at = 1 + instant * (count - 1) // max(INSTANTS - 1, 1)
    run_killed(lambda report: resume(folder, steps="4", quiet=True) and None, folder, at)
    assert read_record(RunFolder(folder)).steps[:2] == RunFolder(short_run[0]).steps()[:2]
    resume(folder, steps="4", quiet=True)
    assert_same(folder, whole)


@pytest.fixture(scope="module")
def interrupted_run(spec, tmp_path_factory):
    """A run that was interrupted in its third step; its place is the one after the second."""
    folder = tmp_path_factory.mktemp("interrupted")
    reward = f"{write_interrupting_reward(folder, 'run/steps.jsonl', 2)}:light"
    execute(spec.replace(reward=(reward,)), folder / "run", quiet=True)
    assert read_record(RunFolder(folder / "run")).status["state"] == "interrupted"
    return folder / "run"


@pytest.mark.parametrize("number", range(1, 9))
def test_a_run_that_continues_killed_before_any_of_its_first_files_says_what_it_did(interrupted_run, tmp_path, number):
    folder = tmp_path / "run"
    shutil.copytree(interrupted_run, folder)
    run_killed(lambda report: resume(folder, quiet=True) and None, folder, number, events={"os.rename"})
    said = read_record(RunFolder(folder))
    assert said.steps[:2] == RunFolder(interrupted_run).steps() and said.status["state"] in ("interrupted", "running")
    assert find_resume_point(RunFolder(folder), torch.device("cpu")).place.index in (2, 3)


def test_a_run_of_format_1_continues_as_one_never_cut_and_stays_one(spec, tmp_path):
    old = downgrade(spec, 1, lr=0.05)
    execute(old, tmp_path / "whole", quiet=True)
    for steps in (1, 3, 5):
        begin(old, tmp_path / f"cut{steps}", steps)
        resume(tmp_path / f"cut{steps}", quiet=True)
        assert_same(tmp_path / f"cut{steps}", tmp_path / "whole")
    asked = json.loads((tmp_path / "whole/spec.json").read_text())
    assert asked["format"] == 1 and "sum" not in asked and "run" not in (tmp_path / "whole/steps.jsonl").read_text()
    assert set(json.loads(read_tensors(tmp_path / "whole/latest.safetensors")[1]["loop"])) == {
        "index", "status", "nfe", "pace_nfe"
    }  # fmt: skip


def test_frames_that_were_being_thinned_out_when_a_run_was_killed_go(spec, tmp_path, monkeypatch):
    """Every second frame goes; killed after the first of them, the others still go."""
    for module in ("write", "resume_point"):
        monkeypatch.setattr(sys.modules[f"noiseward.runs.{module}"], "FRAMES", 4)
    longer = spec.replace(steps=5, watch=())
    execute(longer, tmp_path / "whole", quiet=True)
    assert frames(tmp_path / "whole") == {0, 2, 4}
    begin(longer, tmp_path / "three", 4)
    begin(longer, tmp_path / "cut", 5)
    for name in ("00001-01", "00003-00", "00003-01"):  # as if step 4 had not removed them yet
        shutil.copy(tmp_path / f"three/frames/{name}.png", tmp_path / f"cut/frames/{name}.png")
    resume(tmp_path / "cut", quiet=True)
    assert frames(tmp_path / "cut") == {0, 2, 4}
    for file in (tmp_path / "whole/frames").iterdir():
        assert (tmp_path / "cut/frames" / file.name).read_bytes() == file.read_bytes()


def frames(folder: Path) -> set[int]:
    return {int(file.name[:5]) for file in (folder / "frames").iterdir()}


def test_few_steps_of_another_run_are_not_continued(model, tmp_path):
    call = {**CALL, "num_inference_steps": 4, "eta": 1.0}
    spec = RunSpec(prompt="a", reward="brightness", model=model, steps=3, method="dno:lr=0.05,coarse=2", call=call)
    execute(spec.replace(seed=9), tmp_path / "other", quiet=True)
    begin(spec, tmp_path / "run", 1)
    shutil.copytree(tmp_path / "other/first", tmp_path / "run/first")
    with pytest.raises(RunError, match="first belongs to another run than"):
        resume(tmp_path / "run", quiet=True)
    shutil.rmtree(tmp_path / "run/first")
    resume(tmp_path / "run", quiet=True)
    status = tmp_path / "run/first/status.json"
    status.write_text(status.read_text().replace('"done"', '"interrupted"'))
    with pytest.raises(RunError, match="status.json was changed since it was written"):
        resume(tmp_path / "run", quiet=True)


def test_logged_numbers_that_earlier_code_kept_in_the_state_are_dropped_and_the_multiplier_is_read(spec, tmp_path):
    begin(downgrade(spec, 1, lr=0.05, regularizer="concentration:target=0.3"), tmp_path, 2)
    before = find_resume_point(RunFolder(tmp_path), torch.device("cpu")).place
    saved, metadata = read_tensors(tmp_path / "latest.safetensors")
    assert torch.equal(saved["state.multiplier"], before.multiplier)
    save_file({**saved, "state.grad_norm": torch.ones(2)}, tmp_path / "latest.safetensors", metadata)
    after = find_resume_point(RunFolder(tmp_path), torch.device("cpu")).place
    assert after.state.keys() == before.state.keys() and torch.equal(after.multiplier, before.multiplier)
    assert not after.state.keys() & {"grad_norm", "multiplier"}


def test_a_run_whose_method_has_an_earlier_name_of_an_argument_is_resumed(spec, tmp_path):
    text = "dno:guard=concentration:target=0.3"
    asked = spec.replace(method=text)
    problem = dataclasses.replace(prepare_spec(asked), method=text)  # what spec.json got then
    for _ in zip(range(2), perform(problem, asked, tmp_path), strict=False):
        pass
    resume(tmp_path, quiet=True)
    assert RunFolder(tmp_path).spec().method == text and len(read_record(RunFolder(tmp_path)).steps) == 5


def test_a_resumed_run_interrupted_at_its_first_step_is_interrupted_and_continues(spec, whole, tmp_path):
    mine = spec.replace(steps=2, reward=(f"{write_interrupting_reward(tmp_path, 'run/steps.jsonl', 3)}:light",))
    execute(mine, tmp_path / "run", quiet=True)
    with pytest.raises(KeyboardInterrupt):
        resume(tmp_path / "run", steps="4", quiet=True)
    status = RunFolder(tmp_path / "run").read("status.json")
    assert status["state"] == "interrupted" and status["rows"] == ["INTERRUPTED"] * spec.rows
    resume(tmp_path / "run", quiet=True)
    for name in ("latest.safetensors", "best.safetensors"):
        assert_equal(tmp_path / "run" / name, whole / name)
