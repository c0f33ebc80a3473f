"""Packs: the rows of a batch cut into runs of a fixed size.

A pack is one run, several prompts with several seeds each, done as one batch of the device. How rows are cut depends on
the rows and the size asked for alone, not on how many workers there are or which is free: matrix kernels round
differently for other batch sizes, so that only the same packs give the same bits.

Rows with the same settings stand together, in the order of the file. Where a prompt's seeds fit into a pack, it holds
as many whole prompts as fit; else a prompt's seeds are cut.

A batch directory holds its packs in `batch.json`. Asked again, it keeps the packs that were begun, and cuts what is
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
from noiseward.runs.binding import seal, unseal
from noiseward.runs.files import read_json, replace_file
from noiseward.runs.schema import BatchFile, check
from noiseward.runs.spec import check_format, parse_spec, settings_of
from noiseward.sweep.rows import Row

__all__ = ["Pack", "cut", "kept", "plan", "singles", "write"]


@dataclasses.dataclass(frozen=True)
class Pack:
    """A run of a batch.

    Attributes:
        name: of its directory in `packs/`.
        ids: one per prompt.
        spec: what to do; row `p * spec.batch + b` is prompt p with seed `spec.seed + b`.
    """

    name: str
    ids: tuple[str, ...]
    spec: RunSpec

    def rows(self) -> Iterator[tuple[str, str, int]]:
        """Id, prompt and seed of each row."""
        for name, prompt in zip(self.ids, self.spec.prompt, strict=True):
            for seed in range(self.spec.seed, self.spec.seed + self.spec.batch):
                yield name, prompt, seed

    def settings(self) -> str:
        """All of the spec but prompts and seeds."""
        return json.dumps(settings_of(self.spec), sort_keys=True)


def cut(rows: Sequence[Row], size: int) -> list[Pack]:
    """The packs of some rows.

    Arguments:
        rows: of prompt files, each with its seeds.
        size: rows per pack at most, prompts times seeds.

    Example:
        >>> base = RunSpec(prompt=(), reward=("brightness",), batch=2)
        >>> rows = [Row(name, base.replace(prompt=(name,)), 1) for name in "abc"]
        >>> [(pack.name, pack.ids, pack.spec.seed, pack.spec.batch) for pack in cut(rows, 4)]
        [('0000', ('a', 'b'), 0, 2), ('0001', ('c',), 0, 2)]
        >>> [(pack.ids, pack.spec.seed, pack.spec.batch) for pack in cut(rows[:1], 1)]
        [(('a',), 0, 1), (('a',), 1, 1)]
    """
    return _named(_pieces(rows, size), ())


def _pieces(rows: Sequence[Row], size: int) -> list[tuple[tuple[str, ...], RunSpec]]:
    """Ids and spec of each pack."""
    if size < 1:
        raise ArgumentError(f"packs of {size} rows given: at least 1 wanted")
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(
            json.dumps([settings_of(row.spec), row.spec.seed, row.spec.batch], sort_keys=True), []
        ).append(row)
    pieces: list[tuple[tuple[str, ...], RunSpec]] = []
    for group in groups.values():
        seed, batch = group[0].spec.seed, group[0].spec.batch
        if batch <= size:
            for begin in range(0, len(group), size // batch):
                part = group[begin : begin + size // batch]
                prompts = tuple(row.spec.prompt[0] for row in part)
                pieces.append((tuple(row.id for row in part), group[0].spec.replace(prompt=prompts)))
        else:
            for row in group:
                for start in range(seed, seed + batch, size):
                    count = min(size, seed + batch - start)
                    pieces.append(((row.id,), row.spec.replace(seed=start, batch=count)))
    return pieces


def _named(pieces: Sequence[tuple[tuple[str, ...], RunSpec]], taken: Sequence[str]) -> list[Pack]:
    """Packs with the first names that are free."""
    names = (f"{number:04d}" for number in range(len(pieces) + len(taken)))
    free = [name for name in names if name not in taken]
    return [Pack(name, ids, spec) for name, (ids, spec) in zip(free, pieces, strict=False)]


def singles(pack: Pack) -> list[Pack]:
    """The rows of a pack, each a pack of its own: `0003.0`, `0003.1`, ...

    A pack that failed is done again this way, so that the row it failed for takes nobody with it.
    """
    parts = []
    for number, (name, prompt, seed) in enumerate(pack.rows()):
        spec = pack.spec.replace(prompt=(prompt,), seed=seed, batch=1)
        parts.append(Pack(f"{pack.name}.{number}", (name,), spec))
    return parts


def plan(out: Path, rows: Sequence[Row], size: int) -> list[Pack]:
    """The packs of a batch directory for some rows: those begun there before, and what is new.

    Raises:
        RunError: what was begun belongs to other rows, or to the same ones with other settings.
    """
    begun = [pack for pack in kept(out) if os.path.lexists(out / "packs" / pack.name / "spec.json") or split(out, pack)]
    known = {(name, seed): (prompt, pack.settings()) for pack in begun for name, prompt, seed in pack.rows()}
    asked = set[tuple[str, int]]()
    new: list[tuple[tuple[str, ...], RunSpec]] = []
    for ids, spec in _pieces(rows, size):
        pack = Pack("", ids, spec)
        missing: dict[str, tuple[str, list[int]]] = {}
        for name, prompt, seed in pack.rows():
            asked.add((name, seed))
            there = known.get((name, seed))
            if there is None:
                missing.setdefault(name, (prompt, []))[1].append(seed)
            elif there != (prompt, pack.settings()):
                what = "another prompt" if there[0] != prompt else "other settings"
                raise RunError(f"{out} began '{name}' with {what}; give it another id, or another --out")
        left = [
            Row(name, part.replace(prompt=(prompt,)), 0)
            for name, (prompt, seeds) in missing.items()
            for part in _stretches(spec, seeds)
        ]
        new += _pieces(left, size)
    for name, seed in known.keys() - asked:
        raise RunError(f"{out} began '{name}' with seed {seed}, which is not asked for now; give another --out")
    packs = [*begun, *_named(new, [pack.name for pack in begun])]
    return sorted(packs, key=lambda pack: (len(pack.name), pack.name))


def split(out: Path, pack: Pack) -> bool:
    """Whether a pack is done row by row."""
    count = len(pack.ids) * pack.spec.batch
    return any((out / "packs" / f"{pack.name}.{number}" / "spec.json").exists() for number in range(count))


def kept(out: Path) -> list[Pack]:
    """The packs that `batch.json` holds; none where there is none.

    Raises:
        RunError: it is garbled, or of a newer format.
    """
    path = out / "batch.json"
    if not os.path.lexists(path):
        return []
    content = read_json(path)
    check_format(content, path)
    check(content, BatchFile, path)
    found = [Pack(one["name"], tuple(one["ids"]), parse_spec(one["spec"], path)) for one in content["packs"]]
    if content["format"] > 1:
        unseal(content, path)
    for pack in found:
        if not re.fullmatch(r"\d{4,}", pack.name) or len(pack.ids) != len(pack.spec.prompt):
            raise RunError(f"{path}: pack '{pack.name[:40]}' has no such name or as many ids as prompts; restore it")
    if len({pack.name for pack in found}) < len(found):
        raise RunError(f"{path} has two packs of one name; restore it, or give another --out")
    return found


def write(out: Path, packs: Sequence[Pack]) -> None:
    """Put packs into `batch.json`."""
    parts: list[dict[str, Any]] = [
        {"name": pack.name, "ids": pack.ids, "spec": pack.spec.origin or {**pack.spec.plain(), "format": FORMAT}}
        for pack in packs
    ]
    content = seal({"format": FORMAT, "packs": parts})
    replace_file(out / "batch.json", lambda path: path.write_text(json.dumps(content, indent=1) + "\n"))


def _stretches(spec: RunSpec, seeds: Sequence[int]) -> Iterator[RunSpec]:
    """One spec per stretch of seeds that follow one another."""
    begin = 0
    for end in range(1, len(seeds) + 1):
        if end == len(seeds) or seeds[end] != seeds[end - 1] + 1:
            yield spec.replace(seed=seeds[begin], batch=end - begin)
            begin = end
