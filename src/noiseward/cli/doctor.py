"""`noiseward doctor`: does it work here, and does it work with this model?"""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["doctor"]


def doctor(
    model: Annotated[str, typer.Option(help="stickers, a diffusers folder, or a hub id.")] = "stickers",
    num_inference_steps: Annotated[int, typer.Option(min=1, help="Sampler steps of the check.")] = 5,
) -> None:
    """Check versions and device, and that a model can be driven: seeds, draws, gradients."""
    import platform
    from importlib.metadata import version

    import torch
    from rich.console import Console

    from noiseward import __version__
    from noiseward.align import prepare
    from noiseward.ascend import GradientAscent
    from noiseward.checkup import examine
    from noiseward.optimize import Budget

    console = Console(highlight=False)
    console.print(
        f"noiseward {__version__}, python {platform.python_version()}, "
        f"torch {torch.__version__}, {torch.get_num_threads()} threads"
    )
    console.print(", ".join(f"{name} {version(name)}" for name in ("diffusers", "transformers", "safetensors")))
    console.print("device", torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu")
    optimizer, budget, call = GradientAscent(), Budget(steps=0), {"num_inference_steps": num_inference_steps}
    problem = prepare(model, "", "brightness", optimizer=optimizer, budget=budget, call=call)
    findings = examine(problem)
    for finding in findings:
        console.print(f"{'ok  ' if finding.fine else 'FAIL'}  {finding.says}", soft_wrap=True)
    if not all(finding.fine for finding in findings):
        raise typer.Exit(1)
