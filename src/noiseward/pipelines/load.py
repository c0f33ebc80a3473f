"""Load a diffusers pipeline from a folder or a hub id; what goes wrong is said in one line."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from noiseward.errors import ModelError

__all__ = ["load"]


def load(model: str | Path, *, dtype: torch.dtype | None = None, device: str | torch.device | None = None) -> Any:
    """A pipeline in the diffusers format.

    Arguments:
        model: a folder that holds `model_index.json`, or a hub id such as `owner/name`.
        dtype: precision of the weights; default: bfloat16 on a GPU, float32 elsewhere.
        device: default: the GPU if there is one.

    Raises:
        ModelError: there is no such model, or it cannot be read.
    """
    import diffusers

    path = Path(model).expanduser()
    if not path.exists() and (path.is_absolute() or str(model).count("/") != 1 or str(model).startswith(".")):
        raise ModelError(f"model '{model}' is no folder here and no hub id (owner/name): give one of these")
    if path.exists() and not (path / "model_index.json").is_file():
        raise ModelError(
            f"{path} is no pipeline folder, it has no model_index.json: give the folder that save_pretrained() wrote"
        )
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    dtype = dtype or (torch.bfloat16 if device.type == "cuda" else torch.float32)
    try:
        with _hushed(path.exists()):
            pipe = diffusers.DiffusionPipeline.from_pretrained(str(path if path.exists() else model), dtype=dtype)
        return pipe.to(device)
    except Exception as error:  # whatever the loaders of five libraries raise: a file that is missing, short or garbled
        reason = " ".join(str(error).split())[:200]
        if path.exists():
            raise ModelError(
                f"{path} cannot be loaded, a file is missing or damaged ({type(error).__name__}: {reason})"
            ) from error
        raise ModelError(
            f"model '{model}' is neither a folder here nor could it be had from the hub: download it first "
            f"(hf download {model}), or give a folder ({type(error).__name__}: {reason})"
        ) from error


@contextlib.contextmanager
def _hushed(bars: bool) -> Iterator[None]:
    """Without the loaders' remarks on optional packages and, if asked, without their progress bars."""
    from diffusers.utils import logging as diffusers_log
    from transformers.utils import logging as transformers_log

    logs = (diffusers_log, transformers_log)
    before = [(log.get_verbosity(), log.is_progress_bar_enabled()) for log in logs]
    for log in logs:
        log.set_verbosity_error()
        if bars:
            log.disable_progress_bar()
    try:
        yield
    finally:
        for log, (verbosity, shown) in zip(logs, before, strict=True):
            log.set_verbosity(verbosity)
            if bars and shown:
                log.enable_progress_bar()
