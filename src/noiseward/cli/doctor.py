"""`noiseward doctor`: does it work here, and does it work with this model?"""

from __future__ import annotations

import math

import typer

from noiseward.cli.flags import expand
from noiseward.cli.printing import print_json
from noiseward.options.commands import DoctorOptions
from noiseward.options.run import Settings

__all__ = ["doctor"]

STEPS = 5  # denoising steps of the check


@expand
def doctor(options: DoctorOptions) -> None:
    """Check versions and device, and that a model can be driven: draws, seeds, gradients, memory."""
    import platform
    from importlib.metadata import version

    import torch

    from noiseward import __version__, terminal
    from noiseward.doctor import examine, verdict
    from noiseward.optimizers.ascend import GradientAscent
    from noiseward.pipelines.open import open_sampler
    from noiseward.problem import prepare
    from noiseward.rewards.reward import FunctionReward

    console = terminal.console(soft_wrap=True, stderr=options.as_json)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    versions = {"noiseward": __version__, "python": platform.python_version(), "torch": torch.__version__}
    versions |= {name: version(name) for name in ("diffusers", "transformers", "safetensors")}
    console.print(", ".join(f"{name} {number}" for name, number in versions.items()))
    console.print(f"device {device}, {torch.get_num_threads()} threads")
    how = {"loading": options.loading, "conversion": options.conversion}
    sampler = open_sampler(options.model, memory=options.memory, call=options.arguments, **how)
    if options.num_inference_steps is None:
        least = math.ceil(1 / (options.strength or 1))  # so that a share of the steps is one at least
        sampler = sampler.with_steps(max(STEPS, least)) or sampler  # a sampler of your own has the steps that it has
    problem = prepare(
        sampler,
        "",
        FunctionReward(lambda sample: sample.flatten(1).mean(1), name="mean"),  # images, sound, video: all have one
        Settings(steps=0),
        method=GradientAscent(),
    )
    findings = []
    for finding in examine(problem):
        findings.append(finding)
        mark = "ok  " if finding.fine else "FAIL" if finding.must else "note"
        console.print(f"{mark}  {finding.says}")
    console.print(f"verdict: {verdict(findings)}")
    if options.as_json:
        every = [{"fine": one.fine, "must": one.must, "says": one.says} for one in findings]
        print_json({"versions": versions, "device": device, "findings": every, "verdict": verdict(findings)})
    if any(finding.must and not finding.fine for finding in findings):
        raise typer.Exit(1)
