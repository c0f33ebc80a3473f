"""A solution as files: what `Solution.save` writes, and `Solution.load` reads, which reads run directories, too.

The names are those of a run directory (`runs/store.py`), which has more: whatever it takes to continue, and checksums.

    about.json           what was asked, row by row, and the sampler's draws
    steps.jsonl          one line per step: `Step.record()`
    status.json          why each row stopped
    initial.safetensors  the first evaluation
    best.safetensors     the best of each row
    peaks.safetensors    the best when each watched reward was highest, and what was highest of all
    frames/00003-00.png  a few images along the way: step and row
    initial/00.png ...   the images of the start
    best/00.png ...      the best images
    strip.png, plot.png  the trajectory, and reward and P(z) against steps
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from noiseward.errors import ArgumentError, describe_error
from noiseward.loop.about import About
from noiseward.loop.budget import Status
from noiseward.loop.frames import Frames
from noiseward.loop.objective import Evaluation
from noiseward.loop.plausible import UNTESTED
from noiseward.loop.step import TESTS, Best
from noiseward.noise.layout import Draw, Layout

__all__ = ["PEAK", "copy_tensors", "pack_layout", "pack_peaks", "read_parts", "write_solution"]

PEAK = ""  # the name of what was highest of all among the peaks


def copy_tensors(content: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors as they are written: on the CPU, contiguous, sharing nothing."""
    return {key: tensor.detach().cpu().contiguous().clone() for key, tensor in content.items()}


def pack_layout(layout: Layout) -> dict[str, Any]:
    """A layout as plain data, without its device.

    Example:
        >>> pack_layout(Layout((Draw("start", (2, 3)),)))["draws"][0]["shape"]
        [2, 3]
    """
    draws = [
        {**dataclasses.asdict(draw), "shape": list(draw.shape), "dtype": str(draw.dtype).removeprefix("torch.")}
        for draw in layout.draws
    ]
    return {"steps": layout.steps, "draws": draws}


def _unpack_layout(packed: Mapping[str, Any]) -> Layout:
    draws = (
        Draw(**{**draw, "shape": tuple(draw["shape"]), "dtype": getattr(torch, draw["dtype"])})
        for draw in packed["draws"]
    )
    return Layout(tuple(draws), steps=packed["steps"])


def pack_peaks(peaks: Mapping[str, Best], peak: Best | None) -> dict[str, Tensor] | None:
    """The peaks of watched rewards, and, without a name, what was highest of all; None if there are none."""
    every = {**peaks, **({} if peak is None else {PEAK: peak})}
    found = {f"{name}.{field}": part for name, best in every.items() for field, part in vars(best).items()}
    return copy_tensors(found) or None


def write_solution(solution: Any, folder: Path) -> None:
    """Write a `Solution` into a new or empty folder.

    Raises:
        ArgumentError: the folder holds something already.
    """
    from safetensors.torch import save_file

    from noiseward.images import has_images, to_images
    from noiseward.images.metadata import save_with_metadata

    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ArgumentError(f"expected a new or empty folder, got {folder}; choose another")
    folder.mkdir(parents=True, exist_ok=True)
    about, before = solution.about, solution.initial.reward.tolist()

    def save_images(name: str, sample: Tensor, reward: list[float], step: Sequence[int], prefix: str = "") -> None:
        images = to_images(sample)
        (folder / name).mkdir(exist_ok=True)
        known = about.describe(images[0].size, before, reward, steps=step)
        for row, image in enumerate(images):
            save_with_metadata(image, folder / name / f"{prefix}{row:02d}.png", known[row])

    if has_images(solution.sample):
        save_images("initial", solution.initial.sample, before, ())
        save_images("best", solution.sample, solution.reward.tolist(), solution.index.tolist())
        rewards = {record["index"]: record["reward"] for record in solution.history}
        for index, sample in solution.frames:
            save_images("frames", sample, rewards[index], [index] * len(sample), f"{index:05d}-")
        solution.strip().save(folder / "strip.png")
    solution.plot(folder / "plot.png")
    first = solution.initial
    terms = {f"terms.{name}": term for name, term in first.terms.items()}
    initial = {name: getattr(first, name) for name in ("sample", "reward", "penalty", "value")} | terms
    for name, parts in (("initial", initial), ("best", vars(solution.found))):
        save_file(copy_tensors(parts), folder / f"{name}.safetensors")
    if peaks := pack_peaks(solution.peaks, solution.peak):
        save_file(peaks, folder / "peaks.safetensors")
    lines = "".join(json.dumps(record) + "\n" for record in solution.history)
    (folder / "steps.jsonl").write_text(lines, encoding="utf-8")
    status = {"rows": [status.name for status in solution.status], "untested": solution.untested}
    (folder / "status.json").write_text(json.dumps(status, indent=2) + "\n", encoding="utf-8")
    known = {**about.plain(), "does": solution.method, "layout": pack_layout(solution.layout)}
    (folder / "about.json").write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")


def read_parts(folder: Path) -> dict[str, Any]:
    """The fields of a solution that was saved, or kept by a run.

    Raises:
        ArgumentError: the folder holds neither, or a file of it cannot be read.
    """
    from safetensors.torch import load_file

    if not (folder / "about.json").exists():
        hint = "; runs of earlier versions get it from 'noiseward resume'" if (folder / "spec.json").exists() else ""
        raise ArgumentError(f"expected a run directory or a saved solution, got {folder} without about.json{hint}")
    file = folder
    try:
        about = json.loads((file := folder / "about.json").read_text(encoding="utf-8"))
        first = load_file(file := folder / "initial.safetensors")
        peaks = load_file(file) if (file := folder / "peaks.safetensors").exists() else {}
        best = _unpack_best(load_file(file := folder / "best.safetensors"), "")
        history = _read_history(
            file := folder / "steps.jsonl"
        )  # after the best: a line of the log is written before it
        status = json.loads((file := folder / "status.json").read_text(encoding="utf-8"))
        names = dict.fromkeys(key.rpartition(".")[0] for key in peaks)
        bests = {name: _unpack_best(peaks, f"{name}.") for name in names}
        terms = {name.removeprefix("terms."): part for name, part in first.items() if name.startswith("terms.")}
        initial = Evaluation(first["sample"], first["reward"], terms, first["penalty"], first["value"])
        layout, does = _unpack_layout(about.pop("layout")), about.pop("does", None)
        texts = {name: about[name] for name in ("reward", "method", "model", "call")}
        return {
            "found": best,
            "initial": initial,
            "status": tuple(Status[name] for name in status["rows"]),
            "history": history,
            "frames": _read_frames(folder / "frames", history),
            "layout": layout,
            "peaks": {name: best for name, best in bests.items() if name != PEAK},
            "peak": bests.get(PEAK),
            "untested": status.get("untested"),
            "method": does,
            "about": About(tuple(about["prompts"]), tuple(about["seeds"]), **texts),
        }
    except Exception as error:  # files may be damaged in any way
        raise ArgumentError(f"{file} cannot be read ({describe_error(error, 100)}); save or run again") from None


def _read_history(path: Path) -> list[dict[str, Any]]:
    whole = [line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line[-1] == "\n"]
    return [{key: part for key, part in json.loads(line).items() if key not in ("bound", "sum")} for line in whole]


def _unpack_best(parts: Mapping[str, Tensor], prefix: str) -> Best:
    untested = torch.full_like(parts[f"{prefix}reward"], UNTESTED, dtype=torch.float64)  # runs of earlier versions
    known = {name: untested for name in TESTS}
    own = {name: parts[prefix + name] for field in dataclasses.fields(Best) if prefix + (name := field.name) in parts}
    return Best(**{**known, **own})


def _read_frames(folder: Path, history: Sequence[Mapping[str, Any]]) -> Frames:
    from noiseward.images import read_sample

    rows: dict[int, dict[int, Path]] = {}
    for entry in os.scandir(folder) if folder.is_dir() else ():
        if match := re.fullmatch(r"(\d+)-(\d+)\.png", entry.name):
            rows.setdefault(int(match[1]), {})[int(match[2])] = Path(entry.path)
    frames = Frames(limit=len(rows))
    for record in history:
        there = rows.get(record["index"], {})
        if len(there) == len(record["reward"]):
            frames.add(record["index"], torch.stack([read_sample(there[row]) for row in sorted(there)]))
    return frames
