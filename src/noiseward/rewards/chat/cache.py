"""Answers of chat models on disk: the same image, prompt and rubric are never paid for twice.

One file per answer, named by a digest of all that was asked, and replaced as a whole: processes share a cache safely.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

__all__ = ["AnswerCache", "default_folder"]


def default_folder() -> Path:
    """Where answers are kept by default: `noiseward/chat` in the user's cache folder."""
    root = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(root) / "noiseward" / "chat"


@final
class AnswerCache:
    """Answers by what was asked. A cache that cannot be read or written is none.

    Arguments:
        folder: where; None for no cache.

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     cache = AnswerCache(Path(folder))
        ...     cache.set({"image": "a"}, {"score": 0.5})
        ...     cache.get({"image": "a"}), cache.get({"image": "b"})
        ({'score': 0.5}, None)
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def get(self, asked: Mapping[str, Any]) -> dict[str, Any] | None:
        """The answer to a question that was asked before."""
        if self.folder is None:
            return None
        try:
            found = json.loads(self._path(asked).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return found.get("answer") if isinstance(found, dict) and found.get("asked") == dict(asked) else None

    def set(self, asked: Mapping[str, Any], answer: Mapping[str, Any]) -> None:
        """Keep an answer."""
        if self.folder is None:
            return
        path = self._path(asked)
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as file:
                json.dump({"asked": dict(asked), "answer": dict(answer)}, file)
            os.replace(file.name, path)

    def _path(self, asked: Mapping[str, Any]) -> Path:
        assert self.folder is not None
        key = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
        return self.folder / key[:2] / f"{key}.json"
