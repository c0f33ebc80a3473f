"""Layouts cut noise into draws and back; seeds address randomness by row, step and purpose."""

import itertools

import pytest
import torch

from noiseward.errors import ArgumentError
from noiseward.noise.layout import Draw, Layout, Seeds

EQUAL = Layout((Draw("start", (4, 2, 3), "start"), Draw("step 1", (4, 2, 3)), Draw("step 2", (24,))))
UNEQUAL = Layout((Draw("start", (4, 2), "start"), Draw("step 1", (3,)), Draw("step 2", ())))
MIXED = Layout((Draw("a", (2,), "start"), Draw("b", (2,), live=False), Draw("c", (2,), "other"), Draw("d", (2,))))


def make_noise(layout: Layout, batch: int = 3) -> torch.Tensor:
    return torch.arange(batch * layout.size, dtype=torch.float64).reshape(batch, *layout.noise_shape)


@pytest.mark.parametrize(("layout", "shape"), [(EQUAL, (3, 4, 2, 3)), (UNEQUAL, (1, 12)), (MIXED, (4, 2))])
def test_noise_is_draws_by_element_when_they_are_of_one_size_and_end_to_end_otherwise(layout, shape):
    assert layout.noise_shape == shape
    assert layout.size == sum(draw.size for draw in layout)


@pytest.mark.parametrize("layout", [EQUAL, UNEQUAL, MIXED])
def test_join_inverts_split(layout):
    noise = make_noise(layout)
    parts = layout.split(noise)
    assert [tuple(part.shape[1:]) for part in parts] == [draw.shape for draw in layout]
    assert torch.equal(layout.join(parts), noise)


@pytest.mark.parametrize("layout", [EQUAL, UNEQUAL])
def test_split_inverts_join(layout):
    parts = [torch.randn(2, *draw.shape) for draw in layout]
    for part, again in zip(parts, layout.split(layout.join(parts)), strict=True):
        assert torch.equal(part, again)


@pytest.mark.parametrize("layout", [EQUAL, UNEQUAL])
def test_draws_lie_in_the_noise_in_order_and_rows_stay_apart(layout):
    noise = make_noise(layout)
    for row in range(3):
        flat = torch.cat([part[row].flatten() for part in layout.split(noise)])
        assert torch.equal(flat, noise[row].flatten())


def test_where_keeps_the_named_draws_and_zeroes_the_others():
    noise = make_noise(UNEQUAL) + 1
    start, first, second = UNEQUAL.split(UNEQUAL.keep([True, False, True], noise))
    assert torch.equal(start, UNEQUAL.split(noise)[0])
    assert not first.any()
    assert torch.equal(second, UNEQUAL.split(noise)[2])


def test_dead_draws_and_draws_of_something_else_are_fixed():
    moved = MIXED.zero_fixed(torch.ones(1, 4, 2))
    assert moved[0, :, 0].tolist() == [1, 0, 0, 1]


def test_only_movable_draws_count_for_plausibility():
    assert MIXED.movable_part(make_noise(MIXED, 2)).tolist() == [[0, 1, 6, 7], [8, 9, 14, 15]]


def test_dead_draws_are_listed_by_name():
    assert MIXED.dead == ("b",)
    assert EQUAL.dead == ()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_fresh_noise_is_the_sequence_of_one_generator_per_row(dtype):
    layout = Layout((Draw("start", (3, 5), "start", dtype=dtype), Draw("step 1", (15,), dtype=dtype)))
    noise = layout.draw_noise([7, 12])
    assert noise.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    for row, seed in enumerate([7, 12]):
        generator = torch.Generator().manual_seed(seed)
        start, step = (part[row] for part in layout.split(noise))
        assert torch.equal(start.to(dtype), torch.randn(3, 5, generator=generator, dtype=dtype))
        assert torch.equal(step.to(dtype), torch.randn(15, generator=generator, dtype=dtype))


def test_fresh_noise_loses_nothing_of_draws_of_different_precision():
    layout = Layout((Draw("start", (20,), "start"), Draw("step 1", (20,), dtype=torch.float64)))
    generator = torch.Generator().manual_seed(3)
    noise = layout.draw_noise([3])
    assert torch.equal(noise[0, 0].float(), torch.randn(20, generator=generator))
    assert torch.equal(noise[0, 1], torch.randn(20, generator=generator, dtype=torch.float64))


@pytest.mark.parametrize(
    ("noise", "message"),
    [
        (torch.zeros(2, 4, 3), r"got \(2, 4, 3\)"),
        (torch.zeros(4, 2), r"expected shape \(B, 4, 2\)"),
        (torch.zeros(()), "expected shape"),
        (torch.zeros(1, 4, 2, dtype=torch.float16), "low precision"),
        (torch.zeros(1, 4, 2, dtype=torch.bfloat16), "low precision"),
        (torch.zeros(1, 4, 2, dtype=torch.int64), "expected float32 or float64"),
    ],
)
def test_noise_that_does_not_fit_is_refused(noise, message):
    with pytest.raises(ArgumentError, match=message):
        MIXED.check(noise)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_noise_that_fits_is_accepted(dtype):
    MIXED.check(torch.zeros(3, 4, 2, dtype=dtype))


def draw_numbers(generator: torch.Generator) -> list[float]:
    return torch.randn(3, generator=generator).tolist()


def test_a_row_step_and_purpose_always_give_the_same_choice_whatever_the_neighbors():
    alone, among = Seeds((5,), step=2), Seeds((9, 5, 9)).at(2)
    assert draw_numbers(alone.generator(0, "candidate")) == draw_numbers(among.generator(1, "candidate"))


def test_other_rows_steps_and_purposes_give_other_choices():
    addresses = itertools.product((0, 1, 2), (2, 3, 23), ("candidate", "permutation"))
    drawn = [draw_numbers(Seeds((1, 12, 122)).at(step).generator(row, purpose)) for row, step, purpose in addresses]
    assert len({tuple(values) for values in drawn}) == 18


def test_choices_do_not_share_a_stream_with_the_initial_noise():
    assert draw_numbers(Seeds((0,)).generator(0, "start")) != draw_numbers(torch.Generator().manual_seed(0))


def test_draws_without_the_generator_come_after_those_with_it():
    draws = [Draw("other", (2,), "other"), Draw("start", (3,), "start", from_generator=True), Draw("step", (2,))]
    layout = Layout(tuple(draws))
    other, start, step = layout.split(layout.draw_noise([7]))
    generator = torch.Generator().manual_seed(7)
    for part in (start, other, step):
        assert torch.equal(part[0], torch.randn(part.shape[1:], generator=generator))
