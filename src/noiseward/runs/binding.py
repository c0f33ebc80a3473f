r"""What ties the files of a run together, so that each can be checked alone and against the others.

*Identity.* A run's id is a digest of what was asked, without what `resume` may change (the budget, the memory mode). It
is the same for the same question, so equal runs still write equal files, to the last byte.

*Seals.* A JSON file and the metadata of a safetensors file hold the run's id and `sum`, a digest of all else in it. A
sealed file was not changed since it was written, and says whose it is.

*The log is the manifest.* Each line of `steps.jsonl` ends with a `sum` over itself and the sum of the line before (the
first over the run's id): lines can be neither changed, nor left out, nor reordered. In `bound` it has the digests of
the noise to continue from, of the best, and of the panel's peaks as they are after that step. The line is written
first. So at any instant `best`, `peaks` and `latest` are those of the last line or of the line before it; the first
line after a resume, which may stand in for one that was there, says in `from` what the files were. Anything else is not
this run, or not this instant of it. What an image must look like follows from the tensors, and for those along the way
from `pixels`, a digest per row.

Runs of format 1 have none of this. They are held to what their numbers say of each other.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

from noiseward.errors import RunError
from noiseward.runs.files import parse_json

if TYPE_CHECKING:
    from pathlib import Path

    from PIL.Image import Image
    from torch import Tensor

__all__ = [
    "FILES",
    "Bound",
    "digest",
    "digest_images",
    "digest_tensors",
    "identify",
    "mark",
    "check_mark",
    "previous_digest",
    "seal",
    "unseal",
]

EXTENDED = ("steps", "seconds", "nfe", "memory", "format")  # what may differ when a run is resumed
FILES = ("place", "best", "peaks")

Bound = TypedDict(
    "Bound",
    {"place": str, "best": str, "peaks": str | None, "pixels": list[str] | None, "from": NotRequired[list[str | None]]},
)


def digest(*parts: bytes | str | memoryview) -> str:
    """A short digest, 16 hexadecimal digits.

    Example:
        >>> digest("a duck") == digest(b"a duck") != digest("a", "duck")
        True
    """
    made = hashlib.blake2b(digest_size=8)
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        if len(parts) > 1:
            made.update(len(data).to_bytes(8, "little"))
        made.update(data)
    return made.hexdigest()


def _canonical(content: Mapping[str, Any]) -> str:
    return json.dumps(content, sort_keys=True)


def identify(spec: Mapping[str, Any]) -> str:
    """The id of the run that is asked for."""
    return digest(_canonical({name: value for name, value in spec.items() if name not in EXTENDED}))


def seal(content: Mapping[str, Any], run: str | None = None) -> dict[str, Any]:
    """Add a checksum, and a run's id if there is one, to plain data.

    Example:
        >>> unseal(seal({"a": 1}, "cafe"), "a.json", run="cafe")
        {'a': 1}
    """
    whole = {**content, **({} if run is None else {"run": run})}
    return {**whole, "sum": digest(_canonical(whole))}


def unseal(content: Mapping[str, Any], source: object, *, run: str | None = None) -> dict[str, Any]:
    """What was sealed.

    Arguments:
        content: plain data.
        source: the file, as messages name it.
        run: the id it must have, if it has one.

    Raises:
        RunError: it was changed, or is of another run.
    """
    rest = {name: value for name, value in content.items() if name != "sum"}
    if "sum" not in content:
        raise RunError(f"{source} has no checksum, which this format asks for; restore it, or run again")
    if content["sum"] != digest(_canonical(rest)):
        raise RunError(f"{source} was changed since it was written (its checksum differs); restore it, or run again")
    if run is not None and rest.pop("run", None) != run:
        raise RunError(f"{source} belongs to another run than spec.json next to it; restore it, or run again")
    return rest


def digest_tensors(content: Mapping[str, Tensor], loop: Mapping[str, Any] | None = None) -> str:
    """A digest of plain tensors, their names, types and shapes, and of plain data that goes with them."""
    head = [[name, str(part.dtype), list(part.shape)] for name, part in sorted(content.items())]
    bodies = [memoryview(_bytes(content[name])) for name, *_ in head]
    return digest(json.dumps(head), json.dumps(loop), *bodies)


def _bytes(part: Tensor) -> Any:
    import torch  # what reads a run's numbers needs none

    return part.reshape(-1).view(torch.uint8).numpy()


def mark(
    content: Mapping[str, Tensor], run: str | None, loop: Mapping[str, Any] | None = None
) -> dict[str, str] | None:
    """The metadata of a safetensors file: under one key, since their order is not kept, id, sum, and `loop`'s entries.

    Arguments:
        content: plain tensors.
        run: the id of the run; None in format 1.
        loop: what else is to be known.
    """
    if run is None:
        return None if loop is None else {"loop": json.dumps(loop)}
    whole = {**(loop or {}), "run": run, "sum": digest_tensors(content, loop)}
    return {"bound" if loop is None else "loop": json.dumps(whole)}


def check_mark(
    content: Mapping[str, Tensor], metadata: Mapping[str, str], source: Path, run: str | None
) -> tuple[str, dict[str, Any]]:
    """The digest of a safetensors file, and what is in its metadata.

    Arguments:
        content, metadata: of the file.
        source: where it is.
        run: the id it must have; None in format 1, where there is nothing to check.

    Raises:
        RunError: it was changed, or is of another run.
    """
    try:
        text = metadata.get("loop", metadata.get("bound"))
        whole = parse_json(text) if text is not None else {}
    except ValueError as error:
        raise RunError(f"{source}: its metadata cannot be read ({str(error)[:80]}); restore it, or run again") from None
    if not isinstance(whole, dict):
        raise RunError(f"{source}: expected an object in its metadata, got something else; restore it, or run again")
    loop = {name: value for name, value in whole.items() if name not in ("run", "sum")}
    found = digest_tensors(content, loop if "loop" in metadata else None)
    if run is not None:
        if whole.get("sum") != found:
            raise RunError(
                f"{source} was changed since it was written (its checksum differs); restore it, or run again"
            )
        if whole.get("run") != run:
            raise RunError(f"{source} belongs to another run than spec.json next to it; restore it, or run again")
    return found, loop


def digest_images(images: Sequence[Image]) -> list[str]:
    """A digest of each image's size and pixels."""
    return [digest(repr(image.size), image.tobytes()) for image in images]


def previous_digest(name: str, now: Bound, before: Bound | None) -> str | None:
    """The digest that a file had before the last step, or None.

    Arguments:
        name: `place`, `best` or `peaks`.
        now, before: of the last line of the log and the line before it.
    """
    if "from" in now:
        return now["from"][FILES.index(name)]
    return before[name] if before else None
