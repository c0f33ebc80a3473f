import os
import re
import shutil
import signal
import sys
import tempfile

import pytest
import torch

torch.set_num_threads(1)
os.environ["NOISEWARD_CACHE"] = tempfile.mkdtemp(prefix="noiseward-")  # here: for doctests and processes, too


def pytest_unconfigure():
    shutil.rmtree(os.environ["NOISEWARD_CACHE"], ignore_errors=True)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The path of a saved pipeline folder: the tiny Stable Diffusion."""
    from tests.tiny import stable_diffusion

    path = tmp_path_factory.mktemp("model")
    stable_diffusion().save_pretrained(path)
    return str(path)


@pytest.fixture(scope="module")
def whole(spec, tmp_path_factory):
    """The directory of the run that a module's own fixture `spec` asks for, never disturbed."""
    from noiseward.runs import execute

    folder = tmp_path_factory.mktemp("whole") / "run"
    execute(spec, folder, quiet=True)
    return folder


@pytest.fixture
def ctrl_c():
    """A function that presses Ctrl-C; tests may have been started in the background, where it is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield lambda: signal.raise_signal(signal.SIGINT)
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def small(model):
    """Options that make the command line use the tiny pipeline."""
    from tests.tiny import CALL

    sizes = [part for name, value in CALL.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    return ["--model", model, *sizes]


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Run a command in an empty folder; gives exit status, output and errors, without the first sign of life."""
    from noiseward import cli

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def command(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["noiseward", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, re.sub(r"\Aloading .*\n", "", captured.err)

    return command
