"""Where in a sampler's own code something happens: the line nearest to it that is neither torch's nor ours."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import torch

from noiseward.noise import tape

__all__ = [
    "DISTRIBUTIONS",
    "asking_location",
    "caller_location",
    "error_location",
    "is_library_file",
    "no_grad_switch",
    "summarize_error",
]

_TORCH, _HERE = (f"{folder}{os.sep}" for folder in (Path(torch.__file__).parent, Path(__file__).parents[1]))
_MODES = (str(Path(__file__).with_name("witness.py")), tape.__file__)
_DISTRIBUTIONS = f"{_TORCH}distributions{os.sep}"
_LIFTING = str(Path(__file__).with_name("differentiable.py"))

DISTRIBUTIONS = "sample() of torch.distributions"


def caller_location(frame: FrameType | None) -> str | None:
    """The line nearest to a frame that is neither torch's nor ours, as `file.py:12`; None where there is none."""
    while frame is not None and _inner(frame.f_code):
        frame = frame.f_back
    return None if frame is None else _at(frame.f_code, frame.f_lineno)


def error_location(error: BaseException) -> str | None:
    """The line nearest to where an error was raised that is neither torch's nor ours."""
    while error.__cause__ is not None:
        error = error.__cause__
    place, trace = None, error.__traceback__
    while trace is not None:
        if not _inner(trace.tb_frame.f_code):
            place = _at(trace.tb_frame.f_code, trace.tb_lineno)
        trace = trace.tb_next
    return place


def summarize_error(error: BaseException) -> str:
    """An error's type and first line."""
    line = (str(error).strip().splitlines() or [""])[0][:200].strip().rstrip(".:")
    return f"{type(error).__name__}: {line}" if line else type(error).__name__


def is_library_file(file: str) -> bool:
    """Whether a file is torch's or ours."""
    return file.startswith((_TORCH, _HERE)) or file == contextlib.__file__


def _inner(code: CodeType) -> bool:
    return is_library_file(code.co_filename)


def _at(code: CodeType, line: int) -> str:
    return f"{Path(code.co_filename).name}:{line}"


def asking_location() -> str | None:
    """The line of the sampler's code that makes the call a mode sees now; None where it is made by this library."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        file = frame.f_code.co_filename
        mode = file in _MODES and frame.f_code.co_name in ("__torch_function__", "see")
        if file.startswith(_HERE) and file != _LIFTING and not mode:
            return None
        if not _inner(frame.f_code):
            return _at(frame.f_code, frame.f_lineno)
        code = getattr(_decorated(frame), "__code__", None)
        if code is not None and not _inner(code):
            return _at(code, code.co_firstlineno)
        frame = frame.f_back
    return None


def _decorated(frame: FrameType) -> Any:
    """The function that a decorator of torch's calls in a frame, if it does."""
    return frame.f_locals.get("func") if Path(frame.f_code.co_filename).name == "_contextlib.py" else None


def no_grad_switch() -> str | None:
    """What turns gradients off now: `torch.no_grad()`, and on which function where it is a decorator, or `sample()` of
    a distribution; None for what only puts back what was."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and _inner(frame.f_code):
        if frame.f_code.co_name == "__exit__":
            return None
        if frame.f_code.co_filename.startswith(_DISTRIBUTIONS):
            return DISTRIBUTIONS
        if (decorated := _decorated(frame)) is not None:
            return f"torch.no_grad() on {getattr(decorated, '__name__', 'a function')}"
        frame = frame.f_back
    return "torch.no_grad()"
