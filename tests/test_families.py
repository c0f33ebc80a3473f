"""Every family of pipelines through the one adapter: the stock sample, a right gradient, independent rows, a gain."""

from __future__ import annotations

import pytest

from tests.battery import Bench
from tests.families import FAMILIES, Family


@pytest.fixture(scope="module", params=FAMILIES.values(), ids=FAMILIES)
def bench(request, tmp_path_factory):
    return Bench(request.param, tmp_path_factory.mktemp("model") / "pipe")


@pytest.fixture
def family(bench) -> Family:
    return bench.family


def test_draws_are_found_and_distinguished(bench, family):
    layout = bench.tape.layout
    assert len(layout) == family.draws
    assert layout.dead == family.dead
    assert tuple(draw.name for draw in layout if draw.role == "other") == family.other
    assert next(draw.role for draw in layout if draw.role != "other") == "start"


def test_the_sample_is_the_stock_one_bit_for_bit(bench, family):
    own, given = bench.parity()
    assert own == 0
    assert (given == 0) == family.seeded


def test_every_draw_that_moves_has_the_gradient_that_finite_differences_have(bench, family):
    errors = bench.slopes()
    assert len(errors) == family.draws - len(family.dead) - len(family.other)
    assert max(errors.values()) < family.tolerance, errors


def test_the_gradient_is_the_same_in_every_memory_mode(bench):
    assert max(bench.modes().values()) < 1e-5  # where a part rounds to float32 on the way; elsewhere 1e-12


def test_rows_are_independent(bench):
    difference, leak = bench.rows()
    assert difference < 1e-12
    assert leak == 0


def test_the_prompt_matters(bench, family):
    if family.prompts:
        assert bench.prompt_effect() > 0


def test_align_raises_a_reward_and_samples_have_their_shape(bench, family):
    assert bench.gain() > 0
    assert tuple(bench.tape(bench.tape.init(1), bench.prompt).shape[1:]) == family.shape
