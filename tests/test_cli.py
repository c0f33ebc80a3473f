"""The command line, as a person uses it: images on disk, one line when something is wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from noiseward.runs import RunFolder
from noiseward.samplers.cost import NFE


def test_align_raises_the_reward_and_says_where_the_images_are(run, small, tmp_path):
    status, out, err = run("align", "a", "b", "--reward", "brightness", "--steps", "4", *small)
    assert status == 0, err
    folder = tmp_path / "runs" / "a-brightness"
    steps = RunFolder(folder).steps()
    assert len(steps) == 5
    assert min(after - before for before, after in zip(steps[0]["reward"], steps[-1]["reward"], strict=True)) > 0
    for name in ("initial", "best", "strip.png", "plot.png"):
        assert (folder / name).exists()
        assert str(folder.relative_to(tmp_path) / name) in out
    assert f"{steps[-1]['reward'][0]:.4g}" in out
    assert "step 4" in err
    cost = NFE(**steps[-1]["nfe"]).cost
    assert f"NFE {cost} " in err and f"NFE {cost} per row: " in out


def test_the_spec_mirrors_the_options(run, small, tmp_path):
    status, _, err = run(
        "align", "a", "--reward", "brightness:2", "--reward", "contrast", "--nfe", "60", "--seed", "9", "--batch", "2",
        "--method", "dno:lr=0.02,guard=concentration:target=0.1,project=norm",
        "--eta", "0.5", "--set", "guidance_rescale=0.3", "--out", "here", "-q", *small,
    )  # fmt: skip
    assert status == 0, err
    spec = json.loads((tmp_path / "here/spec.json").read_text())
    assert (spec["reward"], spec["nfe"], spec["seed"], spec["batch"]) == (["brightness:2", "contrast"], 60, 9, 2)
    assert spec["method"] == "dno:lr=0.02,project=norm,guard=concentration:min_probability=0.1"
    assert (spec["eta"], spec["call"]) == (0.5, {"guidance_rescale": 0.3})


def test_noise_that_no_longer_looks_like_noise_is_marked_with_advice(run, small):
    status, out, err = run(
        "align", "a", "b", "--reward", "brightness", "--steps", "8", "--method", "dno:lr=0.5,guard=none", *small
    )
    assert status == 0, err
    told = json.loads(Path("runs/a-brightness/status.json").read_text())
    for row in (0, 1):
        assert told["strict"][row] < 1e-3
        assert f"row {row}: strict P(z) {told['strict'][row]:.1g} ({told['suspect'][row]}): the noise drifted" in out
    status, out, err = run("align", "a", "--reward", "brightness", "--steps", "1", "--method", "dno:lr=0.001", *small)
    assert status == 0 and "strict" not in out, err


def test_show_and_list_tell_what_happened(run, small):
    run("align", "a", "--reward", "brightness", "--steps", "2", "-q", *small)
    status, out, _ = run("show", "runs/a-brightness")
    assert status == 0
    steps = RunFolder(Path("runs/a-brightness")).steps()
    assert f"{steps[0]['reward'][0]:.4g}" in out and f"{steps[-1]['reward'][0]:.4g}" in out
    status, out, _ = run("list")
    assert status == 0
    assert "a-brightness" in out and "done" in out


@pytest.mark.filterwarnings("default")
def test_a_word_the_built_in_model_does_not_know_is_one_line_not_an_error(run):
    status, out, err = run("align", "a dukc", "--reward", "brightness", "--steps", "0", "--num-inference-steps", "2")
    assert status == 0 and "without effect on the image, left alone: denoising step 2\n" in out, err
    assert "noiseward: stickers does not know 'dukc'; did you mean 'duck'? 'noiseward models stickers' lists" in err
    assert "Warning" not in err


def test_resume_continues_with_a_run(run, small):
    run("align", "a", "--reward", "brightness", "--steps", "1", "-q", *small)
    status, out, err = run("resume", "runs/a-brightness", "--steps", "+2")
    assert status == 0, err
    assert [step["index"] for step in RunFolder(Path("runs/a-brightness")).steps()] == [0, 1, 2, 3]
    assert "4 evaluations" in out and "runs/a-brightness/strip.png" in out
    assert run("resume", "runs/a-brightness", "--steps", "+1", "-q")[1] == "runs/a-brightness\n"
    status, _, err = run("resume", "nowhere")
    assert (
        status == 1
        and err == "noiseward: nowhere is not a run directory, it has no spec.json; 'noiseward list' shows runs\n"
    )


def test_a_reward_from_a_file(run, small, tmp_path):
    (tmp_path / "mine.py").write_text("def redness(images):\n    return images[:, 0].mean((1, 2))\n")
    status, out, err = run("align", "a", "--reward", "mine.py:redness", "--steps", "2", *small)
    assert status == 0, err
    assert "runs/a-redness/best" in out


def test_rewards_and_models_and_version_are_listed(run):
    status, out, _ = run("rewards")
    assert status == 0
    assert all(name in out for name in ("brightness", "darkness", "contrast", "jpeg", "black box"))
    status, out, _ = run("models")
    assert status == 0 and "stickers" in out
    status, out, _ = run("--version")
    assert status == 0 and out.startswith("noiseward ")


def test_doctor_examines_a_model(run, model):
    status, out, _ = run("doctor", "--model", model, "--num-inference-steps", "3")
    assert status == 0, out
    assert "4 draws are seen and replayed (1 start, 3 step)" in out and "finite difference" in out
    assert "seed 0 gives the pipeline's own image" in out and "MB per call" in out and "FAIL" not in out
    assert "verdict: fit for noise optimization" in out


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        (["--reward", "shine"], 2, "unknown reward 'shine'; available: brightness"),
        (["--reward", "brightnes"], 2, "did you mean 'brightness'"),
        (
            ["--reward", "jpeg", "--method", "dno:estimator=backprop"],
            1,
            "'jpeg' is a black box, it has no gradient to follow: take",
        ),
        (["--reward", "jpeg", "--method", "dno:estimator=hybrid"], 2, "did you mean 'hybrid2' or 'hybrid1'?"),
        (
            ["--reward", "jpeg", "--method", "dno:estimator=hybrid2:sample=3"],
            2,
            "no argument 'sample'; did you mean 'samples'",
        ),
        (
            ["--reward", "jpeg", "--method", "dno:estimator=hybrid2:samples=0"],
            2,
            "samples must be a whole number >= 1, got 0",
        ),
        (["--reward", "jpeg", "--method", "best"], 2, "unknown method 'best'; did you mean 'best-of-n'?"),
        (["--reward", "jpeg", "--search", "best-of-n"], 2, "--search is the method now; use --method best-of-n"),
        (["--reward", "jpeg", "--lr=0.1"], 2, "--lr is an argument of the method now; use --method dno:lr=0.1"),
        (["--reward", "brightness", "--set", "colour=red"], 2, "no argument 'colour'"),
        (["--reward", "brightness", "--set", "colour"], 2, "--set must be KEY=VALUE"),
        (["--reward", "brightness", "--steps", "-1"], 2, "--steps must be >= 0, got '-1'"),
        (["--reward", "brightness", "--seconds", "-1"], 2, "--seconds must be >= 0, got '-1'"),
        (["--reward", "brightness", "--batch", "0"], 2, "--batch must be >= 1, got '0'"),
        (["--reward", "brightness", "--height", "12"], 1, "refuses this call: `height` and `width`"),
        (["--reward", "brightness", "--steps", "few"], 2, "--steps must be an integer, got 'few'"),
        (["--reward", "brightness", "--seconds", "nan"], 2, "--seconds must be finite, got 'nan'"),
        (["--reward", "brightness", "--stop-when", "bored"], 2, "--stop-when must be one of 'plateau', 'hacked', got"),
        (["--reward", "brightness", "--eta", "2"], 2, "--eta must be <= 1, got '2'"),
        (
            ["--reward", "brightness", "--eta", "1", "--scheduler", "euler"],
            2,
            "eta is for the schedulers ddim and tcd, got",
        ),
        (["--reward", "brightness", "--seed", "9" * 20], 2, "--seed must be <= 9223372036854775807, got"),
        (["--reward", "brightness", "--method", "dno:lr=0"], 2, "method 'dno': lr must be > 0, got '0'"),
        (
            ["--reward", "brightness", "--memory", "huge"],
            2,
            "--memory must be one of 'auto', 'fast', 'balanced', 'low', got 'huge'",
        ),
        ([], 2, "--reward is missing"),
    ],
)
def test_bad_options_are_one_line_and_leave_nothing(run, small, tmp_path, options, code, says):
    status, _, err = run("align", "a", *small, *options)
    assert status == code
    assert says in err
    assert "Traceback" not in err
    assert len(err.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_an_empty_prompt_is_a_usage_error(run, small, tmp_path):
    status, _, err = run("align", " ", "--reward", "brightness", *small)
    assert status == 2 and "PROMPT must not be empty" in err
    assert not list(tmp_path.iterdir())


def test_a_reward_without_a_gradient_is_searched_and_a_line_names_the_method(run, small, tmp_path):
    status, out, err = run("align", "a", "--reward", "jpeg", "--steps", "1", "--out", "here", *small)
    assert status == 0, err
    assert any(line.startswith("auto: trust regions around the best of 9 noises") for line in err.splitlines())
    steps = RunFolder(tmp_path / "here").steps()
    assert steps[0]["nfe"]["backward"] == 0 and steps[0]["nfe"]["forward"] >= 4 * 10  # of 4 sampler steps, and tests
    options = (
        "--method",
        "dno:estimator=zeroth-order:samples=4,antithetic=true,guard=none",
        "--steps",
        "1",
        "-q",
        "--out",
        "there",
    )
    assert run("align", "a", "--reward", "jpeg", *options, *small)[0] == 0
    assert RunFolder(tmp_path / "there").steps()[0]["nfe"]["forward"] == 4 * 5
    assert RunFolder(tmp_path / "there").read("spec.json")["method"] == options[1].replace("dno:", "dno:lr=0.01,")


def test_a_search_is_run_by_name(run, small, tmp_path):
    options = ("--method", "trust-region:samples=4,regions=2", "--steps", "2", "-q", "--out", "here")
    status, _, err = run("align", "a", "--reward", "jpeg", *options, *small)
    assert status == 0, err
    steps = RunFolder(tmp_path / "here").steps()
    assert [step["grad_norm"] for step in steps] == [None] * 3
    assert steps[2]["reward"][0] >= steps[1]["reward"][0] >= steps[0]["reward"][0]
    status, out, _ = run("show", "here")
    assert status == 0 and "method trust-region" in out


def test_a_zero_direction_is_reported_at_the_end(run, small, tmp_path):
    (tmp_path / "mine.py").write_text(
        "from noiseward import FunctionReward\nflat = FunctionReward(lambda x: [1.0] * len(x), False, name='flat')\n"
    )
    options = ("--method", "dno:estimator=hybrid2:samples=2", "--steps", "2", "--out", "here")
    status, out, err = run("align", "a", "--reward", "mine.py:flat", *options, *small)
    assert status == 0, err
    assert "row 0: the gradient was zero at 2 of 2 steps, so the noise did not change" in out


def test_a_reward_is_served_to_another_process_until_ctrl_c(run, small, tmp_path):
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # whatever started the tests
    command = [sys.executable, "-c", code + "from noiseward.cli import main; main()", "serve-reward", "darkness"]
    process = subprocess.Popen([*command, "--port", "0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        url = line.split(" at ")[1].split()[0]
        assert line.startswith("serving 'darkness' at http://127.0.0.1:")
        options = ("--steps", "1", "-q", "--out", "here", "--method", "dno:estimator=hybrid2:samples=3")
        status, _, err = run("align", "a", "b", "--reward", url, *options, *small)
        assert status == 0, err
        served = RunFolder(tmp_path / "here").steps()[0]["reward"]
        assert run("align", "a", "b", "--reward", "darkness", "--steps", "0", "-q", "--out", "local", *small)[0] == 0
        assert served == pytest.approx(RunFolder(tmp_path / "local").steps()[0]["reward"], abs=0.5 / 255)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out, err) == (0, "ended\n", "")
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def test_an_address_that_is_none_is_refused(run, small):
    status, _, err = run("align", "a", "--reward", "http://", *small)
    assert status == 2 and "expected the address of a reward server" in err


@pytest.mark.parametrize(("name", "says"), [("nowhere", "no folder here, no short name"), (".", "no model_index.json")])
def test_a_model_that_is_none(run, tmp_path, name, says):
    status, _, err = run("align", "a", "--reward", "brightness", "--model", name)
    assert (status, len(err.strip().splitlines())) == (1, 1)
    assert says in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("return images.mean()", "must return shape (1,) for 1 rows"),
        ("return images.mean((1, 2, 3)) * float('nan')", "got nan for every row"),
        ("raise ValueError('no')", "raised ValueError: no"),
        ("return images.detach().mean((1, 2, 3))", "without a gradient"),
        ("return 'good'", "must return one number per row, 1 here, got str"),
    ],
)
def test_rewards_that_misbehave(run, small, tmp_path, body, says):
    (tmp_path / "mine.py").write_text(f"def mine(images):\n    {body}\n")
    status, _, err = run("align", "a", "--reward", "mine.py:mine", "--quiet", *small)
    assert (status, len(err.strip().splitlines())) == (1, 1)
    assert says in err
    assert not (tmp_path / "runs").exists()


def test_an_output_that_holds_a_run_or_cannot_be_written(run, small, tmp_path):
    run("align", "a", "--reward", "brightness", "--steps", "0", "-q", "--out", "here", *small)
    status, _, err = run("align", "a", "--reward", "brightness", "--out", "here", *small)
    assert status == 1 and "holds a run already" in err
    (tmp_path / "file").write_text("")
    status, _, err = run("align", "a", "--reward", "brightness", "--out", "file/run", *small)
    assert status == 1 and "not writable" in err
    status, _, err = run("show", "nowhere")
    assert status == 1 and "not a run directory" in err


def test_ctrl_c_ends_cleanly_with_the_best_so_far_saved(small, tmp_path):
    command = [sys.executable, "-c", "from noiseward.cli import main; main()", "align", "a", "--reward", "brightness"]
    process = subprocess.Popen(
        [*command, "--steps", "100000", "--method", "best-of-n", "--out", "here", *small], cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    log = tmp_path / "here/steps.jsonl"
    while process.poll() is None and not (log.exists() and log.read_text().count("\n") > 3):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err and err.endswith("interrupted; continue with: noiseward resume here\n")
    folder = RunFolder(tmp_path / "here")
    assert folder.read("status.json")["state"] == "interrupted"
    assert "\ninterrupted: the best so far was kept\n" in out
    assert max(step["reward"][0] for step in folder.steps()) == folder.read("status.json")["best"][0]
    assert (tmp_path / "here/best/00.png").exists() and (tmp_path / "here/strip.png").exists()


def test_the_command_line_takes_few_steps_first(run, small, tmp_path):
    status, _, err = run("align", "a", "--reward", "brightness", "--method", "dno:coarse=3", "--out", "out", *small)
    assert status == 2 and "must be among" in err and not (tmp_path / "out").exists()
