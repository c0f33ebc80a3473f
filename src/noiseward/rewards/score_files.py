"""Scoring image files with a reward, one at a time, and how long each takes."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from noiseward.errors import ArgumentError
from noiseward.rewards.reward import Reward, score
from noiseward.rewards.similarity import read_reference

__all__ = ["FileScore", "find_images", "score_files"]

KINDS = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"}


@dataclasses.dataclass(frozen=True)
class FileScore:
    """The scores of one image file.

    Attributes:
        path: of the file.
        total: its score.
        terms: the rewards that it is made of, by name.
        seconds: that scoring took.
    """

    path: Path
    total: float
    terms: dict[str, float]
    seconds: float


def find_images(paths: Sequence[Path]) -> list[Path]:
    """The files that are given, and the image files in folders, by name.

    Raises:
        ArgumentError: a path that is not there, or a folder without images.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(file for file in path.rglob("*") if file.suffix.lower() in KINDS and file.is_file())
            if not inside:
                raise ArgumentError(
                    f"expected images in {path}, got none; give a folder with {', '.join(sorted(KINDS))}"
                )
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            raise ArgumentError(f"{path} is no file or folder; give images")
    return found


def score_files(
    reward: Reward, files: Sequence[Path], *, prompt: str | None = None, device: str = "cpu"
) -> Iterator[FileScore]:
    """Score image files, each by itself: they may differ in size.

    Arguments:
        reward: to score with; without a graph.
        files: of images.
        prompt: of all.
        device: where.

    Raises:
        ArgumentError: a file that is no image, or a device that is not there.
        RewardError: as the reward raises.
    """
    try:
        place = torch.empty(0, device=device).device
    except (RuntimeError, AssertionError):
        raise ArgumentError(f"device must be one that torch can use, as cpu or cuda, got '{device}'") from None
    for path in files:
        sample = read_reference(path, "IMAGE").to(place)
        before = time.perf_counter()
        with torch.no_grad():
            total, terms = score(reward, sample, None if prompt is None else [prompt])
            value = total.item()  # waits for the device
        seconds = time.perf_counter() - before
        yield FileScore(path, value, {name: term.item() for name, term in terms.items()}, seconds)
