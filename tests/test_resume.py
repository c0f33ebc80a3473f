"""A run that was killed, interrupted or finished continues as if it had never stopped."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path

import pytest
import torch

from noiseward import RunError
from noiseward.problem import prepare_spec
from noiseward.runs import RunFolder, RunSpec, execute, resume
from noiseward.runs.binding import seal
from noiseward.runs.files import lock, read_tensors
from noiseward.runs.perform import perform
from noiseward.runs.replay import replay
from noiseward.runs.spec import run_id
from noiseward.runs.store import find_runs
from tests.crash import run_killed
from tests.tiny import CALL

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")


@pytest.fixture(scope="module")
def spec(model):
    return RunSpec(
        prompt=("a", "b"), reward="brightness", model=model, steps=4, seed=5,
        method="dno:lr=0.05,guard=concentration:target=0.3",
        call={**CALL, "eta": 1.0},
        watch=("contrast", "jpeg"),
    )  # fmt: skip


def begin(spec: RunSpec, folder: Path, steps: int) -> None:
    """Write some steps of a run, and nothing after them."""
    for _, _ in zip(range(steps), perform(prepare_spec(spec), spec, folder), strict=False):
        pass


def assert_same(one: Path, other: Path) -> None:
    """Assert that two runs hold the same, times aside."""
    names = ["best.safetensors", "peaks.safetensors", "latest.safetensors", "initial.safetensors", "strip.png"]
    for name in names if RunFolder(other).spec().watch else [name for name in names if name != "peaks.safetensors"]:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    logs = [[{**record, "seconds": 0} for record in RunFolder(folder).steps()] for folder in (one, other)]
    assert logs[0] == logs[1]
    told = [{**RunFolder(folder).read("status.json"), "seconds": 0} for folder in (one, other)]
    assert told[0] == told[1]
    pictures = [sorted(str(path.relative_to(folder)) for path in folder.rglob("*/*.png")) for folder in (one, other)]
    assert pictures[0] == pictures[1]
    assert all((one / name).read_bytes() == (other / name).read_bytes() for name in pictures[0])


@pytest.mark.parametrize("steps", [1, 3, 5])
def test_a_run_cut_after_any_step_ends_as_the_one_never_cut(spec, whole, tmp_path, steps):
    begin(spec, tmp_path / "run", steps)
    solution = resume(tmp_path / "run", quiet=True)
    assert_same(tmp_path / "run", whole)
    assert [record["index"] for record in solution.history] == [0, 1, 2, 3, 4]
    assert torch.equal(solution.initial.sample, read_tensors(whole / "initial.safetensors")[0]["sample"])


@pytest.fixture(scope="module")
def operations(spec, tmp_path_factory):
    """How many operations on files a run makes."""
    folder = tmp_path_factory.mktemp("counted") / "run"
    count, _ = run_killed(lambda report: execute(spec, folder, quiet=True) and None, folder, at=0)
    return count


INSTANTS = int(os.environ.get("NOISEWARD_CRASHES", "6"))  # scripts/crashes asks for 100


@pytest.mark.parametrize("instant", range(INSTANTS))
def test_a_run_killed_at_any_instant_is_readable_and_continues(spec, whole, operations, tmp_path, instant):
    folder = tmp_path / "run"
    at = 1 + instant * (operations - 1) // max(INSTANTS - 1, 1)

    def work(report):
        problem = prepare_spec(spec)
        for step in perform(problem, spec, folder):
            report(f"step {step.index}")

    died, reported = run_killed(work, folder, at)
    assert died == -at or abs(died) < at  # the last instants belong to the closing images
    if not (folder / "spec.json").exists():
        assert not reported
        with pytest.raises(RunError, match="is not a run directory, it has no spec.json"):
            resume(folder, quiet=True)
        return
    logged = [record["index"] for record in RunFolder(folder).steps()] if (folder / "steps.jsonl").exists() else []
    assert all(int(line.split()[1]) in logged for line in reported)
    for file in folder.rglob("*"):
        if file.suffix == ".json" and not file.name.startswith("."):
            json.loads(file.read_text())
        if file.suffix == ".safetensors" and not file.name.startswith("."):
            read_tensors(file)
    resume(folder, quiet=True)
    assert_same(folder, whole)


def test_a_finished_run_continues_when_more_is_asked_for(spec, whole, tmp_path):
    short = spec.replace(steps=2)
    execute(short, tmp_path / "run", quiet=True)
    resume(tmp_path / "run", steps="+2", quiet=True)
    assert_same(tmp_path / "run", whole)
    assert RunFolder(tmp_path / "run").spec().steps == 4


def write_interrupting_reward(folder: Path, log: str, lines: int) -> Path:
    """A file with a function `light`, brightness, that stops once in a step, as Ctrl-C does, when a log has so many
    lines."""
    file = folder / "mine.py"
    file.write_text(
        "import pathlib, signal\n"
        "def light(images):\n"
        f"    log, once = (pathlib.Path({str(folder)!r}, name) for name in ({log!r}, 'once'))\n"
        f"    if log.exists() and log.read_text().count('\\n') == {lines} and images.requires_grad > once.exists():\n"
        "        once.touch()\n"
        "        signal.raise_signal(signal.SIGINT)\n"
        "    return images.mean((1, 2, 3))\n"
    )
    return file


def test_an_interrupted_run_continues(spec, whole, tmp_path):
    mine = spec.replace(reward=(f"{write_interrupting_reward(tmp_path, 'run/steps.jsonl', 2)}:light",))
    execute(mine, tmp_path / "run", quiet=True)
    assert RunFolder(tmp_path / "run").read("status.json")["state"] == "interrupted"
    resume(tmp_path / "run", quiet=True)
    for name in ("latest.safetensors", "best.safetensors"):
        assert_equal(tmp_path / "run" / name, whole / name)


def assert_equal(one: Path, other: Path) -> None:
    """Assert that two files hold the same tensors and place; whose run they are, may differ."""
    (tensors, more), (others, rest) = read_tensors(one), read_tensors(other)
    assert tensors.keys() == others.keys() and all(torch.equal(tensors[name], others[name]) for name in tensors)
    loops = [json.loads(found.get("loop", "{}")) for found in (more, rest)]
    assert [{**loop, "run": "", "sum": ""} for loop in loops][0] == {**loops[1], "run": "", "sum": ""}


def test_two_processes_on_one_run_are_one_too_many(spec, tmp_path):
    begin(spec, tmp_path / "run", 1)
    with lock(tmp_path / "run"), pytest.raises(RunError, match="is being written by another process"):
        resume(tmp_path / "run", quiet=True)
    resume(tmp_path / "run", steps="1", quiet=True)  # the lock ended with its owner


def test_a_clock_that_goes_back_a_year_changes_nothing(spec, whole, tmp_path, monkeypatch):
    begin(spec, tmp_path / "run", 2)
    for file in (tmp_path / "run").rglob("*"):
        os.utime(file, (time.time() + 1e7,) * 2)  # written in what is now the future
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() - 3e7)
    resume(tmp_path / "run", quiet=True)
    assert_same(tmp_path / "run", whole)
    seconds = [record["seconds"] for record in RunFolder(tmp_path / "run").steps()]
    assert seconds == sorted(seconds) and seconds[0] >= 0
    assert [folder.path.name for folder in find_runs(tmp_path)] == ["run"]


def test_a_directory_that_cannot_be_written_is_one_line(spec, tmp_path):
    begin(spec, tmp_path / "run", 1)
    (tmp_path / "run/.lock").unlink()
    (tmp_path / "run/.lock").mkdir()  # root may write anywhere, but not into a folder as if it were a file
    with pytest.raises(RunError, match=r"run cannot be written \(Is a directory\); make it writable"):
        resume(tmp_path / "run", quiet=True)


@pytest.mark.parametrize(
    "name", ["latest.safetensors", "best.safetensors", "initial.safetensors", "peaks.safetensors", "spec.json"]
)
@pytest.mark.parametrize("how", ["cut", "garbled"])
def test_a_damaged_file_is_named_in_one_line(spec, tmp_path, name, how):
    begin(spec, tmp_path / "run", 2)
    file = tmp_path / "run" / name
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2] if how == "cut" else b"\x00garbage" + content[8:])
    with pytest.raises(RunError, match=re.escape(name)) as caught:
        resume(tmp_path / "run", quiet=True)
    assert "\n" not in str(caught.value)


def test_a_run_of_a_newer_format_or_another_model_is_refused(spec, tmp_path):
    folder = tmp_path / "run"
    begin(spec, folder, 1)
    content = json.loads((folder / "spec.json").read_text())
    for change, says in (
        ({"format": 99}, "has format 99, this version reads up to 4; update noiseward"),
        ({"colour": "red"}, "unknown option 'colour'"),
        ({"num_inference_steps": 6}, "spec.json was changed since it was written"),
    ):
        (folder / "spec.json").write_text(json.dumps({**content, **change}))
        with pytest.raises(RunError, match=says):
            resume(folder, quiet=True)
    del content["reward"]
    (folder / "spec.json").write_text(json.dumps(content))
    with pytest.raises(RunError, match="reward is missing"):
        resume(folder, quiet=True)


def test_other_weights_are_noticed(spec, whole, tmp_path):
    import shutil

    shutil.copytree(whole, tmp_path / "run")
    told, run = RunFolder(tmp_path / "run").read("env.json"), run_id(RunFolder(whole).spec())
    (tmp_path / "run/env.json").write_text(json.dumps(seal({**told, "fingerprint": "0000000000000000"}, run)))
    with pytest.raises(RunError, match="was run with other weights"):
        resume(tmp_path / "run", steps="+1", quiet=True)


def test_a_full_disk_is_one_line_and_the_run_continues_when_there_is_room(spec, whole, tmp_path, monkeypatch):
    real, calls = os.replace, []

    def fail_full(*arguments):
        calls.append(1)
        if len(calls) > 30:
            raise OSError(28, "No space left on device")
        return real(*arguments)

    monkeypatch.setattr(os, "replace", fail_full)
    with pytest.raises(RunError, match="cannot be written .No space left on device.; free space"):
        execute(spec, tmp_path / "run", quiet=True)
    monkeypatch.setattr(os, "replace", real)
    assert not [path for path in (tmp_path / "run").rglob(".*.new")]
    resume(tmp_path / "run", quiet=True)
    assert_same(tmp_path / "run", whole)


def test_what_a_panel_saw_before_a_run_was_cut_is_remembered(spec, tmp_path):
    """The held-out reward peaks before the cut and falls after it: what was best then is still known."""
    (tmp_path / "mine.py").write_text("import torch\ndef dark(images):\n    return 1 - images.mean((1, 2, 3))\n")
    watched = spec.replace(method="dno:lr=0.1,guard=none", watch=(f"{tmp_path}/mine.py:dark",))
    execute(watched, tmp_path / "whole", quiet=True)
    begin(watched, tmp_path / "cut", 3)
    solution = resume(tmp_path / "cut", quiet=True)
    assert_same(tmp_path / "cut", tmp_path / "whole")
    darkest = [max(range(5), key=lambda k: solution.history[k]["watched"]["dark"][row]) for row in range(2)]
    kept = solution.last.peaks["dark"].index.tolist()
    assert all(found <= step for found, step in zip(kept, darkest, strict=True)) and min(darkest) < 3


def test_the_default_method_is_written_down(spec, tmp_path):
    blind = spec.replace(reward=("jpeg",), watch=(), steps=1, method=None)
    execute(blind, tmp_path / "run", quiet=True)
    assert RunFolder(tmp_path / "run").spec().method == "auto:keep_seed=false,chunk=16"


def test_a_run_that_takes_few_steps_first_is_written_and_continues(model, tmp_path):
    call = {**CALL, "num_inference_steps": 4, "eta": 1.0}
    spec = RunSpec(
        prompt="a",
        reward="brightness",
        model=model,
        steps=6,
        method="dno:lr=0.05,guard=none,coarse=2",
        watch=("contrast",),
        call=call,
    )
    execute(spec, tmp_path / "whole", quiet=True)
    assert [record["index"] for record in RunFolder(tmp_path / "whole").steps()] == [0, 4, 5, 6]
    for cut in (1, 2, 3):  # at the start, with all of the coarse steps to do again; after it
        begin(spec, tmp_path / f"cut{cut}", cut)
        resume(tmp_path / f"cut{cut}", quiet=True)
        assert_same(tmp_path / f"cut{cut}", tmp_path / "whole")
    resume(tmp_path / "whole", steps="+2", quiet=True)
    assert [record["index"] for record in RunFolder(tmp_path / "whole").steps()] == [0, 4, 5, 6, 7, 8]


def few_first(model, reward="brightness"):
    call = {**CALL, "num_inference_steps": 4, "eta": 1.0}
    return RunSpec(
        prompt=("a", "b"),
        reward=reward,
        model=model,
        steps=6,
        method="dno:lr=0.05,guard=none,coarse=2",
        watch=("contrast",),
        call=call,
    )


@pytest.fixture(scope="module")
def whole_few_first(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("few") / "run"
    execute(few_first(model), folder, quiet=True)
    return folder


def test_the_run_on_few_steps_is_a_run_of_its_own(whole_few_first):
    first, run = RunFolder(whole_few_first).first, RunFolder(whole_few_first)
    assert [record["index"] for record in first.steps()] == [0, 1, 2, 3, 4]
    assert first.read("status.json")["state"] == "done" and (first.path / "plot.png").exists()
    few, asked = first.spec(), run.spec()
    assert (few.steps, few.method, few.num_inference_steps) == (4, "dno:lr=0.05,guard=none", 2)
    assert asked.method == "dno:lr=0.05,guard=none,coarse=2"
    assert replay(first).identical == [True, True]  # its noise is that of a sampler of two steps
    own = first.steps()
    assert run.steps()[1]["nfe"]["forward"] == 4 + own[-1]["nfe"]["forward"] + 4  # start, few steps, carried over
    assert [one.path.name for one in find_runs(whole_few_first.parent)] == ["run"]


@pytest.fixture(scope="module")
def operations_few_first(model, tmp_path_factory):
    """How many operations on files such a run makes, and how many before the run on few steps is written."""
    folder = tmp_path_factory.mktemp("counted")
    run, start = folder / "run", folder / "start"
    count, _ = run_killed(lambda report: execute(few_first(model), run, quiet=True) and None, run, at=0)
    before, _ = run_killed(lambda report: begin(few_first(model), start, 1), start, at=0)
    return before, count


@pytest.mark.parametrize("instant", range(INSTANTS))
def test_a_run_on_few_steps_killed_at_any_instant_continues(
    model, whole_few_first, operations_few_first, tmp_path, instant
):
    folder, (before, count) = tmp_path / "run", operations_few_first
    at = before + instant * (count - before) // INSTANTS
    died, _ = run_killed(lambda report: execute(few_first(model), folder, quiet=True) and None, folder, at)
    assert died == -at
    first = RunFolder(folder).first
    made = first.steps() if (first.path / "steps.jsonl").exists() else []
    resume(folder, quiet=True)
    assert_same(folder, whole_few_first)
    assert_same(first.path, whole_few_first / "first")
    assert first.steps()[: max(len(made) - 1, 0)] == made[:-1]  # seconds too: no step but the last was made again


def test_a_run_on_few_steps_interrupted_ends_as_one_never_interrupted(model, whole_few_first, tmp_path):
    mine = few_first(
        model, f"{write_interrupting_reward(tmp_path, 'run/first/steps.jsonl', 3)}:light"
    )  # three coarse steps
    execute(mine, tmp_path / "run", quiet=True)
    run = RunFolder(tmp_path / "run")
    assert [record["index"] for record in run.steps()] == [0, 2]  # what was found by then, carried over
    assert run.read("status.json")["state"] == run.first.read("status.json")["state"] == "interrupted"
    assert min(run.steps()[1]["reward"]) > max(run.steps()[0]["reward"]) - 1
    resume(tmp_path / "run", quiet=True)
    for name in ("latest.safetensors", "best.safetensors", "first/latest.safetensors", "first/best.safetensors"):
        assert_equal(run.path / name, whole_few_first / name)
    assert [record["index"] for record in run.steps()] == [0, 4, 5, 6]
    frames = [sorted(file.name for file in (path / "frames").iterdir()) for path in (run.path, whole_few_first)]
    assert frames[0] == frames[1]


def test_a_run_that_tries_some_noises_first_is_written_and_continues(model, tmp_path):
    """Its first step is the most expensive, and how far it is forgotten decides what is left of the budget."""
    call = {**CALL, "num_inference_steps": 4, "eta": 1.0}
    spec = RunSpec(
        prompt="a",
        reward="brightness",
        model=model,
        nfe=110,
        method="dno:lr=0.05,best_of=6,guard=none",
        watch=("contrast",),
        call=call,
    )
    execute(spec, tmp_path / "whole", quiet=True)
    calls = [record["nfe"] for record in RunFolder(tmp_path / "whole").steps()]
    assert calls[0]["forward"] == 7 * 4 and calls[0]["backward"] == 0 and calls[1]["backward"] == 4
    for cut in (1, 2, 4):
        begin(spec, tmp_path / f"cut{cut}", cut)
        resume(tmp_path / f"cut{cut}", quiet=True)
        assert_same(tmp_path / f"cut{cut}", tmp_path / "whole")
