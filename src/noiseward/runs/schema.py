"""What each file of a run and of a sweep holds, as types; and the one reader that holds files to them.

A type is a class, a union, `Literal`, `list[...]`, `tuple[..., ...]` (a JSON array), `dict[str, ...]`, or a `TypedDict`
(a JSON object; keys it does not name are left alone, for newer versions may write more). `bool` is no number here, and
an `int` is a `float`.
"""

from __future__ import annotations

import functools
import types
import typing
from typing import Any, Literal, NotRequired, TypedDict

from noiseward.errors import RunError
from noiseward.loop.budget import Status

__all__ = ["BatchFile", "Loop", "Nfe", "Record", "State", "StatusFile", "check"]

State = Literal["running", "done", "interrupted", "failed"]
Rows = list[float]


class Nfe(TypedDict):
    """Denoiser calls per row.

    Attributes:
        forward: calls.
        backward: calls that a gradient went back through.
        recomputed: calls that were repeated for a gradient, to save memory.
    """

    forward: int
    backward: int
    recomputed: int


class Record(TypedDict):
    """A line of `steps.jsonl`; lists have an entry per row.

    Attributes:
        index: the step, from 0.
        seconds: wall time of the run up to here.
        nfe: denoiser calls up to here.
        reward: of this step's noise; -1e9 or less where it fails a requirement.
        terms: the rewards and requirements that it is made of, by name.
        penalty: what is subtracted for implausible noise.
        value: reward minus penalty.
        probability: P(z).
        grad_norm: norm of the direction before clipping; null if there was none.
        watched: scores of held-out rewards, by name; only at steps that watched them.
        silent: names of held-out rewards that do not count for reward hacking.
        found: the step of the best so far.
        strict: probability by the strict test of the noise; null where it was not tested.
        image: P(image), by the image test; null where it was not tested.
    """

    index: int
    seconds: float
    nfe: Nfe
    reward: Rows
    terms: dict[str, Rows]
    penalty: Rows
    value: Rows
    probability: Rows
    grad_norm: Rows | None
    watched: NotRequired[dict[str, Rows]]
    silent: NotRequired[list[str]]
    found: NotRequired[list[int]]
    strict: NotRequired[list[float | None]]
    image: NotRequired[list[float | None]]


class StatusFile(TypedDict):
    """`status.json`; one of a run that failed at its first step has a state and an error only.

    Attributes:
        state: where the run is.
        step: the last step that was written.
        seconds: wall time up to here.
        best: the best reward so far, by row.
        found: the step of the best, by row.
        rows: why each row stopped, or RUNNING.
        strict: at the end, the strict probability of each best.
        image: at the end, P(image) of each best; null where it was not tested.
        untested: why images were not tested, if they should have been.
        suspect: at the end, the part of the strict test that each best is closest to failing.
        dead_draws: at the end, draws of the sampler that have no effect on the sample.
        error: why the run failed.
    """

    state: State
    step: NotRequired[int]
    seconds: NotRequired[float]
    best: NotRequired[Rows]
    found: NotRequired[list[int]]
    rows: NotRequired[list[str]]
    strict: NotRequired[Rows]
    image: NotRequired[list[float | None]]
    untested: NotRequired[str]
    suspect: NotRequired[list[str]]
    dead_draws: NotRequired[list[str]]
    error: NotRequired[str]


class Loop(TypedDict):
    """The metadata `loop` of `latest.safetensors`.

    Attributes:
        index: the step.
        status: of each row, as in `status.json`.
        nfe: denoiser calls up to here.
        pace_nfe: calls of the most expensive recent step, by which the budget is kept.
        untested: why images are not tested, if they should be.
    """

    index: int
    status: list[str]
    nfe: Nfe
    pace_nfe: int
    untested: NotRequired[str]


class PackFile(TypedDict):
    """A pack in `batch.json`.

    Attributes:
        name: of its run directory in `packs/`.
        ids: one per prompt.
        spec: what was asked, as in `spec.json`.
        measure: in a comparison, the held-out rewards that are measured.
    """

    name: str
    ids: list[str]
    spec: dict[str, Any]
    measure: NotRequired[list[str]]


class BatchFile(TypedDict):
    """`batch.json`.

    Attributes:
        format: of the directory.
        packs: runs of a few rows each.
    """

    format: int
    packs: list[PackFile]


def check(content: Any, kind: Any, source: object, *, rows: int | None = None) -> None:
    """Raise `RunError` unless some plain data is of a type.

    Arguments:
        content: as `json.loads` gives it.
        kind: a type, see the module.
        source: the file, as messages name it.
        rows: how many numbers every list must have, if known.

    Example:
        >>> check({"forward": 1, "backward": 0, "recomputed": None}, Nfe, "log")
        Traceback (most recent call last):
        ...
        noiseward.errors.RunError: log: expected a whole number for 'recomputed', got null; restore it, or run again
    """
    if wrong := _wrong(content, kind, "", rows):
        raise RunError(f"{source}: {wrong}; restore it, or run again")


def check_statuses(names: list[str], source: object) -> None:
    """Raise `RunError` unless these are names of `Status`."""
    for name in names:
        if name not in Status.__members__:
            raise RunError(f"{source}: expected the status of a row, got '{name[:40]}'; restore it, or run again")


def _wrong(value: Any, kind: Any, at: str, rows: int | None) -> str | None:
    """What is wrong with a value, None if nothing is."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return None
    if origin in (typing.Union, types.UnionType):
        fine = any(_wrong(value, one, at, rows) is None for one in inner)
        near = [one for one in inner if one is not type(None)]
        return None if fine else _wrong(value, near[0], at, rows) if len(near) == 1 else _said(value, kind, at)
    if origin is Literal:
        return None if isinstance(value, str) and value in inner else _said(value, kind, at)
    if origin in (list, tuple):
        if not isinstance(value, list | tuple):
            return _said(value, kind, at)
        if rows is not None and inner[0] in (int, float) and len(value) != rows:
            return f"expected {rows} numbers for '{at}', one per row, got {len(value)}"
        return _first(_wrong(one, inner[0], f"{at}[{number}]", rows) for number, one in enumerate(value))
    if origin is dict:
        if not isinstance(value, dict):
            return _said(value, kind, at)
        return _first(_wrong(one, inner[1], _at(at, key), rows) for key, one in value.items())
    if typing.is_typeddict(kind):
        if not isinstance(value, dict):
            return _said(value, kind, at)
        hints, required = _hints(kind)
        for name in sorted(required - set(value)):
            return f"expected {_called(hints[name])} for '{_at(at, name)}', got nothing"
        return _first(_wrong(value[name], hint, _at(at, name), rows) for name, hint in hints.items() if name in value)
    if kind is float:
        fine = isinstance(value, int | float) and not isinstance(value, bool)
    elif kind is type(None):
        fine = value is None
    else:
        fine = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    return None if fine else _said(value, kind, at)


@functools.cache
def _hints(kind: Any) -> tuple[dict[str, Any], frozenset[str]]:
    marked = typing.get_type_hints(kind, include_extras=True)  # annotations are text: `__required_keys__` has them all
    return typing.get_type_hints(kind), frozenset(
        name for name, hint in marked.items() if typing.get_origin(hint) is not NotRequired
    )


def _first(found: typing.Iterable[str | None]) -> str | None:
    return next((one for one in found if one is not None), None)


def _at(at: str, name: object) -> str:
    return f"{at}.{str(name)[:40]}" if at else str(name)[:40]


def _said(value: Any, kind: Any, at: str) -> str:
    where = f" for '{at}'" if at else ""
    return f"expected {_called(kind)}{where}, got {_shown(value)}"


def _called(kind: Any) -> str:
    """A type in words."""
    origin = typing.get_origin(kind) or kind
    if origin is Literal:
        return " or ".join(repr(one) for one in typing.get_args(kind))
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_called(one) for one in typing.get_args(kind))
    words = {int: "a whole number", float: "a number", str: "a string", bool: "true or false", type(None): "null"}
    return words.get(origin, "a list" if origin in (list, tuple) else "an object")


def _shown(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "a list"
    if isinstance(value, dict):
        return "an object"
    words: dict[Any, str] = {None: "null", True: "true", False: "false"}
    if value is None or isinstance(value, bool):
        return words[value]
    return f"'{value[:40]}'" if isinstance(value, str) else f"{value}"[:40]
