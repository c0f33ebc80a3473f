"""Replaying a run, and handing it on as a grid, an animation, a table."""

from __future__ import annotations

import csv
import json
import shutil
from importlib.metadata import version

import pytest
import torch
from PIL import Image

from noiseward import ArgumentError, RunError
from noiseward.images import enlarge
from noiseward.runs import RunFolder, RunSpec, execute
from noiseward.runs.binding import mark, seal
from noiseward.runs.export import write_animation, write_grid
from noiseward.runs.files import read_tensors, write_tensors
from noiseward.runs.replay import changed_versions, replay
from noiseward.runs.spec import run_id
from noiseward.runs.table import write_table
from tests.older import downgrade
from tests.tiny import CALL


@pytest.fixture(scope="module")
def spec(model):
    return RunSpec(
        prompt=("a", "b"),
        reward=("brightness", "contrast"),
        model=model,
        watch=("jpeg",),
        steps=3,
        method="dno:lr=0.3,guard=none",
        call=dict(CALL),
    )


@pytest.fixture(scope="module")
def run(spec, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    execute(spec, folder, quiet=True)
    return RunFolder(folder)


def picture(path):
    with Image.open(path) as image:
        return image.convert("RGB")


@pytest.fixture
def copy(run, tmp_path):
    shutil.copytree(run.path, tmp_path / "run")
    return RunFolder(tmp_path / "run")


def test_a_replay_is_the_run_bit_for_bit(run):
    found = replay(run)
    known, _ = read_tensors(run.path / "best.safetensors")
    assert torch.equal(found.sample, known["sample"])
    assert found.identical == [True, True] and found.difference == [0, 0]
    torch.testing.assert_close(found.reward, known["reward"])


def test_a_replay_of_other_noise_is_not_called_the_same(copy):
    known, _ = read_tensors(copy.path / "best.safetensors")
    known["sample"][1] += 0.25
    write_tensors(copy.path / "best.safetensors", known, mark(known, run_id(copy.spec())))
    found = replay(copy)
    assert found.identical == [True, False]
    assert found.difference[1] == pytest.approx(0.25)


def test_changed_versions_are_reported(copy):
    assert changed_versions(copy) == {}
    then = seal({**copy.read("env.json"), "torch": "1.0"}, run_id(copy.spec()))
    (copy.path / "env.json").write_text(json.dumps(then))
    assert changed_versions(copy) == {"torch": ("1.0", version("torch"))}


def test_another_model_is_not_replayed(spec, tmp_path):
    folder = RunFolder(tmp_path / "run")
    execute(downgrade(spec.replace(steps=1), 1, lr=0.3), folder.path, quiet=True)
    content = json.loads((folder.path / "spec.json").read_text())
    content["call"]["num_inference_steps"] = 6
    (folder.path / "spec.json").write_text(json.dumps(content))
    with pytest.raises(RunError, match="another model or other arguments"):
        replay(folder)


def test_a_grid_has_starts_above_and_bests_below(run, tmp_path):
    image = picture(write_grid(run, tmp_path / "grid.png"))
    side = picture(run.path / "best/00.png").width
    factor = max(1, 128 // side)
    assert image.size == (2 * factor * side + 4, 2 * factor * side + 4)
    for row in (0, 1):
        for line, name in enumerate(("initial", "best")):
            tile = enlarge(picture(run.path / name / f"{row:02d}.png"))
            x, y = row * (factor * side + 4), line * (factor * side + 4)
            assert image.crop((x, y, x + tile.width, y + tile.height)).tobytes() == tile.tobytes()


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
def test_an_animation_goes_from_the_start_to_the_best_and_stays_there(run, tmp_path, suffix):
    with Image.open(write_animation(run, tmp_path / f"way{suffix}")) as image:
        assert 4 <= image.n_frames <= 5 + 8  # equal ones in a row, the last and the best, may be one that stays
        assert image.info["loop"] == 0


def test_a_table_has_every_number_of_every_step(run, tmp_path):
    with open(write_table(run, tmp_path / "steps.csv"), newline="") as file:
        lines = list(csv.DictReader(file))
    steps = run.steps()
    assert "jpeg" in steps[0]["watched"] and len(lines) == 2 * len(steps)
    for line in lines:
        step, row = steps[int(line["step"])], int(line["row"])
        assert float(line["reward"]) == step["reward"][row]
        assert float(line["contrast"]) == step["terms"]["contrast"][row]
        assert int(line["nfe_backward"]) == step["nfe"]["backward"]
        assert line["grad_norm"] == ("" if step["grad_norm"] is None else str(step["grad_norm"][row]))
        assert int(line["found"]) == step["found"][row]
        for name in ("strict", "image"):
            assert line[name] == ("" if step.get(name) is None or step[name][row] is None else str(step[name][row]))
        for name, scores in step.get("watched", {}).items():
            assert line[f"watched {name}"] == str(scores[row])


def test_what_cannot_be_exported_is_one_line(copy, tmp_path):
    with pytest.raises(ArgumentError, match=r"an animation that ends in .gif or .webp, got"):
        write_animation(copy, tmp_path / "way.mp4")
    with pytest.raises(RunError, match="cannot be written"):
        write_table(copy, tmp_path / "no" / "where.csv")
    shutil.rmtree(copy.path / "frames")
    with pytest.raises(RunError, match="has no frames"):
        write_animation(copy, tmp_path / "way.gif")
    (copy.path / "best/00.png").write_bytes(b"no picture")
    with pytest.raises(RunError, match="00.png is damaged; remove it, and 'noiseward resume"):
        write_grid(copy, tmp_path / "grid.png")
    (copy.path / "best/00.png").unlink()
    with pytest.raises(RunError, match="00.png is missing: 'noiseward resume"):
        write_grid(copy, tmp_path / "grid.png")
    (copy.path / "steps.jsonl").write_text("")
    with pytest.raises(RunError, match="steps.jsonl ends with step -1"):
        write_table(copy, tmp_path / "steps.csv")


def test_the_command_line_replays_and_exports(run, copy, monkeypatch, capsys):
    import sys

    from noiseward import cli

    for arguments, says in (
        (("replay",), ["row 0: identical, bit for bit", "row 1: identical, bit for bit"]),
        (("export",), ["grid.png", "evolution.webp", "steps.csv"]),
    ):
        monkeypatch.setattr(sys, "argv", ["noiseward", *arguments, str(copy.path)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out = capsys.readouterr().out
        assert not ended.value.code and all(one in out for one in says)
    assert picture(copy.path / "replay/01.png").tobytes() == picture(copy.path / "best/01.png").tobytes()
