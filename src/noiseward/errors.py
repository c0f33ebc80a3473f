"""The errors, as one tree. Every message is one line: what was expected, what was got, what to do.

    NoisewardError
    ├── ArgumentError (also a ValueError)   a value, name or combination that is not allowed
    ├── ModelError                          a model that cannot be loaded or driven
    ├── ModelInUse                          a model that another thread is running
    ├── TapeError                           a sampler that is not a function of the draws the tape saw
    │   ├── DrawMismatch                    fewer, more, reordered or differently shaped draws than recorded
    │   └── UnseenRandomness                same draws, another sample: randomness the tape cannot see
    ├── RewardError                         a reward that raised, or returned something unusable
    │   └── SpendingLimit                   a judge that may not cost more; the run ends with the best so far
    ├── GradientError                       a gradient was asked for where there is none
    ├── OutOfMemory                         memory ran out; the message names what needs less
    └── RunError                            a run directory that cannot be written or read

A traceback of one of these on the command line would be a bug: the command line prints the line and exits 1.
A `NoisewardWarning` is one line, too.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

__all__ = [
    "NoisewardError", "NoisewardWarning", "ArgumentError", "ModelError", "ModelInUse", "TapeError", "DrawMismatch",
    "UnseenRandomness", "RewardError", "SpendingLimit", "GradientError", "OutOfMemory", "RunError", "choices",
    "describe_error", "is_out_of_memory", "shorten",
]  # fmt: skip


class NoisewardError(Exception):
    """Any error this library raises on purpose.

    Words of more than 160 characters, such as paths, are shortened in the middle.

    Example:
        >>> len(str(NoisewardError("/".join(["folder"] * 700) + "/run is no run directory")))
        177
    """

    def __str__(self) -> str:
        return re.sub(r"\S{161,}", lambda word: f"{word[0][:76]}.....{word[0][-76:]}", super().__str__())


class NoisewardWarning(UserWarning):
    """Something that works, but probably not as intended.

    Example:
        >>> import warnings
        >>> warnings.filterwarnings("error", category=NoisewardWarning)  # stop where one would only warn
    """


class ArgumentError(NoisewardError, ValueError):
    """An argument has a value, a name or a combination that is not allowed.

    Example:
        >>> from noiseward import align
        >>> align("stickers", "a duck", "brightnes")
        Traceback (most recent call last):
        ...
        noiseward.errors.ArgumentError: unknown reward 'brightnes'; did you mean 'brightness'? Available: ...
    """


class ModelError(NoisewardError):
    """A model cannot be loaded, or cannot be driven by this library.

    Example:
        >>> from noiseward import align
        >>> align("no-such-folder", "a duck", "brightness")
        Traceback (most recent call last):
        ...
        noiseward.errors.ModelError: ...
    """


class ModelInUse(NoisewardError):
    """A model is being run in another thread."""


class TapeError(NoisewardError):
    """A sampler is not a function of the Gaussian draws the tape saw.

    Example:
        >>> import torch
        >>> from noiseward.noise.tape import replay
        >>> with replay([torch.zeros(1, 2)], ["start"]):
        ...     torch.randn(1, 3)
        Traceback (most recent call last):
        ...
        noiseward.errors.DrawMismatch: ...
    """


class DrawMismatch(TapeError):
    """A replay asked for fewer, more, reordered or differently shaped draws than the recording."""


class UnseenRandomness(TapeError):
    """The same draws gave another sample: the sampler uses randomness the tape cannot see."""


class RewardError(NoisewardError):
    """A reward raised, or returned something that is not one finite number per row.

    Example:
        >>> from noiseward import FunctionReward, Objective
        >>> from noiseward.toys import GaussianModel
        >>> sampler = GaussianModel(steps=2).sampler()
        >>> Objective(sampler, FunctionReward(lambda sample: sample.mean(), name="mean"))(sampler.init(2))
        Traceback (most recent call last):
        ...
        noiseward.errors.RewardError: ...
    """


class SpendingLimit(RewardError):
    """A judge has made the calls that it may make, or cost what it may cost."""


class GradientError(NoisewardError):
    """A gradient was asked for where there is none.

    Example:
        >>> from noiseward import Backprop, FunctionReward
        >>> Backprop().check(FunctionReward(lambda sample: sample.mean(1), differentiable=False, name="score"))
        Traceback (most recent call last):
        ...
        noiseward.errors.GradientError: ...
    """


class OutOfMemory(NoisewardError):
    """Memory ran out."""


class RunError(NoisewardError):
    """A run directory cannot be written or read.

    Example:
        >>> from pathlib import Path
        >>> from noiseward.runs import resume
        >>> resume(Path("no-such-folder"))
        Traceback (most recent call last):
        ...
        noiseward.errors.RunError: ...
    """


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, by Python's error, torch's, or a runtime error that says so.

    Example:
        >>> is_out_of_memory(RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")), is_out_of_memory(OSError())
        (True, False)
    """
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's is a RuntimeError
        return True
    text = describe_error(error).lower()
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)


def choices(name: str, allowed: Iterable[str], *, limit: int = 40) -> str:
    """The end of a message about an unknown name: the nearest allowed names, then all of them.

    Arguments:
        name: the unknown one.
        allowed: the known ones.
        limit: how many are listed at most.

    Example:
        >>> choices("brightnes", ["brightness", "contrast"])
        "did you mean 'brightness'? Available: brightness, contrast"
        >>> choices("x", ["brightness", "contrast", "jpeg"], limit=2)
        'available: brightness, contrast, ... (3 in all)'
    """
    allowed = list(allowed)
    near = difflib.get_close_matches(name, allowed, n=3, cutoff=0.6)
    listed = ", ".join(allowed[:limit]) + (f", ... ({len(allowed)} in all)" if len(allowed) > limit else "")
    return f"did you mean {' or '.join(map(repr, near))}? Available: {listed}" if near else f"available: {listed}"


def shorten(text: str, limit: int = 1000) -> str:
    """A text as one printable line of limited length, cut in the middle.

    Example:
        >>> shorten("no ducks\\n  here\\x1b[2J")
        'no ducks here\\\\x1b[2J'
        >>> shorten("abcdefghij" * 10, 20)
        'abcdefghijab ... hij'
    """
    short = " ".join(text[: 100 * limit].split())
    plain = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in short)
    end = limit // 5
    return plain if len(plain) <= limit else f"{plain[: limit - end - 4]} ... {plain[1 - end :]}"


def describe_error(error: BaseException, limit: int = 1000, *, kind: bool = False) -> str:
    """The message of an exception as one line, even where its `str` fails; its type's name if it has none.

    Arguments:
        error: the exception.
        limit: length of the message at most.
        kind: put the type's name before the message.

    Example:
        >>> describe_error(ValueError("no\\nducks")), describe_error(ValueError("no ducks"), kind=True)
        ('no ducks', 'ValueError: no ducks')
    """
    name = type(error).__name__
    try:
        message = shorten(str(error), limit)
    except BaseException:
        message = "(its message cannot be read)"
    return f"{name}: {message}" if kind and message else message or name
