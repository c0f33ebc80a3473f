"""What programs read of the commands: JSON with documented keys, exit codes, and names that are never cut."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[1] / "docs" / "scripting.md"
READING = {
    "list": ["list"],
    "list --json": ["list", "--json"],
    "show": ["show", "runs/r"],
    "show --json": ["show", "runs/r", "--json"],
    "models": ["models"],
    "methods": ["methods"],
    "rewards": ["rewards"],
    "rewards --json": ["rewards", "--json"],
    "export --csv": ["export", "runs/r", "--csv", "x.csv"],
    "schema": ["schema"],
}
SLOW = ("torch", "transformers", "diffusers")


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    """A folder with a run."""
    from noiseward.options.run import RunSpec
    from noiseward.runs import execute
    from noiseward.sweep.directory import Sweep
    from noiseward.sweep.rows import Row
    from tests.tiny import CALL

    folder = tmp_path_factory.mktemp("scripting")
    (folder / "runs").mkdir()
    execute(RunSpec(prompt="a", reward="brightness", model=model, steps=1, **CALL), folder / "runs" / "r", quiet=True)
    many = RunSpec(prompt="a", reward="brightness", model=model, steps=0, batch=2, **CALL)
    Sweep.begin(folder / "runs" / "b", [Row("a", many)], size=1)
    return folder


def call(*arguments: str, folder: Path, code: str = "") -> subprocess.CompletedProcess[str]:
    """A command in a process of its own, its output in a pipe."""
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    environment["PYTHONPATH"] = os.pathsep.join(part for part in sys.path if part)
    run = f"from noiseward.cli import main\ntry:\n    main()\nfinally:\n    pass\n    {code or 'pass'}"
    command = [sys.executable, "-c", run, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("name", READING)
def test_what_only_reads_imports_no_torch(name, folder):
    loaded = f"import sys; print(*(name for name in {SLOW} if name in sys.modules), file=sys.stderr)"
    done = call(*READING[name], folder=folder, code=loaded)
    assert (done.returncode, done.stderr) == (0, "\n")
    assert done.stdout


def test_torch_is_noticed(folder):
    loaded = f"import sys; print(*(name for name in {SLOW} if name in sys.modules), file=sys.stderr)"
    assert "torch" in call("replay", "nowhere", folder=folder, code=f"import torch; {loaded}").stderr


def keys(value: object) -> set[str]:
    """Every key of plain data, at any depth; the names of rewards, models and files are no keys."""
    if isinstance(value, list):
        return set().union(*map(keys, value)) if value else set()
    if not isinstance(value, dict):
        return set()
    return set(value).union(*(keys(part) for name, part in value.items() if name not in ("words", "call", "versions")))


@pytest.mark.parametrize("arguments", [
    ["list"], ["show", "runs/r"], ["models"], ["models", "stickers"], ["methods"], ["methods", "fk"], ["rewards"],
    ["rewards", "describe", "count"],
    ["export", "runs/r", "--csv", "x.csv"], ["replay", "runs/r", "--out", "again"], ["resume", "runs/r"],
])  # fmt: skip
def test_json_has_the_keys_that_are_documented(arguments, folder, run, monkeypatch):
    monkeypatch.chdir(folder)
    status, out, err = run(*arguments, "--json")
    assert status == 0, err
    found = json.loads(out)
    text = PAGE.read_text()
    assert {key for key in keys(found) if f"`{key}`" not in text} == set()


def test_a_run_as_json_is_the_run(folder, run, monkeypatch):
    monkeypatch.chdir(folder)
    (_, listed), shown = (
        json.loads(run("list", "--sort", "name", "--json")[1]),
        json.loads(run("show", "runs/r", "--json")[1]),
    )
    row = shown["rows"][0]
    assert (listed["run"], listed["path"], listed["prompt"]) == ("r", "runs/r", ["a"])
    assert listed["reward"] == shown["reward"] == ["brightness"] and listed["method"] == shown["method"]
    assert shown["state"] == "done" and row["gain"] == row["best"] - row["before"] == listed["gain"]
    assert Path(row["best_file"]).exists() and (row["prompt"], row["seed"]) == ("a", 0)
    assert shown["nfe"]["forward"] > 0 and shown["resume"] is None


def test_align_as_json_prints_one_object_and_nothing_else(run, small, tmp_path):
    status, out, err = run("align", "a", "--reward", "brightness", "--steps", "1", "--out", "r", "--json", *small)
    assert status == 0, err
    assert json.loads(out) == json.loads(run("show", "r", "--json")[1])
    status, _, err = run("align", "a", "--reward", "brightness", "--json", "-q", *small)
    assert status == 2 and "leave one out" in err


def test_names_are_whole_and_on_one_line_in_a_pipe_and_on_a_narrow_terminal(folder, tmp_path):
    long = "a-name-that-is-much-longer-than-most-and-needed-by-other-commands"
    os.symlink(folder / "runs" / "r", tmp_path / long)
    piped = call("list", ".", folder=tmp_path).stdout.splitlines()
    assert len(piped) == 2 and piped[1].split()[0] == long and "brightness" in piped[1]
    environment = {**os.environ, "COLUMNS": "80", "PYTHONPATH": os.pathsep.join(part for part in sys.path if part)}
    for arguments, name in ((["list", "."], long), (["rewards"], "laion/CLIP-ViT-H-14-laion2B-s32B-b79K")):
        command = [sys.executable, "-m", "noiseward", *arguments]
        narrow = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True).stdout
        assert name in narrow
        assert max(map(len, narrow.splitlines())) <= 80 or arguments == ["rewards"]


def test_a_run_that_was_killed_or_failed_says_so_and_how_it_continues(run, small, tmp_path):
    run("align", "a", "--reward", "brightness", "--steps", "1", "--out", "r r", "-q", *small)
    from noiseward.runs.files import lock
    from noiseward.runs.spec import run_id
    from noiseward.runs.store import RunFolder
    from noiseward.runs.write import save_json

    folder = RunFolder(tmp_path / "r r")
    was = folder.read("status.json")
    save_json(folder.path / "status.json", {**was, "state": "running"}, run_id(folder.spec()))
    for command in (("list", "."), ("show", "r r")):
        status, out, _ = run(*command)
        assert status == 0 and "killed" in out and "continue with: noiseward resume 'r r'" in out
    assert json.loads(run("show", "r r", "--json")[1])["resume"] == "noiseward resume 'r r'"
    save_json(folder.path / "status.json", {**was, "state": "running", "rows": ["RUNNING"]}, run_id(folder.spec()))
    out = run("show", "r r")[1]
    assert "killed at step 1: the best so far was kept" in out and "running" not in out
    assert json.loads(run("show", "r r", "--json")[1])["rows"][0]["ended"] == "killed"
    with lock(folder.path):
        out = run("show", "r r")[1]
        assert "\nstill running\n" in out and "killed" not in out
    ended = {**was, "state": "failed", "rows": ["RUNNING"], "error": "no more"}
    save_json(folder.path / "status.json", ended, run_id(folder.spec()))
    out = run("show", "r r")[1]
    assert "failed at step 1: the best so far was kept" in out and "running" not in out
    assert json.loads(run("show", "r r", "--json")[1])["rows"][0]["ended"] == "failed"


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["models"], 0),
        (["show", "nowhere"], 1),
        (["align", "a", "--model", "nowhere/nowhere/nowhere", "--reward", "brightness"], 1),
        (["align", "a", "--reward", "brightness", "--steps", "-1"], 2),
        (["align", "a", "--reward", "brightnes"], 2),
        (["align", "a", "--no-such-option"], 2),
        (["align"], 2),
        (["no-such-command"], 2),
        (["models", "nothing"], 2),
    ],
)
def test_exit_codes(run, arguments, status):
    assert run(*arguments)[0] == status


def test_show_replay_and_export_work_on_a_batch_and_a_comparison(run, small, tmp_path):
    (tmp_path / "p.txt").write_text("a\nb\n")
    assert (
        run("batch", "p.txt", "--out", "b", "--reward", "brightness", "--steps", "1", "--pack", "1", "-q", *small)[0]
        == 0
    )
    compare = ("--methods", "best-of-n,dno", "--budget", "nfe=40", "--seeds", "2", "--prompts", "a", "--out", "c", "-q")
    assert run("compare", "--reward", "brightness", *compare, *small)[0] == 0
    for name, count in (("b", 2), ("c", 4)):
        status, out, err = run("show", name)
        assert status == 0 and f"{name}/index.csv" in out, err
        shown = json.loads(run("show", name, "--json")[1])
        assert len(shown["rows"]) == count and {row["state"] for row in shown["rows"]} == {"done"}
        assert {one["method"] for one in shown.get("methods", [])} == ({"best-of-n", "dno"} if name == "c" else set())
        replayed = json.loads(run("replay", name, "--json")[1])["rows"]
        assert len(replayed) == count and all(row["identical"] for row in replayed)
        files = json.loads(run("export", name, "--json")[1])["files"]
        assert files == [f"{name}/grid.png", *(f"{name}/evolution-000{k}.webp" for k in (0, 1)), f"{name}/steps.csv"]
        assert all((tmp_path / file).exists() for file in files)
        lines = (tmp_path / name / "steps.csv").read_text().splitlines()
        assert lines[0].startswith("run,step,row,") and {line.partition(",")[0] for line in lines[1:]} == {
            "0000",
            "0001",
        }


def test_the_first_sign_of_life_and_what_a_run_costs(small, folder):
    options = ("--reward", "jpeg", "--method", "trust-region", "--steps", "2", "--out", "life")
    done = call("align", "a", *options, *small, folder=folder)
    assert done.returncode == 0, done.stderr
    first, *rest = [line for line in done.stderr.splitlines() if not line.startswith("finding out")]
    plan = rest[0]
    assert first.startswith("loading ") and first.endswith("and jpeg, into life ...")
    assert plan.startswith("life: trust-region:samples=16,") and plan.endswith(", steps 2")
    (cost,) = [line for line in rest if line.startswith("the first step took")]
    expected = int(re.search(r"; 2 like it take about ([\d,]+) and", cost)[1].replace(",", ""))
    spent = json.loads(call("show", "life", "--json", folder=folder).stdout)["nfe"]
    assert spent["forward"] == pytest.approx(expected, rel=0.15)
