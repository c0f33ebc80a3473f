"""Images say what made them: in PNG text and EXIF, for this library and for other tools."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy
import pytest
from PIL import Image

from noiseward import __version__
from noiseward.errors import ArgumentError
from noiseward.images.metadata import FORMATS, read_metadata, save_with_metadata, write_parameters

KNOWN = {
    "prompt": "a 🦆, on\na [lake]",
    "negative_prompt": "blurry",
    "seed": 7,
    "reward": "brightness + jpeg:0.5",
    "before": 0.25,
    "after": None,
    "step": 3,
    "method": "dno:lr=0.01,guard=none",
    "model": "path/to/sd",
    "size": "16x8",
    "num_inference_steps": 20,
    "guidance_scale": 7.5,
    "scheduler": "ddim",
    "version": __version__,
}


def parse(text: str) -> dict[str, str]:
    """The last line of the parameters as AUTOMATIC1111 and Civitai split it: its own regular expression."""
    pattern = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')
    return {name: value.strip('"') for name, value in pattern.findall(text.strip().splitlines()[-1])}


@pytest.mark.parametrize("kind", FORMATS)
def test_what_is_written_is_read_back(tmp_path, kind):
    path = tmp_path / f"x.{kind}"
    save_with_metadata(Image.new("RGB", (16, 8), "red"), path, KNOWN, kind=FORMATS[kind])
    assert read_metadata(path) == KNOWN
    with Image.open(path) as image:
        assert image.format == FORMATS[kind] and image.size == (16, 8)


def test_other_tools_read_the_parameters(tmp_path):
    text = write_parameters(KNOWN)
    assert text.startswith("a 🦆, on\na [lake]\nNegative prompt: blurry\nSteps: 20, Sampler: ddim, CFG scale: 7.5, ")
    found = parse(text)
    assert (found["Steps"], found["Size"], found["Model"], found["Seed"]) == ("20", "16x8", "path/to/sd", "7")
    assert found["Reward"] == "brightness + jpeg:0.5" and found["Method"] == "dno:lr=0.01,guard=none"
    assert found["Version"] == f"noiseward {__version__}" and "Reward after" not in found
    save_with_metadata(Image.new("RGB", (16, 8)), tmp_path / "x.png", KNOWN)
    with Image.open(tmp_path / "x.png") as image:
        assert image.info["parameters"] == text
    save_with_metadata(Image.new("RGB", (16, 8)), tmp_path / "x.jpg", KNOWN, kind="JPEG")
    with Image.open(tmp_path / "x.jpg") as image:
        comment = image.getexif().get_ifd(0x8769)[0x9286]
    assert comment[:8] == b"UNICODE\0" and comment[8:].decode("utf-16-be") == text


def test_an_image_of_another_tool_is_shown_as_it_says(tmp_path):
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("parameters", "a cat\nSteps: 3")
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png", pnginfo=info)
    assert read_metadata(tmp_path / "a.png") == {"parameters": "a cat\nSteps: 3"}
    Image.new("RGB", (4, 4)).save(tmp_path / "b.png")
    with pytest.raises(ArgumentError, match="does not say what made it"):
        read_metadata(tmp_path / "b.png")
    (tmp_path / "c.png").write_bytes(b"\x89PNG no")
    with pytest.raises(ArgumentError, match="expected an image, got"):
        read_metadata(tmp_path / "c.png")


@pytest.fixture
def made(run, small):
    """A run of two prompts, asked for in JPEG, too."""
    options = ("--reward", "brightness", "--batch", "2", "--seed", "3", "--steps", "2", "--format", "jpg", "-q")
    status, _, err = run("align", "a", "b", "--out", "r", *options, *small)
    assert status == 0, err
    return Path("r")


def test_every_image_of_a_run_says_what_made_it(made, run):
    shown = json.loads(run("show", "r", "--json")[1])
    for row in shown["rows"]:
        for which, reward, step in (("initial", row["before"], 0), ("best", row["best"], row["step"])):
            said = read_metadata(made / which / f"{row['row']:02d}.png")
            assert (said["prompt"], said["seed"], said["step"]) == (row["prompt"], row["seed"], step)
            assert said["before"] == pytest.approx(row["before"]) and said["after"] == pytest.approx(reward)
            assert said["method"] == shown["method"] and said["num_inference_steps"] == 4
        assert read_metadata(made / "best" / f"{row['row']:02d}.jpg") == said
    frame = sorted((made / "frames").glob("*-03.png"))[-1]
    assert read_metadata(frame)["seed"] == 4 and read_metadata(frame)["step"] == int(frame.name[:5])


def test_a_resumed_run_writes_its_images_in_its_format_again(made, run):
    before = (made / "best/00.jpg").read_bytes()
    assert run("resume", "r", "--steps", "+3", "-q")[0] == 0
    assert (made / "best/00.jpg").read_bytes() != before and not (made / "best/00.webp").exists()
    for row in range(4):
        assert read_metadata(made / "best" / f"{row:02d}.jpg") == read_metadata(made / "best" / f"{row:02d}.png")


def test_equal_runs_write_equal_images(made, run, small):
    again = ("--reward", "brightness", "--batch", "2", "--seed", "3", "--steps", "2", "-q", "--out", "s")
    assert run("align", "a", "b", *again, *small)[0] == 0
    assert (made / "best/00.png").read_bytes() == Path("s/best/00.png").read_bytes()


def test_the_command_line_shows_and_exports_it(made, run):
    status, out, _ = run("show", "r/best/01.png")
    assert status == 0 and "prompt: a\nseed: 4\n" in out and f"version: {__version__}" in out
    assert json.loads(run("show", "r/best/01.png", "--json")[1])["seed"] == 4
    files = json.loads(run("export", "r", "--images", "site", "--format", "webp", "--json")[1])["files"]
    assert files == [f"site/0{row}.webp" for row in range(4)]
    assert read_metadata(Path(files[3])) == read_metadata(made / "best/03.png")
    with Image.open(files[3]) as one, Image.open(made / "best/03.png") as other:
        apart = numpy.asarray(one.convert("RGB")).astype(float) - numpy.asarray(other)
    assert abs(apart).mean() < 40  # lossy, and the same image: two of them are some 80 apart
    status, _, err = run("export", "r", "--images", "site", "--format", "gif")
    assert status == 2 and "unknown format 'gif'; available: png, jpg, webp" in err
    status, _, err = run("export", "r", "--format", "webp")
    assert status == 2 and "--format is for the files of --images, got none" in err
    status, _, err = run("show", "r/strip.png")
    assert status == 2 and "does not say what made it" in err
