"""Methods and models of users: from files, and from other packages."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import noiseward
from noiseward.errors import ArgumentError, NoisewardError
from noiseward.methods import METHODS, choose_method, read_method
from noiseward.methods.plugins import GROUP, list_installed_methods
from noiseward.rewards.pixels import brightness
from noiseward.runs.store import RunFolder
from tests.test_docs import DOCS, examples

WALK, DRIFT = (code for _, code in examples((DOCS / "own-method.md").read_text())[:2])
MORE = """
from noiseward import BestOfN

fixed = BestOfN(2)
def make(reward):
    return BestOfN(2)
def wrong(reward):
    return 3
number = 3
"""


@pytest.fixture
def files(tmp_path, monkeypatch):
    """The files of the tutorial."""
    (tmp_path / "walk.py").write_text(WALK)
    (tmp_path / "drift.py").write_text(DRIFT)
    (tmp_path / "more.py").write_text(MORE)
    (tmp_path / "broken.py").write_text("raise ValueError('no')")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("method", ["walk.py:Walk:cosine=0.9", "drift.py:Drift"])
def test_a_method_of_a_file_runs_resumes_and_is_listed(run, small, files, tmp_path, method):
    options = ("--reward", "brightness", "--method", method, *small)
    status, _, err = run("align", "a", "b", *options, "--steps", "4", "--out", "whole", "-q")
    assert status == 0, err
    status, _, err = run("align", "a", "b", *options, "--steps", "2", "--out", "parts", "-q")
    assert status == 0 and run("resume", "parts", "--steps", "4", "-q")[0] == 0, err
    whole, parts = (RunFolder(Path(name)).steps() for name in ("whole", "parts"))
    assert [step["reward"] for step in whole] == [step["reward"] for step in parts]
    assert RunFolder(Path("whole")).spec().method == method
    assert run("replay", "whole")[0] == 0
    status, out, _ = run("methods", method)
    assert status == 0 and ("cosine" in out) == method.startswith("walk")


def test_a_row_does_not_depend_on_its_neighbors(run, small, files):
    options = ("--reward", "brightness", "--method", "drift.py:Drift", "--steps", "2", "-q", *small)
    assert run("align", "a", *options, "--batch", "2", "--out", "two")[0] == 0
    assert run("align", "a", *options, "--seed", "1", "--out", "one")[0] == 0
    two, one = (RunFolder(Path(name)).steps() for name in ("two", "one"))
    for both, alone in zip(two, one, strict=True):
        assert both["reward"][1] == pytest.approx(alone["reward"][0], abs=1e-5)


def test_methods_of_files_are_compared(run, small, files):
    methods = ("--methods", "walk.py:Walk:cosine=0.9,best-of-n", "--budget", "nfe=40", "--seeds", "1")
    status, _, err = run("compare", "--reward", "brightness", "--prompts", "a", *methods, "--out", "c", "-q", *small)
    assert status == 0, err
    assert {one["method"] for one in json.loads(run("show", "c", "--json")[1])["methods"]} == {
        "walk.py:Walk:cosine=0.9",
        "best-of-n",
    }


@pytest.mark.parametrize(
    ("method", "error", "says"),
    [
        ("nowhere.py:Walk", ArgumentError, r"nowhere.py is no file: give a method of your own as path/to/file.py:name"),
        ("walk.py:Wlak", ArgumentError, r"walk.py has no 'Wlak'; did you mean 'Walk'"),
        ("walk.py:Walk:sine=1", ArgumentError, r"method 'walk.py:Walk' has no argument 'sine'; "),
        ("walk.py:Walk:cosine=2", ArgumentError, r"method 'walk.py:Walk': cosine must be < 1, got '2'"),
        ("broken.py:Walk", NoisewardError, r"broken.py raised ValueError when it was run: no"),
        ("more.py:number", ArgumentError, r"must be a Recipe, an Optimizer, or a function that makes one, got int"),
        ("wlak", ArgumentError, r"unknown method 'wlak'; did you mean 'walk'.*, or path/to/file.py:Class"),
    ],
)
def test_what_is_no_method_is_one_line(files, method, error, says):
    with pytest.raises(error, match=says):
        read_method(method)


def test_an_optimizer_or_a_function_that_makes_one_will_do(files):
    for name in ("fixed", "make"):
        method = choose_method(f"more.py:{name}", brightness())
        assert type(method.optimizer).__name__ == "BestOfN" and method.text == f"more.py:{name}"
        assert method.plausible is not None
    with pytest.raises(ArgumentError, match="method 'more.py:wrong' must make an Optimizer, got int"):
        choose_method("more.py:wrong", brightness())


def test_a_file_registers_no_name_that_a_resumed_run_would_not_know(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("named.py").write_text(WALK.replace("class Walk(Recipe)", 'class Walk(Recipe, name="named")'))
    before = set(METHODS)
    assert read_method("named.py:Walk").text == "named.py:Walk:cosine=0.99"
    assert set(METHODS) == before


def test_a_method_of_a_package_is_known_by_its_name(tmp_path, monkeypatch, run):
    (tmp_path / "walker").mkdir()
    (tmp_path / "walker" / "__init__.py").write_text(WALK)
    info = tmp_path / "walker-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: walker\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{GROUP}]\nstroll = walker:Walk\ndno = walker:Walk\n")
    monkeypatch.syspath_prepend(tmp_path)
    try:
        assert set(list_installed_methods()) == {"stroll"}
        assert read_method("stroll:0.5").text == "stroll:cosine=0.5" and read_method("dno").name == "dno"
        status, out, _ = run("methods")
        assert status == 0 and "stroll " in out and "Close neighbors" in out
    finally:
        sys.modules.pop("walker", None)


MODEL = """
import torch
from noiseward import FunctionSampler

def draw(batch):
    return torch.sigmoid(torch.randn(batch, 3, 8, 8))
sampler = FunctionSampler(draw)
def make_sampler(device="cpu"):
    return FunctionSampler(draw)
def make_pipeline():
    from tests.tiny import stable_diffusion
    return stable_diffusion()
nothing = 3
"""


@pytest.mark.parametrize("name", ["sampler", "make_sampler", "make_pipeline"])
def test_a_model_of_a_file_runs_and_replays(run, tmp_path, name):
    (tmp_path / "model.py").write_text(MODEL)
    call = ("--num-inference-steps", "3", "--height", "16", "--width", "16") if name == "make_pipeline" else ()
    options = ("--model", f"model.py:{name}", "--reward", "brightness", "--steps", "2", *call)
    prompt = ("a",) if name == "make_pipeline" else ()
    status, _, err = run("align", *prompt, *options, "--out", "r", "-q")
    assert status == 0, err
    assert run("resume", "r", "--steps", "+1", "-q")[0] == 0
    assert "identical, bit for bit" in run("replay", "r")[1]


def test_options_reach_the_function_that_makes_a_model(run, tmp_path):
    (tmp_path / "model.py").write_text(MODEL)
    common = ("align", "--reward", "brightness", "--steps", "0", "-q")
    assert run(*common, "--model", "model.py:make_sampler", "--device", "cpu")[0] == 0
    status, _, err = run(*common, "--model", "model.py:make_pipeline", "--device", "cpu")
    assert status == 2 and "takes no device; give its function that argument" in err
    status, _, err = run(*common, "--model", "model.py:nothing")
    assert status == 2 and "must be a Sampler or a pipeline, or a function that makes one, got int" in err


def test_in_python_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("model.py").write_text(MODEL)
    solution = noiseward.align("model.py:make_sampler", None, "brightness", steps=1, progress=False)
    assert solution.sample.shape == (1, 3, 8, 8)
