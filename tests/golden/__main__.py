"""Record what the calls give: `python -m tests.golden`, about a minute; the run that is begun stays as it is."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from tests import golden

torch.set_num_threads(1)


def call(given: list[str]) -> None:
    place, *arguments = given
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(os.path.abspath(path) for path in sys.path if path)}
    command = [sys.executable, "-m", "noiseward", *arguments]
    subprocess.run(command, cwd=place, env=environment, check=True, stdout=subprocess.DEVNULL)


def begin() -> None:
    """Begin a run and end after two steps, as a killed one does."""
    folder = Path(tempfile.mkdtemp())
    golden.write_inputs(folder)
    call([str(folder), "align", "a", "b c", "--reward", "brightness", "--reward", "contrast:0.5", "--steps", "2",
          "--watch", "jpeg", *golden.SMALL, "--out", "begun", "-q"])  # fmt: skip
    shutil.rmtree(golden.BEGUN, ignore_errors=True)
    shutil.copytree(folder / "begun", golden.BEGUN, ignore=shutil.ignore_patterns(".lock"))


def main() -> None:
    if not golden.BEGUN.exists():
        begin()
    with tempfile.TemporaryDirectory() as folder:
        found = golden.record(call, Path(folder))
    written = {"machine": golden.machine(), "results": found}
    golden.RECORDED.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
