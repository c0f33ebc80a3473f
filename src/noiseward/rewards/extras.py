"""Optional packages: imported when a reward needs them, and named with the extra that installs them."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from noiseward.errors import ModelError

__all__ = ["import_extra"]


def import_extra(module: str, *, extra: str, name: str, alone: bool = False) -> Any:
    """Import a module of an optional package.

    Arguments:
        module: its name.
        extra: of this package, which installs it.
        name: what needs it, for the message.
        alone: whether it is to be installed without what its metadata ask for.

    Raises:
        ModelError: it is not installed.

    Example:
        >>> import_extra("no_such_package", extra="chat", name="reward 'chat'")
        Traceback (most recent call last):
        ...
        noiseward.errors.ModelError: reward 'chat' needs the package no_such_package; install it with
        pip install 'noiseward[chat]'
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        missing = (error.name or module).partition(".")[0]
        how = f"--no-deps {module}" if alone else f"'noiseward[{extra}]'"
        raise ModelError(f"{name} needs the package {missing}; install it with pip install {how}") from None
