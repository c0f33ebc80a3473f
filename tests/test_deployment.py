"""The files that run noiseward elsewhere, as far as they can be checked here: Docker, Slurm, Kubernetes.

The Slurm scripts run with stand-ins for `srun` and `scontrol`.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
SLURM = ROOT / "integrations" / "slurm"


@pytest.fixture
def submit(tmp_path):
    """A function that runs a script as Slurm would: its exit status, and the commands that it called."""
    calls = tmp_path / "calls"
    for name, line in (("srun", 'exit "${STATUS:-0}"'), ("scontrol", "exit 0")):
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(f'#!/usr/bin/env bash\necho "{name} $*" >> {calls}\n{line}\n')
        program.chmod(0o755)

    def run(script: str, *words: str, status: int = 0) -> tuple[int, list[str]]:
        here = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "SLURM_JOB_ID": "7", "STATUS": str(status)}
        done = subprocess.run(["bash", SLURM / script, *words], env=here, cwd=tmp_path, capture_output=True, text=True)
        return done.returncode, calls.read_text().splitlines() if calls.exists() else []

    return run


def test_a_slurm_job_begins_a_run_and_continues_it(submit, tmp_path):
    assert submit("align.sbatch", "a duck", "--out", "runs/a") == (0, ["srun noiseward align a duck --out runs/a"])
    (tmp_path / "runs" / "a").mkdir(parents=True)
    (tmp_path / "runs" / "a" / "spec.json").write_text("{}")
    status, calls = submit("align.sbatch", "a duck", "--out", "runs/a")
    assert (status, calls[-1]) == (0, "srun noiseward resume runs/a")


@pytest.mark.parametrize("script", ["align.sbatch", "batch.sbatch"])
def test_a_slurm_job_is_requeued_at_its_time_limit_alone(submit, script):
    status, calls = submit(script, "x", "--out", "runs/a", status=1)
    assert status == 1 and len(calls) == 1
    status, calls = submit(script, "x", "--out", "runs/a", status=143)
    assert status == 143 and calls[-1] == "scontrol requeue 7"


def test_a_slurm_job_without_a_directory_is_refused(submit):
    assert submit("align.sbatch", "a duck") == (2, [])


def test_the_kubernetes_job_mounts_what_it_reads_and_asks_for_options_that_exist():
    from typer.main import get_command

    from noiseward.cli import app

    job = yaml.safe_load((ROOT / "integrations" / "kubernetes" / "ray-job.yaml").read_text(encoding="utf-8"))
    cluster = job["spec"]["rayClusterSpec"]
    pods = [group["template"]["spec"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]
    for pod in pods:
        mounted = {mount["name"]: mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
        assert set(mounted) == {volume["name"] for volume in pod["volumes"]} and mounted["shared"] == "/shared"
    program, name, *words = shlex.split(job["spec"]["entrypoint"])
    command = get_command(app).commands[name]  # pyright: ignore[reportAttributeAccessIssue]
    flags = {flag for option in command.params for flag in option.opts}
    assert program == "noiseward" and {word for word in words if word.startswith("--")} <= flags
    paths = [word for word in words if word.startswith("/")]
    assert paths and all(path.startswith("/shared/") for path in paths)


def test_the_dockerfile_copies_what_there_is_and_ignores_the_rest():
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    kept = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    for line in re.findall(r"^COPY (.+) \S+$", lines, re.MULTILINE):
        for name in line.split():
            assert (ROOT / name).exists() and f"!{name}" in kept
    extras = re.search(r"^ARG EXTRAS=(\S+)$", lines, re.MULTILINE)
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert extras and all(re.search(rf"^{name} = \[", project, re.MULTILINE) for name in extras[1].split(","))
