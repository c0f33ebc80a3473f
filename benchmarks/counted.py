"""What a step of a full-size model costs, counted without computing it: FLOPs and bytes on torch's meta device.

The denoiser's call and the decoder's are run on shapes alone, in bfloat16, in each memory mode and as the published
script does, through the same code that optimization runs. A step's count is put together from N calls and the
decoder's; its peak is the weights, N latents, and the most that autograd and the computation hold at once in one call
(all N in `fast`) or in the decoder. Attention is counted as a fused kernel as far as memory goes: it keeps its inputs
and its output; its own recomputing counts as no operations, as is usual. A kernel's workspace, fragmentation and the
reward's own model are not counted.

    python -m benchmarks.counted [--small]
"""

from __future__ import annotations

import argparse
import contextlib
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module, functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import flop_registry, sdpa_flop_count

from benchmarks import sizes
from benchmarks.timing import write
from noiseward.pipelines.blocks import recompute_blocks
from noiseward.samplers.cost import Meter
from noiseward.samplers.memory import MODES
from noiseward.samplers.recompute import recompute_call
from tests.families import unets

RATE = 200e12  # operations per second that the seconds in the table assume
MODELS = {"SD 1.5, 512 px": (sizes.sd15, 64), "SDXL, 1024 px": (sizes.sdxl, 128)}
TOYS = {"toy SD": (unets.sd1, 8), "toy SDXL": (unets.sdxl, 8)}


class Counter(TorchDispatchMode):
    """FLOPs, and the most bytes of tensors alive at once that were made in the body of a `with`."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = self.now = self.most = 0
        self._known: set[int] = set()
        self._outside: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for tensor in tree_leaves((args, kwargs)):
            if isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata not in self._known:
                self._outside.add(tensor.untyped_storage()._cdata)  # a weight, which is no new tensor as a view either
        result = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=result)
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, Tensor):
                self._add(tensor.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self._known and key not in self._outside:
            self._known.add(key)
            size = storage.nbytes()
            self.now += size
            self.most = max(self.most, self.now)
            weakref.finalize(storage, self._drop, key, size)

    def _drop(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


class Fused(torch.autograd.Function):
    """Attention as a fused kernel: it keeps what went in and what came out. Its own recomputing is not counted."""

    @staticmethod
    def forward(ctx: Any, counter: Counter, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        ctx.counter, out = counter, torch.empty_like(q)
        ctx.save_for_backward(q, k, v, out)
        counter.flops += sdpa_flop_count(q.shape, k.shape, v.shape)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        q, k, v, _ = ctx.saved_tensors
        ctx.counter.flops += 2 * sdpa_flop_count(q.shape, k.shape, v.shape)
        return None, torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


@contextlib.contextmanager
def count() -> Iterator[Counter]:
    """Count what the body of a `with` does."""
    plain = functional.scaled_dot_product_attention
    with Counter() as counter:
        functional.scaled_dot_product_attention = lambda query, key, value, *more, **named: Fused.apply(
            counter, query, key, value
        )
        try:
            yield counter
        finally:
            functional.scaled_dot_product_attention = plain


def cost(compute: Callable[[], object]) -> tuple[float, float]:
    """FLOPs and peak bytes of a computation."""
    with count() as counter:
        compute()
    return counter.flops, counter.most


def count_alive(compute: Callable[[], object]) -> float:
    """Bytes still alive after a computation, while its result is."""
    with count() as counter:
        result = compute()
        held = counter.now
    del result
    return held


def count_model(build: Callable[[], Any], side: int) -> dict[str, Any]:
    """FLOPs and bytes of one denoiser call and of the decoder, in each mode and as published."""
    with torch.device("meta"):
        pipe = build()
    unet, vae = pipe.unet.to(torch.bfloat16).eval(), pipe.vae.to(torch.bfloat16).eval()
    modules = [part for part in pipe.components.values() if isinstance(part, Module)]
    for module in modules:
        module.requires_grad_(False)
    like: dict[str, Any] = {"device": "meta", "dtype": torch.bfloat16}
    words = torch.empty(2, 77, unet.config.cross_attention_dim, **like)
    more: dict[str, Any] = {"encoder_hidden_states": words}
    if unet.config.addition_embed_type:
        pooled = unet.config.projection_class_embeddings_input_dim - 6 * unet.config.addition_time_embed_dim
        more["added_cond_kwargs"] = {
            "text_embeds": torch.empty(2, pooled, **like), "time_ids": torch.empty(2, 6, **like)
        }  # fmt: skip
    time = torch.empty((), device="meta")

    def call(x: Tensor) -> Tensor:
        return unet(torch.cat([x, x]), time, **more).sample

    def blocks(x: Tensor) -> Tensor:
        with recompute_blocks(unet):
            return call(x)

    def decode(x: Tensor) -> Tensor:
        return vae.decode(x).sample

    def decode_low(x: Tensor) -> Tensor:
        with recompute_blocks(vae, strips=True):
            return decode(x)

    def latent() -> Tensor:
        return torch.empty(1, 4, side, side, **like).requires_grad_()

    def with_gradient(function: Callable[[Tensor], Tensor]) -> Callable[[], None]:
        def run() -> None:
            x = latent()
            out = function(x)
            torch.autograd.grad(out, x, torch.empty_like(out))

        return run

    def recompute(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        return lambda x: recompute_call(function, Meter(), (x,), {})

    def without_gradient(function: Callable[[Tensor], Tensor]) -> Callable[[], None]:
        def run() -> None:
            with torch.no_grad():
                function(latent())

        return run

    calls = {
        "fast": with_gradient(call),
        "balanced": with_gradient(recompute(call)),
        "low": with_gradient(recompute(blocks)),
    }
    decoders = {"fast": with_gradient(decode), "balanced": with_gradient(decode), "low": with_gradient(decode_low)}
    return {
        "call": {mode: cost(run) for mode, run in calls.items()},
        "decoder": {mode: cost(run) for mode, run in decoders.items()},
        "forward": cost(without_gradient(call)),
        "decoder forward": cost(without_gradient(decode)),
        "published call": cost(with_gradient(lambda x: checkpoint(call, x, use_reentrant=False))),  # type: ignore[arg-type]
        "kept by a call": count_alive(lambda: call(latent())),
        "kept by the decoder": count_alive(lambda: decode(latent())),
        "weights": sum(2 * w.numel() for part in modules for w in part.parameters()),
        "latent": 4 * side * side,
    }


def steps_of(found: dict[str, Any], steps: int) -> dict[str, dict[str, float]]:
    """FLOPs and peak bytes of a step of so many sampler steps, by mode and as published."""
    latents = 6 * 4 * steps * found["latent"]  # in float32: the draw, the latents before and after, guidance
    by_mode: dict[str, dict[str, float]] = {}
    for mode in MODES:
        (flops, most), (more, held) = found["call"][mode], found["decoder"][mode]
        if mode == "fast":
            most += (steps - 1) * found["kept by a call"]
            held += steps * found["kept by a call"]
        most += found["kept by the decoder"] if mode == "fast" else 0
        by_mode[mode] = {"flops": steps * flops + more, "bytes": found["weights"] + latents + max(most, held)}
    flops = steps * (found["published call"][0] + found["decoder forward"][0]) + found["decoder"]["fast"][0]
    by_mode["published"] = {"flops": flops}
    by_mode["published, without its decoding at every step"] = {"flops": flops - steps * found["decoder forward"][0]}
    return by_mode


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="a toy model")
    small = parser.parse_args().small
    pieces = {name: count_model(*how) for name, how in (TOYS if small else MODELS).items()}
    results = {name: {steps: steps_of(found, steps) for steps in (20, 50)} for name, found in pieces.items()}
    settings = {"dtype": "bfloat16", "rows": 1, "rate": RATE, "small": small}
    write("counted", settings=settings, results={"pieces": pieces, "steps": results}, text=page(results), small=small)


def page(results: dict[str, dict[int, dict[str, dict[str, float]]]]) -> str:
    """The table people read."""
    lines = [
        "# Full-size models, counted",
        "",
        f"Computed, not measured: one image, guidance on, bfloat16; seconds on a device that sustains "
        f"{RATE / 1e12:.0f} TFLOP/s, without a reward's own model. `python -m benchmarks.counted` regenerates this "
        "page.",
        "",
        "| model | sampler steps | mode | PFLOP per step | of published | seconds (computed) | GB (computed) |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, by_steps in results.items():
        for steps, modes in by_steps.items():
            whole = modes["published"]["flops"]
            for mode, found in modes.items():
                held = f"{found['bytes'] / 1e9:.1f}" if "bytes" in found else ""
                seconds = f"{found['flops'] / RATE:.2g}"
                share = f"{found['flops'] / whole:.3f}"
                lines.append(
                    f"| {name} | {steps} | {mode} | {found['flops'] / 1e15:.4g} | {share} | {seconds} | {held} |"
                )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        main()
