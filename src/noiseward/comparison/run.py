"""Do a comparison: pack after pack, each kept when it is done, then the report. Asked again, it goes on."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from noiseward.comparison import report
from noiseward.comparison.measure import Measured, measured
from noiseward.comparison.packs import Bench, made
from noiseward.comparison.spec import CompareSpec, Pack
from noiseward.errors import RunError
from noiseward.runs.files import locked, read_json, replace

__all__ = ["Engine", "compare", "local", "results"]


Engine = Callable[[CompareSpec, Sequence[Pack], Path], Iterator[tuple[Pack, dict[str, Any]]]]
"""Does packs, puts their pictures into a folder, and yields each with its results when it is done."""


def local(spec: CompareSpec, packs: Sequence[Pack], folder: Path) -> Iterator[tuple[Pack, dict[str, Any]]]:
    """The engine that does one pack after the other in this process."""
    bench = Bench(spec)
    for pack in packs:
        yield pack, made(bench, pack, folder)


def compare(
    spec: CompareSpec, out: Path, *, said: Callable[[str], Any] = lambda line: None, engine: Engine = local
) -> Measured:
    """Run what is not done yet, and write `report.html`, `report.md`, `table.json` and the plots.

    Arguments:
        spec: what to compare.
        out: a directory: new, empty, or of the same comparison.
        said: gets a line per pack.
        engine: who does the packs; `noiseward.comparison.ray` has another.

    Raises:
        RunError: the directory holds another comparison, or cannot be written.
    """
    _prepare(spec, out)
    with locked(out):
        todo = [pack for pack in spec.packs() if not _path(out, pack).exists()]
        for number, (pack, found) in enumerate(engine(spec, todo, out / "pictures") if todo else ()):
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
