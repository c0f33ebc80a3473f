"""The settings of docs/my-card.md on a real card: bytes and seconds of a step, next to the bytes that were computed.

Pipelines are built at full size with random weights, in bfloat16, and nothing is downloaded. Text encoders of Flux and
Stable Diffusion 3 are one layer, because they only have to be away when the gradient is taken. A step is one gradient
of a reward without weights, at a few sampler steps, because only `fast` keeps anything per step; what the sampler runs
first to find its draws warms up. Peak memory is that of torch's allocator, which is what the computed bytes are about;
what it reserved is larger.

    python -m benchmarks.on_card                          # all; writes benchmarks/results/on_card.* and docs/my-card.md
    python -m benchmarks.on_card --models sdxl --print    # some, printed alone
    python -m benchmarks.on_card --toy                    # the same code at toy size, anywhere; writes nothing
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderTiny,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    StableDiffusion3Pipeline,
)
from torch import Tensor, nn
from transformers import T5Config, T5EncoderModel

from benchmarks import cards, sizes
from benchmarks.timing import write
from experiments.support import insert
from noiseward import Backprop, DiffusersSampler, FunctionReward, Objective, Seeds
from noiseward.pipelines.fit import load_needs
from noiseward.samplers.memory import is_out_of_memory
from tests.families import flows, unets
from tests.families.text import clip_tokenizer, t5_tokenizer

PAGE = Path(__file__).resolve().parents[1] / "docs" / "my-card.md"
STEPS = 6
BRIGHTNESS = FunctionReward(lambda images: images.float().mean((1, 2, 3)), name="brightness")

# Per model: precision, memory, offload, decoder.
Row = tuple[str, str, str | None, str | None]
ROWS: dict[str, tuple[Row, ...]] = {
    "sd15": (
        ("bfloat16", "balanced", None, None), ("bfloat16", "low", None, None), ("bfloat16", "low", "models", None),
        ("bfloat16", "low", "models", "tiny"),
    ),
    "sdxl": (
        ("bfloat16", "balanced", None, None), ("bfloat16", "low", None, None), ("bfloat16", "low", "models", None),
        ("bfloat16", "low", "models", "tiny"), ("bfloat16", "low", "layers", "tiny"),
    ),
    "sd35-medium": (("bfloat16", "balanced", None, None), ("bfloat16", "low", "models", None)),
    "flux-dev": (
        ("bfloat16", "balanced", None, None), ("bfloat16", "low", "models", None), ("NF4", "balanced", "models", None),
        ("NF4", "low", "models", None),
    ),
}  # fmt: skip


def t5() -> Any:
    """A T5 of one layer, as wide as the one that is used."""
    return T5EncoderModel(T5Config(vocab_size=64, d_model=4096, d_kv=64, d_ff=1024, num_layers=1, num_heads=4))


def counted(name: str) -> tuple[Any, Any]:
    """The denoiser and the autoencoder that `cards.py` counts, with the numbers that shift and scale latents."""
    model, _, _, vae, _ = cards.MODELS[name][0]()
    vae.register_to_config(shift_factor=0.1159, scaling_factor=0.3611)
    return model, vae


def flux() -> Any:
    """Flux: 11.9 G weights, of which the linear layers are 11.8 G."""
    transformer, vae = counted("flux-dev")
    return FluxPipeline(
        transformer=transformer, scheduler=FlowMatchEulerDiscreteScheduler(), vae=vae,
        text_encoder=sizes.text(768, 12, 12), tokenizer=clip_tokenizer(), text_encoder_2=t5(),
        tokenizer_2=t5_tokenizer(),
    )  # fmt: skip


def sd35_medium() -> Any:
    """Stable Diffusion 3.5 medium: 2.2 G weights."""
    transformer, vae = counted("sd35-medium")
    return StableDiffusion3Pipeline(
        transformer=transformer, scheduler=FlowMatchEulerDiscreteScheduler(), vae=vae,
        text_encoder=sizes.text(768, 12, 12, projected=True), tokenizer=clip_tokenizer(),
        text_encoder_2=sizes.text(1280, 32, 20, projected=True), tokenizer_2=clip_tokenizer(),
        text_encoder_3=t5(), tokenizer_3=t5_tokenizer(),
    )  # fmt: skip


BUILDS: dict[str, tuple[Callable[[], Any], Callable[[], Any], dict[str, Any]]] = {
    "sd15": (sizes.sd15, unets.sd1, {"eta": 1.0, "guidance_scale": 5.0}),
    "sdxl": (sizes.sdxl, unets.sdxl, {"eta": 1.0, "guidance_scale": 5.0}),
    "sd35-medium": (sd35_medium, flows.sd3, {"guidance_scale": 5.0}),
    "flux-dev": (flux, flows.flux, {"guidance_scale": 3.5}),
}


@contextlib.contextmanager
def built_on(device: str, dtype: torch.dtype) -> Iterator[None]:
    """Weights are made where and as they are used."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            yield
    finally:
        torch.set_default_dtype(before)


def build(name: str, device: str, toy: bool) -> Any:
    """A pipeline on a device, and nothing of it in float32 but what is its scheduler's."""
    torch.manual_seed(0)
    real, small, _ = BUILDS[name]
    if toy:
        pipe = small().to(device)
    else:
        with built_on(device, torch.bfloat16):
            pipe = real()
    config = pipe.scheduler.config
    pipe.scheduler = type(pipe.scheduler).from_config(config)  # made again outside, in float32 on the processor
    pipe.set_progress_bar_config(disable=True)
    return pipe


def quantize(model: nn.Module) -> None:
    """Linear layers in NF4, as bitsandbytes has them."""
    import bitsandbytes

    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, nn.Linear):
                new = bitsandbytes.nn.Linear4bit(
                    layer.in_features, layer.out_features, layer.bias is not None, compute_dtype=torch.bfloat16,
                    quant_type="nf4", device="meta",
                )  # fmt: skip
                where = layer.weight.device
                new.weight = bitsandbytes.nn.Params4bit(layer.weight.data.cpu(), requires_grad=False, quant_type="nf4")
                new.bias = layer.bias
                setattr(parent, name, new.to(where))


def step(sampler: DiffusersSampler, noise: Tensor) -> None:
    """One gradient."""
    _, gradient = Backprop()(Objective(sampler, BRIGHTNESS, "a"), noise, Seeds((0,)))
    assert gradient.isfinite().all()


def measure(name: str, row: Row, pipe: Any, device: str, toy: bool) -> dict[str, Any]:
    """One setting: what was computed and what was measured, in bytes and seconds."""
    precision, memory, offload, decoder = row
    needs = dataclasses.replace(load_needs()[name], steps=STEPS)
    if name in ("sd35-medium", "flux-dev"):
        needs = dataclasses.replace(needs, texts=tuple(size for size in needs.texts if size < 1e9))
    found: dict[str, Any] = {
        "model": name, "precision": precision, "memory": memory, "offload": offload, "decoder": decoder,
        "computed": needs.bytes_of(precision=precision, memory=memory, offload=offload, decoder=decoder),
    }  # fmt: skip
    if offload == "models":
        pipe.enable_model_cpu_offload(device=device)
    elif offload == "layers":
        pipe.enable_group_offload(torch.device(device), offload_type="leaf_level", use_stream=device == "cuda")
    like = next(pipe.vae.parameters())
    small = None
    if decoder == "tiny":
        small = AutoencoderTiny(latent_channels=pipe.vae.config.latent_channels).to(device, like.dtype)
    side = {"height": 16, "width": 16} if toy else {}
    try:
        sampler = DiffusersSampler(
            pipe, memory=memory, decoder=small, num_inference_steps=STEPS, **BUILDS[name][2], **side
        )
        noise = sampler.init(1, seed=0)
        if device == "cuda":
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        begun = time.perf_counter()
        step(sampler, noise)
        if device == "cuda":
            torch.cuda.synchronize()
            found["bytes"] = torch.cuda.max_memory_allocated()
            found["reserved"] = torch.cuda.max_memory_reserved()
        found["seconds"] = (time.perf_counter() - begun) / STEPS
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        found["failed"] = "out of memory"
    return found


def measure_row(name: str, row: Row, device: str, toy: bool) -> dict[str, Any]:
    """One setting, from its pipeline on."""
    pipe = build(name, device, toy)
    if row[0] == "NF4":
        quantize(pipe.transformer)
    return measure(name, row, pipe, device, toy)


def start(name: str, number: int, toy: bool) -> dict[str, Any]:
    """One setting in a process of its own: nothing is left of the one before, and a card's fault ends one alone."""
    command = [sys.executable, "-m", "benchmarks.on_card", "--models", name, "--row", str(number)]
    done = subprocess.run([*command, *(["--toy"] if toy else [])], capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        return {"model": name, "row": ROWS[name][number], "failed": lines[-1][:300]}
    return json.loads(done.stdout.strip().splitlines()[-1])


def main(arguments: list[str] | None = None) -> int:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=ROWS, default=[*ROWS])
    parser.add_argument("--toy", action="store_true", help="toy size, anywhere")
    parser.add_argument("--print", action="store_true", help="write nothing")
    parser.add_argument("--row", type=int, help="of the first model, in this process; prints what was measured")
    given = parser.parse_args(arguments)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if not given.toy and device == "cpu":
        parser.error("no GPU here: run with --toy")
    if given.row is not None:
        name = given.models[0]
        print(json.dumps(measure_row(name, ROWS[name][given.row], device, given.toy)))
        return 0
    found: list[dict[str, Any]] = []
    for name in given.models:
        for number, row in enumerate(ROWS[name]):
            if given.toy and (row[0] != "bfloat16" or device == "cpu" and row[2] == "models"):
                continue  # both need a card
            found.append(start(name, number, given.toy))
            print(found[-1], flush=True)
    card = torch.cuda.get_device_name() if device == "cuda" else "none"
    if given.toy or given.print:
        print(table(found))
        return 0
    head = "# Settings on a card\n\nMeasured; `python -m benchmarks.on_card` regenerates this page.\n\n"
    write("on_card", settings={"card": card}, results=found, text=head + f"Card: {card}.\n\n{table(found)}\n")
    PAGE.write_text(insert(PAGE.read_text(encoding="utf-8"), "measured", table(found)), encoding="utf-8")
    return 1 if any("failed" in row for row in found) else 0


def table(found: list[dict[str, Any]]) -> str:
    """Computed against measured."""
    lines = [
        "| model | setting | computed, GB | measured, GB | reserved, GB | seconds per sampler step |",
        "| --- " * 6 + "|",
    ]
    for row in found:
        if "failed" in row:
            lines.append(f"| `{row['model']}` | {row.get('row', row.get('memory'))} | | {row['failed']} | | |")
            continue
        parts = [row["precision"], row["memory"], row["offload"], row["decoder"]]
        sizes_of = [f"{row[key] / 1e9:.1f}" if key in row else "" for key in ("computed", "bytes", "reserved")]
        setting = ", ".join(part for part in parts if part)
        lines.append(f"| `{row['model']}` | {setting} | {' | '.join(sizes_of)} | {row['seconds']:.2f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
