"""Trackers of batches and comparisons."""

from __future__ import annotations

import pytest

from noiseward.options.run import RunSpec
from noiseward.sweep.comparison import Comparison
from noiseward.sweep.directory import Sweep
from noiseward.sweep.engine import Beat, Local
from noiseward.sweep.rows import read_rows
from noiseward.sweep.tracked import track_beats
from tests.test_trackers import Notes
from tests.tiny import stable_diffusion


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    stable_diffusion().save_pretrained(folder)
    return str(folder)


@pytest.fixture
def base(model):
    how = {"num_inference_steps": 2, "height": 16, "width": 16, "steps": 2}
    return RunSpec(model=model, prompt="a", reward="brightness", method="dno:lr=0.1", **how)


def begin(base, folder, prompts="a duck\na frog\na cow\n"):
    file = folder / "prompts.txt"
    file.write_text(prompts)
    return Sweep.begin(folder / "out", read_rows(str(file), base, template="{}"), size=2)


def test_a_batch_logs_counts_gains_images_and_its_index(base, tmp_path):
    sweep, notes = begin(base, tmp_path), Notes()
    states = [beat.state for beat in track_beats(sweep.run(Local()), sweep, notes)]
    assert states.count("done") == 2 and [step for step, _ in notes.numbers] == [2, 3]
    ((step, rows),) = notes.tables
    gains = [row["gain"] for row in rows]
    assert step == 3 and [row["prompt"] for row in rows] == ["a duck", "a frog", "a cow"]
    assert notes.numbers[0][1] == {"done": 2.0, "failed": 0.0, "gain": pytest.approx(sum(gains[:2]) / 2)}
    assert notes.numbers[1][1]["gain"] == pytest.approx(sum(gains) / 3)
    assert {tuple(names) for _, names, _ in notes.images} == {("contact",)} and notes.closed == 1 and not notes.failed


def test_a_batch_that_goes_on_counts_what_was_done(base, tmp_path):
    sweep = begin(base, tmp_path)
    list(sweep.run(Local()))
    more, notes = begin(base, tmp_path, "a duck\na frog\na cow\na hen\n"), Notes()
    list(track_beats(more.run(Local()), more, notes))
    assert [(step, numbers["done"]) for step, numbers in notes.numbers] == [(4, 4.0)]


def test_a_comparison_logs_the_gain_of_each_method(base, tmp_path):
    plain = base.replace(method=None, steps=None)
    comparison = Comparison(plain, ("a",), ("dno:lr=0.1", "best-of-n:samples=2"), "nfe", 20, seeds=2)
    sweep, notes = comparison.begin(tmp_path / "out"), Notes()
    list(track_beats(sweep.run(Local()), sweep, notes))
    ((_, rows),) = notes.tables
    last = notes.numbers[-1][1]
    assert last["done"] == len(rows) == 4 and last["gain/dno:lr=0.1"] > 0
    assert last["gain/best-of-n:samples=2"] == pytest.approx(sum(row["gain"] for row in rows[2:]) / 2)


def test_a_failing_engine_closes_trackers_as_failed(base, tmp_path):
    def fails():
        yield Beat("0000", "running", 2)
        raise RuntimeError("no")

    sweep, notes = begin(base, tmp_path), Notes()
    with pytest.raises(RuntimeError):
        list(track_beats(fails(), sweep, notes))
    assert notes.failed and notes.closed == 1 and len(notes.tables) == 1


def test_commands_log_and_check_trackers_before_anything_is_written(run, small, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (tmp_path / "p.txt").write_text("a\n")
    more = ("--reward", "brightness", "--steps", "1", "--num-inference-steps", "2", "--out", "out")
    status, _, err = run("batch", "p.txt", *small, *more, "--log", "tensorbord")
    assert status == 2 and "unknown tracker 'tensorbord'; did you mean 'tensorboard'?" in err
    assert not (tmp_path / "out").exists()
    status, _, err = run("batch", "p.txt", *small, *more, "--log", "tensorboard")
    assert status == 0, err
    events = EventAccumulator(str(tmp_path / "out/tensorboard")).Reload()
    assert [one.value for one in events.Scalars("done")] == [1.0] and events.Tags()["images"] == ["contact"]
