"""An ONNX model that is called with tensors: converted to torch where it can be, by onnxruntime where not."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from noiseward.errors import ArgumentError, ModelError, NoisewardWarning, choices, describe_error
from noiseward.rewards.extras import import_extra
from noiseward.rewards.onnx.convert import convert

__all__ = ["GRADIENT", "OnnxModel"]

GRADIENT = ("auto", "yes", "no")
SLACK = 1e-3  # how far the converted model may be from the original, relative to its largest output


@final
class OnnxModel:
    """A model with one input that matters, and one output.

    Arguments:
        path: of the file.
        gradient: `yes`, or an error; `no`, by onnxruntime alone; `auto`, yes where it converts and computes the same.
        name: of the reward, for messages.
        side: of the input where the file declares none, to compare the converted model with the original; 0 for no
            comparison then.

    Attributes:
        differentiable: whether it was converted.
        shape: of the input as the file declares it; None for a side of any length.

    Raises:
        ArgumentError: there is no such file.
        ModelError: it cannot be loaded, or a gradient is asked for and there is none.
    """

    def __init__(self, path: Path, *, gradient: str, name: str, side: int = 0) -> None:
        if gradient not in GRADIENT:
            raise ArgumentError(f"gradient must be auto, yes or no, got '{gradient}'; {choices(gradient, GRADIENT)}")
        if not path.is_file():
            raise ArgumentError(f"path must be an ONNX file, got '{path}'; check it")
        runtime = import_extra("onnxruntime", extra="onnx", name=f"reward '{name}'")
        options = runtime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), 3
        try:
            self._session: Any = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime raises kinds of its own
            raise ModelError(f"{path} cannot be loaded as an ONNX model: {describe_error(error, 160)}") from None
        first = self._session.get_inputs()[0]
        self.path, self.name, self._input = path, name, first.name
        self.shape = tuple(side if isinstance(side, int) and side > 0 else None for side in first.shape)
        self._module = None
        if gradient != "no":
            self._convert(gradient == "yes", side)
        self.differentiable = self._module is not None

    def _convert(self, is_required: bool, side: int) -> None:
        try:
            self._module = convert(self.path)
            sides = [declared or side for declared in self.shape[1:]]
            if all(sides):
                trial = torch.rand(1, *sides, generator=torch.Generator().manual_seed(0))
                with torch.no_grad():
                    ours, theirs = self._torch(trial), self._runtime(trial)
                far = (ours - theirs).abs().max().item()
                if not far <= SLACK * max(theirs.abs().max().item(), 1e-6):
                    raise ModelError(f"{self.path} computes something else when converted to torch, {far:.2g} apart")
        except ModelError as error:
            self._module = None
            if is_required:
                raise
            warnings.warn(f"reward '{self.name}' has no gradient: {error}", NoisewardWarning, stacklevel=2)

    def __call__(self, values: Tensor) -> Tensor:
        """The first output for a batch, with a graph where it was converted."""
        return self._torch(values) if self._module is not None else self._runtime(values)

    def _torch(self, values: Tensor) -> Tensor:
        assert self._module is not None
        module = self._module.to(values.device, values.dtype)
        with warnings.catch_warnings(action="ignore"):  # of indexing with lists, in onnx2torch
            found = [module(part) for part in self._split(values)]
        return torch.cat([part[0] if isinstance(part, list | tuple) else part for part in found])

    def _runtime(self, values: Tensor) -> Tensor:
        parts = [part.detach().float().cpu().numpy() for part in self._split(values)]
        try:
            found = [torch.from_numpy(self._session.run(None, {self._input: part})[0]) for part in parts]
        except Exception as error:  # onnxruntime raises kinds of its own
            raise ModelError(f"{self.path} cannot be run: {describe_error(error, 160)}") from None
        return torch.cat(found).to(values)

    def _split(self, values: Tensor) -> Sequence[Tensor]:
        """The pieces of a batch, where the file declares how many rows it takes."""
        return values.split(self.shape[0] or len(values)) if self.shape else [values]
