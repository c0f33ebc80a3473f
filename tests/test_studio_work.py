"""The studio's worker, as the server uses it: runs, looks, renders and scores, stopped and killed."""

from __future__ import annotations

import os
import signal
import time

import pytest
import torch

from noiseward.options.run import RunSpec
from noiseward.runs import RunFolder, execute
from noiseward.runs.files import read_tensors
from noiseward.studio.jobs import Jobs
from noiseward.studio.live import Watcher
from noiseward.studio.places import Places
from noiseward.studio.session import Session
from noiseward.studio.work import Work
from tests.tiny import CALL


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    return Places(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def jobs(places):
    jobs = Jobs(places)
    yield jobs
    jobs.close()


@pytest.fixture(scope="module")
def spec(model):
    return RunSpec(model=model, prompt="a", reward="brightness", method="dno:lr=0.1,guard=none", steps=3, call=CALL)


def wait_for(look, what, timeout=120.0):
    """Wait until something holds of what is looked at."""
    until = time.monotonic() + timeout
    while time.monotonic() < until:
        found = look()
        if what(found):
            return found
        time.sleep(0.05)
    raise AssertionError(f"waited in vain; the last was {look()}")


def test_a_run_is_that_of_the_command_line_and_its_images_are_there_while_it_runs(places, jobs, spec, tmp_path):
    out = places.runs / "a-run"
    job = jobs.submit("run", out, spec=spec.plain())
    watcher = Watcher(jobs)
    assert watcher.look(out).state in ("waiting", "loading")
    wait_for(lambda: watcher.look(out), lambda found: len(found.steps) > 0)
    wait_for((places.live(out) / "now-00.png").exists, bool)
    assert jobs.wait(job, 120).state == "done", job.error
    found = watcher.look(out)
    assert found.state == "done" and len(found.steps) == 4 and watcher.look(out) is found
    execute(spec, tmp_path / "same", quiet=True)
    one, other = (read_tensors(path / "best.safetensors")[0] for path in (out, tmp_path / "same"))
    assert torch.equal(one["noise"], other["noise"])


def test_a_run_is_stopped_and_continues_with_a_larger_budget(places, jobs, spec, tmp_path):
    out = places.runs / "long"
    job = jobs.submit("run", out, spec=spec.replace(steps=400).plain())
    watcher = Watcher(jobs)
    wait_for(lambda: watcher.look(out), lambda found: len(found.steps) > 2)
    jobs.stop(out, pause=True)
    assert jobs.wait(job, 60).state == "paused" and watcher.look(out).state == "paused"
    status = RunFolder(out).read("status.json")
    assert status["state"] == "interrupted" and status["step"] < 400
    more = jobs.wait(jobs.submit("run", out, more={"steps": str(status["step"] + 2)}), 120)
    assert more.state == "done", more.error
    assert RunFolder(out).read("status.json")["step"] == status["step"] + 2


def test_a_stop_that_nothing_heard_is_seen_before_the_next_step(tmp_path, spec):
    asked = iter([False, False, False, True])  # after loading, and before each step
    out = tmp_path / "run"
    request = {"kind": "run", "out": str(out), "spec": spec.replace(steps=50).plain()}
    assert Work().do(request, lambda: next(asked)) == ("interrupted", None, None)
    status = RunFolder(out).read("status.json")
    assert status["state"] == "interrupted" and status["step"] == 1 and status["rows"] == ["INTERRUPTED"]


def test_images_of_another_run_of_that_name_are_not_shown(places, jobs, spec):
    old = places.live(places.runs / "again") / "now-00.png"
    old.parent.mkdir(parents=True)
    old.write_bytes(b"old")
    (old.parent / "now-07.png").write_bytes(b"old")
    job = jobs.wait(jobs.submit("run", places.runs / "again", spec=spec.plain()), 120)
    assert job.state == "done" and old.read_bytes() != b"old" and not (old.parent / "now-07.png").exists()


def test_a_worker_that_is_killed_leaves_a_run_that_can_be_resumed(places, jobs, spec):
    out = places.runs / "killed"
    job = jobs.submit("run", out, spec=spec.replace(steps=400).plain())
    watcher = Watcher(jobs)
    wait_for(lambda: watcher.look(out), lambda found: len(found.steps) > 2)
    os.kill(jobs._worker.pid, signal.SIGKILL)
    assert jobs.wait(job, 60).state == "failed" and "the worker ended" in job.error
    last = RunFolder(out).read("status.json")["step"]
    again = jobs.wait(jobs.submit("run", out, more={"steps": str(last + 1)}), 120)
    assert again.state == "done", again.error


def test_a_server_that_is_killed_ends_its_worker_and_the_run_is_interrupted(tmp_path, spec):
    places = Places(tmp_path / "other")
    jobs = Jobs(places)
    out = places.runs / "run"
    jobs.submit("run", out, spec=spec.replace(steps=400).plain())
    watcher = Watcher(jobs)
    wait_for(lambda: watcher.look(out), lambda found: len(found.steps) > 2)
    worker = jobs._worker
    jobs._closed = True  # as kill -9 leaves it: the queue is not written any more, and the pipe ends
    worker.stdin.close()
    assert worker.wait(60) == 0
    assert RunFolder(out).read("status.json")["state"] == "interrupted"
    jobs.close()
    second = Jobs(places)
    try:
        assert second.find(out) is not None  # it goes on by itself
        step = RunFolder(out).read("status.json")["step"]
        wait_for(lambda: Watcher(second).look(out), lambda found: len(found.steps) > step + 2)
    finally:
        second.close()
    assert RunFolder(out).read("status.json")["state"] == "interrupted"


def test_looks_are_drawn_and_follow_the_answers(places, jobs, spec):
    session = Session(places.runs / "looks", spec, count=4).look()
    session.write()
    job = jobs.wait(jobs.submit("look", session.path), 120)
    assert job.state == "done", job.error
    assert all(session.image(0, row).exists() for row in range(4)) and not session.image(0, 4).exists()
    session = session.answer([0, 1, 0, 0]).look()
    session.write()
    jobs.wait(jobs.submit("look", session.path), 120)
    assert session.image(1, 4).exists()  # the center
    noise = read_tensors(session.path / "looks/001.safetensors")[0]["noise"]
    first = read_tensors(session.path / "looks/000.safetensors")[0]["noise"]
    center, liked = noise[4].flatten(), first[1].flatten()
    assert torch.nn.functional.cosine_similarity(center, liked, dim=0) > 0.5
    out = places.runs / "from-looks"
    start = f"{session.path}/looks/001.safetensors:4"
    values = {**spec.replace(method=None, steps=0).plain(), "start": start}
    assert jobs.wait(jobs.submit("run", out, spec=values), 120).state == "done"
    assert (out / "initial/00.png").exists() and (out / "inputs/start.safetensors").exists()


def test_renders_and_scores(places, jobs, spec):
    out = places.runs / "a-run"
    job = jobs.submit("render", out / "render" / "x", run=str(out), changes={}, seeds=1)
    assert jobs.wait(job, 120).state == "done", job.error
    assert len(job.result["files"]) == 2 and all(os.path.exists(file) for file in job.result["files"])
    images = [str(out / "best/00.png"), str(out / "initial/00.png")]
    job = jobs.wait(jobs.submit("score", places.own, rewards=["brightness", "contrast"], images=images), 120)
    assert job.state == "done", job.error
    recorded = RunFolder(out).read("status.json")["best"][0]
    assert job.result["brightness"][0] == pytest.approx(recorded, abs=0.01) and len(job.result["contrast"]) == 2


def test_what_cannot_be_done_is_one_line(places, jobs, spec):
    job = jobs.wait(jobs.submit("run", places.runs / "bad", spec=spec.replace(reward=("clpi",)).plain()), 120)
    assert job.state == "failed" and job.error.startswith("unknown reward 'clpi'; did you mean 'clip'")
    assert not (places.runs / "bad").exists() and Watcher(jobs).look(places.runs / "bad").error == job.error
    job = jobs.wait(
        jobs.submit("command", places.runs / "x", arguments=["batch", "nowhere", "--reward", "contrast", "--out", "x"]),
        120,
    )
    assert job.state == "failed" and "unknown prompt file or set 'nowhere'" in job.error
