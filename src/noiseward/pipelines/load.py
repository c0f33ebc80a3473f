"""Load a diffusers pipeline by name, hub id, folder or file."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from noiseward import lfs
from noiseward.errors import ArgumentError, ModelError, choices, describe_error
from noiseward.pipelines.cards import Card, load_cards
from noiseward.pipelines.denoisers import find_denoisers
from noiseward.pipelines.schedulers import replace_scheduler
from noiseward.terminal import silence
from noiseward.user_code import InterruptListener

__all__ = ["load_pipeline"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}
DEVICES = ("auto", "cpu", "cuda", "mps")
OFFLOADS = ("models", "layers")
CHECKPOINTS = (".safetensors", ".ckpt")
# The pipeline of a checkpoint, by how the name begins that diffusers has for its kind.
_KINDS = {
    "xl_base": "StableDiffusionXLPipeline",
    "playground": "StableDiffusionXLPipeline",
    "v1": "StableDiffusionPipeline",
    "v2": "StableDiffusionPipeline",
    "sd3": "StableDiffusion3Pipeline",
    "flux": "FluxPipeline",
}


def load_pipeline(
    model: str | Path,
    *,
    dtype: torch.dtype | str | None = None,
    device: str | torch.device | None = None,
    scheduler: str | None = None,
    lora: str | Path | None = None,
    offload: str | None = None,
    compile: bool = False,
) -> Any:
    """Load a pipeline in the diffusers format.

    Arguments:
        model: a folder that holds `model_index.json`; a short name (`noiseward models` lists them); a hub id such as
            `owner/name`; or a checkpoint in one file, `.safetensors` or `.ckpt`.
        dtype: precision of the weights; default: bfloat16 on a GPU, float32 elsewhere.
        device: `auto`, the default, is the GPU if there is one.
        scheduler: another scheduler than the model's: a short name or a class of diffusers.
        lora: a file or folder of LoRA weights to add.
        offload: keep weights in main memory until they are needed: `models` takes whole models in turn, `layers` one
            layer at a time. See docs/my-card.md.
        compile: compile the denoiser's repeated blocks, or the whole where it names none, with torch.compile.

    Raises:
        ModelError: there is no such model, or it cannot be read.
        ArgumentError: an unknown dtype, device, scheduler or way to offload.
    """
    if offload not in (None, *OFFLOADS):
        raise ArgumentError(f"unknown offload {offload!r}; {choices(str(offload), OFFLOADS)}")
    if compile and offload:
        raise ArgumentError("compile does not go with offload: compiled code keeps hold of weights; leave one out")
    with InterruptListener():  # the loaders of other libraries turn a Ctrl-C into errors such as "a file is damaged"
        card = load_cards().get(str(model))
        place = _choose_device(device)
        precision = _choose_dtype(dtype or (card.dtype if card else None), place)
        path = Path(os.path.expanduser(model))
        if card and card.path and not (isinstance(model, Path) and path.exists()):
            path = card.path
        if os.path.isfile(path) and path.suffix in CHECKPOINTS:
            pipe = _load_file(path, precision)
        else:
            pipe = _load_pretrained(str(model), path, card, precision)
        scheduler = scheduler or (card.scheduler if card else None)
        if scheduler is not None:
            pipe.scheduler = replace_scheduler(pipe.scheduler, scheduler)
        if lora is not None:
            _add_lora(pipe, Path(os.path.expanduser(lora)))
        if compile:
            _compile(pipe)
        try:
            return _place(pipe, place, offload)
        except (RuntimeError, AssertionError) as error:  # a device that is not there, or not large enough
            raise ModelError(f"{type(pipe).__name__} cannot be put on {place}: {describe_error(error, 200)}") from error


def _load_pretrained(model: str, path: Path, card: Card | None, dtype: torch.dtype) -> Any:
    """Load a folder, or a hub id from the local cache or the network."""
    import diffusers

    is_local = os.path.exists(path)
    source, revision = (card.id, card.revision) if card and card.id and not is_local else (model, None)
    if not is_local and card is None and (path.is_absolute() or model.count("/") != 1 or model.startswith(".")):
        names = choices(model, load_cards())
        raise ModelError(f"unknown model '{model}': no folder here, no short name and no hub id (owner/name); {names}")
    if is_local and not (path / "model_index.json").is_file():
        raise ModelError(
            f"{path} is no pipeline folder, it has no model_index.json: give the folder that save_pretrained() wrote"
        )
    with explain_failure(f"model '{model}'", source, path if is_local else None):
        return diffusers.DiffusionPipeline.from_pretrained(
            str(path) if is_local else source, dtype=dtype, revision=revision, local_files_only=is_local
        )


@contextlib.contextmanager
def explain_failure(what: str, source: str, folder: Path | None) -> Iterator[None]:
    """For the body of a `with` that loads weights quietly, what went wrong and what to do, in one line.

    Arguments:
        what: is loaded, as a message begins: `model 'sdxl'`.
        source: its hub id.
        folder: that it is loaded from; None: the hub.

    Raises:
        ModelError: it could not be loaded.
    """
    try:
        with silence("diffusers", "transformers", bars=folder is None):
            yield
    except ArgumentError:
        raise
    except Exception as error:  # whatever the loaders of five libraries raise: a file that is missing, short or garbled
        reason = describe_error(error, 200, kind=True)
        if folder is not None:
            lfs.check_pointers(folder)
            raise ModelError(f"{folder} cannot be loaded, a file is missing or damaged ({reason})") from error
        raise ModelError(
            f"{what} is no folder here and could not be loaded from the hub: download it first "
            f"(hf download {source}), or give a folder ({reason})"
        ) from error


def _load_file(path: Path, dtype: torch.dtype) -> Any:
    """Load a checkpoint in one file, as the makers of Stable Diffusion publish them."""
    import diffusers
    from diffusers.loaders.single_file_utils import infer_diffusers_model_type, load_single_file_checkpoint

    try:
        with silence("diffusers", "transformers"):
            kind = infer_diffusers_model_type(load_single_file_checkpoint(str(path)))
    except Exception as error:
        lfs.check_pointers(path)
        raise ModelError(f"{path} cannot be read as a checkpoint ({describe_error(error, 200, kind=True)})") from error
    name = next((pipeline for start, pipeline in _KINDS.items() if kind.startswith(start)), None)
    if name is None:
        raise ModelError(
            f"{path} is a checkpoint of kind '{kind}': load it with the pipeline it is for and pass that "
            f"(kinds known here: {', '.join(_KINDS)})"
        )
    try:
        with silence("diffusers", "transformers"):
            return getattr(diffusers, name).from_single_file(str(path), dtype=dtype)
    except Exception as error:
        raise ModelError(
            f"{path} has weights but no configuration, and that of '{kind}' could not be loaded from the hub: fetch it "
            f"once with a network, or convert the file to a folder ({describe_error(error, 200, kind=True)})"
        ) from error


def _add_lora(pipe: Any, path: Path) -> None:
    if not os.path.exists(path):
        raise ModelError(f"LoRA weights '{path}' do not exist: give a .safetensors file, or the folder it is in")
    if not callable(getattr(pipe, "load_lora_weights", None)):
        raise ModelError(f"{type(pipe).__name__} takes no LoRA weights")
    folder, name = (path.parent, path.name) if os.path.isfile(path) else (path, None)
    try:
        with silence("diffusers", "transformers"):
            pipe.load_lora_weights(str(folder), weight_name=name, local_files_only=True)
    except Exception as error:
        lfs.check_pointers(path)
        raise ModelError(f"LoRA weights {path} do not fit ({describe_error(error, 200, kind=True)})") from error


def _compile(pipe: Any) -> None:
    modules = {name: part for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)}
    for module in find_denoisers(type(pipe).__name__, modules, None):
        can_repeat = bool(getattr(module, "_repeated_blocks", None))
        start: Any = getattr(module, "compile_repeated_blocks" if can_repeat else "compile")
        start()


def _place(pipe: Any, device: torch.device, offload: str | None) -> Any:
    """Put a pipeline on a device, or set up how its weights get there."""
    if offload is None:
        return pipe.to(device)
    if importlib.util.find_spec("accelerate") is None:
        raise ModelError("offload needs accelerate: pip install accelerate")
    with silence("diffusers"):
        if offload == "models":
            pipe.enable_model_cpu_offload(device=device)
        else:
            stream = device.type == "cuda"  # fetches the next layer while this one computes
            pipe.enable_group_offload(device, offload_type="leaf_level", use_stream=stream)
    return pipe


def _choose_device(device: str | torch.device | None) -> torch.device:
    if isinstance(device, torch.device):
        return device
    if device not in (None, "auto"):
        kind, colon, number = device.partition(":")
        if kind not in DEVICES or kind == "auto":
            raise ArgumentError(f"unknown device '{device}'; {choices(kind, DEVICES)}")
        if colon and not re.fullmatch(r"\d{1,2}", number, re.ASCII):
            raise ArgumentError(f"device must be {kind} or {kind}:NUMBER, as in {kind}:0, got '{device}'")
        return torch.device(device)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def _choose_dtype(dtype: torch.dtype | str | None, device: torch.device) -> torch.dtype:
    if dtype is None:
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype not in DTYPES:
        raise ArgumentError(f"unknown dtype '{dtype}'; {choices(dtype, DTYPES)}")
    return DTYPES[dtype]
