"""Ways to keep weights elsewhere between calls, and the table of them in docs/pipelines.md.

python -m tests.offloading        # measures, and writes the table again
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.nn import Module

from noiseward import DiffusersSampler
from noiseward.samplers.memory import MODES
from tests.away import poison
from tests.families import flows
from tests.tiny import CALL, stable_diffusion

__all__ = ["PIPELINES", "ROUNDING", "SETTINGS", "compare", "gradient", "page"]

PAGE = Path(__file__).resolve().parents[1] / "docs" / "pipelines.md"
CPU = torch.device("cpu")
ROUNDING = 1e-5  # weights from a file lie elsewhere in memory, where kernels may add in another order
PIPELINES: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "UNet": (stable_diffusion, {**CALL, "num_inference_steps": 2, "eta": 1.0}),
    "transformer": (flows.flux, {**CALL, "num_inference_steps": 2}),
}


def modules(pipe: Any) -> list[Module]:
    return [part for part in pipe.components.values() if isinstance(part, Module)]


def denoiser(pipe: Any) -> Any:
    return getattr(pipe, "unet", None) or pipe.transformer


def hooks(pipe: Any) -> Iterator[Any]:
    for module in modules(pipe):
        for part in module.modules():
            if (hook := vars(part).get("_hf_hook")) is not None:
                yield from (hook, *getattr(hook, "hooks", ()))


def take_turns(pipe: Any) -> None:
    pipe.enable_model_cpu_offload(device="cpu")


def offload_in_sequence(pipe: Any) -> None:
    pipe.enable_sequential_cpu_offload(device="cpu")
    for hook in hooks(pipe):
        hook.execution_device = "cpu"  # not "cpu:0", to which a weight on the CPU would be copied without being one


def offload_leaves(pipe: Any) -> None:
    pipe.enable_group_offload(CPU, CPU, offload_type="leaf_level")


def offload_ahead(pipe: Any) -> None:
    """As with streams: the next layer is fetched while one computes."""
    offload_leaves(pipe)
    for module in modules(pipe):
        found = [part._diffusers_hook for part in module.modules() if hasattr(part, "_diffusers_hook")]
        groups = [hook for registry in found for hook in registry.hooks.values()]
        for one, after in zip(groups, groups[1:], strict=False):
            one.next_group = after.group


def offload_blocks(pipe: Any) -> None:
    pipe.enable_group_offload(CPU, CPU, offload_type="block_level", num_blocks_per_group=2)


def offload_one(pipe: Any) -> None:
    from diffusers.hooks import apply_group_offloading

    apply_group_offloading(denoiser(pipe), CPU, CPU, offload_type="block_level", num_blocks_per_group=1)


def offload_to_disk(pipe: Any) -> None:
    folder = tempfile.mkdtemp()
    weakref.finalize(denoiser(pipe), shutil.rmtree, folder)
    denoiser(pipe).enable_group_offload(CPU, CPU, offload_type="leaf_level", offload_to_disk_path=folder)


def offload_by_need(pipe: Any) -> None:
    from diffusers.modular_pipelines.components_manager import custom_offload_with_hook

    made = [custom_offload_with_hook(type(module).__name__, module, "cpu") for module in modules(pipe)]
    for one in made:
        for other in made:
            if other is not one:
                one.add_other_hook(other)


def cast_layers(pipe: Any) -> None:
    denoiser(pipe).enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)


def cast_and_offload(pipe: Any) -> None:
    cast_layers(pipe)
    denoiser(pipe).enable_group_offload(CPU, CPU, offload_type="leaf_level")


def round_weights(pipe: Any) -> None:
    """The weights that casting leaves, without its hooks."""
    cast_layers(pipe)
    for part in denoiser(pipe).modules():
        if "_diffusers_hook" in vars(part):
            del part._diffusers_hook, part.forward
            part.to(torch.float32)


def map_devices(pipe: Any) -> None:
    from accelerate import dispatch_model

    for module in modules(pipe):
        dispatch_model(module, {"": "cpu"}, main_device="cpu", force_hooks=True)


# What a user writes: how it is set up here, and, where weights are other numbers with it, which these are.
SETTINGS: dict[str, tuple[Callable[[Any], None], Callable[[Any], None] | None]] = {
    "`pipe.enable_model_cpu_offload()`; `offload='models'`": (take_turns, None),
    "`pipe.enable_sequential_cpu_offload()`": (offload_in_sequence, None),
    "`pipe.enable_group_offload(offload_type='leaf_level')`; `offload='layers'`": (offload_leaves, None),
    "the same with `use_stream=True`": (offload_ahead, None),
    "`pipe.enable_group_offload(offload_type='block_level')`": (offload_blocks, None),
    "`apply_group_offloading(model, ...)`": (offload_one, None),
    "`model.enable_group_offload(offload_to_disk_path=...)`": (offload_to_disk, None),
    "`ComponentsManager().enable_auto_cpu_offload()`": (offload_by_need, None),
    "`model.enable_layerwise_casting()`": (cast_layers, round_weights),
    "layerwise casting and group offloading": (cast_and_offload, round_weights),
    "`device_map='balanced'`": (map_devices, None),
}


def gradient(pipe: Any, mode: str, call: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """A sample, and the gradient of a reward of it."""
    sampler = DiffusersSampler(pipe, memory=mode, **call)
    noise = sampler.init(1, seed=3).requires_grad_()
    sample = sampler(noise, "a")
    return sample.detach(), torch.autograd.grad(sample.sin().mean(), noise)[0]


def compare(setting: str, kind: str, mode: str) -> tuple[float, int]:
    """How far samples and gradients are from those without the setting, relatively, and how many weights were fetched.

    What is away is NaN.
    """
    (build, call), (apply, without) = PIPELINES[kind], SETTINGS[setting]
    pipe = build()
    if without is not None:
        without(pipe)
    right = gradient(pipe, mode, call)
    with poison() as depot:
        pipe = build()
        apply(pipe)
        found = [*gradient(pipe, mode, call), *gradient(pipe, mode, call)]
    gaps = [(one - other).norm() / other.norm() for one, other in zip(found, [*right, *right], strict=True)]
    return torch.stack(gaps).max().item(), depot.fetched


def page() -> str:
    """The table."""
    head = "| setting | " + " | ".join(f"`{mode}`" for mode in MODES) + " |"
    lines = [head, "| --- |" + " --- |" * len(MODES)]
    for setting in SETTINGS:
        cells = []
        for mode in MODES:
            gap = max(compare(setting, kind, mode)[0] for kind in PIPELINES)
            cells.append("same bits" if gap == 0 else f"to {gap:.0e}" if gap < ROUNDING else "**wrong**")
        lines.append(f"| {setting} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    from experiments.support import insert

    torch.set_num_threads(1)
    PAGE.write_text(insert(PAGE.read_text(encoding="utf-8"), "offload", page()), encoding="utf-8")
