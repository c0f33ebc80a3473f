"""A step of this checkout against one of an earlier commit: has anything become slower for those who use nothing new?

    python -m benchmarks.against             # against the last commit before offloading
    python -m benchmarks.against COMMIT

Both run the same call on the same pipeline folder, the built-in model, in processes that take turns: steps of Adam
without tests, in each memory mode. Seconds are the processor's. Other programs lengthen even these, by a third on a
shared machine, so the fastest turn counts.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.timing import write
from noiseward import stickers

ROOT = Path(__file__).resolve().parents[1]
BEFORE = "cffd525^"  # offloading, quantized weights, tiny decoders and compilation came after it
MODES = ("fast", "balanced", "low")
STEPS, WARM = 12, 3
CODE = f"""
import sys, time, torch
torch.set_num_threads(1)
from noiseward import steps
model, memory = sys.argv[1:]
run = steps(model, "a duck", "brightness", method="dno:lr=0.01,guard=none", steps={STEPS}, seed=0, watch=(),
    progress=False, memory=memory, num_inference_steps=10, guidance_scale=3.0, eta=1.0)
for step in run:
    if step.index == {WARM}:
        begun = time.process_time()
print(time.process_time() - begun, float(step.evaluation.reward[0]))
"""


def is_known(commit: str = BEFORE) -> bool:
    """Whether this is a checkout with that commit in its history."""
    command = ["git", "cat-file", "-e", f"{commit}^{{commit}}"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode == 0


def measure(checkout: Path, memory: str) -> tuple[float, float]:
    """Seconds of the processor for a step, and the reward at the end."""
    source = checkout / "src" if (checkout / "src").is_dir() else checkout
    environment = {**os.environ, "PYTHONPATH": str(source), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", CODE, str(stickers.path()), memory]
    said = subprocess.run(command, env=environment, cwd=checkout, capture_output=True, text=True, check=True).stdout
    seconds, reward = map(float, said.split()[-2:])
    return seconds / (STEPS - WARM), reward


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commit", nargs="?", default=BEFORE, help="the earlier one")
    parser.add_argument("--turns", type=int, default=5)
    given = parser.parse_args()
    if not is_known(given.commit):
        parser.error(f"expected a commit of this repository, got '{given.commit}'; fetch its history, or name another")
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        earlier = Path(folder) / "earlier"
        archive = subprocess.run(["git", "archive", given.commit], cwd=ROOT, capture_output=True, check=True).stdout
        earlier.mkdir()
        subprocess.run(["tar", "xf", "-"], cwd=earlier, input=archive, check=True)
        for memory in MODES:
            turns = [(measure(ROOT, memory), measure(earlier, memory)) for _ in range(given.turns)]
            now, then = ([turn[side][0] for turn in turns] for side in (0, 1))
            same = {reward for turn in turns for _, reward in turn}
            found[memory] = {"ratio": min(now) / min(then), "now": now, "then": then, "same reward": len(same) == 1}
            print(f"{memory}: {found[memory]}", flush=True)
    settings = {"commit": given.commit, "turns": given.turns, "steps": STEPS - WARM, "threads": 1, "model": "stickers"}
    write("against", settings=settings, results=found, text=page(found, given.commit, given.turns))


def page(found: dict[str, dict[str, Any]], commit: str, turns: int) -> str:
    """The table people read."""
    lines = [
        "# A step against an earlier commit",
        "",
        f"How many times longer a step takes than at commit `{commit}`: {STEPS - WARM} steps of "
        "`dno:lr=0.01,guard=none` on the built-in model at 10 sampler steps, one thread, seconds of the processor, "
        f"the fastest of {turns} processes each, which took turns. `python -m benchmarks.against` regenerates this "
        "page. A ratio is known no better than the fastest process is, which the spread shows: how many times longer "
        "the slowest process of either side took than its fastest.",
        "",
        "| mode | ratio | spread, now and then | the same reward at the end, bit for bit |",
        "|---|---|---|---|",
    ]
    for mode, one in found.items():
        spread = ", ".join(f"{max(one[side]) / min(one[side]):.2f}" for side in ("now", "then"))
        lines.append(f"| {mode} | {one['ratio']:.2f} | {spread} | {'yes' if one['same reward'] else 'no'} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
