"""Weights in few bits, loaded as diffusers loads them, and the table of them in docs/pipelines.md.

python -m tests.quantized        # measures with the packages that are there, and writes the table again
"""

from __future__ import annotations

import dataclasses
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import FluxTransformer2DModel
from torch import nn

from noiseward import DiffusersSampler, ModelError
from noiseward.errors import NoisewardWarning
from noiseward.samplers.memory import MODES
from tests.families import flows
from tests.families.text import WIDTH
from tests.tiny import CALL

__all__ = ["KINDS", "Kind", "build", "measure"]

PAGE = Path(__file__).resolve().parents[1] / "docs" / "pipelines.md"
SIZES: dict[str, Any] = {
    "patch_size": 1, "in_channels": 16, "num_layers": 1, "num_single_layers": 1, "attention_head_dim": 32,
    "num_attention_heads": 2, "joint_attention_dim": 2 * WIDTH, "pooled_projection_dim": WIDTH,
    "axes_dims_rope": (8, 8, 16), "guidance_embeds": True,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Kind:
    """One way to quantize.

    Arguments:
        package: it needs.
        load: makes a transformer from a folder with one.
        refused: what our refusal says, where it has no gradient.
        rounded: whether activations are rounded as well, which is warned of.
        exact: how far a gradient may be from finite differences.
    """

    package: str
    load: Callable[[Path], nn.Module]
    refused: str | None = None
    rounded: bool = False
    exact: float = 0.03


def plain() -> FluxTransformer2DModel:
    torch.manual_seed(0)
    return FluxTransformer2DModel(**SIZES)


def pretrained(config: Callable[[], Any], **more: Any) -> Callable[[Path], nn.Module]:
    def load(folder: Path) -> nn.Module:
        return FluxTransformer2DModel.from_pretrained(folder, quantization_config=config(), dtype=torch.float32, **more)

    return load


def torchao(name: str) -> Callable[[Path], nn.Module]:
    def config() -> Any:
        import torchao.quantization

        return diffusers.TorchAoConfig(getattr(torchao.quantization, name)())

    return pretrained(config, device_map="cpu")


def quanto(name: str) -> Callable[[Path], nn.Module]:
    return pretrained(lambda: diffusers.QuantoConfig(weights_dtype=name))


def quanto_with_activations(folder: Path) -> nn.Module:
    import optimum.quanto

    model = FluxTransformer2DModel.from_pretrained(folder)
    optimum.quanto.quantize(model, weights=optimum.quanto.qint8, activations=optimum.quanto.qint8)
    optimum.quanto.freeze(model)
    return model


def sdnq(**config: Any) -> Callable[[Path], nn.Module]:
    def make() -> Any:
        from sdnq import SDNQConfig

        return SDNQConfig(**config)

    return pretrained(make)


def gguf(name: str) -> Callable[[Path], nn.Module]:
    def load(folder: Path) -> nn.Module:
        import gguf as package

        kind, path = package.GGMLQuantizationType[name], folder / f"{name}.gguf"
        block, writer = package.GGML_QUANT_SIZES[kind][0], package.GGUFWriter(str(path), "flux")
        for key, weight in plain().state_dict().items():
            values = weight.numpy()
            if values.ndim == 2 and values.shape[1] % block == 0:
                writer.add_tensor(key, package.quants.quantize(values, kind), raw_dtype=kind)
            else:
                writer.add_tensor(key, values)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        config = diffusers.GGUFQuantizationConfig(compute_dtype=torch.float32)
        return FluxTransformer2DModel.from_single_file(
            str(path), quantization_config=config, config=str(folder), dtype=torch.float32, local_files_only=True
        )

    return load


def bitsandbytes(make: Callable[[Any, nn.Linear], nn.Module]) -> Callable[[Path], nn.Module]:
    """Its layers on the CPU. Its loader in diffusers asks for a GPU."""

    def load(folder: Path) -> nn.Module:
        import bitsandbytes as package

        model = plain()
        for part in list(model.modules()):
            for name, child in list(part.named_children()):
                if type(child) is nn.Linear and child.in_features % 64 == child.out_features % 32 == 0:
                    setattr(part, name, make(package, child).to("cpu"))
        return model

    return load


def nf4(package: Any, linear: nn.Linear) -> nn.Module:
    made = package.nn.Linear4bit(
        linear.in_features, linear.out_features, bias=linear.bias is not None, quant_type="nf4",
        compute_dtype=torch.float32,
    )  # fmt: skip
    made.load_state_dict(linear.state_dict())
    return made


def int8(package: Any, linear: nn.Linear) -> nn.Module:
    made = package.nn.Linear8bitLt(
        linear.in_features, linear.out_features, bias=linear.bias is not None, has_fp16_weights=False, threshold=6.0
    )
    made.weight = package.nn.Int8Params(linear.weight.data.clone(), requires_grad=False, has_fp16_weights=False)
    made.bias = linear.bias
    return made


KINDS = {
    "bitsandbytes NF4": Kind("bitsandbytes", bitsandbytes(nf4)),
    "bitsandbytes int8": Kind("bitsandbytes", bitsandbytes(int8), rounded=True, exact=0.1),
    "GGUF Q8_0": Kind("gguf", gguf("Q8_0")),
    "GGUF Q4_0": Kind("gguf", gguf("Q4_0")),
    "torchao int8 weights": Kind("torchao", torchao("Int8WeightOnlyConfig")),
    "torchao float8 weights": Kind("torchao", torchao("Float8WeightOnlyConfig")),
    "torchao int8 weights and activations": Kind(
        "torchao", torchao("Int8DynamicActivationInt8WeightConfig"), rounded=True, exact=1.0
    ),
    "quanto int8": Kind("optimum.quanto", quanto("int8")),
    "quanto int4": Kind("optimum.quanto", quanto("int4")),
    "quanto float8": Kind("optimum.quanto", quanto("float8")),
    "quanto int8 weights and activations": Kind("optimum.quanto", quanto_with_activations, rounded=True, exact=1.0),
    "SDNQ int8": Kind("sdnq", sdnq(weights_dtype="int8")),
    "SDNQ uint4": Kind("sdnq", sdnq(weights_dtype="uint4")),
    "SDNQ int8, `use_quantized_matmul`": Kind(
        "sdnq", sdnq(weights_dtype="int8", use_quantized_matmul=True), refused="use_quantized_matmul=False"
    ),
}


def build(name: str, folder: Path) -> Any:
    """A pipeline with a quantized transformer; a folder to keep its files in."""
    plain().save_pretrained(folder)
    pipe = flows.flux()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of diffusers, about its own Quanto loader
        pipe.transformer = KINDS[name].load(folder).eval()
    pipe.set_progress_bar_config(disable=True)
    return pipe


@dataclasses.dataclass(frozen=True)
class Found:
    """What was measured of one way.

    Arguments:
        stock: whether the sample is the pipeline's own, to the last bit.
        error: of the gradient against finite differences along random directions, in each mode.
        kept: bytes that a graph keeps for each weight of a linear layer, in addition to those without quantizing.
    """

    stock: bool
    error: dict[str, float]
    kept: float


def measure(pipe: Any) -> Found:
    """Measure a pipeline."""
    weights = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    error, stock, call = {}, True, {**CALL, "num_inference_steps": 2}
    for mode in MODES:
        sampler = DiffusersSampler(pipe, memory=mode, **call)
        noise = sampler.init(1, seed=1)
        stock &= torch.equal(sampler(noise, "a"), sampler.run_stock("a", seed=1))
        leaf = noise.clone().requires_grad_()
        (gradient,) = torch.autograd.grad((sampler(leaf, "a") * weights).sum(), leaf)
        pairs = torch.tensor(list(slopes(sampler, noise, gradient, weights)))
        error[mode] = ((pairs[:, 0] - pairs[:, 1]).norm() / pairs[:, 1].norm()).item()
    without = flows.flux()
    without.transformer = plain().eval()
    bytes_kept = [
        DiffusersSampler(each, **call)._inner.measure_memory("a", [each.transformer])[0] for each in (pipe, without)
    ]
    layers = [part for part in without.transformer.modules() if type(part) is nn.Linear]
    return Found(stock, error, (bytes_kept[0] - bytes_kept[1]) / sum(layer.weight.numel() for layer in layers))


def slopes(sampler: Any, noise: torch.Tensor, gradient: torch.Tensor, weights: torch.Tensor) -> Iterator[list[float]]:
    """Slopes along random directions, by the gradient and by finite differences of the same quantized network."""
    for seed in range(6):
        along = torch.randn(noise.shape, generator=torch.Generator().manual_seed(seed))
        along /= along.norm()
        with torch.no_grad():
            up, down = ((sampler(noise + sign * 0.1 * along, "a") * weights).sum() for sign in (1, -1))
        yield [float((gradient * along).sum()), float(up - down) / 0.2]


def page() -> str:
    """The table."""
    lines = ["| weights | stock sample | gradient | a graph keeps |", "| --- | --- | --- | --- |"]
    for name, kind in KINDS.items():
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore", NoisewardWarning)
            pipe = build(name, Path(folder))
            try:
                found = measure(pipe)
            except ModelError as error:
                lines.append(f"| {name} | | refused: {error} | |")
                continue
        worst = max(found.error.values())
        right = "works, but warned of" if kind.rounded else "works" if worst < kind.exact else "**wrong**"
        keeps = "activations" if found.kept < 0.5 else "activations and weights at full size"
        same = "bit for bit" if found.stock else "**another**"
        lines.append(f"| {name} | {same} | {right}: {worst:.0e} off | {keeps} |")
        print(lines[-1], found, flush=True)
    return "\n".join(lines)


if __name__ == "__main__":
    from experiments.support import insert

    torch.set_num_threads(1)
    diffusers.logging.set_verbosity_error()
    PAGE.write_text(insert(PAGE.read_text(encoding="utf-8"), "quantized", page()), encoding="utf-8")
