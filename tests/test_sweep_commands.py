"""`noiseward batch`, as a person, a log file and a program see it; and `noiseward list`, filtered and sorted."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from noiseward.options.run import RunSpec
from noiseward.runs import RunFolder
from noiseward.runs.files import lock
from noiseward.runs.spec import run_id, to_text
from noiseward.runs.write import save_json
from noiseward.sweep.engine import Beat
from noiseward.sweep.view import Tally, show
from tests.older import downgrade

OPTIONS = ("--reward", "brightness", "--steps", "1", "--seeds", "2", "--num-inference-steps", "2")


@pytest.fixture
def file(tmp_path):
    (tmp_path / "p.txt").write_text("a\nb [red]\n")
    return str(tmp_path / "p.txt")


def test_a_batch_ends_with_a_table_and_says_where_its_files_are(run, small, file, tmp_path):
    status, out, err = run("batch", file, "--out", "out", *small, *OPTIONS)
    assert status == 0, err
    assert "4 done; mean gain" in out and "b [red]" in out
    for name in ("index.csv", "contact.png", "report.html"):
        assert f"out/{name}" in out and (tmp_path / "out" / name).exists()
    assert "0/4 done, 4 running, 0 failed" not in err  # where nobody looks, a line when a pack ends
    assert "4/4 done, 0 running, 0 failed, gain +" in err and "\x1b" not in err
    status, out, err = run("batch", file, "--out", "out", *small, *OPTIONS, "--quiet")
    assert (status, out, err) == (0, "out\n", "")
    status, out, _ = run("list", "out")
    assert status == 0 and "0000" in out
    status, out, err = run("resume", "out")
    assert status == 1 and "holds many runs; run its 'noiseward batch' or 'compare' command again" in err


def test_a_program_reads_a_line_of_json_per_event(run, small, file):
    status, out, _ = run("batch", file, "--out", "out", *small, *OPTIONS, "--json")
    assert status == 0
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["state"] for line in lines] == ["running", "running", "running", "done"]
    assert lines[-1]["batch"] == {"total": 4, "done": 4, "running": 0, "failed": 0, "gain": lines[-1]["batch"]["gain"],
                                  "left": 0.0}  # fmt: skip
    assert lines[-1]["batch"]["gain"] == pytest.approx(sum(lines[-1]["gain"]) / 4)
    status, _, err = run("batch", file, "--out", "out", *small, *OPTIONS, "--json", "--quiet")
    assert status == 2 and err.startswith("noiseward: --json prints everything and --quiet nothing")


def test_bad_input_is_one_line_before_anything_is_written(run, small, file, tmp_path):
    (tmp_path / "p.csv").write_text("prompt,colour\na,red\n")
    for arguments, says in (
        (("p.csv",), "p.csv, line 1: unknown column 'colour'"),
        (("nowhere",), "unknown prompt file or set 'nowhere'; "),
    ):
        status, out, err = run("batch", *arguments, "--out", "out", *small, *OPTIONS)
        assert status == 2 and says in err and err.count("\n") == 1 and out == ""
        assert not (tmp_path / "out").exists()


def test_rows_that_fail_are_named_and_the_status_says_so(run, small, file, tmp_path):
    (tmp_path / "p.jsonl").write_text(
        '{"prompt": "a"}\n{"prompt": "b", "id": "mine", "reward": "brightness:clamp=high"}\n'
    )
    status, out, err = run("batch", "p.jsonl", "--out", "out", *small, *OPTIONS)
    assert status == 1
    assert "failed: 0001 (mine): clamp of reward 'brightness:clamp=high'" in err
    assert "mine: clamp of reward 'brightness:clamp=high' must be a number" in out and "2 done, 2 failed" in out


def test_a_ranking_and_the_rows_below_it_say_why_they_differ(run, small):
    options = ("--prompts", "a", "--methods", "best-of-n:samples=4", "--seeds", "1", "--watch", "none", "--out", "out")
    status, out, err = run("compare", "--reward", "brightness", *options, "--budget", "nfe=8", *small)
    assert status == 0 and "went past the budget and found something better" in out, err
    for page in ("report.md", "report.html"):
        assert "went past the budget" in Path("out", page).read_text()
    assert "went past the budget" in run("show", "out")[1]


def test_a_view_is_readable_without_a_terminal():
    out = io.StringIO()
    beats = [
        Beat("0000", "running", 2), Beat("0001", "running", 2), Beat("0001", "done", 2, 3, 1.0, (1.0, 2.0)),
        Beat("0000", "failed", 2, 1, 0.5, (5.0,), "bad [luck]", True), Beat("0000.2", "failed", 1, error="bad"),
        Beat("0000.1", "done", 1, 3, 1.0, (3.0,)),
    ]  # fmt: skip
    clock = iter([0.0, *([10.0] * 100)])
    tally = Tally(6, 2, clock=lambda: next(clock))
    assert list(show(beats, tally, console=Console(file=out, width=40), ids={"0000": ["a", "a", "b"]})) == beats
    assert out.getvalue().splitlines() == [
        "4/6 done, 2 running, 0 failed, gain +1.5, 10 s left",
        "failed: 0000 (a, b): bad [luck]; its rows continue one by one",
        "4/6 done, 0 running, 0 failed, gain +1.5, 10 s left",
        "failed: 0000.2 (b): bad",
        "4/6 done, 0 running, 1 failed, gain +1.5, 4 s left",
        "5/6 done, 0 running, 1 failed, gain +2, 0 s left",
    ]


@pytest.fixture
def several(tmp_path):
    """Runs that only look like some."""
    for number, (prompt, reward, state, rewards) in enumerate(
        [("a duck", "jpeg", "done", (1.0, 3.0)), ("a goose", "brightness", "failed", (0.0, 5.0)),
         ("two ducks", "brightness", "done", (4.0, 4.5))]
    ):  # fmt: skip
        folder = tmp_path / "runs" / f"r{number}"
        folder.mkdir(parents=True)
        (folder / "spec.json").write_text(to_text(downgrade(RunSpec(prompt=(prompt,), reward=(reward,)), 1)))
        told = {"state": state, "step": 1, "seconds": 9.0 - number, "best": [rewards[1]], "found": [1],
                "rows": ["STEPS"]}  # fmt: skip
        (folder / "status.json").write_text(json.dumps(told))
        nfe = {"forward": 0, "backward": 0, "recomputed": 0}
        part = {"seconds": 0.0, "nfe": nfe, "terms": {}, "penalty": [0.0], "probability": [0.5], "grad_norm": None}
        lines = [json.dumps({"index": k, **part, "reward": [one], "value": [one]}) for k, one in enumerate(rewards)]
        (folder / "steps.jsonl").write_text("\n".join(lines) + "\n")
        assert RunFolder(folder).spec().prompt == (prompt,)
    broken = tmp_path / "runs" / "broken"
    broken.mkdir()
    (broken / "spec.json").write_text("{")


def test_a_list_has_batches_and_comparisons_with_the_rows_that_are_done(run, small, file, several):
    run("batch", file, "--out", "runs/many", "-q", *small, *OPTIONS)
    (Path("runs/many/packs/0000/status.json")).unlink()
    methods = ("--methods", "best-of-n:samples=2,walk", "--seeds", "1", "--watch", "none", "--budget", "nfe=20")
    run("compare", "--reward", "brightness", "--prompts", "a", *methods, "--out", "runs/cmp", "-q", *small)
    status, out, err = run("list", "--sort", "name")
    assert status == 0, err
    lines = {line.split()[0]: line.split() for line in out.splitlines() if line.strip()}
    assert lines["cmp"][:4] == ["cmp", "comparison", "done", "2/2"]
    assert lines["many"][:4] == ["many", "batch", "interrupted", "0/4"] and lines["r1"][1] == "run"
    listed = {one["run"]: one for one in json.loads(run("list", "--json")[1])}
    assert (listed["many"]["kind"], listed["many"]["total"], listed["many"]["done"]) == ("batch", 4, 0)
    assert listed["many"]["prompt"] == ["a", "b [red]"] and listed["many"]["gain"] > 0
    assert listed["cmp"]["gain"] is None and listed["r2"]["kind"] == "run"
    assert {type(one["reward"]) for one in listed.values()} == {list}
    assert [one["run"] for one in json.loads(run("list", "--json", "--prompt", "b [red]")[1])] == ["many"]
    status, out, _ = run("list", "runs/cmp")
    assert "method" in out.splitlines()[0].split() and "best-of-n:samples=2" in out and "walk" in out
    assert "method" not in run("list", "runs/many")[1]


def test_a_batch_that_was_killed_or_damaged_is_neither_running_nor_done(run, small, file):
    run("batch", file, "--out", "runs/many", "-q", *small, *OPTIONS, "--pack", "2")
    folder = RunFolder(Path("runs/many/packs/0000"))
    was = folder.read("status.json")
    save_json(folder.path / "status.json", {**was, "state": "running", "rows": ["RUNNING"] * 2}, run_id(folder.spec()))
    status, out, _ = run("show", "runs/many")
    assert status == 0 and "2 done, 2 killed" in out and "running" not in out
    with lock(Path("runs/many")):
        assert "2 done, 2 running" in run("show", "runs/many")[1]
    save_json(folder.path / "status.json", was, run_id(folder.spec()))
    (folder.path / "best.safetensors").unlink()
    for command in ("show", "batch", "show"):  # before and after the index tells of it
        (listed,) = json.loads(run("list", "--json")[1])
        assert (listed["state"], listed["done"]) == ("failed", 2)
        again = (file, "--out", *small, *OPTIONS, "--pack", "2") if command == "batch" else ()
        assert "2 done, 2 damaged" in run(command, *again[:2], "runs/many", *again[2:])[1]


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (("--sort", "name"), ["broken", "r0", "r1", "r2"]),
        (("--sort", "gain"), ["r1", "r0", "r2", "broken"]),
        (("--sort", "best", "--reverse"), ["broken", "r0", "r2", "r1"]),
        (("--sort", "seconds", "--limit", "2"), ["r0", "r1"]),
        (("--state", "done", "--sort", "name"), ["r0", "r2"]),
        (("--prompt", "duck", "--sort", "name"), ["r0", "r2"]),
        (("--prompt", "duck", "--reward", "bright"), ["r2"]),
        (("--state", "unreadable"), ["broken"]),
    ],
)
def test_a_list_filters_and_sorts(run, several, arguments, names):
    status, out, err = run("list", *arguments)
    assert status == 0, err
    first = [line.split()[0] for line in out.splitlines() if line.strip()]
    assert [word for word in first if word in ("r0", "r1", "r2", "broken")] == names  # why it is broken takes lines


def test_an_empty_list_is_reported_and_a_wrong_column_is_refused(run, several):
    status, out, _ = run("list", "--prompt", "swan")
    assert status == 0 and "no matching runs in runs" in out
    status, _, err = run("list", "--sort", "color")
    assert status == 2 and "cannot sort by 'color'" in err
