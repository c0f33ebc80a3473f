"""Damaged copies of run, batch and comparison directories, by name and the same each time.

    for damage in damages(run, other=another_run):
        damage.do(copy_of_run)

A damage changes a copy in place. Every kind is tried on every file: `missing`, `empty`, `cut`, `flip` (one bit),
`other` (the same file of another run); on JSON a null, another type or no entry for each key, deep nesting, and no
object at all; on tensors NaN, another shape, another dtype, or none. `sample` gives a fixed number of them, by a seed.
"""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

DEEP = "[" * 100_000 + "]" * 100_000
WRONG = (None, "wrong", -7, 1e9, [[]], {"a": {}})


@dataclasses.dataclass(frozen=True)
class Damage:
    """One way in which a directory is damaged.

    Attributes:
        name: of the file and what is done to it: `latest.safetensors: flip`.
        file: from the directory's own.
        do: damage a copy.
    """

    name: str
    file: str
    do: Callable[[Path], Any]


def damages(folder: Path, *, other: Path | None = None, per_file: int | None = None, seed: int = 0) -> Iterator[Damage]:
    """Every damage of a directory's files.

    Arguments:
        folder: the directory, whole; it is only read.
        other: another of its kind, whose files are put in.
        per_file: so many of each file at most, by chance; default: all.
        seed: of that chance, and of what is changed by chance.
    """
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"):
        name = str(path.relative_to(folder))
        found = [Damage(f"{name}: {how}", name, do) for how, do in _of(path, name, other, f"{seed} {name}")]
        if per_file is not None and len(found) > per_file:
            found = random.Random(f"{seed} {name}").sample(found, per_file)
        yield from found


def sample(folder: Path, count: int, *, other: Path | None = None, seed: int = 0) -> list[Damage]:
    """So many of a directory's damages, by a seed; files take turns, so that none is left out for its few kinds."""
    by_file: dict[str, list[Damage]] = {}
    for one in damages(folder, other=other, seed=seed):
        by_file.setdefault(one.file, []).append(one)
    chance, chosen = random.Random(seed), list[Damage]()
    while len(chosen) < count and any(by_file.values()):
        for left in by_file.values():
            if left:
                chosen.append(left.pop(chance.randrange(len(left))))
    return chosen[:count]


def copy(folder: Path, target: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(folder, target))


def _of(path: Path, name: str, other: Path | None, seed: str) -> Iterator[tuple[str, Callable[[Path], Any]]]:
    size = path.stat().st_size
    yield "missing", lambda copy: (copy / name).unlink()
    yield "empty", lambda copy: (copy / name).write_bytes(b"")
    yield "cut", lambda copy: (copy / name).write_bytes(path.read_bytes()[: size // 2])
    yield "cut by a byte", lambda copy: (copy / name).write_bytes(path.read_bytes()[:-1])
    yield "flip", lambda copy: _flip(copy / name, random.Random(seed))
    yield "a folder", lambda copy: ((copy / name).unlink(), (copy / name).mkdir())
    if other is not None and (other / name).is_file() and (other / name).read_bytes() != path.read_bytes():
        yield "other", lambda copy: shutil.copy(other / name, copy / name)
    if path.suffix == ".json":
        yield from _json(path, name)
    elif path.suffix == ".jsonl":
        yield from _lines(path, name)
    elif path.suffix == ".safetensors":
        yield from _tensors(path, name)
    elif path.suffix == ".png":
        yield "another size", lambda copy: Image.open(path).resize((7, 5)).save(copy / name)
        yield (
            "other pixels",
            lambda copy: Image.open(path).rotate(90).point(lambda level: 255 - level).save(copy / name),
        )


def _flip(path: Path, chance: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    path.write_bytes(bytes(content))


def _json(path: Path, name: str) -> Iterator[tuple[str, Callable[[Path], Any]]]:
    content = json.loads(path.read_text())
    yield "deep", lambda copy: (copy / name).write_text(DEEP)
    yield "no object", lambda copy: (copy / name).write_text("[1, 2]")
    yield "extra keys", lambda copy: (copy / name).write_text(json.dumps({**content, "extra": 1}))
    for what, changed in _change(content):
        yield what, lambda copy, changed=changed: (copy / name).write_text(json.dumps(changed))
    key = next(iter(content))
    deep = json.dumps({**content, key: "HERE"}).replace('"HERE"', '{"a":' * 400 + "1" + "}" * 400)
    yield f"deep in {key}", lambda copy: (copy / name).write_text(deep)


def _change(content: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for key in content:
        yield f"no {key}", {name: value for name, value in content.items() if name != key}
        for value in WRONG:
            yield f"{key}={json.dumps(value)}", {**content, key: value}
        if isinstance(content[key], list) and content[key] and not isinstance(content[key][0], dict):
            yield f"{key}[0]=99", {**content, key: [99, *content[key][1:]]}
            yield f"{key} reversed and longer", {**content, key: [*content[key][::-1], content[key][0]]}
        if isinstance(content[key], dict):
            for what, inner in _change(content[key]):
                yield f"{key}.{what}", {**content, key: inner}


def _lines(path: Path, name: str) -> Iterator[tuple[str, Callable[[Path], Any]]]:
    lines = path.read_text().splitlines()

    def write(copy: Path, kept: list[str]) -> None:
        (copy / name).write_text("".join(f"{line}\n" for line in kept))

    last = len(lines) - 1
    yield "last line lost", lambda copy: write(copy, lines[:-1])
    yield "first line only", lambda copy: write(copy, lines[:1])
    yield "middle line lost", lambda copy: write(copy, [*lines[: last // 2 + 1], *lines[last // 2 + 2 :]])
    yield "reversed", lambda copy: write(copy, lines[::-1])
    yield "doubled", lambda copy: write(copy, [line for line in lines for _ in (0, 1)])
    yield "last line torn", lambda copy: (copy / name).write_text("\n".join(lines)[:-20])
    yield "garbage", lambda copy: write(copy, [*lines, "garbage"])
    yield "binary", lambda copy: (copy / name).write_bytes(b"\xff\xfe" + path.read_bytes())
    yield "deep", lambda copy: write(copy, [*lines, DEEP])
    for number in {0, last}:
        for what, changed in _change(json.loads(lines[number])):
            text = json.dumps(changed)
            kept = [*lines[:number], text, *lines[number + 1 :]]
            yield f"line {number + 1}, {what}", lambda copy, kept=kept: write(copy, kept)


def _noise(part: torch.Tensor) -> torch.Tensor:
    return torch.randn(part.shape, generator=torch.Generator().manual_seed(0))


def _tensors(path: Path, name: str) -> Iterator[tuple[str, Callable[[Path], Any]]]:
    with safe_open(path, "pt") as file:
        keys, metadata = list(file.keys()), file.metadata()

    def write(copy: Path, change: Callable[[dict[str, torch.Tensor]], Any], more: dict[str, str] | None) -> None:
        with safe_open(path, "pt") as file:
            content = {key: file.get_tensor(key) for key in keys}
        change(content)
        save_file({key: part.contiguous() for key, part in content.items()}, copy / name, metadata=more)

    for key in keys:
        for what, change in (
            ("none", lambda found, key=key: found.pop(key)),
            ("nan", lambda found, key=key: found.update({key: torch.full_like(found[key].float(), torch.nan)})),
            ("noise", lambda found, key=key: found.update({key: _noise(found[key])})),
            ("a row less", lambda found, key=key: found.update({key: found[key][:-1]})),
            ("flat", lambda found, key=key: found.update({key: found[key].reshape(-1)[None]})),
            ("bool", lambda found, key=key: found.update({key: found[key].bool()})),
        ):
            yield f"{key}, {what}", lambda copy, change=change: write(copy, change, metadata)
    yield "no metadata", lambda copy: write(copy, lambda found: None, None)
    for key, text in (metadata or {}).items():
        for what, changed in _change(json.loads(text)):
            more = {key: json.dumps(changed)}
            yield f"metadata, {what}", lambda copy, more=more: write(copy, lambda found: None, more)
        yield "metadata, deep", lambda copy, key=key: write(copy, lambda found: None, {key: DEEP})
        yield "metadata, garbage", lambda copy, key=key: write(copy, lambda found: None, {key: "{"})
