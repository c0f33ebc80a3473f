"""Runs that start from noise that is there: of another run, one of its frames, a file, or a tensor."""

from __future__ import annotations

import shutil

import pytest
import torch

from noiseward import FunctionSampler, align
from noiseward.errors import ArgumentError, RunError
from noiseward.loop.start import read_start
from noiseward.methods import choose_method
from noiseward.noise.layout import Draw, Layout
from noiseward.options.run import RunSpec
from noiseward.options.start import split_start
from noiseward.runs import RunFolder, execute, resume
from noiseward.runs.files import read_tensors
from noiseward.runs.images import open_image
from noiseward.runs.replay import replay
from noiseward.runs.write import FRAMES
from noiseward.toys import Linear
from tests.tiny import CALL


@pytest.fixture(scope="module")
def spec(model):
    return RunSpec(model=model, prompt="a", reward="brightness", method="dno:lr=0.1", steps=5, batch=2, call=CALL)


def begin(spec, out, start, **changes):
    how = {"steps": 2, "batch": 1, "method": None, "reward": ("contrast",), "start": start, **changes}
    return execute(spec.replace(**how), out, quiet=True)


def test_the_noise_of_every_frame_is_kept_and_gives_its_image(spec, whole, tmp_path):
    frames = whole / "frames"
    assert sorted(one.name for one in frames.glob("*.safetensors")) == [f"{k:05d}.safetensors" for k in range(6)]
    solution = begin(spec, tmp_path / "run", f"{whole}@3", batch=2, steps=0)
    assert torch.equal(solution.initial.sample, solution.sample)
    for row in range(2):
        mine, theirs = tmp_path / f"run/initial/{row:02d}.png", frames / f"00003-{row:02d}.png"
        assert open_image(mine).tobytes() == open_image(theirs).tobytes()


def test_noise_of_frames_that_are_dropped_goes_too(spec, tmp_path):
    execute(spec.replace(steps=FRAMES + 2, batch=1, method="dno:lr=0.1,guard=none"), tmp_path / "run", quiet=True)
    names = {one.stem[:5] for one in (tmp_path / "run/frames").iterdir()}
    assert names == {f"{k:05d}" for k in range(0, FRAMES + 3, 2)}
    assert len(list((tmp_path / "run/frames").glob("*.safetensors"))) == len(names)


def test_large_noise_is_kept_of_no_frame(spec, tmp_path, monkeypatch):
    monkeypatch.setattr("noiseward.runs.write.NOISE", 100)
    execute(spec.replace(steps=1), tmp_path / "run", quiet=True)
    assert not list((tmp_path / "run/frames").glob("*.safetensors")) and list((tmp_path / "run/frames").glob("*.png"))
    with pytest.raises(ArgumentError, match="has not kept the noise of step 1; give RUN alone, for its best"):
        begin(spec, tmp_path / "other", f"{tmp_path / 'run'}@1", batch=2)


def test_a_run_starts_from_the_best_of_another_and_stays_there_by_default(spec, whole, tmp_path):
    best, _ = read_tensors(whole / "best.safetensors")
    solution = begin(spec, tmp_path / "run", str(whole), batch=2)
    assert solution.method == "refine: steady gradient ascent"
    assert torch.equal(solution.initial.sample, best["sample"])
    assert RunFolder(tmp_path / "run").spec().start == str(whole)
    first = torch.cosine_similarity(solution.noise[:, 0].flatten(1), best["noise"][:, 0].flatten(1))
    assert (first > 0.9).all()


def test_one_row_of_noise_is_that_of_every_row(spec, whole, tmp_path):
    best, _ = read_tensors(whole / "best.safetensors")
    solution = begin(spec, tmp_path / "run", f"{whole}:1", batch=3, steps=0)
    for row in range(3):
        assert torch.allclose(solution.initial.sample[row], best["sample"][1], atol=1e-5)


def test_a_run_has_a_copy_of_its_start(spec, whole, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(whole, source)
    solution = begin(spec, tmp_path / "run", f"{source}@2:1")
    shutil.rmtree(source)
    assert replay(RunFolder(tmp_path / "run")).identical == [True]
    more = resume(tmp_path / "run", steps="4", quiet=True)
    assert len(more.history) == 5 and torch.equal(more.initial.sample, solution.initial.sample)
    through = begin(spec, tmp_path / "through", f"{whole}@2:1", steps=4)
    assert torch.equal(more.noise, through.noise)
    copy = tmp_path / "run/inputs/start.safetensors"
    copy.write_bytes(copy.read_bytes()[:-1] + b"x")
    with pytest.raises(RunError, match="was changed since it was written"):
        resume(tmp_path / "run", steps="+1", quiet=True)


def test_a_tensor_or_a_file_can_be_the_start(spec, whole, tmp_path, model):
    how = {"method": "refine", "progress": False, "steps": 1, **CALL}
    noise = read_tensors(whole / "best.safetensors")[0]["noise"]
    one = align(model, "a", "contrast", start=noise[1], **how)
    other = align(model, "a", "contrast", start=f"{whole}/best.safetensors:1", out=tmp_path / "b", **how)
    assert torch.equal(one.noise, other.noise)
    kept = align(model, "a", "contrast", start=noise[1], out=tmp_path / "c", **how)
    assert torch.equal(kept.noise, one.noise)
    assert torch.equal(resume(tmp_path / "c", steps="2", quiet=True).initial.sample, one.initial.sample)


@pytest.mark.parametrize(
    ("start", "says"),
    [
        ("nowhere", "expected a run directory or a .safetensors file, got 'nowhere'; check the path"),
        ("{whole}@9", "has not kept the noise of step 9; it has that of steps 0, 1, 2, 3, 4, 5"),
        ("{whole}:2", "expected a row below 2, got 2"),
        ("{whole}", "expected noise of 1 or 3 rows, got 2; choose one, as in RUN:0"),
        ("{whole}/initial.safetensors", "cannot be read"),
        ("{whole}/spec.json", "expected a run directory or a .safetensors file"),
        (
            torch.zeros(2, 3),
            r"expected noise of shape \('rows', 5, 4, 8, 8\), got \(2, 3\); it must come from the same",
        ),
        (3, "start must be the path of a run or of a .safetensors file, or a tensor, got 3"),
    ],
)
def test_a_start_that_does_not_fit_is_one_line(spec, whole, model, start, says):
    start = start.format(whole=whole) if isinstance(start, str) else start
    with pytest.raises(ArgumentError, match=says) as caught:
        align(model, "a", "contrast", start=start, batch=3, steps=1, progress=False, **CALL)
    assert "\n" not in str(caught.value)


def test_a_mark_in_the_name_of_a_run_is_part_of_it(tmp_path):
    for name in ("v@2", "w:1"):
        (tmp_path / name).mkdir()
    for text, file, row in (
        ("v@2", "v@2/best", None), ("v@2:1", "v@2/best", 1), ("v@2@3:0", "v@2/frames/00003", 0),
        ("w:1", "w:1/best", None), ("w:1:0", "w:1/best", 0), ("v@3", "v/frames/00003", None), ("w:2", "w/best", 2),
    ):  # fmt: skip
        assert split_start(f"{tmp_path}/{text}") == (tmp_path / f"{file}.safetensors", row)


def test_on_the_command_line(run, whole, small, tmp_path):
    more = ("--reward", "contrast", "--steps", "1", "--out", "out", "--json")
    status, _, err = run("align", "a", *small, "--start", f"{whole}@4:0", *more)
    assert status == 0, err
    assert RunFolder(tmp_path / "out").spec().method == "refine:chunk=16"
    status, _, err = run("align", "a", *small, "--start", "gone", *more[:-2], "x")
    assert status == 2 and "expected a run directory" in err and not (tmp_path / "x").exists()
    (tmp_path / "p.txt").write_text("a\n")
    status, _, err = run("batch", "p.txt", *small, "--start", "gone", *more[:4], "--out", "sweep")
    assert status == 2 and "start: expected the path of noise, got 'gone" in err


def test_refine_searches_around_the_start_without_a_gradient():
    from tests.test_plausible import model, passed, problem
    from tests.test_plausible import run as run_steps

    sampler, reward = model(), Linear(1.0)
    reward.differentiable = False
    objective, optimizer = problem(reward, sampler=sampler), choose_method("refine", reward).optimizer
    assert optimizer.describe(objective).startswith("a search around the start, since reward")
    steps = run_steps(objective, optimizer, steps=8)
    assert passed(steps[-1].best) and (steps[-1].best.reward > steps[0].evaluation.reward).all()
    gradient = choose_method("refine", Linear(1.0)).optimizer
    steps = run_steps(problem(sampler=sampler), gradient, steps=8)
    assert (steps[-1].best.reward > steps[0].evaluation.reward).all()


def test_noise_goes_where_the_sampler_wants_it():
    layout = Layout((Draw("start", (2,)),))
    found = read_start(torch.zeros(1, 2, dtype=torch.float64).requires_grad_(), layout, 3)
    assert found.shape == (3, 1, 2) and found.dtype == torch.float32 and not found.requires_grad


def test_noise_in_double_precision_stays_so():
    sampler = FunctionSampler(lambda batch: torch.randn(batch, 3, dtype=torch.float64))
    noise = sampler.init(2, seed=5)
    solution = align(sampler, None, lambda x: x.sum(1), start=noise, batch=2, steps=0, progress=False)
    assert torch.equal(solution.noise, noise) and solution.noise.dtype == torch.float64
