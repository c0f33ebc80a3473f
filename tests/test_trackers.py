"""Trackers, each against its own library, writing to this machine alone."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch

from noiseward import ArgumentError, NoisewardError, align, steps
from noiseward.cli import main
from noiseward.errors import ModelError, NoisewardWarning
from noiseward.loop.about import About
from noiseward.runs import RunSpec, execute, resume
from noiseward.toys import GaussianModel, Quadratic
from noiseward.trackers import TRACKERS, Tracker, open_tracker, track
from tests.tiny import stable_diffusion


@pytest.fixture(autouse=True)
def offline(tmp_path, monkeypatch):
    """Everything is written below one folder."""
    monkeypatch.chdir(tmp_path)
    for name, value in {
        "WANDB_MODE": "offline",
        "WANDB_DIR": str(tmp_path),
        "WANDB_CACHE_DIR": str(tmp_path / "wandb-cache"),
        "WANDB_CONFIG_DIR": str(tmp_path / "wandb-config"),
        "WANDB_SILENT": "true",
        "MLFLOW_TRACKING_URI": (tmp_path / "mlruns").as_uri(),
        "MLFLOW_ALLOW_FILE_STORE": "true",
        "TRACKIO_DIR": str(tmp_path / "trackio"),
    }.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    stable_diffusion().save_pretrained(folder)
    return str(folder)


def spec(model, **more):
    how = {"num_inference_steps": 2, "height": 16, "width": 16, "method": "dno:lr=0.1", "watch": ("contrast",)}
    return RunSpec(model=model, prompt="a|b", reward="brightness", **{**how, "steps": 3, "batch": 2, **more})


class Notes(Tracker):
    """A tracker of one's own."""

    def __init__(self):
        self.numbers, self.images, self.tables, self.closed, self.failed = [], [], [], 0, None

    def log_numbers(self, numbers: Mapping[str, float], step: int) -> None:
        self.numbers.append((step, dict(numbers)))

    def log_images(self, images, step: int) -> None:
        self.images.append((step, list(images), next(iter(images.values())).size))

    def log_table(self, rows: Sequence[Mapping[str, object]], step: int) -> None:
        self.tables.append((step, list(rows)))

    def close(self, *, failed: bool) -> None:
        self.closed += 1
        self.failed = failed


def test_a_tracker_of_ones_own_gets_numbers_images_and_a_table(model):
    notes = Notes()
    solution = align(model, "a", "brightness", steps=3, batch=2, log=notes, watch=["contrast"], **HOW)
    assert [step for step, _ in notes.numbers] == [0, 1, 2, 3] and notes.closed == 1
    first = notes.numbers[0][1]
    assert first["reward/1"] == solution.history[0]["reward"][1]
    assert first["watched contrast/0"] == solution.history[0]["watched"]["contrast"][0]
    assert notes.numbers[-1][1]["best/0"] == solution.reward[0].item()
    assert notes.numbers[-1][1]["NFE"] == solution.nfe.cost
    assert [step for step, *_ in notes.images][0] == 0 and notes.images[-1][1:] == (["best/0", "best/1"], (16, 16))
    ((step, rows),) = notes.tables
    assert step == 3 and [row["seed"] for row in rows] == [0, 1] and rows[0]["prompt"] == "a"
    assert rows[1]["before"] == solution.initial.reward[1].item() and rows[1]["ended by"] == "steps"


HOW = {"num_inference_steps": 2, "height": 16, "width": 16, "method": "dno:lr=0.1", "progress": False}


def test_tracking_changes_nothing(model):
    one, other = (align(model, "a", "brightness", steps=2, log=log, **HOW) for log in ((), [Notes(), Notes()]))
    assert torch.equal(one.noise, other.noise) and [r["reward"] for r in one.history] == [
        r["reward"] for r in other.history
    ]


def test_one_row_needs_no_number_and_samples_need_not_be_images():
    notes = Notes()
    align(GaussianModel(steps=2).sampler(), None, Quadratic(1.0), steps=1, method="dno", log=notes, progress=False)
    assert {"reward", "best", "P(z)", "NFE"} <= notes.numbers[0][1].keys() and notes.images == []


def test_a_tracker_is_closed_where_the_run_fails_or_is_left(model):
    failed, left = Notes(), Notes()
    calls = []

    def fails(images):
        calls.append(1)
        return images.mean((1, 2, 3)) if len(calls) < 4 else images[:, 9]

    with pytest.raises(Exception, match="9"):
        align(model, "a", fails, steps=9, log=failed, **HOW)
    assert failed.closed == 1 and failed.failed and failed.numbers and failed.tables
    run = steps(model, "a", "brightness", steps=50, log=left, **HOW)
    next(run)
    assert run.solution.history and left.closed == 1 and left.tables and not left.failed


class Unreachable(Notes):
    def log_numbers(self, numbers: Mapping[str, float], step: int) -> None:
        super().log_numbers(numbers, step)
        raise ConnectionError("no route to host")


def test_a_tracker_that_fails_does_not_end_the_run(model):
    lost, other = Unreachable(), Notes()
    with pytest.warns(
        NoisewardWarning, match="Unreachable raised ConnectionError: no route to host; the run continues"
    ):
        solution = align(model, "a", "brightness", steps=2, log=[lost, other], **HOW)
    assert solution.status[0].name == "STEPS" and len(lost.numbers) == 1 and lost.closed == 0
    assert len(other.numbers) == 3 and other.closed == 1


def test_a_tracker_that_cannot_be_opened_is_one_line_and_leaves_nothing(model, tmp_path):
    import wandb

    def refuse(**_):
        raise wandb.errors.UsageError("No API key configured. Use `wandb login` to log in.")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wandb, "init", refuse)
        with pytest.raises(NoisewardError, match="tracker 'wandb' raised UsageError when it was opened: No API key"):
            align(model, "a", "brightness", steps=1, out="run", log="wandb", **HOW)
    assert not (tmp_path / "run/spec.json").exists()
    align(model, "a", "brightness", steps=1, out="run", **HOW)


def test_a_failed_run_is_one_in_mlflow(model):
    import mlflow

    with pytest.raises(Exception, match="9"):
        align(model, "a", lambda images: images[:, 9], steps=1, log="mlflow", **HOW)
    client = mlflow.MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("noiseward").experiment_id])
    assert run.info.status == "FAILED"


def test_tensorboard_reads_what_was_written(model, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    solution = execute(spec(model), tmp_path / "run", log="tensorboard", quiet=True)
    resume(tmp_path / "run", steps="5", log="tensorboard", quiet=True)
    events = EventAccumulator(str(tmp_path / "run/tensorboard")).Reload()
    found = events.Scalars("reward/1")
    assert {one.step for one in found} == {0, 1, 2, 3, 4, 5}
    assert found[0].value == pytest.approx(solution.history[0]["reward"][1])
    assert {"best/0", "best/1"} == set(events.Tags()["images"])
    text = events.Tensors("results/text_summary")[-1].tensor_proto.string_val[0].decode()
    assert "| row | prompt |" in text and "a\\|b" in text
    config = events.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "dno:lr=0.1" in config


def test_wandb_writes_a_run_offline(model, tmp_path):
    execute(spec(model), tmp_path / "run", log="wandb:project=ducks", quiet=True)
    (folder,) = (tmp_path / "run/wandb").glob("offline-run-*")
    (log,) = folder.glob("*.wandb")
    raw = log.read_bytes()
    for part in (b"reward/1", b"P(z)/0", b"results", b"ducks", b"brightness"):
        assert part in raw
    assert len(list(folder.glob("files/media/images/**/*.png"))) >= 2
    assert len(list(folder.glob("files/media/table/*.json"))) == 1


def test_mlflow_reads_what_was_written(model, tmp_path):
    import mlflow

    solution = execute(spec(model), tmp_path / "run", log="mlflow", quiet=True)
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("noiseward")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == "run" and run.info.status == "FINISHED"
    assert run.data.params["reward"] == "['brightness']"
    history = client.get_metric_history(run.info.run_id, "reward/1")
    assert [one.step for one in history] == [0, 1, 2, 3]
    assert history[2].value == pytest.approx(solution.history[2]["reward"][1])
    assert client.get_metric_history(run.info.run_id, "P z/0")
    files = {one.path for one in client.list_artifacts(run.info.run_id)}
    assert {"best", "results.json"} <= files
    path = client.download_artifacts(run.info.run_id, "results.json", str(tmp_path))
    assert [row["seed"] for row in json.loads(Path(path).read_text())["rows"]] == [0, 1]


def test_trackio_reads_what_was_written(model, tmp_path):
    import trackio

    execute(spec(model), tmp_path / "run", log="trackio:project=ducks", quiet=True)
    (run,) = trackio.Api().runs("ducks")
    assert run.name == "run"
    assert any(name.startswith("ducks") for name in os.listdir(tmp_path / "trackio"))


def test_the_command_line_logs(model, tmp_path, monkeypatch, capsys):
    small = ["--num-inference-steps", "2", "--height", "16", "--width", "16", "--method", "dno", "--steps", "1"]

    def align_logging(log, out):
        command = ["align", "a", "--model", model, "--reward", "brightness", "--log", log, "--out", out, "--quiet"]
        monkeypatch.setattr(sys, "argv", ["noiseward", *command, *small])
        with pytest.raises(SystemExit) as end:
            main()
        return end.value.code

    assert not align_logging("tensorboard", "run") and list((tmp_path / "run/tensorboard").iterdir())
    assert align_logging("tensorbord", "no") == 2
    assert "did you mean 'tensorboard'" in capsys.readouterr().err and not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    ("log", "message"),
    [
        ("wand", "unknown tracker 'wand'"),
        ("wandb:entity=me", "tracker 'wandb' takes project=NAME, got 'entity=me'"),
        (["mlflow:project="], "takes project=NAME"),
        ([3], "expected a tracker's name or a Tracker, got int"),
    ],
)
def test_bad_trackers_are_refused_before_anything_is_loaded(log, message):
    with pytest.raises(ArgumentError, match=message):
        align("no/such/model", "a", "brightness", log=log)


@pytest.mark.parametrize("name", TRACKERS)
def test_a_package_that_is_not_installed_is_named(name, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ModelError, match=rf"tracker '{name}' needs the package {name}; install it with pip install"):
        align("no/such/model", "a", "brightness", log=name)


def test_every_tracker_is_one():
    from noiseward.trackers.tracker import TrackedRun

    notes = Notes()
    assert open_tracker(notes, TrackedRun("run")) is notes
    assert list(track([], notes, About())) == [] and notes.closed == 1
