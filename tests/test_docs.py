"""The code in the docs runs: Python in order and in one namespace per page, commands as far as their options.

A Python block that cannot run here says why in the line before it: `<!-- not run: reason -->`. Such blocks are checked
for the names that they import and use.
"""

from __future__ import annotations

import ast
import importlib
import re
import shlex
from pathlib import Path

import pytest

from tests.pages import COMMANDS, commands_page

DOCS = Path(__file__).resolve().parents[1] / "docs"
TASKS = ("how-to/img2img.md", "how-to/inpaint.md", "how-to/controlnet.md", "how-to/ip-adapter.md", "tasks.md")
ELSEWHERE = {**dict.fromkeys(TASKS, "test_tasks_page.py"), "samplers.md": "strangers/test_page.py"}
BLOCK = re.compile(r"^(?:<!-- not run: ([^\n]+) -->\n)?```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"^(?:    |machine-a\$ )*(noiseward [a-z](?:[^\n#]*\\\n)*[^\n#]*)", re.MULTILINE)
TEXTS = {path.relative_to(DOCS).as_posix(): path.read_text(encoding="utf-8") for path in sorted(DOCS.rglob("*.md"))}
README = (DOCS.parent / "README.md").read_text(encoding="utf-8")
PAGES = [page for page, text in TEXTS.items() if "```python" in text and page not in ELSEWHERE]


def examples(text: str) -> list[tuple[int, str]]:
    """The Python blocks of a page that run, with the lines they begin at."""
    return [(line, code) for line, code, reason in blocks(text) if reason is None]


def blocks(text: str) -> list[tuple[int, str, str | None]]:
    """The Python blocks of a page: the line each begins at, its code, and why it is not run."""
    return [(text[: found.start(2)].count("\n") + 1, found[2], found[1]) for found in BLOCK.finditer(text)]


def commands(text: str) -> list[str]:
    """The commands of a page."""
    return [re.sub(r"\\\n\s*", "", found[1]).strip() for found in COMMAND.finditer(text)]


@pytest.mark.parametrize("page", PAGES)
def test_the_examples_of_a_page_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "example"}
    assert len(blocks(TEXTS[page])) == TEXTS[page].count("```python")
    text = TEXTS[page]
    if page == "index.md":  # as the README's, which it repeats, on fewer denoising steps than a user's
        text = text.replace("steps=3)", "steps=3, num_inference_steps=4)")
        assert text != TEXTS[page]
    for line, code in examples(text):
        exec(compile("\n" * (line - 1) + code, str(DOCS / page), "exec"), names)  # errors name the page's own lines


@pytest.mark.parametrize("page", [page for page in PAGES if "<!-- not run" in TEXTS[page]])
def test_examples_that_do_not_run_import_what_there_is(page):
    for line, code, reason in blocks(TEXTS[page]):
        if reason is None:
            continue
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and str(node.module) != "gradio_client":
                module = importlib.import_module(str(node.module))
                missing = [alias.name for alias in node.names if not hasattr(module, alias.name)]
                assert not missing, f"{page}:{line}: {missing}"
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "noiseward.align":
                check_options(node)


def check_options(call: ast.Call) -> None:
    """Assert that a call of `align` has arguments that `align` or a pipeline takes."""
    from noiseward.options.run import Settings

    known = {*Settings.model_fields, "out", "log", "progress", "method", "watch"}
    of_pipelines = {"guidance_scale", "num_inference_steps", "eta", "height", "width"}
    assert {word.arg for word in call.keywords} <= known | of_pipelines


@pytest.mark.parametrize("page", ["README.md", *TEXTS])
def test_the_commands_of_a_page_have_the_options_that_they_name(page):
    from typer.main import get_command

    from noiseward.cli import app

    group = get_command(app)
    for command in commands(README if page == "README.md" else TEXTS[page]):
        line = re.split(r" \| | && | > |\)|; ", command.replace(" ...", ""))[0]
        name, *words = shlex.split(line)[1:]
        assert name in group.commands, f"{page}: {command}"
        chosen = group.commands[name]
        if nested := getattr(chosen, "commands", {}):  # as in `noiseward rewards test`
            chosen, words = nested.get(words[0], chosen), words[1:]
        options = {flag for option in chosen.params for flag in (*option.opts, *option.secondary_opts)}
        unknown = [word for word in words if word.startswith("--") and word.partition("=")[0] not in options]
        assert not unknown, f"{page}: {command}: {unknown}"


def test_the_page_of_commands_is_what_the_code_makes_of_it():
    assert COMMANDS.read_text(encoding="utf-8") == commands_page(), "python -m tests.pages writes it again"


def test_examples_and_commands_are_found():
    text = "a\n```python\nx = 1\ny = 2\n```\n```\nno\n```\n<!-- not run: why -->\n```python\nz = 1\n```\n"
    assert blocks(text) == [(3, "x = 1\ny = 2\n", None), (11, "z = 1\n", "why")]
    assert examples(text) == [(3, "x = 1\ny = 2\n")]
    text = "    noiseward show runs/duck   # words\n    noiseward align a \\\n        --steps 1\n"
    assert commands(text) == ["noiseward show runs/duck", "noiseward align a --steps 1"]
    assert sum(len(commands(page)) for page in TEXTS.values()) > 80
