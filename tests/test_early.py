"""What a command says before it loads anything: what is wrong with names and paths, and where the run goes."""

from __future__ import annotations

import pytest

from tests.test_scripting import call


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--reward", "nope"], "unknown reward 'nope'; available: brightness"),
        (["--reward", "rgb.png"], "expected a reward, got the file 'rgb.png'; give a name"),
        (["--reward", "mine.py"], "or mine.py:function"),
        (["--reward", "nope.py:score"], "nope.py is no file: give a reward of your own as path/to/file.py:name"),
        (["--reward", "brightness", "--watch", "clpi"], "unknown reward 'clpi'; did you mean 'clip'"),
        (["--reward", "brightness", "--require", "clpi>=0.2"], "unknown reward 'clpi'"),
        (["--reward", "brightness", "--method", "dnoo"], "unknown method 'dnoo'; did you mean 'dno'"),
        (["--reward", "brightness", "--method", "dno:rate=1"], "method 'dno' has no argument 'rate'"),
        (["--reward", "brightness", "--method", "nope.py:Walk"], "nope.py is no file: give a method of your own"),
        (["--reward", "brightness", "--model", "nope.py:make"], "nope.py is no file: give a model of your own"),
        (["--reward", "brightness", "--image", "nope.png"], "--image must be the path of an image, got 'nope.png'"),
        (["--reward", "brightness", "--start", "nope"], "start: expected a run directory or a .safetensors file"),
    ],
)
def test_wrong_names_and_paths_are_named_before_anything_is_loaded(tmp_path, options, says):
    (tmp_path / "rgb.png").touch()
    loaded = "import sys; print('torch' in sys.modules, file=sys.stderr)"
    done = call("align", "a duck", *options, folder=tmp_path, code=loaded)
    message, torch = done.stderr.splitlines()
    assert done.returncode == 2 and message.startswith("noiseward: ") and says in message
    assert torch == "False" and [path.name for path in tmp_path.iterdir()] == ["rgb.png"]


@pytest.mark.parametrize("command", [["batch", "simple-animals"], ["compare", "--prompts", "a duck"]])
def test_batch_and_compare_check_names_first_too(tmp_path, command):
    loaded = "import sys; print('torch' in sys.modules, file=sys.stderr)"
    done = call(*command, "--reward", "clpi", "--out", "out", folder=tmp_path, code=loaded)
    message, torch = done.stderr.splitlines()
    assert done.returncode == 2 and "unknown reward 'clpi'" in message and torch == "False"


def test_the_first_line_says_where_the_run_goes(small, tmp_path):
    options = ("--reward", "brightness", "--steps", "0", *small)
    for name in ("a-brightness", "a-brightness-2"):
        done = call("align", "a", *options, folder=tmp_path)
        assert done.stderr.splitlines()[0].endswith(f" and brightness, into runs/{name} ...")
        assert (tmp_path / "runs" / name / "spec.json").exists()
    done = call("align", "a", *options, "--out", f"runs/{name}", folder=tmp_path)
    assert done.returncode == 1 and "loading" not in done.stderr and "holds a run already" in done.stderr
