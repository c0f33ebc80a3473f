"""Processes that end: with the status that is true, at once, whatever a reward leaves behind, and by signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from noiseward.runs import RunFolder

REWARDS = """
import multiprocessing, os, signal, subprocess, sys, threading, time
from concurrent.futures import ThreadPoolExecutor

def hard(x): os._exit(0)
def quiet(x):
    sys.stderr.close()
    os.close(2)
    raise ValueError("no")
def pool(x):
    ThreadPoolExecutor(1).submit(int)
    return x.mean((1, 2, 3))
def several(x):
    subprocess.Popen(["sleep", "100"])
    threading.Thread(target=time.sleep, args=(100,)).start()
    multiprocessing.get_context("fork").Process(target=time.sleep, args=(100,)).start()
    return x.mean((1, 2, 3))
def stubborn(x):
    ThreadPoolExecutor(1).submit(time.sleep, 100)
    subprocess.Popen([sys.executable, "-c", "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(100)"])
    time.sleep(1)
    return x.mean((1, 2, 3))
def own(x):
    subprocess.Popen(["sleep", "3"], start_new_session=True, stdout=-3, stderr=-3)
    return x.mean((1, 2, 3))
def late(x, calls=[]):
    calls.append(1)
    if len(calls) > 2: os._exit(0)
    return x.mean((1, 2, 3))
def waits(x):
    print("here", flush=True)
    time.sleep(100)
def light(x): return x.mean((1, 2, 3))
"""


@pytest.fixture
def start(small, tmp_path):
    """Start the command as a process; its reward is one of the file's."""
    (tmp_path / "mine.py").write_text(REWARDS)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "OMP_NUM_THREADS": "1"}
    started = []

    def start_run(name, *options, code=""):
        first = f"import signal; signal.signal(signal.SIGINT, signal.default_int_handler); {code}\n"
        command = [sys.executable, "-c", f"{first}from noiseward.cli import command; command()", "align", "a"]
        command += ["--reward", f"mine.py:{name}", "--steps", "1", "--out", name, "-q", *small, *options]
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen(command, cwd=tmp_path, env=environment, **streams))
        return started[-1]

    yield start_run
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def wait_for(process, seconds=60):
    out, err = process.communicate(timeout=seconds)
    assert "Traceback" not in err, err
    return process.returncode, out, err


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("hard", "noiseward: os._exit(0) was called in {folder}/mine.py, line 5: nothing after it was done"),
        ("quiet", "noiseward: reward 'quiet' raised ValueError: no"),
    ],
)
def test_a_reward_that_ends_the_process_is_a_failure_in_one_line(start, tmp_path, name, says):
    assert wait_for(start(name)) == (1, "", says.format(folder=tmp_path) + "\n")
    assert not (tmp_path / name / "spec.json").exists()  # what is left of a claimed directory counts as empty


def test_a_run_that_ended_itself_is_called_killed_and_continues(start, run, tmp_path):
    status, _, err = wait_for(start("late", "--steps", "5", "--method", "dno"))
    assert status == 1 and "os._exit(0) was called in" in err
    assert RunFolder(tmp_path / "late").read("status.json")["state"] == "running"
    assert run("show", "late")[1].startswith("late: killed\n")
    assert "killed" in run("list", ".", "--state", "killed")[1]
    assert "no matching runs" in run("list", ".", "--state", "running")[1]
    (tmp_path / "mine.py").write_text(REWARDS.replace("os._exit(0)", "pass"))
    assert run("resume", "late", "-q")[0] == 0
    assert run("show", "late")[1].startswith("late: done\n")


def test_a_run_that_runs_is_called_running(run, small, tmp_path):
    from noiseward.runs.files import lock

    assert run("align", "a", "--reward", "brightness", "--steps", "0", "--out", "r", "-q", *small)[0] == 0
    from noiseward.runs.alive import find_state

    with lock(tmp_path / "r"):
        assert find_state("running", tmp_path / "r") == "running"
    assert find_state("running", tmp_path / "r") == "killed" and find_state("done", tmp_path / "r") == "done"


@pytest.mark.parametrize("name", ["pool", "several", "stubborn"])
def test_the_command_ends_whatever_is_left_behind(start, tmp_path, name):
    before = time.monotonic()
    status, out, err = wait_for(start(name))
    assert (status, out) == (0, f"{name}\n")
    assert ("left behind by a reward" in err) == (name != "pool"), err
    assert time.monotonic() - before < 50  # what is left behind takes 100 s
    assert json.loads((tmp_path / name / "status.json").read_text())["state"] == "done"


def test_a_child_in_a_session_of_its_own_is_left_alone(start):
    status, _, err = wait_for(start("own"))
    assert (status, err) == (0, "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no such device")
@pytest.mark.parametrize("buffered", [True, False])
@pytest.mark.parametrize("arguments", [["models"], ["--version"], ["schema"], ["align", "--help"]])
def test_an_output_that_cannot_be_written_is_named(arguments, buffered):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    environment["PYTHONUNBUFFERED"] = "" if buffered else "1"
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "noiseward", *arguments]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, env=environment)
    says = (
        "noiseward: standard output could not be written (No space left on device); free space, or send it elsewhere\n"
    )
    assert (done.returncode, done.stderr) == (1, says)


def test_sigterm_keeps_the_best_and_the_run_continues(start, run, tmp_path):
    process = start("light", "--steps", "100000")
    log = tmp_path / "light/steps.jsonl"
    while process.poll() is None and not (log.exists() and log.read_text().count("\n") > 2):
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert wait_for(process)[0] == 128 + signal.SIGTERM
    assert RunFolder(tmp_path / "light").read("status.json")["state"] == "interrupted"
    steps = len(RunFolder(tmp_path / "light").steps())
    assert run("resume", "light", "--steps", str(steps + 1), "-q")[0] == 0
    assert len(RunFolder(tmp_path / "light").steps()) == steps + 2


def test_nohup_is_obeyed_and_sigquit_ends_at_once(start, tmp_path):
    code = "import resource; resource.setrlimit(resource.RLIMIT_CORE, (0, 0))"  # no core dump here
    code += "; signal.signal(signal.SIGQUIT, signal.SIG_DFL); signal.signal(signal.SIGHUP, signal.SIG_IGN)"
    process = start("light", "--steps", "100000", code=code)
    log = tmp_path / "light/steps.jsonl"
    for number in (signal.SIGHUP, signal.SIGQUIT):
        count = log.read_text().count("\n") if log.exists() else 0
        while process.poll() is None and not (log.exists() and log.read_text().count("\n") > count + 2):
            time.sleep(0.05)
        process.send_signal(number)
    assert wait_for(process)[0] == -signal.SIGQUIT


def test_ctrl_c_inside_a_first_call_of_a_reward_is_130_in_one_line(start):
    process = start("waits")
    assert process.stdout.readline() == "here\n"
    process.send_signal(signal.SIGINT)
    assert wait_for(process) == (130, "", "noiseward: interrupted\n")


@pytest.mark.parametrize("becomes", ["OSError('a file is damaged')", "KeyboardInterrupt()", "None"])
def test_ctrl_c_while_a_model_loads_is_130_in_one_line(run, ctrl_c, small, monkeypatch, tmp_path, becomes):
    import diffusers

    def load(*arguments, **more):
        try:
            ctrl_c()
        except KeyboardInterrupt:
            if error := eval(becomes):  # what five libraries make of it
                raise error from None

    monkeypatch.setattr(diffusers.DiffusionPipeline, "from_pretrained", load)
    status, out, err = run("align", "a", "--reward", "brightness", *small)
    assert (status, out, err) == (130, "", "noiseward: interrupted\n")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("ignored", [False, True], ids=["", "with nohup"])
def test_a_terminal_that_is_closed_ends_a_run_that_keeps_its_best_unless_that_is_ignored(small, tmp_path, ignored):
    import pty

    (tmp_path / "mine.py").write_text(REWARDS)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "OMP_NUM_THREADS": "1"}
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(tmp_path)
        signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)  # the tests may run under nohup
        command = [sys.executable, "-c", "from noiseward.cli import command; command()", "align", "a", "--reward"]
        steps = "200" if ignored else "100000"
        os.execve(sys.executable, [*command, "mine.py:light", "--steps", steps, "--out", "r", *small], environment)
    log = tmp_path / "r/steps.jsonl"
    until = time.monotonic() + 300
    os.set_blocking(terminal, False)
    while time.monotonic() < until and not (log.exists() and log.read_text().count("\n") > 2):
        time.sleep(0.05)
        try:
            os.read(terminal, 65536)
        except BlockingIOError:
            pass
    os.close(terminal)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == (0 if ignored else 129)
    assert RunFolder(tmp_path / "r").read("status.json")["state"] == ("done" if ignored else "interrupted")
