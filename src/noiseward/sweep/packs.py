"""Packs: the rows of a sweep cut into runs of a fixed size.

A pack is one run, several prompts with several seeds each, done as one batch of the device. How rows are cut depends on
the rows and the size alone, not on how many workers there are or which is free: matrix kernels round differently for
other batch sizes, so only the same packs give the same bits.

Rows with the same settings are grouped, in the order of the file. Where a prompt's seeds fit into a pack, it holds as
many whole prompts as fit; else a prompt's seeds are cut.

A sweep directory lists its packs in `batch.json`. Asked again, it keeps the packs that were begun, and cuts what is
new.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from noiseward.errors import ArgumentError, RunError
from noiseward.options.run import FORMAT, RunSpec
from noiseward.runs import spec as specs
from noiseward.runs.binding import seal, unseal
from noiseward.runs.files import read_json, replace_file
from noiseward.runs.schema import BatchFile, check
from noiseward.sweep.rows import Row

__all__ = ["FILE", "Pack", "cut", "is_split", "plan", "read_packs", "split_rows", "write_packs"]

FILE = "batch.json"


@dataclasses.dataclass(frozen=True)
class Pack:
    """A run of a sweep.

    Attributes:
        name: of its directory in `packs/`.
        ids: one per prompt.
        spec: what to run; row `p * spec.batch + b` is prompt p with seed `spec.seed + b`.
        measure: held-out rewards that a comparison measures on the way (`looks.py`); None for a run of a batch.
    """

    name: str
    ids: tuple[str, ...]
    spec: RunSpec
    measure: tuple[str, ...] | None = None

    @property
    def size(self) -> int:
        """How many rows it has."""
        return self.spec.rows

    def rows(self) -> Iterator[tuple[str, str, int]]:
        """Yield id, prompt and seed of each row; the prompt is empty for a model without prompts."""
        for name, prompt in zip(self.ids, self.spec.prompt or ("",), strict=True):
            for seed in range(self.spec.seed, self.spec.seed + self.spec.batch):
                yield name, prompt, seed

    def settings(self) -> dict[str, Any]:
        """All options but prompts and seeds."""
        found = specs.settings_of(self.spec)
        return found if self.measure is None else {**found, "watch": list(self.measure)}


def cut(rows: Sequence[Row], size: int, measure: tuple[str, ...] | None = None) -> list[Pack]:
    """The packs of some rows, which are cut as for `plan`.

    Example:
        >>> base = RunSpec(prompt=(), reward=("brightness",), batch=2)
        >>> rows = [Row(name, base.replace(prompt=(name,))) for name in "abc"]
        >>> [(pack.name, pack.ids, pack.spec.seed, pack.spec.batch) for pack in cut(rows, 4)]
        [('0000', ('a', 'b'), 0, 2), ('0001', ('c',), 0, 2)]
        >>> [(pack.ids, pack.spec.seed, pack.spec.batch) for pack in cut(rows[:1], 1)]
        [(('a',), 0, 1), (('a',), 1, 1)]
    """
    return _name(list(_cut(rows, size, measure)), ())


def _cut(rows: Sequence[Row], size: int, measure: tuple[str, ...] | None) -> Iterator[Pack]:
    """Yield the packs, without names."""
    if size < 1:
        raise ArgumentError(f"--pack must be >= 1, got {size}")
    groups: dict[str, list[Row]] = {}
    for number, row in enumerate(rows):
        key = json.dumps([specs.settings_of(row.spec), row.spec.seed, row.spec.batch], sort_keys=True)
        groups.setdefault(key if measure is None else str(number), []).append(row)
    for group in groups.values():
        seed, batch = group[0].spec.seed, group[0].spec.batch
        if batch <= size:
            for begin in range(0, len(group), size // batch):
                part = group[begin : begin + size // batch]
                spec = group[0].spec.replace(prompt=tuple(prompt for row in part for prompt in row.spec.prompt))
                yield Pack("", tuple(row.id for row in part), spec, measure)
        else:
            for row in group:
                for start in range(seed, seed + batch, size):
                    spec = row.spec.replace(seed=start, batch=min(size, seed + batch - start))
                    yield Pack("", (row.id,), spec, measure)


def _name(packs: Sequence[Pack], taken: Sequence[str]) -> list[Pack]:
    """Packs with the first names that are free."""
    names = (f"{number:04d}" for number in range(len(packs) + len(taken)))
    free = (name for name in names if name not in taken)
    return [dataclasses.replace(pack, name=name) for pack, name in zip(packs, free, strict=False)]


def split_rows(pack: Pack) -> list[Pack]:
    """The rows of a pack, each a pack of its own: `0003.0`, `0003.1`, ...

    A pack that failed is done again this way, so that the row it failed for takes no other with it.
    """
    prompts = [(prompt,) for prompt in pack.spec.prompt for _ in range(pack.spec.batch)] or [()] * pack.size
    return [
        Pack(f"{pack.name}.{number}", (name,), pack.spec.replace(prompt=prompt, seed=seed, batch=1), pack.measure)
        for number, ((name, _, seed), prompt) in enumerate(zip(pack.rows(), prompts, strict=True))
    ]


def is_split(out: Path, pack: Pack) -> bool:
    """Whether a pack is done row by row."""
    return any((out / "packs" / f"{pack.name}.{number}" / "spec.json").exists() for number in range(pack.size))


def plan(out: Path, rows: Sequence[Row], size: int, measure: tuple[str, ...] | None = None) -> list[Pack]:
    """The packs of a sweep directory for some rows: those begun there before, and what is new.

    Arguments:
        out: the directory.
        rows: each with its seeds.
        size: rows per pack at most, prompts times seeds.
        measure: as for `Pack`; the packs of a comparison have one prompt each.

    Raises:
        RunError: what was begun belongs to other rows, or to the same ones with other settings.
    """
    before = read_packs(out)
    rows = _keep_ids(rows, before)
    begun = [pack for pack in before if os.path.lexists(out / "packs" / pack.name / "spec.json") or is_split(out, pack)]
    known = {(name, seed): (prompt, pack) for pack in begun for name, prompt, seed in pack.rows()}
    asked = set[tuple[str, int]]()
    new: list[Pack] = []
    for pack in _cut(rows, size, measure):
        missing: dict[str, tuple[str, list[int]]] = {}
        for name, prompt, seed in pack.rows():
            asked.add((name, seed))
            if (name, seed) in known:
                _check_same(out, name, prompt, pack, *known[name, seed])
            else:
                missing.setdefault(name, (prompt, []))[1].append(seed)
        left: list[Row] = []
        for name, (prompt, seeds) in missing.items():
            own = pack.spec.replace(prompt=(prompt,) if pack.spec.prompt else ())
            left += [Row(name, part) for part in _stretches(own, seeds)]
        new += _cut(left, size, measure)
    for name, seed in known.keys() - asked:
        raise RunError(f"{out} began '{name}' with seed {seed}, which is not asked for now; give another --out")
    packs = [*begun, *_name(new, [pack.name for pack in begun])]
    return sorted(packs, key=lambda pack: (len(pack.name), pack.name))


def _keep_ids(rows: Sequence[Row], before: Sequence[Pack]) -> Sequence[Row]:
    """The rows, those with an invented id under the one that they had before: its number depends on their order."""
    had: dict[str, str] = {}
    for pack in before:
        for name, prompt in zip(pack.ids, pack.spec.prompt, strict=False):
            had.setdefault(name, _identify(pack.spec, prompt))
    asked = {row.id: _identify(row.spec, *row.spec.prompt) for row in rows if before and row.invented}
    for name, what in had.items():
        if asked.get(name, what) != what:
            other = next((one for one, found in asked.items() if found == what and had.get(one) != what), name)
            asked[name], asked[other] = asked[other], asked[name]
    ids: dict[str, list[str]] = {}
    for name, what in asked.items():
        ids.setdefault(what, []).append(name)
    return [
        dataclasses.replace(row, id=ids[_identify(row.spec, *row.spec.prompt)].pop(0)) if row.id in asked else row
        for row in rows
    ]


def _identify(spec: RunSpec, prompt: str = "") -> str:
    """What a row asks for, as text."""
    return json.dumps([prompt, spec.seed, specs.settings_of(spec)], sort_keys=True)


def _check_same(out: Path, name: str, prompt: str, pack: Pack, old_prompt: str, old: Pack) -> None:
    """Raise `RunError` unless a row that was begun is asked for as before."""
    remedy = "give it another id, or another --out"
    if prompt != old_prompt:
        raise RunError(f"{out} began '{name}' with another prompt; {remedy}")
    was, now = old.settings(), pack.settings()
    if was != now:
        other = ", ".join(key for key in now if was[key] != now[key])
        raise RunError(f"{out} began '{name}' with other settings ({other}); {remedy}")


def _stretches(spec: RunSpec, seeds: Sequence[int]) -> Iterator[RunSpec]:
    """Yield one spec per stretch of consecutive seeds."""
    begin = 0
    for end in range(1, len(seeds) + 1):
        if end == len(seeds) or seeds[end] != seeds[end - 1] + 1:
            yield spec.replace(seed=seeds[begin], batch=end - begin)
            begin = end


def read_packs(out: Path) -> list[Pack]:
    """The packs that `batch.json` lists; none where there is no such file.

    Raises:
        RunError: it is garbled, or of a newer format.
    """
    path = out / FILE
    if not os.path.lexists(path):
        return []
    content = read_json(path)
    specs.check_format(content, path)
    check(content, BatchFile, path)
    packs = [
        Pack(one["name"], tuple(one["ids"]), specs.parse_spec(one["spec"], path), _tuple(one.get("measure")))
        for one in content["packs"]
    ]
    if content["format"] > 1:
        unseal(content, path)
    for pack in packs:
        if not re.fullmatch(r"\d{4,}", pack.name) or len(pack.ids) != max(1, len(pack.spec.prompt)):
            raise RunError(
                f"{path}: expected a number as the name of a pack and an id per prompt, got '{pack.name[:40]}' with "
                f"{len(pack.ids)} ids; restore it"
            )
    if len({pack.name for pack in packs}) < len(packs):
        raise RunError(f"{path} has two packs of one name; restore it, or give another --out")
    return packs


def _tuple(value: list[str] | None) -> tuple[str, ...] | None:
    return None if value is None else tuple(value)


def write_packs(out: Path, packs: Sequence[Pack]) -> None:
    """Write packs into `batch.json`."""
    parts: list[dict[str, Any]] = [
        {
            "name": pack.name,
            "ids": pack.ids,
            "spec": pack.spec.origin or {**pack.spec.plain(), "format": FORMAT},
            **({} if pack.measure is None else {"measure": pack.measure}),
        }
        for pack in packs
    ]
    content = seal({"format": FORMAT, "packs": parts})
    replace_file(out / FILE, lambda path: path.write_text(json.dumps(content, indent=1) + "\n"))
