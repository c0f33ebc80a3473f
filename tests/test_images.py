"""Images that are given: one loader, what diffusers' own gives, for every mode that Pillow has."""

from __future__ import annotations

import numpy
import pytest
import torch
from diffusers.utils import load_image
from PIL import Image

from noiseward import ArgumentError, DiffusersSampler
from noiseward.images import GAP, convert_image, draw_grid, draw_strip, read_image, to_images
from noiseward.images.plots import plot_history
from noiseward.pipelines.arguments import open_images
from noiseward.rewards.similarity import read_reference
from tests.families import guided

SIZE = (6, 4)
SHALLOW = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")
DEEP = ("I;16", "I;16B", "I;16L", "I")


def ramp(mode: str) -> Image.Image:
    colors = Image.merge(
        "RGB", [Image.linear_gradient("L").resize(SIZE).rotate(90 * k, expand=False) for k in range(3)]
    )
    if mode in ("La", "RGBa"):
        return colors.convert(mode[:-1] + "A").convert(mode)
    if mode == "PA":
        return colors.convert("P").convert("PA")
    return colors.convert("RGB" if mode == "RGBX" else mode)


def deep(mode: str) -> tuple[Image.Image, numpy.ndarray]:
    values = numpy.linspace(0, 65535, SIZE[0] * SIZE[1]).reshape(SIZE[1], SIZE[0])
    kind = {"I": numpy.int32, "I;16B": ">u2"}.get(mode, "<u2")
    made = values.round().astype(kind)
    return Image.frombytes(mode, SIZE, made.tobytes()), made.astype(float)


@pytest.mark.parametrize("mode", SHALLOW)
def test_an_image_of_any_mode_is_what_diffusers_load_image_gives(mode):
    given = ramp(mode)
    assert convert_image(given).mode == "RGB"
    if mode == "La":  # theirs ends in a ValueError
        given = given.convert("LA")
    assert list(convert_image(given).tobytes()) == list(load_image(given).tobytes())


@pytest.mark.parametrize("mode", [*SHALLOW, *DEEP])
def test_a_mask_of_any_mode_is_gray(mode):
    given = deep(mode)[0] if mode in DEEP else ramp(mode)
    mask = convert_image(given, mask=True)
    assert mask.mode == "L" and mask.size == SIZE
    if mode in SHALLOW and mode not in ("La", "LAB"):
        assert mask.tobytes() == given.convert("L").tobytes()


@pytest.mark.parametrize("mode", DEEP)
def test_more_than_8_bits_are_scaled_and_not_cut_off(mode):
    given, values = deep(mode)
    found = numpy.asarray(convert_image(given)).astype(float)
    assert (found[..., 0] == numpy.rint(values / 257)).all()
    assert (found == found[..., :1]).all()
    assert (numpy.asarray(load_image(given)) == 255).mean() > 0.9  # what cutting off leaves


def test_floating_point_images_go_from_0_to_1_or_to_255():
    values = numpy.linspace(0, 1, 24, dtype=numpy.float32).reshape(4, 6)
    for scale in (1, 255):
        found = numpy.asarray(convert_image(Image.fromarray(values * scale)))[..., 0]
        assert abs(found - values * 255).max() <= 0.5
    with pytest.raises(ArgumentError, match="expected a gray image with values from 0 to 255, got mode F .* 1000;"):
        convert_image(Image.fromarray(values * 1000))
    with pytest.raises(ArgumentError, match="from -1 to"):
        convert_image(Image.fromarray(values * 2 - 1))


def test_a_16_bit_png_keeps_its_levels(tmp_path):
    given, values = deep("I;16")
    given.save(tmp_path / "depth.png")
    found = numpy.asarray(read_image(tmp_path / "depth.png", "control_image")).astype(float)
    assert (found[..., 0] == numpy.rint(values / 257)).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_rotated_photograph_comes_upright(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    ramp("RGB").save(tmp_path / "photo.png", exif=exif)
    found, theirs = read_image(tmp_path / "photo.png", "image"), load_image(str(tmp_path / "photo.png"))
    assert found.size == theirs.size == (SIZE if orientation < 5 else SIZE[::-1])
    assert found.tobytes() == theirs.tobytes()
    shown = read_reference(tmp_path / "photo.png")
    assert torch.equal(shown[0].permute(1, 2, 0) * 255, torch.from_numpy(numpy.array(theirs)).float())


def test_images_are_loaded_wherever_they_stand_among_arguments(tmp_path):
    ramp("LA").save(tmp_path / "a.png")
    path = str(tmp_path / "a.png")
    assert open_images("image", path).mode == open_images("control_image", tmp_path / "a.png").mode == "RGB"
    assert [one.mode for one in open_images("image", [path, ramp("L")])] == ["RGB", "RGB"]
    assert open_images("mask_image", [[path]])[0][0].mode == "L"
    assert open_images("ip_adapter_image", ramp("P")).mode == "RGB"
    assert open_images("negative_prompt", path) == path
    tensor = torch.zeros(1, 3, 4, 4)
    assert open_images("image", tensor) is tensor


@pytest.mark.parametrize("content", [None, b"", b"no image", b"\x89PNG\r\n\x1a\n" + bytes(40)])
def test_a_file_that_is_no_image_is_one_line(tmp_path, content):
    if content is not None:
        (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(ArgumentError, match="image: expected the path of an image, got '.*x.png'") as caught:
        open_images("image", str(tmp_path / "x.png"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("mode", [*SHALLOW, *DEEP])
def test_a_pipeline_takes_images_of_every_mode(tmp_path, mode):
    given = (deep(mode)[0] if mode in DEEP else ramp(mode)).resize((16, 16), 0)
    sampler = DiffusersSampler(guided.img2img(), image=given, strength=0.5, num_inference_steps=2)
    assert sampler(sampler.init(1), "a").shape == (1, 3, 16, 16)


def test_images_are_rounded_to_levels_and_clamped():
    sample = torch.tensor([[[[0.0, 1.0]], [[0.5, 2.0]], [[-1.0, float("nan")]]]])
    (image,) = to_images(sample)
    assert image.size == (2, 1)
    assert image.getpixel((0, 0)) == (0, 128, 0)
    assert image.getpixel((1, 0)) == (255, 255, 0)


def test_gray_samples_become_gray_images():
    assert to_images(torch.full((1, 1, 2, 2), 0.2))[0].getpixel((1, 1)) == (51, 51, 51)


@pytest.mark.parametrize("shape", [(2, 3), (1, 4, 8, 8), (3, 8, 8)])
def test_samples_of_another_shape_are_refused(shape):
    with pytest.raises(ArgumentError, match="expected images"):
        to_images(torch.zeros(shape))


def test_a_strip_has_a_line_per_row_and_a_column_per_frame():
    start, middle, end = (torch.full((2, 3, 64, 64), level) for level in (0.0, 0.5, 1.0))
    strip = draw_strip(start, [(0, start), (3, middle)], end, [5, 5])
    tile, top = 128, 19
    assert strip.size == (3 * tile + 2 * GAP, top + 2 * tile + GAP)
    centers = [strip.getpixel((x * (tile + GAP) + tile // 2, top + tile // 2)) for x in range(3)]
    assert centers == [(0, 0, 0), (128, 128, 128), (255, 255, 255)]


def draw_caption(text: str) -> bytes:
    return draw_grid([[Image.new("RGB", (160, 20))]], captions=[text]).tobytes()


@pytest.mark.parametrize(
    ("caption", "drawn"),
    [
        ("a \N{DUCK} duck \N{FIRE}\N{FIRE}", "a duck duck fire fire"),
        ("un caf\u00e9, cafe\u0301", "un cafe, cafe"),
        ("\u9d28", "?"),
    ],
)
def test_a_caption_has_no_boxes_for_what_the_font_cannot_draw(caption, drawn):
    assert draw_caption(caption) == draw_caption(drawn) != draw_caption("a")


def history(rows: int, steps: int) -> list[dict]:
    return [
        {"index": k, "reward": [k / steps] * rows, "terms": {"a": []}, "probability": [0.5] * rows}
        for k in range(steps)
    ]


def test_a_plot_has_ink_where_the_curve_is_and_differs_when_the_curve_does():
    plot = plot_history(history(2, 5))
    other = plot_history([{**record, "reward": [0.0, 1.0]} for record in history(2, 5)])
    assert plot.size == other.size
    assert plot.tobytes() != other.tobytes()
    assert len(plot.getcolors(maxcolors=100_000) or []) > 10


def test_one_step_can_be_plotted():
    assert plot_history(history(1, 1)).width > 100
