"""The studio without a browser: who may see what, the queue, the gallery, forms, and what a page is told."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from pathlib import Path

import pytest

LOOPS, make_loop = [], asyncio.new_event_loop  # Gradio makes event loops where none runs, and leaves them behind
asyncio.new_event_loop = lambda: LOOPS.append(make_loop()) or LOOPS[-1]
pytest.importorskip("gradio", reason="the studio needs the extra 'studio'")

from PIL import Image  # noqa: E402

from noiseward.errors import ArgumentError, RunError  # noqa: E402
from noiseward.options.run import RunSpec  # noqa: E402
from noiseward.runs import execute  # noqa: E402
from noiseward.studio.app import Guard, find_file, serve  # noqa: E402
from noiseward.studio.desk import Desk  # noqa: E402
from noiseward.studio.draw import draw_card, draw_plot, draw_run, draw_table  # noqa: E402
from noiseward.studio.forms import Form  # noqa: E402
from noiseward.studio.gallery import Gallery  # noqa: E402
from noiseward.studio.jobs import Jobs  # noqa: E402
from noiseward.studio.live import Reader  # noqa: E402
from noiseward.studio.places import Places  # noqa: E402
from noiseward.studio.rewards_tab import find_function  # noqa: E402
from noiseward.studio.session import Session  # noqa: E402
from tests.tiny import CALL  # noqa: E402

WORKER = """
import json, sys, time
for line in sys.stdin:
    request = json.loads(line)
    if "stop" in request:
        continue
    kind = request["kind"]
    if kind == "die":
        sys.exit(3)
    time.sleep(request.get("seconds", 0))
    state = request.get("state", "done")
    print(json.dumps({"id": request["id"], "event": "begun"}), flush=True)
    ended = {"id": request["id"], "event": "ended", "state": state, "error": None, "result": kind}
    print(json.dumps(ended), flush=True)
"""


@pytest.fixture(scope="module", autouse=True)
def loops():
    """Close the event loops that were left behind."""
    yield
    asyncio.new_event_loop = make_loop
    for loop in LOOPS:
        loop.close()
    asyncio.set_event_loop(None)


@pytest.fixture
def places(tmp_path):
    (tmp_path / "runs").mkdir()
    return Places(tmp_path / "runs")


@pytest.fixture
def jobs(places):
    jobs = Jobs(places, (sys.executable, "-c", WORKER))
    yield jobs
    jobs.close()


@pytest.fixture(scope="module")
def finished(model, tmp_path_factory):
    """A run that has ended."""
    path = tmp_path_factory.mktemp("finished") / "a-run"
    execute(RunSpec(model=model, prompt="a <b>", reward="brightness", steps=3, batch=2, call=CALL), path, quiet=True)
    return path


def test_jobs_are_done_in_order_by_one_worker(jobs, places):
    first = jobs.submit("run", places.runs / "a", seconds=0.5)
    second = jobs.submit("run", places.runs / "b")
    assert [job.out.name for job in jobs.list_open()] == ["a", "b"]
    assert jobs.wait(second, 20).state == "done" and first.state == "done" and second.result == "run"
    assert jobs.list_open() == [] and json.loads((places.own / "jobs.json").read_text()) == {"jobs": []}


def test_a_worker_that_dies_fails_its_job_and_the_next_gets_another(jobs, places):
    dead = jobs.wait(jobs.submit("die", places.runs / "a"), 20)
    assert dead.state == "failed" and "the worker ended (status 3), perhaps for lack of memory" in dead.error
    assert jobs.wait(jobs.submit("run", places.runs / "b"), 20).state == "done"


def test_a_job_that_waits_can_be_taken_back_or_paused(jobs, places):
    running = jobs.submit("run", places.runs / "a", seconds=1)
    waiting, paused = jobs.submit("run", places.runs / "b"), jobs.submit("run", places.runs / "c")
    jobs.stop(waiting.out)
    jobs.stop(paused.out, pause=True)
    assert (waiting.state, paused.state) == ("interrupted", "paused")
    assert jobs.wait(running, 20).state == "done" and jobs.list_open() == []


def test_the_next_server_does_what_the_last_one_left(places):
    first = Jobs(places, (sys.executable, "-c", WORKER))
    job = first.submit("run", places.runs / "a", seconds=60, spec={"prompt": ["a"]})
    first.submit("run", places.runs / "b")
    while job.state != "running" or first._worker is None:
        time.sleep(0.02)
    left = json.loads((places.own / "jobs.json").read_text())["jobs"]
    first._closed = True  # the server is killed, and the worker with it: nothing is written any more
    first._worker.kill()
    second = Jobs(places, (sys.executable, "-c", WORKER.replace('request.get("seconds", 0)', "0")))
    (places.own / "jobs.json").write_text(json.dumps({"jobs": left}))
    try:
        restored = [second.find(places.runs / name) for name in "ab"]
        assert all(one is not None for one in restored)
        assert [second.wait(one, 20).state for one in restored] == ["done", "done"]
        assert restored[0].request["spec"] == {"prompt": ["a"]} and restored[0].attempts == 2
    finally:
        second.close()


def test_a_job_that_killed_two_servers_is_left_alone(places):
    places.own.mkdir()
    one = {"kind": "run", "out": str(places.runs / "a"), "request": {}, "attempts": 2}
    (places.own / "jobs.json").write_text(json.dumps({"jobs": [one]}))
    jobs = Jobs(places, (sys.executable, "-c", WORKER))
    assert jobs.find(places.runs / "a") is None
    jobs.close()


@pytest.mark.parametrize(
    ("path", "seen"),
    [
        ("a/best/00.png", True), ("a/report.html", True), (".studio/live/a/now-00.png", True),
        (".studio/worker.log", False), (".studio/jobs.json", False), (".studio/rewards/f.py", False),
        ("../secret.png", False), ("a/../../secret.png", False), ("/etc/passwd", False), ("a/link.png", False),
        ("a/spec.json", False), (".studio/trash/1/b/00.png", False), ("a", False), ("a/\0.png", False),
    ],
)  # fmt: skip
def test_only_images_pages_and_tables_of_the_folder_are_served(places, tmp_path, path, seen):
    for name in ("a/best/00.png", "a/report.html", "a/spec.json", ".studio/worker.log", ".studio/jobs.json",
                 ".studio/rewards/f.py", ".studio/live/a/now-00.png", ".studio/trash/1/b/00.png"):  # fmt: skip
        file = places.runs / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("x")
    (tmp_path / "secret.png").write_text("x")
    (places.runs / "a/link.png").symlink_to(tmp_path / "secret.png")
    assert (find_file(places, path) is not None) == seen


def call(guard, *, host="127.0.0.1:7860", query="", cookie="", bearer=""):
    """The status that a request gets, and its headers."""
    headers = [(b"host", host.encode()), (b"cookie", cookie.encode())]
    headers += [(b"authorization", f"Bearer {bearer}".encode())] if bearer else []
    scope = {"type": "http", "method": "GET", "path": "/", "query_string": query.encode(), "headers": headers}
    sent = []

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        sent.append(message)

    asyncio.run(guard(scope, receive, send))
    return sent[0]["status"], dict(sent[0]["headers"])


async def page(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"in"})


def test_a_local_page_answers_to_local_names_alone():
    guard = Guard(page)
    assert call(guard)[0] == call(guard, host="localhost:1")[0] == call(guard, host="[::1]:1")[0] == 200
    assert call(guard, host="evil.example:7860")[0] == call(guard, host="")[0] == 403


def test_a_page_for_others_needs_its_token_once():
    guard = Guard(page, "secret")
    assert call(guard, host="box:1")[0] == call(guard, query="token=wrong")[0] == call(guard, cookie="a=b")[0] == 401
    status, headers = call(guard, query="token=secret")
    assert status == 303 and headers[b"location"] == b"/" and b"HttpOnly" in headers[b"set-cookie"]
    assert call(guard, cookie="x=1; noiseward_token=secret")[0] == call(guard, bearer="secret")[0] == 200


def test_beyond_this_machine_no_files_are_named_and_no_code_is_written(places, jobs):
    desk = Desk(places, jobs, allow_code=True, is_local=False)
    assert not desk.allow_code and Desk(places, jobs, allow_code=True).allow_code
    for values in ({"reward": "/tmp/x.py:f"}, {"reward": "x.py:f"}, {"model": "../m"}, {"method": "m.py:M"},
                   {"lora": "~/l.safetensors"}, {"watch": ("./w.py:f",)},
                   {"reward": "clip:model=/elsewhere/clip"}, {"reward": "http://127.0.0.1:1,file=~/x"}):  # fmt: skip
        with pytest.raises(ArgumentError, match="names a file of the server"):
            desk.read_spec({"prompt": "a", "reward": "brightness", **values})
    for values in (
        {"start": "/elsewhere/x.safetensors"},
        {"image": "/elsewhere/x.png"},
        {"call": {"image": "../x.png"}},
        {"start": f"{places.runs}/../x"},
    ):
        with pytest.raises(ArgumentError, match="is not among the runs, and was not uploaded"):
            desk.read_spec({"prompt": "a", "reward": "brightness", **values})
    assert desk.read_spec({"reward": "brightness", "start": f"{places.runs}/a@3"}).start
    assert desk.read_spec({"prompt": "a", "reward": ("brightness", "http://127.0.0.1:1")}).reward[0] == "brightness"
    with pytest.raises(ArgumentError, match="needs a token; set NOISEWARD_TOKEN"):
        serve(places.runs, host="0.0.0.0")
    with pytest.raises(ArgumentError, match="--allow-code runs what is written in the page"):
        serve(places.runs, host="0.0.0.0", token="x", allow_code=True)


def test_what_there_is_not_is_refused_before_it_is_queued(places, jobs):
    desk = Desk(places, jobs)
    with pytest.raises(ArgumentError, match="unknown reward 'clpi'; did you mean 'clip'"):
        desk.begin(RunSpec(prompt="a", reward="clpi"))
    first, second = (desk.begin(RunSpec(prompt="a", reward="brightness")) for _ in range(2))
    assert (first.name, second.name) == ("a-brightness", "a-brightness-2")  # though neither is there yet


def test_one_studio_per_folder_and_one_per_port(places, tmp_path):
    import socket

    from noiseward.runs.files import lock

    places.own.mkdir()
    with lock(places.own), pytest.raises(RunError, match="another studio serves"):
        serve(places.runs)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ArgumentError, match="cannot listen on 127.0.0.1 port"):
            serve(tmp_path / "other", port=taken.getsockname()[1])


def test_a_form_has_a_field_for_every_option_and_leaves_out_what_is_empty():
    import gradio as gr

    form = Form(RunSpec, [name for name in RunSpec.names() if name not in ("prompt", "reward")])
    with gr.Blocks(analytics_enabled=False):
        form.show()
    assert len(form.components) == len(RunSpec.names()) - 2
    empty = [field.value for field in form.components]
    assert form.read(empty) == {}
    assert form.fields["stop_when"].multiselect and isinstance(form.fields["image"], gr.Image)
    assert [value for _, value in form.fields["memory"].choices] == ["", "auto", "fast", "balanced", "low"]
    given = {"steps": " 3 ", "eta": "0.5", "call": "clip_skip=1\nname=x", "watch": ["none"], "memory": "low"}
    values = [given.get(name, value) for name, value in zip(form.names, empty, strict=True)]
    spec = RunSpec.read({"reward": "brightness", **form.read(values)})
    assert (spec.steps, spec.eta, spec.call, spec.watch, spec.memory) == (
        3,
        0.5,
        {"clip_skip": 1, "name": "x"},
        (),
        "low",
    )
    values[form.names.index("call")] = "what"
    with pytest.raises(
        ArgumentError, match="Other arguments must be KEY=VALUE, as in guidance_rescale=0.7, got 'what'"
    ):
        form.read(values)


def test_a_page_is_told_what_is_on_disk_and_escapes_it(finished, places, jobs):
    target = places.runs / "a-run"
    os.rename(finished, target) if not target.exists() else None
    found = Reader(target).read(None)
    assert found.state == "done" and found.rows == 2 and len(found.steps) == 4 and found.frames[0] == 0
    assert (
        found.best(0)[0] == max(step["reward"][0] for step in found.steps)
        or found.status["found"][0] == found.best(0)[1]
    )
    page = draw_run(found, places)
    assert "a &lt;b&gt;, seed 1" in page and "<b>, seed" not in page and page.count("<figure>") == 4
    assert 'src="files/a-run/initial/00.png?v=start"' in page
    os.rename(target, finished)


def test_a_reader_reads_what_is_new_and_starts_over_where_a_file_was_replaced(tmp_path):
    lines = [json.dumps({"index": k, "seconds": 1.0 * k, "reward": [k], "found": [k], "probability": [0.5], "nfe": {}})
             for k in range(4)]  # fmt: skip
    log = tmp_path / "steps.jsonl"
    (tmp_path / "status.json").write_text('{"state": "done"}')
    reader = Reader(tmp_path)
    log.write_text("\n".join(lines[:2]) + "\n" + lines[2][:5])
    first = reader.read(None)
    assert len(first.steps) == 2 and reader.read(None) is first
    log.write_text("\n".join(lines[:3]) + "\n")
    assert len(reader.read(None).steps) == 3
    (tmp_path / "new").write_text(lines[0] + "\n")
    os.replace(tmp_path / "new", log)
    assert len(reader.read(None).steps) == 1


def test_a_run_whose_worker_is_gone_is_killed(finished, tmp_path):
    import shutil

    path = tmp_path / "run"
    shutil.copytree(finished, path)
    status = json.loads((path / "status.json").read_text())
    (path / "status.json").write_text(json.dumps({**status, "state": "running"}))
    found = Reader(path).read(None)
    assert found.state == "killed" and found.can_resume and not found.is_open


def test_the_gallery_finds_sorts_tags_and_gives_back(finished, places, jobs):
    import shutil

    for name in ("one", "two"):
        shutil.copytree(finished, places.runs / name)
    (places.runs / "looks").mkdir()
    Session(places.runs / "looks", RunSpec(prompt="a frog", reward="brightness")).look().write()
    (places.runs / "empty").mkdir()
    gallery = Gallery(places, jobs)
    assert {entry.path.name for entry in gallery.list()} == {"one", "two", "looks"}
    assert [entry.path.name for entry in gallery.list(sort="name")] == ["looks", "one", "two"]
    assert [entry.path.name for entry in gallery.list(text="frog")] == ["looks"]
    assert gallery.list(state="failed") == [] and len(gallery.list(state="done")) == 3
    gallery.tag(["one"], [" good ", ""])
    assert [entry.path.name for entry in gallery.list(text="good")] == ["one"]
    assert gallery.delete(["one", "looks"]) == 2
    assert [entry.path.name for entry in gallery.list()] == ["two"]
    (places.runs / "one").mkdir()
    assert sorted(gallery.restore()) == ["looks", "one-2"] and gallery.restore() == []
    for name in ("../finished", "", ".studio", "nothing"):
        with pytest.raises(ArgumentError, match="no run"):
            gallery.delete([name])
    jobs.submit("run", places.runs / "two", seconds=5)
    with pytest.raises(ArgumentError, match="stop it first"):
        gallery.delete(["two"])


def test_a_session_is_kept_answer_by_answer(places):
    session = Session(places.runs / "s", RunSpec(prompt="a", reward="brightness"), count=4).look()
    session = session.answer([1, 0, 0, 0]).look(0.5)
    session.write()
    assert Session.read(session.path) == session and session.drawn == 2
    undone = session.undo()
    assert [look.number for look in undone.looks] == [0] and undone.looks[0].scores is None
    assert undone.answer([0, 1, 0, 0]).look().looks[-1].number == 2  # a number is not used again
    assert Session(session.path, session.spec).undo().looks == ()
    with pytest.raises(ArgumentError, match="expected scores of 4 images, got 2"):
        session.answer([1, 2])
    (session.path / "session.json").write_text('{"spec": {}}')
    with pytest.raises(RunError, match="cannot be read"):
        Session.read(session.path)


def test_names_are_free_and_stay_in_the_folder(places):
    (places.runs / "a").mkdir()
    assert places.fresh("a", {"a-2"}).name == "a-3" and places.fresh("b", set()).name == "b"
    for name in ("../a", "a/b", "", ".studio"):
        with pytest.raises(ArgumentError, match="no run"):
            places.find(name)


def test_html_is_escaped_and_plots_hold_what_is_not_finite(tmp_path):
    image = tmp_path / "<i>.png"
    Image.new("RGB", (8, 8)).save(image)
    table = draw_table(["<a>", "x"], [[image, 0.123456], ["<script>", None]])
    assert "<script>" not in table and "&lt;script&gt;" in table and "0.123" in table and "data:image/png" in table
    assert "<x>" not in draw_card("<x>", None, ["<x>"], tags=["<x>"])
    plot = draw_plot("<t>", [0, 1, 2], {"<n>": [1.0, None, float("nan")], "m": [0.0, 1.0, 2.0]})
    assert "<t>" not in plot and "<n>" not in plot and plot.count("<polyline") == 1 and plot.count("<circle") == 1
    assert draw_plot("t", [0], {"n": [None]}) == ""


def test_the_last_function_of_some_code_is_the_reward():
    assert find_function("def helper(x):\n    return x\n\ndef light(images):\n    return helper(images)") == "light"
    with pytest.raises(ArgumentError, match="expected a function of images"):
        find_function("x = 1")
    with pytest.raises(ArgumentError, match="line 1: "):
        find_function("def (")


def test_the_server_needs_no_torch():
    import subprocess

    code = "import sys; import noiseward.studio.app; print('torch' in sys.modules)"
    source = str(Path(__file__).parents[1] / "src")
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": source}
    )
    assert done.stdout.strip() == "False", done.stderr
