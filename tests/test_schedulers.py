"""Every scheduler diffusers ships: its draws are seen, the dead ones found, the gradient right; or a clear refusal."""

from __future__ import annotations

import inspect

import diffusers
import pytest

from noiseward import ArgumentError, ModelError, NoisewardWarning
from noiseward.pipelines.cards import ignores_eta, load_schedulers
from noiseward.pipelines.open import open_sampler
from noiseward.pipelines.schedulers import replace_scheduler
from tests.schedulers import CASES, REFUSED, measure, pipeline, sampler


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.name}{' on flows' if case.flow else ''}")
def test_draws_sample_and_gradient(case):
    measured = measure(case)
    assert (measured.draws, measured.dead) == (case.draws, case.dead)
    assert measured.parity == 0
    assert measured.slope < case.tolerance


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_driven_is_refused_in_one_line(name):
    says, _ = REFUSED[name]
    with pytest.raises(ModelError, match=says) as caught:
        sampler(name).init(1)
    assert "\n" not in str(caught.value)


def test_every_scheduler_of_diffusers_is_here():
    listed = diffusers.schedulers
    known = {name for name in dir(listed) if name.endswith("Scheduler")}
    tried = {load_schedulers().get(case.name, {"class": case.name})["class"] for case in CASES}
    assert tried | set(REFUSED) == known
    assert tried & set(REFUSED) == set()


def test_every_short_name_is_tried():
    assert set(load_schedulers()) <= {case.name for case in CASES}


def test_a_scheduler_for_flows_learns_the_shift_of_the_one_before():
    made = replace_scheduler(pipeline(flow=True).__dict__.get("_came_with", pipeline(flow=True).scheduler), "unipc")
    assert (made.config.flow_shift, made.config.prediction_type) == (3.0, "flow_prediction")


def test_noise_and_flows_are_not_mixed_up():
    noise, flow = diffusers.DDIMScheduler(), diffusers.FlowMatchEulerDiscreteScheduler()
    with pytest.raises(ModelError, match="DDIMScheduler does not fit .*predicts flows, not noise"):
        replace_scheduler(flow, "ddim")
    with pytest.raises(ModelError, match="FlowMatchEulerDiscreteScheduler does not fit .*no init_noise_sigma"):
        replace_scheduler(noise, "flow-euler")


@pytest.mark.parametrize(("name", "says"), [("eular", "did you mean 'euler'"), ("SchedulerMixin", "available|mean")])
def test_an_unknown_scheduler_is_refused_with_the_nearest(name, says):
    with pytest.raises(ArgumentError, match=f"unknown scheduler '{name}'; .*{says}"):
        replace_scheduler(diffusers.DDIMScheduler(), name)


def test_an_eta_that_a_scheduler_ignores_is_warned_of_and_one_with_a_name_is_known(model):
    for name in load_schedulers():
        kind = getattr(diffusers, load_schedulers()[name]["class"])
        assert ignores_eta(name) == ignores_eta(kind.__name__) == ("eta" not in inspect.signature(kind.step).parameters)
    with pytest.warns(NoisewardWarning, match="^eta has no effect with EulerDiscreteScheduler; leave it out"):
        open_sampler(model, call={"eta": 0.5}, loading={"scheduler": "euler"})
    open_sampler(model, call={"eta": 0.5}, loading={"scheduler": "tcd"})
    open_sampler(model, loading={"scheduler": "euler"})
