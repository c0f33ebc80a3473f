"""`noiseward doctor`: does it work here, and does it work with this model?"""

from __future__ import annotations

import math

import typer

from noiseward.cli.flags import expand
from noiseward.cli.printing import print_json
from noiseward.errors import ArgumentError
from noiseward.options.commands import DoctorOptions
from noiseward.options.run import Settings

__all__ = ["doctor"]

STEPS = 5  # denoising steps of the check


@expand
def doctor(options: DoctorOptions) -> None:
    """Check versions and device, and that a model can be driven: draws, seeds, gradients, memory."""
    if options.fit is not None:
        _show_fitting(options, options.fit)
        return
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
    sampler = open_sampler(
        options.model, memory=options.memory, decoder=options.decoder, call=options.arguments, loading=options.loading,
        conversion=options.conversion,
    )  # fmt: skip
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


def _show_fitting(options: DoctorOptions, size: str) -> None:
    """Print which settings of which models fit into some memory."""
    from noiseward import terminal
    from noiseward.cli.columns import print_table
    from noiseward.pipelines.fit import list_settings, load_needs, needs_of, read_size

    available = read_size(size)
    given = "model" in options.model_fields_set
    others = [options.flag(name) for name in options.model_fields_set - {"fit", "model", "as_json"}]
    if others:
        raise ArgumentError(
            "--fit finds settings for each model's usual image, and takes only --model and --json, got "
            f"{', '.join(sorted(others))}; leave that out"
        )
    found = {
        each.name: list_settings(each, available)
        for each in ([needs_of(options.model)] if given else load_needs().values())
    }
    if options.as_json:
        print_json({
            name: [
                {"precision": one.precision, "memory": one.memory, "offload": one.offload, "decoder": one.decoder,
                 "bytes": int(one.bytes)}
                for one in settings
            ]
            for name, settings in found.items()
        })  # fmt: skip
        return
    console = terminal.console()
    head = ["model", "image", "denoiser", "memory", "offload", "decoder", "GB"]
    cells = [
        [name, load_needs()[name].size, one.precision, one.memory, one.offload or "no", one.decoder or "own",
         f"{one.bytes / 1e9:.1f}"]
        for name, settings in found.items() for one in settings
    ]  # fmt: skip
    print_table(head, cells, console, left=head[:-1], drop=("image", "decoder", "offload", "denoiser", "memory"))
    for name in [name for name, settings in found.items() if not settings]:
        room = f"{available / 1e9:g} GB"
        console.print(f"{name}: nothing fits into {room}; take smaller images (--height, --width) or a smaller model")
    console.print("Computed, for one image and without a reward's own model: docs/my-card.md")
