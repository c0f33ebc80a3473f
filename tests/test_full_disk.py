"""A run on a disk that is really full: one line, everything readable, and it continues when there is room again.

Needs the right to mount a small file system in memory; `test_resume.py` has the same with a pretended full disk.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from noiseward import RunError
from noiseward.problem import prepare_spec
from noiseward.runs import RunFolder, RunSpec, execute, resume
from noiseward.runs.files import read_tensors
from noiseward.runs.perform import perform
from tests.crash import run_killed
from tests.test_resume import assert_same
from tests.tiny import CALL

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
SIZES = int(os.environ.get("NOISEWARD_CRASHES", "5"))  # scripts/crashes asks for 100
PAGE = 4096


@pytest.fixture
def disk(tmp_path):
    """A file system in memory, and what gives it another size in bytes."""
    place = tmp_path / "disk"
    place.mkdir()

    def resize(size: int, *more: str) -> None:
        options = ",".join([*more, f"size={size}"])
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", place], check=True, capture_output=True)

    try:
        resize(PAGE)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounting a file system needs rights that this user has not")
    yield place, lambda size: resize(size, "remount")
    subprocess.run(["umount", "--lazy", place], check=True)


@pytest.fixture(scope="module")
def spec(model):
    return RunSpec(
        prompt=("a", "b"), reward="brightness", model=model, steps=3, seed=5, method="dno:lr=0.05", watch="contrast",
        call={**CALL, "eta": 1.0},
    )  # fmt: skip


def pages(folder: Path) -> int:
    """Of the files that are written before the closing images."""
    closing = ("strip.png", "plot.png")
    files = [file for file in folder.rglob("*") if file.is_file() and file.name not in closing]
    return sum(-(-file.stat().st_size // PAGE) for file in files)


@pytest.mark.parametrize("size", range(SIZES))
def test_a_run_on_a_full_disk_ends_in_one_line_and_continues(spec, whole, disk, size):
    place, resize = disk
    folder = place / "run"
    resize(PAGE * (1 + size * (pages(whole) - 1) // SIZES))

    def work(report):
        try:
            for step in perform(prepare_spec(spec), spec, folder):
                report(f"step {step.index}")
        except RunError as error:
            report(f"refused: {error}")

    _, reported = run_killed(work, folder, at=0)
    refused = [line for line in reported if line.startswith("refused")]
    assert all("(No space left on device); free space" in line for line in refused), refused
    assert refused
    for file in folder.rglob("*"):
        assert not file.name.endswith(".new"), "half a file is left"
        if file.suffix == ".json":
            json.loads(file.read_text())
        if file.suffix == ".safetensors":
            read_tensors(file)
    steps = [record["index"] for record in RunFolder(folder).steps()] if (folder / "steps.jsonl").exists() else []
    assert all(int(line.split()[1]) in steps for line in reported if line.startswith("step"))
    resize(64 * 2**20)
    if (folder / "latest.safetensors").exists():
        resume(folder, quiet=True)
    else:
        shutil.rmtree(folder, ignore_errors=True)
        execute(spec, folder, quiet=True)
    assert_same(folder, whole)
