"""Prompts and prompt files as people have them: long, in other scripts, from spreadsheets; and images of all kinds."""

from __future__ import annotations

import logging

import numpy
import pytest
from PIL import Image

from noiseward.errors import NoisewardWarning
from noiseward.pipelines.load import load_pipeline
from noiseward.pipelines.open import open_sampler
from noiseward.runs.store import RunFolder


@pytest.mark.filterwarnings("default")
def test_a_prompt_that_is_too_long_is_one_line_with_what_is_not_read(run, small):
    words = " ".join(["a", *(f"w{number}" for number in range(500))])
    status, out, err = run("align", words, "--reward", "brightness", "--steps", "0", "--watch", "none", *small)
    assert status == 0
    (line,) = [line for line in err.splitlines() if "tokens" in line]
    assert line.startswith("noiseward: the prompt is longer than the 8 tokens that the model reads; not read: '")
    assert "Token indices" not in err and "truncated" not in err
    assert len(line) < 400 and max(map(len, out.splitlines())) <= 200


def test_a_prompt_that_fits_is_no_warning(model):
    sampler = open_sampler(load_pipeline(model), call={"num_inference_steps": 2, "height": 16, "width": 16})
    sampler.settle(1, "a")


def test_other_warnings_of_libraries_stay():
    from noiseward.pipelines.truncation import report_truncation

    message = (
        "The following part of your input was truncated because CLIP can only handle sequences up to 77 tokens: ['x y']"
    )
    handler = Lines()
    logging.getLogger("diffusers").addHandler(handler)
    try:
        with pytest.warns(NoisewardWarning, match="longer than the 77 tokens that the model reads; not read: 'x y'"):
            with report_truncation():
                logging.getLogger("diffusers.pipelines").warning(message)
                logging.getLogger("diffusers.pipelines").warning("something else")
        logging.getLogger("diffusers.pipelines").warning(message)
    finally:
        logging.getLogger("diffusers").removeHandler(handler)
    assert handler.lines == ["something else", message]


@pytest.mark.filterwarnings("always")
def test_a_command_says_what_is_not_read_once_also_where_candidates_are_many(run, small):
    options = ("--reward", "brightness", "--steps", "1", "--method", "best-of-n:samples=4", *small)
    status, _, err = run("align", "a b c d e f g h i j", *options)
    assert status == 0 and err.count("that the model reads; not read:") == 1, err


def test_what_is_cut_off_every_row_of_a_batch_is_named_once():
    from noiseward.pipelines.truncation import report_truncation

    cut = "The following part of your input was truncated because CLIP can only handle sequences up to 16 tokens: "
    logger = logging.getLogger("diffusers")
    logger.addHandler(Lines())
    try:
        with pytest.warns(NoisewardWarning) as caught, report_truncation():
            logger.warning(cut + "['[ bold ]', '[ bold ]', 'sun <|endoftext|>', '[ bold ]']")
            logger.warning(cut + "['[ bold ]', 'sun']")
    finally:
        logger.removeHandler(logger.handlers[-1])
    (warning,) = caught
    assert str(warning.message).endswith("not read: '[ bold ]', 'sun'")


class Lines(logging.Handler):
    """Keeps what is logged."""

    def __init__(self):
        super().__init__()
        self.lines = []

    def emit(self, record):
        self.lines.append(record.getMessage())


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("prompt", ["a 🦆", "一只鸭子", "a\nb", "a\tb\r\n", "\u202ea", "é" * 300])
def test_prompts_in_any_script_are_kept_as_they_are(run, small, tmp_path, prompt):
    status, out, err = run("align", prompt, "--reward", "brightness", "--steps", "0", "--out", "r", *small)
    assert status == 0, err
    assert RunFolder(tmp_path / "r").spec().prompt == (prompt,)
    assert run("show", "r")[0] == 0 and run("list", ".")[0] == 0
    names = [line for line in run("list", ".")[1].splitlines() if line.startswith("r ")]
    assert len(names) == 1


SPREADSHEETS = {
    "bom": "\ufeffprompt,seed\na,3\nb,4\n".encode(),
    "crlf": b"prompt,seed\r\na,3\r\nb,4\r\n",
    "semicolons": b"prompt;seed\r\na;3\r\nb;4\r\n",
    "tabs": b"prompt\tseed\na\t3\nb\t4\n",
    "all of it": "\ufeffprompt;seed\r\na;3\r\nb;4\r\n".encode(),
    "empty lines": b"prompt,seed\r\na,3\r\n,\r\nb,4\r\n\r\n",
    "quotes": b'"prompt","seed"\r\n"a","3"\r\n"b","4"\r\n',
}


@pytest.mark.parametrize("name", SPREADSHEETS)
def test_prompts_from_a_spreadsheet(tmp_path, name):
    from noiseward.options.run import RunSpec
    from noiseward.sweep.rows import read_rows

    (tmp_path / "p.csv").write_bytes(SPREADSHEETS[name])
    rows = read_rows(str(tmp_path / "p.csv"), RunSpec(prompt=(), reward="brightness"))
    assert [(row.spec.prompt, row.spec.seed) for row in rows] == [(("a",), 3), (("b",), 4)]


def test_a_prompt_of_a_spreadsheet_may_have_the_other_separator_and_line_breaks(tmp_path):
    from noiseward.options.run import RunSpec
    from noiseward.sweep.rows import read_rows

    (tmp_path / "p.csv").write_bytes('prompt;seed\r\n"a, b; c\nd 🦆";3\r\n'.encode())
    (row,) = read_rows(str(tmp_path / "p.csv"), RunSpec(prompt=(), reward="brightness"))
    assert row.spec.prompt == ("a, b; c\nd 🦆",)


def stripes() -> Image.Image:
    """Red above, blue below."""
    pixels = numpy.zeros((24, 16, 3), numpy.uint8)
    pixels[:12, :, 0], pixels[12:, :, 2] = 255, 255
    return Image.fromarray(pixels)


def rotated(path):
    """An image that is upright only by its EXIF data."""
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    stripes().rotate(90, expand=True).save(path, exif=exif)


IMAGES = {
    "rotated.png": rotated,
    "grey.png": lambda path: stripes().convert("L").save(path),
    "alpha.png": lambda path: stripes().convert("RGBA").save(path),
    "palette.png": lambda path: stripes().convert("P").save(path),
    "cmyk.jpg": lambda path: stripes().convert("CMYK").save(path),
    "deep.png": lambda path: Image.fromarray(
        numpy.linspace(0, 65535, 24 * 16).reshape(24, 16).astype(numpy.uint16)
    ).save(path),
}


@pytest.mark.parametrize("name", IMAGES)
def test_images_of_all_kinds_are_read_upright_and_in_eight_bits(tmp_path, name):
    from noiseward.images import read_image

    IMAGES[name](tmp_path / name)
    image = read_image(tmp_path / name, "image")
    assert (image.mode, image.size) == ("RGB", (16, 24))
    top, bottom = (numpy.asarray(image)[rows].reshape(-1, 3).mean(0) for rows in (slice(0, 10), slice(14, 24)))
    if name == "deep.png":
        assert top.mean() < 110 and bottom.mean() > 145
    elif name != "grey.png":
        assert top[0] > 200 and bottom[2] > 200 and top[2] < 60 and bottom[0] < 60
