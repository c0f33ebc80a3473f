"""Load a ControlNet for a pipeline."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from noiseward.errors import ArgumentError, ModelError
from noiseward.pipelines.load import explain_failure

__all__ = ["load_controlnet"]

# What a ControlNet and the model that it steers have in common.
_SHARED = (
    "cross_attention_dim", "block_out_channels", "addition_embed_type", "attention_head_dim", "num_attention_heads",
    "joint_attention_dim", "pooled_projection_dim",
)  # fmt: skip


def load_controlnet(source: Any, pipe: Any) -> Any:
    """Load a ControlNet, in the precision and on the device of a pipeline.

    Arguments:
        source: a folder that `save_pretrained()` wrote, or a hub id; a ControlNet itself is given back.
        pipe: the pipeline that it is for.

    Raises:
        ModelError: there is none, or it cannot be read.
        ArgumentError: it is one for models of another family.
    """
    import diffusers

    if not isinstance(source, str | Path):
        kind = type(source).__name__
        _check_family(kind, source.config, kind, pipe)
        return source
    path = Path(os.path.expanduser(source))
    is_local = os.path.exists(path)
    if not is_local and (path.is_absolute() or str(source).count("/") != 1 or str(source).startswith(".")):
        raise ModelError(f"unknown controlnet '{source}': no folder here and no hub id (owner/name); check the path")
    if is_local and not (path / "config.json").is_file():
        raise ModelError(
            f"{path} is no ControlNet, it has no config.json: give the folder that save_pretrained() wrote"
        )
    where = {"pretrained_model_name_or_path": str(path) if is_local else str(source), "local_files_only": is_local}
    with explain_failure(f"controlnet '{source}'", str(source), path if is_local else None):
        config: Any = diffusers.ControlNetModel.load_config(**where)
        kind = str(config.get("_class_name"))
        _check_family(str(source), config, kind, pipe)
        net = getattr(diffusers, kind).from_pretrained(**where, torch_dtype=pipe.dtype)
    return net.to(pipe.device)


def _check_family(source: str, config: Mapping[str, Any], kind: str, pipe: Any) -> None:
    """Raise `ArgumentError` unless a ControlNet is one for a pipeline's model."""
    import diffusers

    name = type(pipe).__name__
    if "Union" in kind:
        raise ArgumentError(
            f"controlnet '{source}' is a {kind}, which needs control_mode; load its pipeline and pass that"
        )
    if "ControlNet" not in kind or not hasattr(diffusers, kind):
        raise ArgumentError(f"controlnet '{source}' must be a ControlNet, got a {kind}; give another folder or id")
    model = pipe.components.get("unet") or pipe.components.get("transformer")
    prefix = kind.removesuffix("Model").removesuffix("ControlNet")
    if model is None or not (type(model).__name__.startswith(prefix) if prefix else hasattr(pipe, "unet")):
        raise ArgumentError(f"controlnet '{source}' is a {kind}, which does not fit {name}; give one for its family")
    known = dict(model.config)
    for key in _SHARED:
        here, there = _plain(known.get(key)), _plain(config.get(key))
        is_open = None in (here, there) and key != "addition_embed_type"
        if key in known and key in config and not is_open and here != there:
            raise ArgumentError(
                f"controlnet '{source}' is for models with {key} {there}, {name} has {here}; give one for its family"
            )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, list | tuple) else value
