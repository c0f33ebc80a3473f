"""Where the profiles of fresh samples are kept, so that a prompt needs them once (`image_tests.py`).

A file of a few kilobytes per model, arguments and prompt, in the folder `references` of `$NOISEWARD_CACHE`, by default
`~/.cache/noiseward`. It holds numbers alone; the prompt is in its name as part of a digest. What is missing, unreadable
or of another model is made again: the reader checks the first sample.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from noiseward.samplers.fingerprint import compute_fingerprint
from noiseward.samplers.sampler import Sampler

__all__ = ["find_cache", "ReferenceStore"]

FORMAT = 1  # of the files, and of the profiles in them


def find_cache() -> Path:
    """The folder of what may be made again: `$NOISEWARD_CACHE`, by default `~/.cache/noiseward`."""
    own, shared = os.environ.get("NOISEWARD_CACHE"), os.environ.get("XDG_CACHE_HOME")
    return Path(own) if own else (Path(shared) if shared else Path.home() / ".cache") / "noiseward"


@final
@dataclasses.dataclass(frozen=True)
class ReferenceStore:
    """A folder of profiles.

    Arguments:
        folder: where; it is made when it is needed.
    """

    folder: Path

    @staticmethod
    def default() -> ReferenceStore:
        """The user's."""
        return ReferenceStore(find_cache() / "references")

    def read(self, sampler: Sampler, prompt: str | None, *, seeds: range) -> tuple[Tensor, ...] | None:
        """The profiles of a prompt's fresh samples, of each kind `(n, d)`; None if there are none."""
        try:
            content = json.loads(self._file(sampler, prompt, seeds).read_text(encoding="utf-8"))
            found = tuple(torch.tensor(kind, dtype=torch.float64) for kind in content["profiles"])
        except (OSError, ValueError, TypeError, LookupError):
            return None
        fine = all(part.ndim == 2 and len(part) == len(seeds) and part.isfinite().all() for part in found)
        return found if found and fine else None

    def write(self, sampler: Sampler, prompt: str | None, profiles: tuple[Tensor, ...], *, seeds: range) -> None:
        """Store profiles; where nothing can be stored, they are made again the next time."""
        target = self._file(sampler, prompt, seeds)
        text = json.dumps({"profiles": [part.tolist() for part in profiles]})
        with contextlib.suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=self.folder, suffix=".part")
            try:
                with os.fdopen(handle, "w", encoding="utf-8") as file:
                    file.write(text)
                os.replace(name, target)
            except OSError:
                os.unlink(name)
                raise

    def _file(self, sampler: Sampler, prompt: str | None, seeds: range) -> Path:
        arguments = {name: _describe(value) for name, value in sorted(sampler.arguments.items())}
        asked = [FORMAT, type(sampler).__name__, compute_fingerprint(sampler), arguments]
        asked += [prompt, getattr(prompt, "places", None), seeds]
        digest = hashlib.blake2b(repr(asked).encode(), digest_size=16)
        return self.folder / f"{digest.hexdigest()}.json"


def _describe(value: Any) -> str:
    """An argument of a model as text that is the same in every process."""
    if value is None or isinstance(value, bool | int | float | str):
        return repr(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_describe, value))}]"
    if isinstance(value, Tensor):
        value = value.detach().cpu().float().numpy()
    kind = type(value).__name__
    if callable(getattr(value, "tobytes", None)):  # an image, or an array
        size = getattr(value, "shape", None) or getattr(value, "size", None)
        return f"{kind} {size} {hashlib.blake2b(value.tobytes(), digest_size=16).hexdigest()}"
    return kind
