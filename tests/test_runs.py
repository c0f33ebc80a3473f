"""A run directory says what happened, at any instant."""

from __future__ import annotations

import json
import os
from importlib.metadata import version

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from noiseward import DiffusersSampler, NoisewardError, RunError
from noiseward.pipelines.load import load_pipeline
from noiseward.problem import prepare_spec
from noiseward.runs import Claim, RunFolder, RunSpec, execute, find_runs
from noiseward.runs.perform import perform
from tests.tiny import CALL


@pytest.fixture
def spec(model):
    return RunSpec(prompt=("a", "b"), reward=("brightness",), model=model, steps=3, seed=5, call={**CALL, "eta": 1.0})


@pytest.fixture
def run(spec, tmp_path):
    execute(spec, tmp_path / "run", quiet=True)
    return RunFolder(tmp_path / "run")


def test_a_run_holds_everything(run, spec):
    names = {str(path.relative_to(run.path)) for path in run.path.rglob("*") if path.is_file()}
    pictures = {f"{which}/{row:02d}.png" for which in ("initial", "best") for row in (0, 1)}
    plain = {"spec.json", "about.json", "env.json", "steps.jsonl", "status.json", "strip.png", "plot.png", ".lock"}
    noise = {f"{name}.safetensors" for name in ("initial", "best", "latest", "peaks")}
    frames = {f"frames/{step:05d}-{row:02d}.png" for step in range(4) for row in (0, 1)}
    frames |= {f"frames/{step:05d}.safetensors" for step in range(4)}
    assert names == pictures | plain | noise | frames
    asked = run.read("spec.json")
    assert (asked["prompt"], asked["reward"], asked["seed"]) == (["a", "b"], ["brightness"], 5)
    assert run.read("env.json")["torch"] == version("torch")
    status = run.read("status.json")
    assert (status["state"], status["step"]) == ("done", 3)
    assert set(run.steps()[0]) == {
        "index", "seconds", "nfe", "reward", "terms", "penalty", "value", "probability", "grad_norm",
        "found", "strict", "image",
    }  # fmt: skip


def test_images_and_noise_belong_together(run, spec):
    best = load_file(run.path / "best.safetensors")
    sample = DiffusersSampler(load_pipeline(spec.model), memory="balanced", **spec.arguments)(
        best["noise"], list(spec.prompt)
    )
    assert torch.equal(sample, best["sample"])
    torch.testing.assert_close(sample.mean((1, 2, 3)), best["reward"])
    for row in (0, 1):
        levels = (sample[row].permute(1, 2, 0) * 255).round().byte().numpy()
        assert Image.open(run.path / f"best/{row:02d}.png").tobytes() == levels.tobytes()
    steps = run.steps()
    assert [steps[k]["reward"][row] for row, k in enumerate(best["index"].tolist())] == best["reward"].tolist()


def test_the_latest_file_has_no_times_and_is_the_same_again(run, spec, tmp_path):
    execute(spec, tmp_path / "again", quiet=True)
    for name in ("latest.safetensors", "best.safetensors"):
        assert (run.path / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    with safe_open(run.path / "latest.safetensors", "pt") as file:
        assert (
            json.loads(file.metadata()["loop"])["index"] == 3
        )  # where it would continue: the last noise was evaluated without a step


def test_a_run_is_readable_after_every_step(spec, tmp_path):
    problem, folder = prepare_spec(spec), RunFolder(tmp_path / "run")
    for count, step in enumerate(perform(problem, spec, folder.path), start=1):
        assert len(folder.steps()) == count
        assert folder.read("status.json")["state"] == "running"
        assert torch.equal(load_file(folder.path / "best.safetensors")["noise"], step.best.noise)
        assert (folder.path / "best/01.png").exists()
    assert [path.name for path in folder.path.rglob(".*")] == [".lock"]


def test_a_log_cut_short_by_a_crash_is_read_up_to_there(run):
    log = run.path / "steps.jsonl"
    log.write_text(log.read_text()[:-20])
    assert [step["index"] for step in run.steps()] == [0, 1, 2]


def test_garbled_files_are_named(run):
    (run.path / "status.json").write_text("{")
    with pytest.raises(RunError, match="status.json cannot be read"):
        run.read("status.json")
    lines = (run.path / "steps.jsonl").read_text().splitlines()
    (run.path / "steps.jsonl").write_text("\n".join([lines[0], "garbage", *lines[2:]]))
    with pytest.raises(RunError, match="garbled in line 2"):
        run.steps()


def test_a_directory_that_holds_a_run_is_refused(run, spec):
    before = {path: path.stat().st_mtime_ns for path in run.path.rglob("*")}
    with pytest.raises(RunError, match="holds a run already"):
        execute(spec, run.path)
    assert before == {path: path.stat().st_mtime_ns for path in run.path.rglob("*")}


def test_directories_that_cannot_be_written_are_refused(spec, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="is a file"):
        execute(spec, tmp_path / "file")
    with pytest.raises(RunError, match="is not writable"):
        execute(spec, tmp_path / "file" / "run")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").write_text("")
    with pytest.raises(RunError, match="is not empty"):
        execute(spec, tmp_path / "other")
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anywhere, so ask as somebody else
    with pytest.raises(RunError, match="is not writable"):
        execute(spec, tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"reward": ("shine",)},
        {"model": "nowhere"},
        {"call": {"colour": 1}},
        {"reward": ("jpeg",), "method": "dno:estimator=backprop"},
    ],
)
def test_bad_input_leaves_nothing_behind(spec, tmp_path, change):
    bad = spec.replace(**change)
    with pytest.raises(NoisewardError):
        execute(bad, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_reward_that_fails_at_once_leaves_nothing_behind(spec, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("def wrong(images):\n    return images.mean()\n")
    with pytest.raises(NoisewardError, match=r"must return shape \(2,\) for 2 rows"):
        execute(spec.replace(reward=(f"{file}:wrong",)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_reward_that_fails_later_is_noted_and_the_best_stays(spec, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "import pathlib\n"
        "def late(images):\n"
        f"    log = pathlib.Path({str(tmp_path / 'run/steps.jsonl')!r})\n"
        "    if log.exists() and log.read_text().count('\\n') == 2:\n        raise ValueError('no more')\n"
        "    return images.mean((1, 2, 3))\n"
    )
    with pytest.raises(NoisewardError, match="raised ValueError: no more"):
        execute(spec.replace(reward=(f"{file}:late",)), tmp_path / "run", quiet=True)
    status = RunFolder(tmp_path / "run").read("status.json")
    assert status["state"] == "failed" and "no more" in status["error"]
    assert len(RunFolder(tmp_path / "run").steps()) == 2
    assert (tmp_path / "run/best/00.png").exists()


def test_runs_are_found_and_named_apart(run, spec):
    assert [found.path for found in find_runs(run.path.parent)] == [run.path]
    with Claim.fresh(run.path.parent, spec.slug) as first, Claim.fresh(run.path.parent, spec.slug) as second:
        assert (first.name, second.name) == ("a-brightness", "a-brightness-2")
