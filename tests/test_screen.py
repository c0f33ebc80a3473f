"""Text of users is text wherever it is printed: no markup, no emoji, no formula, and never a traceback at the end."""

from __future__ import annotations

import ast
import errno
import io
import sys
import types
from pathlib import Path
from typing import Any, cast

import pytest

import noiseward
from noiseward import terminal
from noiseward.cli.columns import print_table
from noiseward.images.plots import plot_history
from noiseward.loop.budget import Budget
from noiseward.loop.loop import iterate
from noiseward.loop.objective import Objective
from noiseward.loop.progress import Bars
from noiseward.toys import GaussianModel, Quadratic

ODD = ["[/red]", "[cat:dog:0.5]", "[bold]a[/]", ":duck: a", "$\\bad{ a", "%s {} {0} \\n", "\x1b[2J a"]


@pytest.mark.parametrize("text", ODD)
def test_a_console_prints_text_as_it_is(text, capsys):
    from rich.table import Table

    table = Table(text)
    table.add_row(text)
    terminal.console().print(text, table)
    assert capsys.readouterr().out.count(text) == 3


@pytest.mark.parametrize("text", ODD)
def test_bars_and_plots_show_text_as_it_is(text):
    from noiseward.optimizers.ascend import GradientAscent

    task = types.SimpleNamespace(description=text, get_time=float, finished=False, time_remaining=None)
    assert terminal.column("{task.description}").render(cast(Any, task)).plain == text
    console = terminal.console()
    console.file = io.StringIO()
    objective = Objective(GaussianModel(steps=2).sampler(), Quadratic(1.0))
    steps = iterate(objective, objective.sampler.init(1), optimizer=GradientAscent(), budget=Budget(steps=1))
    records = [step.record() for step in Bars(console).track(steps, Budget(steps=1), name=text)]
    assert f"{text}: step 1" in console.file.getvalue()
    named = [{**record, "terms": {text: record["reward"]}, "watched": {text: record["reward"]}} for record in records]
    assert plot_history([{**one, "silent": [], "found": [0]} for one in named], title=text).size[0] > 0


@pytest.mark.filterwarnings("ignore:the prompt is longer")
def test_every_command_prints_such_text_as_it_is(run, small, tmp_path):
    (tmp_path / "mine.py").write_text(
        "calls = []\n"
        "def bad(images):\n    raise ValueError('no [/red]\\n[cat:dog:0.5]')\n"
        "def late(images):\n    calls.append(1)\n    return images.mean((1, 2, 3)) if len(calls) < 3 else bad(images)\n"
    )
    out = "o[/b]x"
    options = ("--reward", "brightness", "--watch", "contrast:name=[/w]", "--steps", "1", *small)
    status, said, err = run("align", "[/red]", "[cat:dog:0.5]", *options, "--out", out)
    assert status == 0, err
    assert all(text in said for text in ("[/red]", "[cat:dog:0.5]", "[/w]", f"{out}/best"))
    for command in ("show", "resume", "replay", "render", "export"):
        status, said, err = run(command, out)
        assert status == 0 and out in said, err
    status, said, err = run("list", "o[")
    assert status == 0 and "b]x" in said and "[/red]" in said
    status, _, err = run("align", "[/red]", "--reward", "mine.py:bad", "--steps", "1", "--quiet", *small)
    assert (status, err.count("\n")) == (1, 1)
    assert err.endswith("reward 'bad' raised ValueError: no [/red] [cat:dog:0.5]\n")
    late = ("--reward", "mine.py:late", "--method", "dno", "--steps", "3", "--out", "late")
    assert run("align", "[/red]", *late, *small)[0] == 1
    status, said, err = run("show", "late")
    assert status == 0 and "error: reward 'late' raised ValueError: no [/red] [cat:dog:0.5]\n" in said, err
    (tmp_path / "p[x].txt").write_text("[/red]\n[cat:dog:0.5]\n")
    few = ("--reward", "brightness", "--steps", "1", *small)
    status, said, err = run("batch", "p[x].txt", "--out", "b[/b]", "--template", "{} [/t]", *few)
    assert status == 0 and "[/red] [/t]" in said and "b[/b]/index.csv" in said, err
    status, said, err = run("batch", "p[x].txt", "--out", "c[/b]", *few, "--reward", "mine.py:bad")
    assert status == 1 and "no [/red]" in said and "no [/red]" in err
    budget = ("--reward", "brightness:name=[/r]", "--budget", "nfe=8", "--methods", "best-of-n", "--seeds", "1")
    status, said, err = run("compare", "--prompts", "[/red]", *budget, "--out", "d[/b]", *small)
    assert status == 0 and "d[/b]/report.html" in said, err
    for command in (("models", "[/red]"), ("rewards", "fetch", "[/red]"), ("show", "[/red]"), ("list", "[/red]")):
        status, _, err = run(*command)
        assert status == (1 if command[0] == "show" else 2) and "[/red]" in err and err.count("\n") == 1, err


@pytest.mark.filterwarnings("ignore:the prompt is longer")
def test_a_narrow_terminal_cuts_no_number(run, small, tmp_path, monkeypatch):
    name, options = "a-name-that-no-narrow-terminal-has-room-for", ("--reward", "brightness", "--steps", "1", *small)
    (tmp_path / "p.txt").write_text("a duck on a lake of ice\na goose\n")
    run("align", "a duck on a lake of ice", "a goose", *options, "--watch", "contrast", "--out", f"runs/{name}")
    run("batch", "p.txt", *options, "--out", "runs/many")
    for command in (("list",), ("show", f"runs/{name}"), ("show", "runs/many"), ("render", f"runs/{name}")):
        wide, *narrow = (_with_columns(width, command, run, monkeypatch) for width in (200, 30, 40, 60))
        for out in narrow:
            assert set() < _numbers(out) <= _numbers(wide)


def test_text_is_as_long_as_there_is_room(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "60")
    for cell in ("x" * 50, "x" * 100):
        print_table(
            ["run", "prompt", "gain"], [["r", cell, "0.5"]], terminal.console(), left=("prompt",), cut=("prompt",)
        )
        assert capsys.readouterr().out.splitlines()[1].count("x") == min(len(cell), 48)


def _with_columns(width, command, run, monkeypatch) -> str:
    monkeypatch.setenv("COLUMNS", str(width))
    status, out, err = run(*command)
    assert status == 0, err
    return out


def _numbers(out: str) -> set[str]:
    """The words with a digit in the lines of tables."""
    return {word for line in out.splitlines() if "  " in line for word in line.split() if any(map(str.isdigit, word))}


def test_consoles_and_columns_are_made_in_one_place():
    made = []
    for path in Path(noiseward.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            name = getattr(node.func, "id", getattr(node.func, "attr", "")) if isinstance(node, ast.Call) else ""
            if name in ("Console", "TextColumn", "from_markup", "rprint") and path.name != "terminal.py":
                made.append(f"{path.name}: {name}")
    assert made == []


def test_writing_to_a_terminal_that_is_gone_does_nothing(monkeypatch):
    class Gone(io.StringIO):
        def write(self, text):
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(sys, "stderr", Gone())
    terminal.console(stderr=True).print("a")

    class Full(io.StringIO):
        def write(self, text):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sys, "stderr", Full())
    with pytest.raises(OSError, match="No space left"):
        terminal.console(stderr=True).print("a")
