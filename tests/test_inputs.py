"""Images that a run is given: by flag, by column, by file of options; kept in its directory, bound to it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from noiseward.cli.complete import COMPLETERS
from noiseward.errors import ArgumentError, RunError
from noiseward.options.run import RunSpec
from noiseward.runs import RunFolder, execute, resume
from noiseward.runs.binding import identify
from noiseward.runs.files import read_tensors
from noiseward.runs.inputs import locate_inputs
from noiseward.runs.replay import replay
from noiseward.runs.spec import matches, parse_spec, run_id, to_plain
from noiseward.sweep.rows import read_rows
from tests.task_models import write_models

FLAGS = ("--reward", "brightness", "--num-inference-steps", "4", "--method", "dno:guard=none", "--watch", "none")


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    return write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture
def given(models, tmp_path) -> Path:
    """A folder of images that a test may change."""
    folder = tmp_path / "given"
    folder.mkdir()
    for name in ("photo", "mask", "edges"):
        shutil.copy(models / f"{name}.png", folder)
    return folder


def make_spec(models: Path, given: Path, **more) -> RunSpec:
    return RunSpec(
        prompt="a b", reward="brightness", model=str(models / "sd"), steps=2, method="dno:guard=none", watch=(),
        num_inference_steps=4, image=given / "photo.png", mask_image=given / "mask.png", **more,
    )  # fmt: skip


# ---- the run directory ----


def test_a_run_keeps_its_images_and_goes_on_without_the_originals(models, given, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    execute(make_spec(models, given, strength=0.9).replace(steps=4), whole, quiet=True)
    execute(make_spec(models, given, strength=0.9), cut, quiet=True)
    assert {file.name for file in (cut / "inputs").iterdir()} == {"image.png", "mask_image.png"}
    assert (cut / "inputs" / "image.png").read_bytes() == (models / "photo.png").read_bytes()
    shutil.rmtree(given)
    resume(cut, steps="4", quiet=True)
    best = [read_tensors(folder / "best.safetensors")[0] for folder in (whole, cut)]
    assert all(torch.equal(best[0][name], best[1][name]) for name in best[0])
    assert replay(RunFolder(cut)).identical == [True]


@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_a_copy_that_is_not_what_it_was_is_refused(models, given, tmp_path, damage):
    execute(make_spec(models, given), tmp_path / "run", quiet=True)
    copy = tmp_path / "run" / "inputs" / "image.png"
    copy.unlink() if damage == "missing" else shutil.copy(given / "edges.png", copy)
    expected = "image.png cannot be read" if damage == "missing" else "image.png was changed since it was written"
    for again in (
        lambda: resume(tmp_path / "run", steps="+1", quiet=True),
        lambda: replay(RunFolder(tmp_path / "run")),
    ):
        with pytest.raises(RunError, match=expected) as refused:
            again()
        assert "\n" not in str(refused.value)


def test_a_file_that_changes_later_does_not_change_the_run(models, given, tmp_path):
    execute(make_spec(models, given), tmp_path / "run", quiet=True)
    shutil.copy(given / "edges.png", given / "photo.png")
    assert replay(RunFolder(tmp_path / "run")).identical == [True]


def test_a_list_of_images_is_kept_entry_by_entry(models, given, tmp_path):
    spec = make_spec(models, given).replace(prompt=("a", "b"), mask_image=None)
    spec = spec.replace(image=[str(given / "photo.png"), str(given / "edges.png")])
    execute(spec, tmp_path / "run", quiet=True)
    assert {file.name for file in (tmp_path / "run" / "inputs").iterdir()} == {"image-0.png", "image-1.png"}
    located = locate_inputs(spec, RunFolder(tmp_path / "run"))
    assert [Path(path).name for path in located.image] == ["image-0.png", "image-1.png"]
    assert replay(RunFolder(tmp_path / "run")).identical == [True, True]


def test_nothing_stays_of_a_run_whose_image_cannot_be_read(models, given, tmp_path):
    (given / "photo.png").write_bytes(b"no image")
    with pytest.raises(ArgumentError, match="image: expected the path of an image"):
        execute(make_spec(models, given), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


# ---- ids of runs of earlier versions ----


def test_arguments_that_became_options_are_written_as_before(models):
    old = {"prompt": ["a"], "reward": ["brightness"], "call": {"image": "x.png", "strength": 1, "clip_skip": 1}}
    spec = parse_spec({"format": 4, **old}, Path("spec.json"))
    assert spec.image == "x.png" and spec.call == {"clip_skip": 1}
    assert to_plain(spec)["call"] == old["call"] and {"task", "image", "strength"}.isdisjoint(to_plain(spec))
    assert run_id(spec) == identify({**RunSpec(prompt="a", reward="brightness").plain(), "call": old["call"]})
    assert parse_spec(to_plain(spec), Path("spec.json")) == spec
    assert not matches(spec, spec.replace(image="y.png")) and not matches(spec, spec.replace(task="img2img"))


def test_a_spec_names_each_once():
    with pytest.raises(ArgumentError, match="image is given twice, by itself and in call; give it once"):
        RunSpec(reward="brightness", image="x.png", call={"image": "y.png"})


# ---- where they come from ----


def test_flags_name_the_task_and_its_images(run, models, given, tmp_path):
    asked = ("--model", str(models / "sd"), "--image", str(given / "photo.png"), "--steps", "1", *FLAGS)
    status, _, errors = run("align", "a", *asked, "--mask-image", str(given / "mask.png"), "--out", "a")
    assert status == 0, errors
    assert set(RunFolder(tmp_path / "a").spec().arguments) == {"num_inference_steps", "image", "mask_image"}
    net = ("--task", "controlnet", "--controlnet", str(models / "canny"), "--control-image", str(given / "edges.png"))
    status, _, errors = run("align", "a", *asked, *net, "--strength", "0.9", "--out", "b")
    assert status == 0, errors
    status, out, errors = run("replay", "b", "--json")
    assert status == 0 and json.loads(out)["rows"][0]["identical"], errors
    status, out, _ = run("show", "b")
    assert status == 0 and "task controlnet" in out and f"strength={0.9}" in out.replace(" ", "")
    adapter = ("--ip-adapter", str(models / "ip-adapter" / "models"), "--ip-adapter-image", str(given / "photo.png"))
    status, _, errors = run("align", "a", *asked, *adapter, "--ip-adapter-scale", "0.6", "--out", "c")
    assert status == 0, errors
    assert {file.name for file in (tmp_path / "c" / "inputs").iterdir()} == {"image.png", "ip_adapter_image.png"}


@pytest.mark.parametrize(
    "flags, message",
    [
        (("--strength", "1.5", "--image", "photo.png"), "--strength must be <= 1, got '1.5'"),
        (("--strength", "0"), "--strength must be > 0, got '0'"),
        (("--task", "img2img"), "task img2img needs image, got none; give the image to start from"),
        (("--task", "upscale"), "--task must be one of 'text2img', 'img2img', 'inpaint', 'controlnet', got 'upscale'"),
        (("--image", "nothing.png"), "--image must be the path of an image, got 'nothing.png', which is not there"),
        (("--image", ""), "--image must be the path of an image, an image, or a list of these, got ''"),
    ],
)
def test_a_wrong_flag_is_one_line_and_exits_with_2(run, models, flags, message):
    status, _, errors = run("align", "a", "--model", str(models / "sd"), *flags, *FLAGS)
    assert status == 2 and errors.startswith(f"noiseward: {message}") and errors.count("\n") == 1, errors


def test_columns_and_files_of_options_hold_images(models, given, tmp_path):
    table = tmp_path / "prompts.csv"
    table.write_text("prompt,task,image,strength\na,img2img,photo.png,0.5\nb,,,\n")
    base = RunSpec(prompt=(), reward="brightness", model=str(models / "sd"))
    rows = [row.spec for row in read_rows(table, base)]
    assert [(row.task, row.image, row.strength) for row in rows] == [("img2img", "photo.png", 0.5), (None,) * 3]
    table.write_text("prompt,strength\na,2\n")
    with pytest.raises(ArgumentError, match="line 2: column 'strength' must be <= 1, got '2'"):
        read_rows(table, base)


def test_a_batch_with_an_image_per_line_is_resumed_from_its_copies(run, models, given, tmp_path):
    (tmp_path / "prompts.csv").write_text(
        f"prompt,image\na,{given / 'photo.png'}\nb,{given / 'edges.png'}\nc,{given / 'photo.png'}\n"
    )
    asked = ("batch", "prompts.csv", "--model", str(models / "sd"), *FLAGS, "--steps", "1", "--out", "out")
    status, _, errors = run(*asked)
    assert status == 0, errors
    packs = sorted((tmp_path / "out" / "packs").iterdir())
    assert len(packs) == 2  # one per image
    for pack in packs:
        (pack / "status.json").unlink()  # as if it had been killed
    shutil.rmtree(given)
    status, _, errors = run(*asked)
    assert status == 0, errors
    assert all(RunFolder(pack).read("status.json")["state"] == "done" for pack in packs)


def test_a_file_of_options_and_the_doctor_take_tasks(run, models, given, tmp_path):
    (tmp_path / "run.toml").write_text(
        f"model = '{models / 'sd'}'\nimage = '{given / 'photo.png'}'\nstrength = 0.8\nreward = 'brightness'\n"
        "num_inference_steps = 4\nsteps = 1\nmethod = 'dno:guard=none'\n"
    )
    status, _, errors = run("align", "a", "--spec", "run.toml", "--out", "a")
    assert status == 0 and RunFolder(tmp_path / "a").spec().strength == 0.8, errors
    status, out, errors = run("doctor", "--model", str(models / "sd"), "--image", str(given / "photo.png"))
    assert status == 0 and "fit for noise optimization" in out, out + errors
    few = ("doctor", "--model", str(models / "sd"), "--image", str(given / "photo.png"), "--strength", "0.1")
    assert run(*few)[0] == 0


def test_a_line_says_the_size_that_follows_from_an_image(run, models, given):
    asked = ("align", "a", "--model", str(models / "sd"), *FLAGS, "--steps", "0")
    _, _, errors = run(*asked, "--image", str(given / "photo.png"))
    with Image.open(next(Path("runs").glob("*/best/00.png"))) as best:
        assert f"images of {best.width} x {best.height} pixels, which follow from the one given" in errors
    _, _, errors = run(*asked, "--image", str(given / "photo.png"), "--height", "16", "--width", "16")
    assert "images of" not in errors and "images of" not in run(*asked)[2]


def test_images_say_how_much_of_the_image_was_noise(run, models, given):
    asked = ("align", "a", "--model", str(models / "sd"), *FLAGS, "--steps", "0", "--out", "a")
    assert run(*asked, "--image", str(given / "photo.png"), "--strength", "0.8")[0] == 0
    _, out, _ = run("show", "a/best/00.png")
    assert "strength: 0.8" in out


def test_a_shell_completes_images_and_folders_on_the_way(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("photo.png", "photo.txt", ".hidden.png"):
        (tmp_path / name).touch()
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.JPG").touch()
    complete = COMPLETERS["image"]
    assert complete("ph") == ["photo.png", "photos/"] and complete("photos/") == ["photos/a.JPG"]
    assert complete("nowhere/") == [] and COMPLETERS["ip_adapter_image"] is complete
