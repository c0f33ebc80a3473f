"""Pictures hold the pixels they were given, in the place they belong."""

from __future__ import annotations

import pytest
import torch

from noiseward import ArgumentError, pictures


def test_images_are_rounded_to_levels_and_clamped():
    sample = torch.tensor([[[[0.0, 1.0]], [[0.5, 2.0]], [[-1.0, float("nan")]]]])
    (image,) = pictures.images(sample)
    assert image.size == (2, 1)
    assert image.getpixel((0, 0)) == (0, 128, 0)
    assert image.getpixel((1, 0)) == (255, 255, 0)


def test_gray_samples_become_gray_pictures():
    assert pictures.images(torch.full((1, 1, 2, 2), 0.2))[0].getpixel((1, 1)) == (51, 51, 51)


@pytest.mark.parametrize("shape", [(2, 3), (1, 4, 8, 8), (3, 8, 8)])
def test_what_is_no_picture_is_refused(shape):
    with pytest.raises(ArgumentError, match="are no pictures"):
        pictures.images(torch.zeros(shape))


def test_a_strip_has_a_line_per_row_and_a_column_per_frame():
    start, middle, end = (torch.full((2, 3, 64, 64), level) for level in (0.0, 0.5, 1.0))
    strip = pictures.strip(start, [(0, start), (3, middle)], end, [5, 5])
    tile, top = 128, 16
    assert strip.size == (3 * tile + 2 * pictures.GAP, top + 2 * tile + pictures.GAP)
    centers = [strip.getpixel((x * (tile + pictures.GAP) + tile // 2, top + tile // 2)) for x in range(3)]
    assert centers == [(0, 0, 0), (128, 128, 128), (255, 255, 255)]


def history(rows: int, steps: int) -> list[dict]:
    return [
        {"index": k, "reward": [k / steps] * rows, "terms": {"a": []}, "probability": [0.5] * rows}
        for k in range(steps)
    ]


def test_a_plot_has_ink_where_the_curve_is_and_differs_when_the_curve_does():
    plot = pictures.plot(history(2, 5))
    other = pictures.plot([{**record, "reward": [0.0, 1.0]} for record in history(2, 5)])
    assert plot.size == other.size
    assert plot.tobytes() != other.tobytes()
    assert len(plot.getcolors(maxcolors=100_000) or []) > 10


def test_one_step_can_be_plotted():
    assert pictures.plot(history(1, 1)).width > 100
