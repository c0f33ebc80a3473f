"""Help in groups, with whole sentences and examples that parse; and what a shell completes."""

from __future__ import annotations

import shlex
import sys

import pytest
import typer

from noiseward.cli import app
from noiseward.cli.help import EXAMPLES, GROUPS

COMMANDS = typer.main.get_command(app).commands


def named(words: list[str]):
    """The command that an example calls, and what follows."""
    command, rest = COMMANDS[words[1]], words[2:]
    inner = getattr(command, "commands", {})
    return (inner[rest[0]], rest[1:]) if rest and rest[0] in inner else (command, rest)


def test_every_command_has_two_examples():
    assert set(EXAMPLES) == {*COMMANDS, *COMMANDS["rewards"].commands}
    assert {len(examples) for examples in EXAMPLES.values()} == {2}


@pytest.mark.parametrize("example", [one for examples in EXAMPLES.values() for one in examples])
def test_an_example_parses(example):
    words = shlex.split(example)
    command, rest = named(words)
    assert words[0] == "noiseward"
    command.make_context(command.name, rest)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_examples_and_whole_sentences(name, run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    status, out, _ = run(name, "--help")
    assert status == 0
    assert all(f"  {example}\n" in out for example in EXAMPLES[name])
    examples = out.partition("Examples:")[2]
    assert max(map(len, out.replace(examples, "").splitlines())) <= 80


def test_options_are_grouped(run):
    out = run("align", "--help")[1]
    titles = [line.removesuffix(":") for line in out.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert titles == ["Arguments", "Model", "Task", "Method", "Budget", "Watch", "Output", "Options", "Examples"]
    part = {title: out.partition(f"\n{title}:\n")[2].partition("\n\n")[0] for title in GROUPS}
    assert part["Model"].lstrip().startswith("--model ")
    assert "--reward" in part["Method"] and "--seconds" in part["Budget"] and "--watch-every" in part["Watch"]
    assert "--out" in part["Output"] and "--json" in part["Output"]


def test_the_list_of_commands_cuts_no_sentence(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    words = " ".join(run("--help")[1].split())
    assert "..." not in words.partition("Commands:")[2]
    for command in COMMANDS.values():
        first = " ".join(command.help.partition("\n\n")[0].split()).partition(". ")[0].removesuffix(".")
        assert f"{first}." in words


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("align --rew", ["--reward"]),
        ("align --reward bri", ["brightness"]),
        ("align --watch no", ["none"]),
        ("compare --methods dno,best", ["dno,best-of-n"]),
        ("align --method trust", ["trust-region"]),
        ("align --model sdxl", ["sdxl", "sdxl-turbo"]),
        ("align --scheduler ddi", ["ddim"]),
        ("show ", ["runs/one"]),
        ("resume runs/", ["runs/one"]),
        ("methods reno", ["reno"]),
        ("rewards fetch pick", ["pickscore"]),
    ],
)
def test_a_shell_completes(typed, offered, tmp_path, monkeypatch, capsys):
    for name in ("one", "none"):
        (tmp_path / "runs" / name).mkdir(parents=True)
    (tmp_path / "runs" / "one" / "spec.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    words = f"noiseward {typed}"
    monkeypatch.setenv("_NOISEWARD_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split(" ")) - 1))
    monkeypatch.setattr(sys, "argv", ["noiseward"])
    with pytest.raises(SystemExit):
        app(prog_name="noiseward")
    assert capsys.readouterr().out.split() == offered


@pytest.mark.parametrize(("command", "default"), [("batch", 1), ("compare", 4)])
def test_the_default_of_seeds_is_that_of_the_command(run, command, default):
    _, out, _ = run(command, "--help")
    assert f"Seeds per prompt: SEED, SEED + 1, ... Default: {default}." in " ".join(out.split())
