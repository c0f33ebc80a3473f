"""Calls whose results must not change: what each gave, to the last bit, was recorded once and is kept beside this file.

A call is written in the words of today; what it gave is not. `python -m tests.golden` records results again, which is
right only when a change of results is meant. Matrix products round differently on other processors: there, numbers are
compared to a tolerance instead of bit for bit.
"""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

__all__ = ["BEGUN", "CALLS", "RECORDED", "machine", "result", "write_inputs"]

HERE = Path(__file__).parent
RECORDED = HERE / "results.json"
BEGUN = HERE / "begun"  # a run directory that earlier code began and that was killed after two steps

SMALL = ["--model", "model", "--num-inference-steps", "4", "--height", "16", "--width", "16"]
BRIGHT = ["--reward", "brightness", "--steps", "3", *SMALL]


def _align(*more: str, prompt: tuple[str, ...] = ("a",), base: list[str] = BRIGHT) -> list[str]:
    """The words of today for what results passed no tests in when it was recorded."""
    method = more[more.index("--method") + 1] if "--method" in more else "trust-region" if "jpeg" in base else "dno"
    rest = [word for word in more if word not in ("--method", method)]
    if "guard" not in method:
        method += ("," if ":" in method else ":") + "guard=none"
    return ["align", *prompt, *base, *rest, "--method", method, "--out", "out", "-q"]


CALLS: dict[str, list[str]] = {
    "align": _align(),
    "prompts and seeds": _align("--batch", "2", "--seed", "3", prompt=("a", "b c")),
    "rate": _align("--method", "dno:lr=0.05"),
    "ode": _align("--eta", "0"),
    "last steps": _align("--method", "dno:estimator=backprop:steps=2"),
    "linear path": _align("--method", "dno:estimator=backprop:through=linear"),
    "annealed": _align("--method", "dno:estimator=annealed:2"),
    "hybrid 2": _align("--method", "dno:estimator=hybrid2:samples=4"),
    "hybrid 1": _align("--method", "dno:estimator=hybrid1:samples=4"),
    "zeroth order": _align("--method", "dno:estimator=zeroth-order:samples=4"),
    "best of n": _align("--method", "best-of-n:samples=4"),
    "zero order": _align("--method", "zero-order:samples=4"),
    "trust region": _align("--method", "trust-region:samples=4,regions=2"),
    "evolution": _align("--method", "evolution"),
    "dps": _align("--method", "dps:samples=2"),
    "lgd": _align("--method", "lgd:votes=2,samples=2"),
    "fk": _align("--method", "fk:particles=3"),
    "best of first": _align("--method", "dno:best_of=4"),
    "few steps first": _align("--method", "dno:coarse=2"),
    "concentration": _align("--method", "dno:guard=concentration:1.0"),
    "concentration with a target": _align("--method", "dno:lr=0.2,guard=concentration:target=0.1"),
    "shell": _align("--method", "dno:guard=shell:0.01"),
    "projections": _align("--method", "dno:project=norm+spectral"),
    "first draw": _align("--method", "dno:project=start"),
    "two rewards": _align("--reward", "contrast:0.5"),
    "watched": _align("--watch", "contrast,jpeg"),
    "black box": _align(base=["--reward", "jpeg", "--steps", "2", *SMALL]),
    "reward reached": _align("--target", "0.46", "--method", "dno:lr=0.1"),
    "denoiser calls": _align(base=["--reward", "brightness", "--nfe", "60", *SMALL]),
    "low memory": _align("--memory", "low"),
    "scheduler": _align("--scheduler", "euler-a"),
    "batch": ["batch", "prompts.txt", *BRIGHT, "--method", "dno:guard=none", "--seeds", "2", "--out", "out", "-q"],
    "compare": [
        "compare", "--prompts", "a", "--reward", "brightness", "--methods", "dno:guard=none,best-of-n,reno",
        "--budget", "nfe=60", *SMALL, "--out", "out", "-q",
    ],
    "resume": ["resume", "begun", "--steps", "4", "-q"],
}  # fmt: skip


def write_inputs(folder: Path) -> None:
    """The model, the prompts and the begun run that calls are about, in a folder they are made in."""
    from tests.tiny import stable_diffusion

    stable_diffusion().save_pretrained(folder / "model")
    (folder / "prompts.txt").write_text("a\nb c\nd\n", encoding="utf-8")
    if BEGUN.exists():
        shutil.copytree(BEGUN, folder / "begun")


def result(folder: Path) -> dict[str, Any]:
    """What a call left in a folder: tables, or each run's best rewards and noise, and how its rewards went."""
    if (folder / "out" / "table.json").exists():
        return _tables(folder)
    return {
        str(path.parent.relative_to(folder)): _run(path.parent)
        for path in sorted(folder.rglob("best.safetensors"))
        if "begun" not in str(path.relative_to(folder)) or folder.name == "resume"
    }


def _run(path: Path) -> dict[str, Any]:
    with safe_open(str(path / "best.safetensors"), framework="pt") as file:
        best = {name: file.get_tensor(name) for name in ("noise", "sample", "reward", "value", "probability", "index")}
    steps = [json.loads(line) for line in (path / "steps.jsonl").read_text().splitlines()]
    return {
        "bits": {name: _digest(tensor) for name, tensor in best.items()},
        "reward": best["reward"].tolist(),
        "index": best["index"].tolist(),
        "steps": [step["reward"] for step in steps],
        "nfe": steps[-1]["nfe"],
    }


def _tables(folder: Path) -> dict[str, Any]:
    """What a comparison found at each share of its budget, without seconds and memory."""
    table = json.loads((folder / "out" / "table.json").read_text(encoding="utf-8"))["table"]
    return {
        share: [[row["method"], row["gain"]["mean"], row["reward"]["mean"], row["probability"]["mean"]] for row in rows]
        for share, rows in table.items()
    }


def _digest(tensor: torch.Tensor) -> str:
    return hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()[:16]


def machine() -> str:
    """What bits depend on: torch's version and the processor, its model and what it can do."""
    kind = torch.backends.cpu.get_cpu_capability()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = [platform.processor()]
    about = [line for line in lines if line.startswith(("model", "cpu family", "stepping", "flags"))]
    digest = hashlib.sha256("\n".join(sorted(set(about))).encode()).hexdigest()[:8]
    return f"torch {torch.__version__}, {kind}, {platform.machine()} {digest}"


def record(call: Callable[[list[str]], None], folder: Path) -> dict[str, Any]:
    """Make every call in a folder of its own; gives the results by name."""
    found = {}
    for name, arguments in CALLS.items():
        print(name, flush=True)
        place = folder / name.replace(" ", "-")
        place.mkdir()
        write_inputs(place)
        call([str(place), *arguments])
        found[name] = result(place)
    return found
