r"""Memory: what a gradient keeps, how much is free, and what to do when it runs out.

For a gradient through N denoiser calls, each of which keeps a megabytes, and b for everything else (the decoder,
mostly), and B rows, a **mode** needs about

| mode | keeps | memory | time of a call |
|---|---|---|---|
| `fast` | all activations | B (N a + b) | F + B |
| `balanced` | one call's at a time | B (a + b) | 2 F + B |
| `low` | one block's of one call, strips of the decoder | less | 3 F + B |

in addition to the weights and N latents; F is a forward, B a backward. The gradient is the same in all modes. `auto` is
the first of them that fits into what is free. a and b are measured, by :func:`measure_kept`.
"""

from __future__ import annotations

import contextvars
import math
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import Module
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from noiseward.errors import ArgumentError, OutOfMemory, is_out_of_memory

__all__ = [
    "MODES",
    "attempt",
    "check_room",
    "choose_mode",
    "free_memory",
    "list_storages",
    "lower_mode",
    "measure_kept",
    "note_kept",
]

MODES = ("fast", "balanced", "low")
ROWS = 100_000  # of a run at most
MARGIN = 1.5  # of what is kept: gradients on their way, workspaces, and what a computation holds for a moment

T = TypeVar("T")

_NOTE = contextvars.ContextVar[Callable[[Tensor], object] | None]("what is recorded of each saved tensor", default=None)


def lower_mode(mode: str) -> str | None:
    """The next mode that needs less memory; None below the last.

    Example:
        >>> lower_mode("fast"), lower_mode("low")
        ('balanced', None)
    """
    below: dict[str, str] = dict(zip(MODES, MODES[1:], strict=False))
    return below.get(mode)


def choose_mode(*, step: float, rest: float, steps: int, available: float | None) -> str:
    """The fastest mode that fits.

    Arguments:
        step: bytes the denoiser keeps in one sampler step, for all rows.
        rest: bytes everything else keeps.
        steps: sampler steps of a run.
        available: bytes that are free; None where that is not known, which gives `balanced`.

    Example:
        >>> [choose_mode(step=1e9, rest=1e9, steps=50, available=free) for free in (80e9, 24e9, 2e9, None)]
        ['fast', 'balanced', 'low', 'balanced']
    """
    if available is None:
        return "balanced"
    if MARGIN * (steps * step + rest) <= available:
        return "fast"
    return "balanced" if MARGIN * (step + rest) <= available else "low"


def measure_kept(compute: Callable[[], object], modules: Iterable[Module] = ()) -> int:
    """Measure how many bytes a computation's graph holds while its result is alive, without the modules' weights.

    Example:
        >>> x = torch.ones(10, requires_grad=True)
        >>> measure_kept(lambda: x.exp().exp())
        80
    """
    weights = {key for module in modules for weight in module.parameters() for key, _ in list_storages(weight)}
    sizes: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        sizes.update((key, size) for key, size in list_storages(tensor) if key not in weights)
        return tensor

    token = _NOTE.set(pack)
    try:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            result = compute()
    finally:
        _NOTE.reset(token)
    del result
    return sum(sizes.values())


def list_storages(tensor: Tensor) -> list[tuple[int, int]]:
    """Address and bytes of the memory that a tensor's values are in; quantized ones are in several.

    Example:
        >>> [size for _, size in list_storages(torch.ones(10))]
        [40]
    """
    if is_traceable_wrapper_subclass(tensor):
        inner = [getattr(tensor, name) for name in tensor.__tensor_flatten__()[0]]
        return [each for part in inner for each in list_storages(part)]
    storage = tensor.untyped_storage()
    return [(storage.data_ptr(), storage.nbytes())]


def note_kept(tensor: Tensor) -> None:
    """Let :func:`measure_kept` count a tensor that hooks of another kind save in its place."""
    if (note := _NOTE.get()) is not None:
        note(tensor)


def free_memory(device: torch.device) -> float | None:
    """Bytes that are still available on a device; None where that is not known."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    limits = [_available(), _container_limit()]
    known = [limit for limit in limits if limit is not None]
    return min(known) if known else None


def check_room(rows: int, batch: int, noise_shape: Sequence[int] = ()) -> None:
    """Raise `ArgumentError` if a run has more rows than fit into memory, before they are made.

    Arguments:
        rows: of the run.
        batch: of each prompt.
        noise_shape: of one row's noise, where it is known.

    Example:
        >>> check_room(10**6, 10**6)
        Traceback (most recent call last):
            ...
        noiseward.errors.ArgumentError: 1,000,000 rows are too many for one run (1,000,000 per prompt): more than
        100,000; take fewer, or 'noiseward batch', which does them in packs
    """
    least, room = 3 * 4.0 * rows * math.prod(noise_shape), free_memory(torch.device("cpu"))
    if rows <= ROWS and (room is None or least <= room):
        return
    why = f"more than {ROWS:,}"
    if rows <= ROWS and room is not None:
        why = f"noise, best noise and direction take {least / 1e9:,.1f} GB, and {room / 1e9:,.1f} GB are free"
    raise ArgumentError(
        f"{rows:,} rows are too many for one run ({batch:,} per prompt): {why}; take fewer, or 'noiseward batch', "
        "which does them in packs"
    )


def _available() -> float | None:
    """What the system can give without swapping."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        return next(1024.0 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        pass
    try:
        return 0.5 * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def _container_limit() -> float | None:
    """What is left of a container's limit."""
    folder = Path("/sys/fs/cgroup")
    try:
        limit, used = ((folder / name).read_text().strip() for name in ("memory.max", "memory.current"))
        return float(limit) - float(used)
    except (OSError, ValueError):  # none, or no number: "max"
        return None


def attempt(compute: Callable[[], T], when: str, lighter: str | None) -> T:
    """Run a computation and return its result.

    Raises:
        OutOfMemory: memory ran out. The failed graph is released first: it would hang on the error's traceback.
    """
    try:
        return compute()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    remedy = (
        f"take {lighter}, or a smaller batch" if lighter else "take a smaller batch, smaller samples or fewer steps"
    )
    raise OutOfMemory(f"out of memory {when}: {remedy}")
