"""One case of the catalog, measured: does the adapter drive it, and right?"""

from __future__ import annotations

import dataclasses
import re
import warnings
from typing import Any

import numpy
import torch
from torch import Tensor
from torch.nn import Module

from noiseward import DiffusersSampler, NoisewardError
from noiseward.noise.tape import replay
from noiseward.pipelines.calls import list_parameters
from tests.battery import weigh
from tests.catalog import Case

__all__ = ["EXACT", "Result", "sweep"]

EXACT = 1e-5  # of the largest value: a sample that differs by no more is the stock one to rounding
RIGHT = 2e-2  # relative error of a slope in float32 that still is one


@dataclasses.dataclass(frozen=True)
class Result:
    """What was found of one class.

    Attributes:
        name: of the class.
        shape: of one sample.
        draws, dead, other: numbers of draws, of those without effect, and of those that are an encoder's.
        range: how samples become what is shown.
        parity: largest difference to what the pipeline makes of the same draws, relative to the largest value.
        seeded: whether `generator=` gives the pipeline every draw.
        slope: error of the gradient against a finite difference along a random direction.
        precision: of the finite differences, `float64` or `float32`.
        rows: largest difference of a row alone and in a batch of two, relative to the largest value.
        refused: our reason, where it is refused.
        noted: what is known to be wrong and why, where that is the pipeline's affair.
        fault: what is wrong; empty where it is driven rightly or refused as expected.
    """

    name: str
    shape: tuple[int, ...] = ()
    draws: int = 0
    dead: int = 0
    other: int = 0
    range: str = ""
    parity: float = float("nan")
    seeded: bool = False
    slope: float = float("nan")
    precision: str = ""
    rows: float = float("nan")
    refused: str = ""
    noted: str = ""
    fault: str = ""


def sweep(case: Case) -> Result:
    """Measure one case; never raises for what a pipeline does."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = _measure(case)
    except NoisewardError as error:
        reason = _line(error)
        expected = case.refused is not None and re.search(case.refused, reason) is not None
        return Result(case.name, refused=reason, fault="" if expected else "refused where it should not be")
    except Exception as error:  # what is not ours is a fault
        return Result(case.name, fault=f"{type(error).__name__}: {_line(error)}")
    if case.refused is not None:
        return dataclasses.replace(found, fault="driven where a refusal was expected")
    return found


def _measure(case: Case) -> Result:
    prompt, pipe = case.prompts and case.prompts[0], case.build()
    sampler = _sampler(pipe, case)
    layout = sampler.layout
    noise = sampler.init(1, seed=5)
    with torch.no_grad():
        sample = sampler(noise, prompt)
    scale = sample.abs().max().item() or 1.0
    draws = layout.split(noise) if sampler._inner._discover(None).leading else [part[0] for part in layout.split(noise)]
    with torch.no_grad(), replay(draws, [draw.name for draw in layout]):
        stock = _stock(pipe, case)
    seeded = _stock(pipe, case, seed=5)
    found: dict[str, Any] = {
        "shape": tuple(sample.shape[1:]), "draws": len(layout), "dead": len(layout.dead),
        "other": sum(draw.role == "other" for draw in layout), "range": sampler._range.value,
        "parity": (sample - sampler._range(stock)).abs().max().item() / scale,
        "seeded": bool((sample - sampler._range(seeded)).abs().max() <= EXACT * scale),
    }  # fmt: skip
    found["slope"], found["precision"] = _slope(case, prompt)
    found["rows"] = _rows(sampler, case, scale)
    measured = Result(case.name, **found)
    fault = _fault(measured)
    return dataclasses.replace(measured, fault="" if fault and case.noted else fault, noted=case.noted if fault else "")


def _sampler(pipe: Any, case: Case) -> DiffusersSampler:
    sampler = DiffusersSampler(pipe, **case.call)
    sampler.expect(case.prompts and case.prompts[0])
    return sampler


def _stock(pipe: Any, case: Case, *, seed: int | None = None) -> Tensor:
    """The pipeline's own tensors, without any of this library; of a seed, or with the draws of a tape around it."""
    taken = list_parameters(pipe)
    given: dict[str, Any] = {"output_type": "pt", "return_dict": False}
    if seed is not None:
        given["generator"] = torch.Generator().manual_seed(seed)
    if case.prompts and "prompt" in taken:
        given["prompt"] = case.prompts[0]
    elif case.prompts and "class_labels" in taken:
        given["class_labels"] = [int(case.prompts[0])]
    result: Any = pipe(**{name: value for name, value in {**case.call, **given}.items() if name in taken})
    result = result[0] if isinstance(result, tuple) else result
    if isinstance(result, numpy.ndarray):
        result = torch.from_numpy(result.copy())
        result = result.movedim(-1, 1) if result.ndim == 4 else result
    result = torch.stack(list(result)) if isinstance(result, list) else result
    return result[None] if result.shape[0] > 1 else result  # several images of one row


def _slope(case: Case, prompt: str | None) -> tuple[float, str]:
    """The error of a slope; in float32 where the pipeline's own code cannot be brought to compute in float64."""
    if case.single:
        return _error(_sampler(case.build(), case), prompt, 3e-2, 1e-1), "float32"
    try:
        wide = _sampler(_widen_layers(case.build()), case)
        return _error(wide, prompt, 1e-3, 1e-4, 1e-5, 1e-2, 1e-1), "float64"
    except (NoisewardError, RuntimeError) as error:
        if not any(word in str(error).lower() for word in ("float", "double", "dtype")):
            raise
    return _error(_sampler(case.build(), case), prompt, 3e-2, 1e-1), "float32"


def _widen_layers(pipe: Any) -> Any:
    """A pipeline in float64, whose layers widen what its code hands them in float32, such as timesteps."""

    def widen(module: Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(
            each.double() if isinstance(each, Tensor) and each.dtype == torch.float32 else each for each in given
        )

    pipe.to(torch.float64)
    for part in pipe.components.values():
        for module in part.modules() if isinstance(part, Module) else ():
            if isinstance(getattr(module, "weight", None), torch.nn.Parameter) and module.weight.is_floating_point():
                module.register_forward_pre_hook(widen)
    return pipe


def _error(sampler: DiffusersSampler, prompt: str | None, *widths: float) -> float:
    """The error of the slope along a random direction; the least over widths of the difference, narrow first.

    It is relative to how large a slope is along such a direction: rounding spoils narrow differences, curvature wide
    ones.
    """
    layout = sampler.layout
    noise = sampler.init(1, seed=4).requires_grad_()
    (gradient,) = torch.autograd.grad(weigh(sampler(noise, prompt)).sum(), noise)
    gradient = layout.zero_fixed(gradient).double()
    drawn = torch.randn(noise.shape, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    along = layout.zero_fixed(drawn)
    along = along / along.norm()
    scale = gradient.norm() / sum(draw.size for draw in layout if draw.movable) ** 0.5
    found = float("inf")
    for width in widths:
        ends = (noise.detach().double() + sign * width * along for sign in (1, -1))
        with torch.no_grad():
            up, down = (weigh(sampler(end.to(noise.dtype), prompt)).item() for end in ends)
        found = min(found, abs((gradient * along).sum().item() - (up - down) / (2 * width)) / scale.item())
        if found < 1e-3:
            break
    return found


def _rows(sampler: DiffusersSampler, case: Case, scale: float) -> float:
    noise = sampler.init(2, seed=1)
    prompts = list(case.prompts) if case.prompts else None
    with torch.no_grad():
        together = sampler(noise, prompts)
        alone = torch.cat([sampler(noise[k : k + 1], prompts and prompts[k]) for k in (0, 1)])
    return (together - alone).abs().max().item() / scale


def _fault(found: Result) -> str:
    if not found.parity <= EXACT:
        return f"the sample is {found.parity:.1g} from the pipeline's own"
    if not found.slope <= RIGHT:
        return f"gradient and finite difference are {found.slope:.1g} apart"
    if not found.rows <= 1e-3:
        return f"rows differ by {found.rows:.1g} alone and in a batch"
    return ""


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
