"""An experiment cut into cells, each kept on disk when it is done: interrupted and started again, it goes on.

Cells live in `.experiments/NAME/`, which git ignores; a cell is found again by its key and settings. Several processes
may share the work: `--part 0/2` beside `--part 1/2`, then a last call without `--part` to put the results together.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

CELLS = Path(__file__).resolve().parents[1] / ".experiments"


def cell(name: str, key: dict[str, Any], compute: Callable[[], Any], kept: Path = CELLS) -> Any:
    """What a cell computed, now or before: plain data, kept as JSON."""
    path = kept / name / f"{named(key)}.json"
    if path.exists():
        return json.loads(path.read_text())["result"]
    result = compute()
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(f".{os.getpid()}")
    beside.write_text(json.dumps({"key": key, "result": result}))
    beside.replace(path)
    return json.loads(json.dumps(result))


def named(key: dict[str, Any]) -> str:
    """A short name for some settings."""
    return hashlib.blake2b(json.dumps(key, sort_keys=True).encode(), digest_size=10).hexdigest()


def mine(index: int, part: str | None) -> bool:
    """Whether a cell belongs to part `i/n` of the work; all do without a part."""
    if part is None:
        return True
    which, of = (int(number) for number in part.split("/"))
    return index % of == which
