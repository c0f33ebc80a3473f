"""Models that no gradient passes, refused before anything is computed, in one line that says what to do instead.

A gradient that silently misses part of a network looks plausible and is worthless. These are the ways of saving memory
or time that would cause it, or would end in an error far from its cause. Weights in few bits pass a gradient like any
other. Activations rounded to few bits do not: the network is then a staircase, and autograd returns the slope of the
ramp along it (docs/pipelines.md). A search does not need the gradient, so that is a warning.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Mapping

from torch.nn import Module

from noiseward.errors import ModelError, NoisewardWarning

__all__ = ["allow_gradients", "check_modules"]

_HARMLESS = {
    "PeftInputAutocastDisableHook",
    "GroupOffloadingHook",  # these four bring weights in and send them away, see `offload.py`
    "LazyPrefetchGroupOffloadingHook",
    "LayerExecutionTrackerHook",
    "LayerwiseCastingHook",
}
_QUANTIZED = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized")


def allow_gradients(module: Module) -> None:
    """Set what some models read where gradients are on and never set: whether they recompute activations."""
    name = "gradient_checkpointing"
    if hasattr(type(module), f"_supports_{name}") and not any(name in vars(part) for part in module.modules()):
        vars(module)[name] = False


def check_modules(pipeline: str, modules: Mapping[str, Module]) -> None:
    """Raise `ModelError` if a gradient would not get through one of a pipeline's modules.

    Layers that would pack their weights for a kernel without a gradient no longer do.
    """
    for name, module in modules.items():
        for reason, remedy in _reasons(module):
            raise ModelError(f"{pipeline}'s {name} {reason}: {remedy}")
        if _rounds_activations(module):
            warnings.warn(
                f"{pipeline}'s {name} rounds its activations to a few bits, and its gradients are wrong: "
                "quantize its weights alone, or use a method without a gradient",
                NoisewardWarning,
                stacklevel=3,
            )


def _reasons(module: Module) -> Iterator[tuple[str, str]]:
    for part in module.modules():
        registry = vars(part).get("_diffusers_hook")
        for each in registry.hooks.values() if registry is not None else ():
            kind = type(each).__name__
            if kind not in _HARMLESS:
                reason = f"keeps something from call to call ({kind})"
                yield reason, "a gradient would not be right; load the pipeline without it"
        kind, package = type(part).__name__, type(part).__module__
        if package.startswith(_QUANTIZED) or "nunchaku" in package:
            yield (
                f"is quantized ({package}), which has no gradient",
                "use weights in bfloat16, or a quantization that can be trained through (docs/pipelines.md)",
            )
        backend = _attention_backend(part)
        if "sage" in backend:
            yield (
                f"computes attention by a kernel without a gradient ({backend})",
                "set_attention_backend('native'), or 'flash', which have one",
            )
        if kind == "GGUFLinear" and getattr(sys.modules.get(package), "ops", None) is not None:
            yield (
                "multiplies its GGUF weights in a fused kernel, which has no gradient",
                "set DIFFUSERS_GGUF_CUDA_KERNELS=false before diffusers is imported",
            )
        if getattr(getattr(part, "sdnq_dequantizer", None), "use_quantized_matmul", False):
            yield (
                "multiplies in few bits (SDNQ), which has no gradient",
                "load it with use_quantized_matmul=False",
            )
        if kind == "Linear4bit":
            if getattr(part.quant_state, "packing_format_for_cpu", False):
                yield (
                    "has packed its weights for a CPU kernel without a gradient (bitsandbytes)",
                    "load it again, and sample with it only here",
                )
            vars(part)["support_avx512bf16_for_cpu"] = False


def _attention_backend(part: Module) -> str:
    """The name of the backend that a part's attention is computed by; empty where it computes none."""
    processor = getattr(part, "processor", None)
    if not hasattr(processor, "_attention_backend"):
        return ""
    registry = getattr(sys.modules.get("diffusers.models.attention_dispatch"), "_AttentionBackendRegistry", None)
    chosen = getattr(processor, "_attention_backend", None) or getattr(registry, "_active_backend", "")
    return str(getattr(chosen, "value", chosen))


def _rounds_activations(module: Module) -> bool:
    """Whether a layer quantizes its inputs: torchao marks the weight, quanto the module; int8 of bitsandbytes does."""
    return any(
        getattr(part, "activation_qtype", None) is not None
        or type(part).__name__ == "Linear8bitLt"
        or getattr(vars(part)["_parameters"].get("weight"), "act_quant_kwargs", None) is not None
        for part in module.modules()
    )
