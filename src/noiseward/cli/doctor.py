"""`noiseward doctor`: does it work here, and does it work with this model?"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from noiseward.cli.assignments import assignments
from noiseward.pipelines.cards import DEFAULT_MODEL

__all__ = ["doctor"]


def doctor(
    model: Annotated[
        str, typer.Option(help="A short name ('noiseward models'), folder, hub id or file.")
    ] = DEFAULT_MODEL,
    scheduler: Annotated[str | None, typer.Option(help="Another scheduler: ddim, euler-a, ..., or a class.")] = None,
    lora: Annotated[str | None, typer.Option(help="A file or folder of LoRA weights.")] = None,
    dtype: Annotated[str | None, typer.Option(help="Of the weights: float32, bfloat16, ...")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or mps.  [default: auto]")] = None,
    memory: Annotated[str | None, typer.Option(help="fast, balanced, low or auto; see 'align --help'.")] = None,
    num_inference_steps: Annotated[int, typer.Option(min=1, help="Sampler steps of the check.")] = 5,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Any other argument of the pipeline, as KEY=VALUE.")
    ] = None,
) -> None:
    """Check versions and device, and that a model can be driven: draws, seeds, gradients, memory."""
    call: dict[str, Any] = {"num_inference_steps": num_inference_steps, **assignments(set_)}

    import platform
    from importlib.metadata import version

    import torch

    from noiseward import __version__, terminal
    from noiseward.api import prepare
    from noiseward.doctor import examine, verdict
    from noiseward.loop.budget import Budget
    from noiseward.optimizers.ascend import GradientAscent
    from noiseward.rewards.reward import FunctionReward

    console = terminal.console()
    console.print(
        f"noiseward {__version__}, python {platform.python_version()}, "
        f"torch {torch.__version__}, {torch.get_num_threads()} threads"
    )
    console.print(", ".join(f"{name} {version(name)}" for name in ("diffusers", "transformers", "safetensors")))
    console.print("device", torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu")
    problem = prepare(
        model,
        "",
        FunctionReward(lambda sample: sample.flatten(1).mean(1), name="mean"),  # pictures, sound, video: all have one
        optimizer=GradientAscent(),
        budget=Budget(steps=0),
        memory=memory,
        loading={"scheduler": scheduler, "lora": lora, "dtype": dtype, "device": device},
        call=call,
    )
    findings = []
    for finding in examine(problem):
        findings.append(finding)
        mark = "ok  " if finding.fine else "FAIL" if finding.must else "note"
        console.print(f"{mark}  {finding.says}", soft_wrap=True)
    console.print(f"verdict: {verdict(findings)}")
    if any(finding.must and not finding.fine for finding in findings):
        raise typer.Exit(1)
