"""Align any diffusion or flow model with any reward while it generates, by optimizing its noise.

A **sampler** turns **noise** into a sample; a **reward** scores it; an **optimizer** changes the noise so that the
reward rises; a **regularizer** keeps it looking like noise.

:func:`align` is the front door. The parts it is made of are the other names here. `__init__.pyi` lists them with their
modules, which are imported when a name is first used: `import noiseward` loads nothing else, not even torch.
"""

from __future__ import annotations

import ast
import os
import warnings

__version__ = "0.2.0"

warnings.filterwarnings("ignore", message="IProgress not found")  # from tqdm, in notebooks without ipywidgets

with open(os.path.join(os.path.dirname(__file__), "__init__.pyi"), encoding="utf-8") as _table:
    _HOMES = {
        name.name: str(line.module)
        for line in ast.parse(_table.read()).body
        if isinstance(line, ast.ImportFrom)
        for name in line.names
    }

__all__ = sorted(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'noiseward' has no attribute '{name}'")
    from importlib import import_module

    globals()[name] = value = getattr(import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
