"""A run as a loop of one's own, its directory from Python, and solutions read back."""

from __future__ import annotations

import dataclasses
import json
import shutil
import signal

import pytest
import torch
from PIL import Image

import noiseward
from noiseward import ArgumentError, NoisewardError, RunError, Solution, align, steps
from noiseward.loop.budget import Status
from noiseward.runs import resume
from noiseward.runs.store import RunFolder
from noiseward.toys import GaussianModel, Quadratic
from noiseward.user_code import SIGNALS
from tests.tiny import CALL, stable_diffusion


def redness(images):
    return images[:, 0].mean((1, 2))


def same(one, other):
    assert torch.equal(one.noise, other.noise) and torch.equal(one.sample, other.sample)
    assert one.status == other.status and one.index.tolist() == other.index.tolist()


CALLS = {**CALL, "progress": False, "watch": ["contrast"], "method": "dno:lr=0.1"}


@pytest.fixture(scope="module")
def pipe():
    return stable_diffusion()


def test_all_steps_are_what_align_does(pipe):
    run = steps(pipe, "a", redness, steps=4, **CALLS)
    seen = [step.index for step in run]
    assert seen == [0, 1, 2, 3, 4] and list(run) == []
    same(run.solution, align(pipe, "a", redness, steps=4, **CALLS))
    assert run.solution.status == (Status.STEPS,) and run.solution is run.solution


def test_a_loop_that_is_left_keeps_the_best_so_far(pipe):
    run = steps(pipe, "a", redness, steps=100, **CALLS)
    for step in run:
        if step.index == 3:
            break
    assert len(run.solution.history) == 4 and run.solution.status == (Status.INTERRUPTED,)
    assert torch.equal(run.solution.noise, step.best.noise)
    assert list(run) == []


def test_a_loop_in_a_directory_that_is_left_can_be_continued(pipe, tmp_path):
    run = steps(pipe, "a", redness, steps=6, out=tmp_path / "run", **CALLS)
    for step in run:
        if step.index == 2:
            break
    assert run.solution.status == (Status.INTERRUPTED,)
    assert RunFolder(tmp_path / "run").read("status.json")["state"] == "interrupted"
    again = align(pipe, "a", redness, steps=6, out=tmp_path / "run", **CALLS)
    whole = align(pipe, "a", redness, steps=6, out=tmp_path / "whole", **CALLS)
    same(again, whole)
    same(align(pipe, "a", redness, steps=8, out=tmp_path / "run", **CALLS), align(pipe, "a", redness, steps=8, **CALLS))
    with pytest.raises(RunError, match="was asked for something else"):
        align(pipe, "a cat", redness, steps=8, out=tmp_path / "run", **CALLS)


def test_objects_are_named_and_only_the_same_call_continues(pipe, tmp_path):
    align(pipe, "a", {redness: 1.0, "contrast": 0.5}, steps=1, out=tmp_path / "run", **{**CALLS, "watch": ()})
    spec = RunFolder(tmp_path / "run").spec()
    assert spec.reward == ("<redness>", "contrast:0.5") and spec.model == "<StableDiffusionPipeline>"
    with pytest.raises(NoisewardError, match="was begun in Python with <StableDiffusionPipeline>, <redness>"):
        resume(tmp_path / "run", steps="+1", quiet=True)


def test_names_are_continued_from_anywhere(tmp_path):
    call = {"num_inference_steps": 2, "progress": False, "watch": (), "method": "dno:lr=0.1,guard=none"}
    align("stickers", "a duck", "brightness", steps=1, out=tmp_path / "run", **call)
    again = resume(tmp_path / "run", steps="3", quiet=True)
    same(again, align("stickers", "a duck", "brightness", steps=3, **call))


def test_an_image_is_kept_with_the_run(tmp_path, monkeypatch):
    monkeypatch.setenv("NOISEWARD_CACHE", str(tmp_path / "cache"))
    photo = Image.linear_gradient("L").resize((64, 64)).convert("CMYK")
    call = {"num_inference_steps": 4, "progress": False, "watch": (), "method": "dno:lr=0.1,guard=none"}
    call |= {"image": photo, "strength": 0.8}
    align("stickers", "a duck", "brightness", steps=1, out=tmp_path / "run", **call)
    align("stickers", "a duck", "brightness", steps=2, out=tmp_path / "run", **call)
    shutil.rmtree(tmp_path / "cache")
    again = resume(tmp_path / "run", steps="3", quiet=True)
    same(again, align("stickers", "a duck", "brightness", steps=3, **call))


def test_arguments_that_no_file_holds_are_refused_with_a_directory(pipe, tmp_path):
    with pytest.raises(ArgumentError, match="must be text, a finite number"):
        align(pipe, "a", redness, steps=1, out=tmp_path / "run", timesteps=torch.ones(2), **CALLS)
    assert not (tmp_path / "run").exists()


def test_signals_are_the_callers_own_between_steps(pipe, tmp_path):
    """Also where a loop was left and the run was not ended: a Ctrl-C must not be put off forever."""
    before = [signal.getsignal(number) for number in SIGNALS]
    run = steps(pipe, "a", redness, steps=50, out=tmp_path / "run", **CALLS)
    for step in run:
        assert [signal.getsignal(number) for number in SIGNALS] == before
        if step.index == 1:
            break
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    assert run.solution.status == (Status.INTERRUPTED,)
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_a_handler_that_is_set_in_the_loop_stays(pipe, tmp_path):
    run, heard = steps(pipe, "a", redness, steps=2, out=tmp_path / "run", **CALLS), []
    before = signal.getsignal(signal.SIGINT)
    try:
        for _ in run:
            signal.signal(signal.SIGINT, lambda *_: heard.append(1))
        signal.raise_signal(signal.SIGINT)
        assert heard == [1] and run.solution.status == (Status.STEPS,)
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("kept", [True, False])
def test_ctrl_c_within_a_step_ends_the_run(pipe, tmp_path, kept):
    calls = []

    def interrupted(images):
        calls.append(1)
        if len(calls) == 4:
            signal.raise_signal(signal.SIGINT)
        return images.mean((1, 2, 3))

    run = steps(pipe, "a", interrupted, steps=50, out=tmp_path / "run" if kept else None, **CALLS)
    assert len(list(run)) < 6 and run.solution.status == (Status.INTERRUPTED,)


def test_arguments_that_are_no_plain_data_are_no_matter_without_a_directory(pipe, tmp_path):
    embeds = torch.zeros(1, 8, 32, requires_grad=True) * 2  # deepcopy refuses it
    about = dataclasses.replace(align(pipe, "a", redness, steps=0, **CALLS).about, call={"prompt_embeds": embeds})
    assert about.plain()["call"]["prompt_embeds"].startswith("tensor(")
    solution = dataclasses.replace(align(pipe, "a", redness, steps=0, **CALLS), about=about)
    assert Solution.load(solution.save(tmp_path / "saved")).about.prompts == ("a",)


def test_an_error_comes_where_the_step_is_asked_for(pipe):
    def broken(images):
        raise ValueError("no")

    run = steps(pipe, "a", broken, steps=2, **CALLS)
    with pytest.raises(NoisewardError, match="no"):
        next(run)
    with pytest.raises(ArgumentError, match="the run failed .*no.*; give out="):
        _ = run.solution
    unused = steps(pipe, "a", redness, steps=2, **CALLS)
    with pytest.raises(ArgumentError, match="expected at least one step, got none"):
        _ = unused.solution


def test_bad_arguments_are_refused_before_the_loop():
    with pytest.raises(ArgumentError, match="unknown reward"):
        steps("stickers", "a duck", "brightnes", progress=False)


# ---- solutions as files ----


def assert_loaded(loaded, solution):
    same(loaded, solution)
    assert loaded.history == json.loads(json.dumps(solution.history))
    assert loaded.probability == solution.probability and loaded.strict_probability == solution.strict_probability
    assert loaded.dead_draws == solution.dead_draws and loaded.gain.tolist() == solution.gain.tolist()
    assert (loaded.nfe, loaded.seconds) == (solution.nfe, solution.seconds)
    assert loaded.peaks.keys() == solution.peaks.keys() and repr(loaded) == repr(solution)
    assert [index for index, _ in loaded.frames] == [index for index, _ in solution.frames]
    assert loaded.images[0].tobytes() == solution.images[0].tobytes() and loaded.strip().size == solution.strip().size
    assert loaded.about.title(0) == "a, seed 0" and loaded.last is None


def test_a_saved_solution_is_loaded(pipe, tmp_path):
    solution = align(pipe, "a", redness, steps=3, **CALLS)
    assert_loaded(Solution.load(solution.save(tmp_path / "saved")), solution)
    again = Solution.load(tmp_path / "saved").save(tmp_path / "again")
    assert_loaded(Solution.load(again), solution)


def test_images_of_a_saved_solution_say_what_made_them(pipe, tmp_path):
    align(pipe, "a", redness, steps=1, **CALLS).save(tmp_path / "saved")
    from noiseward.images.metadata import read_metadata

    known = read_metadata(tmp_path / "saved/best/00.png")
    assert (known["prompt"], known["reward"], known["model"]) == ("a", "redness", "StableDiffusionPipeline")


def test_a_run_directory_is_loaded(pipe, tmp_path):
    solution = align(pipe, "a", redness, steps=3, out=tmp_path / "run", **CALLS)
    loaded = Solution.load(tmp_path / "run")
    same(loaded, solution)
    assert loaded.strict_probability == solution.strict_probability and loaded.about.prompts == ("a",)
    assert RunFolder(tmp_path / "run")._repr_html_() == loaded._repr_html_()
    assert loaded.best(by="pareto").reward.tolist() == solution.best(by="pareto").reward.tolist()


def test_samples_that_are_no_images_are_saved_and_loaded(tmp_path):
    sampler = GaussianModel(steps=4).sampler()
    solution = align(sampler, None, Quadratic(1.0), steps=3, progress=False)
    loaded = Solution.load(solution.save(tmp_path / "saved"))
    same(loaded, solution)
    assert not (tmp_path / "saved/best").exists()


def test_folders_that_hold_no_solution_are_refused(pipe, tmp_path):
    with pytest.raises(ArgumentError, match="expected a run directory or a saved solution"):
        Solution.load(tmp_path)
    solution = align(pipe, "a", redness, steps=1, **CALLS)
    with pytest.raises(ArgumentError, match="expected a new or empty folder"):
        solution.save(solution.save(tmp_path / "saved"))
    for name in ("about.json", "status.json", "steps.jsonl", "best.safetensors", "initial.safetensors"):
        broken = tmp_path / f"broken-{name}"
        shutil.copytree(tmp_path / "saved", broken)
        (broken / name).write_bytes((broken / name).read_bytes()[:-20])
        if name != "steps.jsonl":  # a line that was being written is left out
            with pytest.raises(ArgumentError, match=f"{name} cannot be read"):
                Solution.load(broken)
    (tmp_path / "saved" / "about.json").unlink()
    (tmp_path / "saved" / "spec.json").write_text("{}")
    with pytest.raises(ArgumentError, match="noiseward resume"):
        Solution.load(tmp_path / "saved")


def test_the_public_names_are_there():
    assert {"align", "steps", "Steps", "Solution"} <= set(dir(noiseward))
