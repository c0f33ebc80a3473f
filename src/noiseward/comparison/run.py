"""Do a comparison: pack after pack, each kept when it is done, then the report. Asked again, it goes on."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from noiseward.comparison import report
from noiseward.comparison.measure import Measured, measured
from noiseward.comparison.packs import Bench, made
from noiseward.comparison.spec import CompareSpec, Pack
from noiseward.errors import RunError
from noiseward.runs.files import locked, read_json, replace

__all__ = ["compare", "results"]


def compare(
    spec: CompareSpec, out: Path, *, said: Callable[[str], Any] = lambda line: None, do: Callable[..., Any] = made
) -> Measured:
    """Run what is not done yet, and write `report.html`, `report.md`, `table.json` and the plots.

    Arguments:
        spec: what to compare.
        out: a directory: new, empty, or of the same comparison.
        said: gets a line per pack.
        do: makes a pack's results; `made`, unless an engine does it elsewhere.

    Raises:
        RunError: the directory holds another comparison, or cannot be written.
    """
    _prepare(spec, out)
    with locked(out):
        todo = [pack for pack in spec.packs() if not _path(out, pack).exists()]
        bench = Bench(spec) if todo else None
        for number, pack in enumerate(todo):
            found = do(bench, pack, out / "pictures")
            content = {"pack": dataclasses.asdict(pack), "result": found}
            replace(_path(out, pack), lambda path, content=content: path.write_text(json.dumps(content)))
            best = found.get("refused") or f"{found['seconds']:.1f} s, {found['nfe']} denoiser calls"
            said(f"{number + 1}/{len(todo)} {pack.name}: {best}")
        found = measured(spec, results(spec, out))
        report.write(spec, found, out)
    return found


def results(spec: CompareSpec, out: Path) -> list[tuple[Pack, dict[str, Any]]]:
    """Every pack that is done, with its results."""
    return [(pack, read_json(_path(out, pack))["result"]) for pack in spec.packs() if _path(out, pack).exists()]


def _path(out: Path, pack: Pack) -> Path:
    return out / "packs" / f"{pack.name}.json"


def _prepare(spec: CompareSpec, out: Path) -> None:
    """Make the directory, or see that it is of this comparison."""
    asked = json.loads(json.dumps(dataclasses.asdict(spec)))
    target = out / "spec.json"
    if target.exists():
        known = json.loads(json.dumps(dataclasses.asdict(CompareSpec.read(target))))
        other = [name for name in asked if asked[name] != known[name]]
        if other:
            raise RunError(f"{out} holds a comparison with another {', '.join(other)}: give another --out")
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunError(f"{out} is not an empty folder: give a new one")
    try:
        (out / "packs").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{out} cannot be written ({error.strerror}): give another --out") from None
    replace(target, lambda path: path.write_text(json.dumps(asked, indent=1) + "\n"))
