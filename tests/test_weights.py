"""Weights on this machine or not: what is listed, fetched and asked for."""

from __future__ import annotations

import pytest

from noiseward import ArgumentError, ModelError
from noiseward.cli import main
from noiseward.rewards.catalog import ENTRIES, list_repos, list_weights
from noiseward.rewards.hub import Repo, fetch
from noiseward.rewards.parse import make_reward
from tests.checkpoints import small_clip


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """An empty cache of the hub, and no hub behind it; what it returns puts a repository there."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    def put(repo: str, write) -> None:
        folder = tmp_path / f"models--{repo.replace('/', '--')}"
        (folder / "refs").mkdir(parents=True)
        (folder / "refs" / "main").write_text("abc")
        (folder / "snapshots" / "abc").mkdir(parents=True)
        write(folder / "snapshots" / "abc")

    return put


@pytest.fixture
def run(monkeypatch, capsys):
    def command(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["noiseward", *arguments])
        monkeypatch.setenv("COLUMNS", "400")
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return command


MISSING = {
    "pickscore": ("config.json and model.safetensors of yuvalkirstain/PickScore_v1, about 3945 MB", "pickscore:path="),
    "aesthetic": ("aesthetic-model.pth of trl-lib/ddpo-aesthetic-predictor", "aesthetic:path="),
    "hpsv2": ("HPS_v2.1_compressed.pt of xswu/HPSv2", "hpsv2:path="),
    "hpsv2:version=2.0": ("HPS_v2_compressed.pt of xswu/HPSv2", "hpsv2:path="),
    "imagereward": ("ImageReward.pt of THUDM/ImageReward", "imagereward:path="),
    "clip:model=openai/clip-vit-base-patch32": ("model.safetensors of openai/clip-vit-base-patch32", "clip:model="),
    "classifier:model=google/vit,target=cat": ("preprocessor_config.json and model.safetensors", "classifier:model="),
}


@pytest.mark.parametrize("text", MISSING)
def test_a_missing_download_is_one_line_with_the_file_and_both_ways_to_provide_it(cache, run, text):
    file, way = MISSING[text]
    with pytest.raises(ModelError) as caught:
        make_reward(text)
    message = str(caught.value)
    assert file in message and f"{way}FOLDER" in message and "\n" not in message
    command = message.partition("'noiseward rewards fetch ")[2].partition("'")[0]
    assert list_repos(command)  # what the line tells one to run is understood
    code, _, err = run("rewards", "fetch", command)
    assert code == 1 and "cannot be downloaded" in err and len(err.strip().splitlines()) == 1


def test_what_is_in_the_cache_is_used_and_listed(cache, run):
    assert [here for _, _, here in list_weights("pickscore")] == ["no"]
    cache("yuvalkirstain/PickScore_v1", small_clip)
    assert [here for _, _, here in list_weights("pickscore")] == ["yes"]
    assert make_reward("pickscore").name == "pickscore"
    code, out, _ = run("rewards", "fetch", "pickscore")
    assert code == 0 and "yuvalkirstain/PickScore_v1: config.json, model.safetensors is here: " in out


def test_half_a_download_does_not_count(cache):
    cache("yuvalkirstain/PickScore_v1", lambda folder: (folder / "config.json").write_text("{}"))
    assert [here for _, _, here in list_weights("pickscore")] == ["no"]


def test_a_path_without_the_file_names_it(cache, tmp_path):
    with pytest.raises(ModelError, match=r"has no ImageReward.pt: path= of reward 'imagereward' is a folder with"):
        make_reward(f"imagereward:path={tmp_path}")
    with pytest.raises(ModelError, match="does not exist: path= of reward 'pickscore'"):
        make_reward(f"pickscore:path={tmp_path}/none")


def test_fetching_downloads_the_weights_and_checks_them(cache, run, monkeypatch, tmp_path):
    asked = []

    def download(repo, allow_patterns=None, local_files_only=False):
        if local_files_only:
            raise OSError("not there")
        asked.append((repo, allow_patterns))
        (tmp_path / "aesthetic-model.pth").write_bytes(b"")
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert fetch(Repo("a/b", ("aesthetic-model.pth",), ("*.json",))) == tmp_path
    assert asked == [("a/b", ["aesthetic-model.pth", "*.json"])]
    with pytest.raises(ModelError, match="a/b has no other.pt"):
        fetch(Repo("a/b", ("other.pt",)))


def test_the_listing_shows_every_kind_of_weights(cache, run):
    code, out, _ = run("rewards")
    assert code == 0
    for name, entry in ENTRIES.items():
        (line, *_) = (line for line in out.splitlines() if line.split()[:1] == [name])
        assert entry.measures in line and entry.range in line
    for said in ("xswu/HPSv2", "1972 MB", "Apache-2.0", "black box"):
        assert said in out


@pytest.mark.parametrize("name", ENTRIES)
def test_what_fetching_takes_is_what_making_takes(name):
    """Each reward and its list of weights have the same arguments, so that one text does for both."""
    import importlib
    import inspect

    entry = ENTRIES[name]
    if entry.repos:
        make, repos = (
            getattr(importlib.import_module(where.partition(":")[0]), where.partition(":")[2])
            for where in (entry.maker, entry.repos)
        )
        arguments = [
            {key: (one.default, one.kind) for key, one in inspect.signature(each).parameters.items()}
            for each in (make, repos)
        ]
        assert arguments[0] == arguments[1]


def test_fetching_what_is_unknown_or_needs_nothing(run):
    code, _, err = run("rewards", "fetch", "pikscore")
    assert code == 2 and "unknown reward 'pikscore'; did you mean 'pickscore'?" in err
    code, out, _ = run("rewards", "fetch", "brightness")
    assert code == 0 and "brightness needs no download" in out
    with pytest.raises(ArgumentError, match="available: 2.0, 2.1"):
        list_repos("hpsv2:version=3")
