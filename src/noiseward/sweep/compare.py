"""Do a comparison: pack after pack, each kept when it is done, then the report. Asked again, it goes on."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from noiseward.errors import RunError
from noiseward.runs.binding import seal, unseal
from noiseward.runs.claim import is_vacant
from noiseward.runs.files import lock, read_json, replace_file
from noiseward.runs.schema import check
from noiseward.sweep import tables
from noiseward.sweep.comparison import SHARES, CompareSpec, Pack
from noiseward.sweep.looks import Bench, PackFile, RefusedPack, ResultFile, check_images, made
from noiseward.sweep.measure import Measured, measured

__all__ = ["Engine", "compare", "local", "results"]

REMEDY = "remove it, and give the command again to do that pack again"

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
        engine: who does the packs; `noiseward.sweep.compare_ray` has another.

    Raises:
        RunError: the directory holds another comparison, or cannot be written.
    """
    _make(out)
    with lock(out):
        known = _prepare(spec, out)
        todo = [pack for pack in spec.packs() if not os.path.lexists(_path(out, pack))]
        results(known, out)  # what is there must be sound before anything is added
        for number, (pack, found) in enumerate(engine(spec, todo, out / "pictures") if todo else ()):
            content = seal({"pack": dataclasses.asdict(pack), "result": found}, known.run)
            replace_file(_path(out, pack), lambda path, content=content: path.write_text(json.dumps(content)))
            best = found.get("refused") or f"{found['seconds']:.1f} s, {found['nfe']} denoiser calls"
            said(f"{number + 1}/{len(todo)} {pack.name}: {best}")
        found = measured(spec, results(known, out))
        tables.write(spec, found, out)
    return found


def results(spec: CompareSpec, out: Path) -> list[tuple[Pack, dict[str, Any]]]:
    """Every pack that is done, with its results.

    Raises:
        RunError: one was changed, or is another pack's, or has an image that is not its own.
    """
    found, names = [], {f"{pack.name}.json" for pack in spec.packs()}
    if foreign := sorted(set(_listed(out / "packs")) - names):
        raise RunError(f"{out / 'packs' / foreign[0]} is no pack of this comparison: remove it, or give another --out")
    for pack in spec.packs():
        path = _path(out, pack)
        if os.path.lexists(path):
            result = _result(read_json(path), pack, spec, path)
            check_images(result, pack, out / "pictures", path)
            first = next((one for _, one in found if "refused" not in one), result)
            if "refused" not in result and _alike(result) != _alike(first):
                raise RunError(f"{path} has other held-out rewards or features than the packs before it: {REMEDY}")
            found.append((pack, result))
    return found


def _listed(folder: Path) -> list[str]:
    """The names of the packs' files in a folder."""
    try:
        return [name for name in os.listdir(folder) if name.endswith(".json")]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise RunError(f"{folder} cannot be read ({error.strerror}): restore it, or give another --out") from None


def _alike(result: dict[str, Any]) -> tuple[Any, ...]:
    """What all packs of a comparison have in common."""
    return () if "refused" in result else (_shape(result["start"]), len(result["features"][0]))


def _result(content: dict[str, Any], pack: Pack, spec: CompareSpec, path: Path) -> dict[str, Any]:
    """The result in a pack's file."""
    check(content, PackFile, path)
    if content["pack"] != json.loads(json.dumps(dataclasses.asdict(pack))):
        raise RunError(f"{path} is not pack {pack.name}, but {_named(content['pack'])}: {REMEDY}")
    result = content["result"]
    if "refused" in result:
        check(result, RefusedPack, path)
    else:
        check(result, ResultFile, path)
        _check_rows(result, len(pack.seeds), path)
    if spec.format > 1:
        try:
            unseal(content, path, run=spec.run)
        except RunError as error:
            raise RunError(f"{str(error).partition(': ')[0]}: {REMEDY}") from None
    return result


def _check_rows(result: dict[str, Any], rows: int, path: Path) -> None:
    """Every list of numbers must have an entry per row, and the parts the same names."""
    looks = [result["start"], *result["at"].values()]
    lists = [part for look in looks for name, part in look.items() if name != "held"]
    lists += [part for look in looks for part in look["held"].values()]
    lists += [result["features"], *result["curve"]["reward"]]
    counts = {len(result["curve"][name]) for name in ("cost", "seconds", "reward")}
    same = len(counts) == len(set(map(_shape, looks))) == len(set(map(len, result["features"]))) == 1
    if not same or any(len(one) != rows for one in lists) or set(result["at"]) != set(map(str, SHARES)):
        raise RunError(f"{path}: its numbers do not fit its {rows} rows: {REMEDY}")


def _shape(look: dict[str, Any]) -> tuple[str, ...]:
    return tuple(sorted(look["held"]))


def _named(pack: dict[str, Any]) -> str:
    return f"{pack['method'][:40]} of prompt {pack['prompt']} from seed {pack['seeds'][0] if pack['seeds'] else 'none'}"


def _path(out: Path, pack: Pack) -> Path:
    return out / "packs" / f"{pack.name}.json"


def _make(out: Path) -> None:
    """Make the directory, where it is not there."""
    if os.path.lexists(out) and not os.path.isdir(out):
        raise RunError(f"{out} is not an empty folder: give a new one")
    if os.path.isdir(out) and not os.path.lexists(out / "spec.json") and not is_vacant(out):
        raise RunError(f"{out} is not an empty folder: give a new one")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{out} cannot be written ({error.strerror}): give another --out") from None


def _prepare(spec: CompareSpec, out: Path) -> CompareSpec:
    """Write the spec, or see that the directory is of this comparison; gives the spec as it stands there."""
    target = out / "spec.json"
    if os.path.lexists(target):
        known = CompareSpec.read(target)
        asked, there = (json.loads(json.dumps(dataclasses.asdict(one))) for one in (spec, known))
        other = [name for name in asked if asked[name] != there[name] and name != "format"]
        if other:
            raise RunError(f"{out} holds a comparison with another {', '.join(other)}: give another --out")
    else:
        known = spec
        replace_file(target, lambda path: path.write_text(spec.text() + "\n"))
    try:
        (out / "packs").mkdir(exist_ok=True)
    except OSError as error:
        raise RunError(f"{out / 'packs'} cannot be made ({error.strerror}): give another --out") from None
    return known
