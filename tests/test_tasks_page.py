"""The pages of tasks: their examples are run as they stand, on tiny models instead of those that they name."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tests.task_models import write_models
from tests.test_docs import TASKS, TEXTS, examples

SMALLER = {
    "aesthetic": "brightness",
    "height=1024": "height=16",
    "=20": "=4",
    "steps 20": "steps 4",
    "steps=10": "steps=1",
    '.to("cuda")': "",
}
COMMANDS = [
    found for page in TASKS for found in re.findall(r"^    (noiseward .*(?:\n        .*)*)$", TEXTS[page], re.MULTILINE)
]

pytestmark = pytest.mark.filterwarnings("ignore:the prompt is longer")  # the tiny model reads 8 tokens


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    return write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture
def place(models, tmp_path, monkeypatch):
    """A function that puts tiny models and small settings instead of the page's; images are where it has them."""
    from PIL import Image

    for name, target in (("photo", "photo.jpg"), ("photo", "style.jpg"), ("mask", "mask.png"), ("edges", "edges.png")):
        Image.open(models / f"{name}.png").save(tmp_path / target)
    table = re.search(r"^ {4}(prompt,image.*\n(?: {4}\S.*\n)+)", TEXTS["tasks.md"], re.MULTILINE)
    (tmp_path / "prompts.csv").write_text(table[0])
    named = {
        "stabilityai/stable-diffusion-xl-base-1.0": "xl",
        "lllyasviel/sd-controlnet-canny": "canny", "h94/IP-Adapter": "ip-adapter/models",
    }  # fmt: skip
    monkeypatch.chdir(tmp_path)

    def replace(text: str) -> str:
        text = re.sub(r"(?<=--model )sd15|(?<=\")sd15(?=\")", str(models / "sd"), text)
        for name, folder in named.items():
            text = text.replace(name, str(models / folder))
        for name, small in SMALLER.items():
            text = text.replace(name, small)
        return text

    return replace


@pytest.mark.parametrize("command", COMMANDS, ids=[re.sub(r"\s+", " ", one)[10:50] for one in COMMANDS])
def test_a_command_of_the_page_runs(run, place, command):
    words = shlex.split(place(command.replace("\\\n", " ")))[1:]
    more = ["--steps", "1"] if "sd" in "".join(words) else ["--steps", "1", "--num-inference-steps", "4"]
    status, _, errors = run(*words, *more)
    assert status == 0, errors


def test_there_is_a_command_for_each_task():
    flags = ("--image photo", "--mask-image", "--control-image", "--ip-adapter h94", "batch prompts.csv")
    assert all(any(flag in command for command in COMMANDS) for flag in flags)


@pytest.mark.parametrize("page", TASKS[:-1])
def test_the_python_example_of_a_page_runs(place, page):
    ((line, code),) = examples(TEXTS[page])
    names = {"__name__": "example"}
    exec(compile("\n" * (line - 1) + place(code), f"docs/{page}", "exec"), names)
    assert len(names["solution"].images) == 1
    assert Path("fox.png").exists() == ("save(" in code)
