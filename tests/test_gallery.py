"""The gallery: its page is what the stored results make of it, and every entry names what there is."""

from __future__ import annotations

import json
import re
import shlex

import pytest
import torch
from PIL import Image

from experiments.gallery import draw, page, rewards, run, terrain, tones
from experiments.gallery.entries import ENTRIES
from experiments.support import insert

RESULTS = json.loads(page.RESULT.read_text(encoding="utf-8"))["results"]
TEXT = page.PAGE.read_text(encoding="utf-8")


def test_the_page_is_what_the_results_make_of_it():
    assert insert(TEXT, "gallery", page.block(RESULTS)) == TEXT, "run scripts/gallery --page"


def test_every_entry_has_results_and_a_small_image():
    assert {entry.name for entry in ENTRIES} == set(RESULTS)
    for entry in ENTRIES:
        path = page.picture(entry)
        assert path.stat().st_size < 100_000, path.name
        with Image.open(path) as image:
            assert image.width <= 1200, path.name
        assert set(RESULTS[entry.name]) == {one.name for one in entry.runs}


def test_a_gallery_has_a_black_box_a_requirement_and_a_failure():
    assert "--reward jpeg" in TEXT and "--require 'clip>=0.4'" in TEXT
    assert re.search(r"\| guard=none: reward hacking \|", TEXT) and "is a failure" in TEXT


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_the_files_that_commands_name_have_the_functions_that_they_name(entry):
    for one in entry.runs:
        for word in shlex.split(one.line):
            if word.startswith("experiments/"):
                path, _, name = word.rpartition(":")
                assert f"def {name}(" in (page.ROOT / path).read_text(encoding="utf-8")
            assert "--seed" in one.line


def test_left_is_how_much_brighter_the_left_half_is():
    image = torch.zeros(1, 3, 4, 4)
    image[..., :2] = 1
    assert rewards.left(image).item() == 1 and rewards.left(image.flip(3)).item() == -1


def test_greenness_is_of_the_second_color():
    image = torch.zeros(1, 3, 4, 4)
    image[:, 1] = 1
    assert rewards.greenness(image).item() == 1 and rewards.greenness(1 - image).item() == -1


def test_what_was_interrupted_continues_and_what_is_done_is_not_run_again(tmp_path, monkeypatch):
    line, calls, call = "noiseward align 'a duck' --reward brightness --method best-of-n:samples=2", [], run.call
    line += " --num-inference-steps 2 --steps 1 --seed 0"
    monkeypatch.setattr(run, "FOLDER", tmp_path)
    monkeypatch.setattr(run, "call", lambda words: calls.append(words[0]) or call(words))
    first = run.run("duck", line)
    assert run.run("duck", line) == first and calls == ["align"]
    (tmp_path / "duck.json").unlink()  # as if it had been interrupted before it was noted
    assert run.run("duck", line) == first and calls == ["align", "resume"]
    run.run("duck", f"{line}1")
    assert calls == ["align", "resume", "align"]
    assert draw.pairs([("", tmp_path / "duck")]).height > draw.ends([("", tmp_path / "duck")]).height


def test_a_basin_is_lower_in_the_middle():
    side = torch.linspace(-1, 1, 128)
    bowl = (side[:, None] ** 2 + side**2)[None, None]
    assert terrain.basin(bowl).item() > 1 and terrain.basin(-bowl).item() < -1
    assert terrain.basin(side.expand(1, 1, 128, 128)).item() == pytest.approx(0, abs=1e-4)  # a slope
    assert terrain.basin(3 * bowl + 7).item() == pytest.approx(terrain.basin(bowl).item(), rel=1e-4)


def test_a_tone_has_its_pitch_and_partials_above_make_it_brighter():
    settings = torch.full((2, tones.SIZE), -3.0)
    settings[:, 0] = 0  # 311 Hz
    settings[0, 1] = settings[1, 4] = 0  # the first partial, and the fourth
    settings[:, -1] = -1
    sound = tones.synthesize(settings)
    assert sound.shape == (2, tones.RATE) and sound.abs().max() <= 1
    low, high = (torch.fft.rfft(one).abs().argmax().item() for one in sound)
    assert (low, high) == (311, 4 * 311)
    assert tones.brightness(sound)[0] < 0.5 < tones.brightness(sound)[1]


def test_commands_are_wrapped_so_that_a_shell_reads_the_same():
    line = "noiseward align " + " ".join(f"--option-{number} value" for number in range(30))
    wrapped = "\n".join(page.wrap(line))
    assert max(map(len, wrapped.splitlines())) <= 120 and wrapped.count("\\\n") > 1
    assert shlex.split(wrapped.replace("\\\n", "")) == shlex.split(line)


def test_small_images_are_shown_in_large_pixels():
    image = draw.pixelate(torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
    assert image.getpixel((10, 10)) == (0, 0, 0) and image.getpixel((60, 10)) == (255, 255, 255)
