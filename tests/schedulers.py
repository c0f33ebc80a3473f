"""Every scheduler of diffusers: what it draws on a tiny pipeline, or why it drives none here."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import torch

from noiseward import DiffusersSampler
from noiseward.pipelines.schedulers import replace_scheduler
from tests.battery import Measurement, slopes
from tests.families import flows, unets

CALL: dict[str, Any] = {"height": 16, "width": 16, "guidance_scale": 1.0}


@dataclasses.dataclass(frozen=True)
class Case:
    """A scheduler that drives a tiny pipeline.

    Arguments:
        name: a short name or class, as `--scheduler` takes it.
        draws: of one run.
        dead: which of them the sample does not depend on.
        flow: on a model of flows (Stable Diffusion 3), not of noise (Stable Diffusion 1).
        exact: it computes in the precision of the model; else it rounds to float32 on the way.
        steps: of a run.
        settings: of the scheduler.
    """

    name: str
    draws: int = 1
    dead: tuple[str, ...] = ()
    flow: bool = False
    exact: bool = True
    steps: int = 3
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def tolerance(self) -> float:
        """Relative error allowed between gradient and finite difference."""
        return 1e-6 if self.exact else 1e-2

    @property
    def width(self) -> float:
        """Of the finite difference."""
        return 1e-4 if self.exact else 1e-2


CASES = [
    Case("CMStochasticIterativeScheduler", draws=4, exact=False),
    Case("CogVideoXDDIMScheduler"),
    Case("ddim", draws=4),
    Case("DDIMInverseScheduler"),
    Case("DDIMParallelScheduler", draws=4),
    Case("ddpm", draws=4, dead=("step 3",)),
    Case("DDPMParallelScheduler", draws=4, dead=("step 3",)),
    Case("DEISMultistepScheduler"),
    Case("DEISMultistepScheduler", flow=True),
    Case("DPMSolverMultistepInverseScheduler", exact=False),
    Case("dpm", exact=False),
    Case("dpm", flow=True, exact=False),
    Case("dpm-sde", draws=4, dead=("step 3",), exact=False),
    Case("DPMSolverSinglestepScheduler"),
    Case("DPMSolverSinglestepScheduler", flow=True),
    Case(
        "DPMSolverSinglestepScheduler", draws=4, dead=("step 3",),
        settings={"algorithm_type": "sde-dpmsolver++", "final_sigmas_type": "zero"},
    ),
    Case("EDMDPMSolverMultistepScheduler"),
    Case("EDMEulerScheduler", exact=False),
    Case("euler", exact=False),
    Case("euler-a", draws=4, dead=("step 3",), exact=False),
    Case("FlowMapEulerDiscreteScheduler", flow=True),
    Case("flow-euler", flow=True, exact=False),
    Case("flow-euler-sde", flow=True, draws=4, dead=("step 3",), exact=False),
    Case("flow-heun", flow=True, exact=False),
    Case("FlowMatchLCMScheduler", flow=True, draws=4, dead=("step 3",), exact=False),
    Case("heun"),
    Case("IPNDMScheduler"),
    Case("KDPM2AncestralDiscreteScheduler", draws=3),
    Case("KDPM2DiscreteScheduler"),
    Case("lcm", draws=3),
    Case("LTXEulerAncestralRFScheduler", flow=True, draws=3, exact=False),
    Case("MiniMaxH3Scheduler", flow=True),
    Case("pndm", steps=4),
    Case("SASolverScheduler", draws=4, dead=("step 1",)),
    Case("SASolverScheduler", flow=True, draws=4, dead=("step 1", "step 2", "step 3")),
    Case("tcd", draws=3),
    Case("unipc"),
    Case("unipc", flow=True),
]  # fmt: skip

TOKENS = "it draws tokens, not Gaussian noise"
OWN = "only a pipeline of its own drives it"
# Class: what the refusal says, and why it is right.
REFUSED = {
    "AmusedScheduler": ("cannot be made here: .*mask_token_id", TOKENS),
    "BlockRefinementScheduler": ("does not fit a model that came with", TOKENS),
    "ConsistencyDecoderScheduler": ("it has no init_noise_sigma", "it decodes latents"),
    "CogVideoXDPMScheduler": ("also needs timestep_back", OWN),
    "CosineDPMSolverMultistepScheduler": ("requires the torchsde library", "without torchsde; with it, it works"),
    "DDPMWuerstchenScheduler": ("it has no order", OWN),
    "DPMSolverSDEScheduler": ("requires the torchsde library", "without torchsde; with it, it works"),
    "DiscreteDDIMScheduler": ("does not fit a model that came with", TOKENS),
    "EntropyBoundScheduler": ("does not fit a model that came with", TOKENS),
    "HeliosDMDScheduler": ("does not fit a model that came with", OWN),
    "HeliosScheduler": ("does not fit a model that came with", OWN),
    "KarrasVeScheduler": ("also needs sample_hat", OWN),
    "LMSDiscreteScheduler": ("requires the scipy library", "without scipy; with it, it works"),
    "PiflowScheduler": ("does not fit a model that came with", OWN),
    "RFD4ProteinaScheduler": ("cannot be made here", "it is for proteins"),
    "RePaintScheduler": ("also needs original_image", OWN),
    "SCMScheduler": ("it has no scale_model_input", OWN),
    "ScoreSdeVeScheduler": ("it has no step", OWN),
    "ScoreSdeVpScheduler": ("does not fit a model that came with", OWN),
    "UnCLIPScheduler": ("only supports `beta_schedule`: 'squaredcos_cap_v2'", OWN),
    "VQDiffusionScheduler": ("cannot be made here: .*num_vec_classes", TOKENS),
}


@functools.cache
def pipeline(flow: bool) -> Any:
    """The tiny pipeline the schedulers are tried on, in float64."""
    pipe = flows.sd3() if flow else unets.sd1()
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(torch.float64)


def sampler(name: str, flow: bool = False, steps: int = 3, **settings: Any) -> DiffusersSampler:
    """That pipeline with another scheduler. It is the same pipeline every time: use one sampler at a time."""
    pipe = pipeline(flow)
    came_with = pipe.__dict__.setdefault("_came_with", pipe.scheduler)
    pipe.scheduler = replace_scheduler(came_with, name, **settings)
    return DiffusersSampler(pipe, memory="fast", **_call(flow, steps))


def _call(flow: bool, steps: int) -> dict[str, Any]:
    return {**CALL, "num_inference_steps": steps, **({} if flow else {"eta": 1.0})}


def measure(case: Case) -> Measurement:
    """Draws, parity with the stock sample, and the gradient, of one scheduler."""
    tape = sampler(case.name, case.flow, case.steps, **case.settings)
    with torch.no_grad():
        ours = tape(tape.init(1, seed=7), "a")
    torch.manual_seed(7)
    theirs = tape.pipe("a", **_call(case.flow, case.steps), output_type="pt").images
    return Measurement(
        pipeline=type(tape.pipe.scheduler).__name__,
        draws=len(tape.layout),
        dead=tape.layout.dead,
        parity=(ours - theirs).abs().max().item(),
        slope=max(slopes(tape, "a", case.width).values()),
    )
