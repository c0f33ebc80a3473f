"""What the studio says without a browser: words for states and numbers, time left, the queue, prompts, and judges."""

from __future__ import annotations

import inspect
import json
import sys

import pytest

pytest.importorskip("gradio", reason="the studio needs the extra 'studio'")

from noiseward.errors import ArgumentError
from noiseward.loop.budget import Status
from noiseward.options.run import MOST_STEPS, RunSpec
from noiseward.rewards.chat.judge import chat
from noiseward.rewards.chat.pair import chat_pair
from noiseward.rewards.names import check_reward
from noiseward.runs import execute
from noiseward.studio.forecast import forecast
from noiseward.studio.gallery import STATES as FILTERS
from noiseward.studio.jobs import Jobs
from noiseward.studio.judge_form import JudgeOptions, write_judge
from noiseward.studio.live import Snapshot, Watcher
from noiseward.studio.places import Places
from noiseward.studio.prompt_note import draw_note
from noiseward.studio.words import ENDED, STATES
from tests.tiny import CALL

WORKER = """
import json, sys, time
stopped = False
for line in sys.stdin:
    request = json.loads(line)
    if "stop" in request:
        continue
    for event in ({"event": "begun"}, {"event": "warned", "text": "careful"}, {"event": "warned", "text": "careful"}):
        print(json.dumps({"id": request["id"], **event}), flush=True)
    time.sleep(request.get("seconds", 0))
    ended = {"id": request["id"], "event": "ended", "state": "done", "error": None, "result": None}
    print(json.dumps(ended), flush=True)
"""


@pytest.fixture
def places(tmp_path):
    (tmp_path / "runs").mkdir()
    return Places(tmp_path / "runs")


@pytest.fixture
def jobs(places):
    jobs = Jobs(places, (sys.executable, "-c", WORKER))
    yield jobs
    jobs.close()


def record(index, seconds, calls):
    return {"index": index, "seconds": seconds, "nfe": {"forward": calls, "backward": 0}, "reward": [0.0],
            "probability": [0.5], "found": [0]}  # fmt: skip


def running(places, steps, **limits):
    spec = RunSpec(prompt="a", reward="brightness", **limits)
    return Snapshot(places.runs / "a", "running", spec, steps)


def test_time_left_waits_for_a_pace_and_counts_only_steps_of_the_kind_that_is_made(places):
    slow = [record(0, 3.0, 100), record(1, 40.0, 160)]  # exploring, and fresh samples to compare with
    steady = [record(2 + k, 43.0 + k, 210 + 50 * k) for k in range(3)]
    for count in range(4):
        assert running(places, [*slow, *steady][:count]).seconds_left is None
    left = running(places, [*slow, *steady]).seconds_left
    assert left == pytest.approx(26 * 1.0, rel=0.2)  # and not 26 of the mean step, which took 9 s
    assert running(places, slow, seconds=100).seconds_left == 60  # known from the start
    assert running(places, [*slow, *steady], nfe=1310).seconds_left == pytest.approx(20.0, rel=0.2)


def test_a_waiting_job_is_put_earlier_or_later_and_taken_out(jobs, places):
    first = jobs.submit("run", places.runs / "a", seconds=3)
    b, c, d = (jobs.submit("run", places.runs / name) for name in "bcd")
    while first.state != "running":
        pass
    assert jobs.move(d.id, -1) and [job.out.name for job in jobs.list_open()] == ["a", "b", "d", "c"]
    assert jobs.move(b.id, 1) and [job.out.name for job in jobs.list_open()] == ["a", "d", "b", "c"]
    assert not jobs.move(d.id, -1) and not jobs.move(c.id, 1) and not jobs.move(first.id, 1)
    kept = json.loads((places.own / "jobs.json").read_text())["jobs"]
    assert [one["out"][-1] for one in kept] == ["a", "d", "b", "c"]  # for the next server, too
    assert jobs.cancel(b.id) is b and b.state == "interrupted" and jobs.cancel(b.id) is None
    assert [job.out.name for job in jobs.list_open()] == ["a", "d", "c"]


def test_what_the_worker_warns_of_is_said_once_with_its_job(jobs, places):
    job = jobs.wait(jobs.submit("run", places.runs / "a"), 20)
    assert job.state == "done" and job.remarks == ("careful",)


def test_steps_have_a_bound_and_long_runs_are_remarked_on(places, jobs):
    with pytest.raises(ArgumentError, match=f"steps must be <= {MOST_STEPS}, got 1000000000"):
        RunSpec(prompt="a", reward="brightness", steps=10**9)
    watcher = Watcher(jobs)
    many = RunSpec(prompt="a", reward="brightness", steps=5000)
    assert forecast(many, places, watcher).startswith("5,000 steps are many.")
    assert forecast(many.replace(steps=30), places, watcher) == ""
    assert forecast(many.replace(seconds=60.0), places, watcher) == ""


def test_the_pace_of_another_run_of_the_model_says_how_long_one_takes(model, places, jobs):
    spec = RunSpec(model=model, prompt="a", reward="brightness", method="dno:guard=none", steps=5, call=CALL)
    execute(spec, places.runs / "other", quiet=True)
    watcher = Watcher(jobs)
    pace, _ = watcher.look(places.runs / "other").pace
    steps = min(MOST_STEPS, int(2000 / pace))
    assert forecast(spec.replace(steps=steps), places, watcher).startswith(f"{steps:,} steps take up to ")
    assert "at the pace of other. Stop keeps" in forecast(spec.replace(steps=steps), places, watcher)
    assert forecast(spec.replace(steps=350), places, watcher) == ""  # it is short


def test_every_state_and_ending_has_plain_words():
    assert set(ENDED) == set(Status) and {state for group in FILTERS.values() for state in group} <= {"any", *STATES}
    for text in [*ENDED.values(), *(word for word, _ in STATES.values())]:
        assert not any(word in text for word in ("NFE", "P(z)", "lr", "non-finite", "killed"))


def test_words_that_a_model_does_not_know_are_named_and_escaped():
    note = draw_note("a <b>dukc</b> zeppelin", "stickers")
    assert '<button type="button" class="nw-word" data-old="dukc" data-new="duck">duck</button>' in note
    assert "'zeppelin', and draws the rest" in note and "<b>" not in note
    assert draw_note("and", "stickers").count("nw-word") == 0  # no word is close: 'panda' is not
    assert draw_note("a dukc", "owner/name") == draw_note("", None) == ""


def test_the_form_of_a_judge_writes_a_reward_of_that_name():
    names = set(JudgeOptions.names()) - {"judge"}
    for maker in (chat, chat_pair):
        assert names <= set(inspect.signature(maker).parameters)
    text = write_judge({"model": "m", "rubric": 'a "red",\n round one', "judge": "chat-pair", "max_calls": "9"})
    assert text == "chat-pair:model=m,rubric=\"a 'red', round one\",max_calls=9"
    check_reward(text)
    for values, message in (
        ({}, "Model is missing"),
        ({"model": "a,b"}, "Model must have no commas"),
        ({"model": "m", "base_url": "localhost:1"}, "Address of the server must begin with http://"),
        ({"model": "m", "max_calls": "0"}, "Questions at most must be >= 1, got '0'"),
    ):
        with pytest.raises(ArgumentError, match=message):
            write_judge(values)
