"""Options: each declared once, read the same way wherever it comes from."""

from __future__ import annotations

import ast
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from noiseward import ArgumentError, align
from noiseward.cli.flags import Without, expand
from noiseward.methods import METHODS, read_method
from noiseward.options import commands
from noiseward.options.option import Options, bounds_of
from noiseward.options.run import RunSpec, Settings
from noiseward.options.table import type_of
from noiseward.runs.spec import to_text
from noiseward.sweep.rows import read_rows
from tests.pages import PAGE, REWARDS, options_page, rewards_page

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "noiseward"
PAGES = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def models() -> list[type[Options]]:
    """Every class of options, methods included."""
    found = [one for one in vars(commands).values() if isinstance(one, type) and issubclass(one, Options)]
    return [*found, *RunSpec.__mro__[:-3], *METHODS.values()]


def test_each_help_text_stands_once_in_the_tree():
    helps = {field.description for model in models() for field in model.model_fields.values() if field.description}
    assert len(helps) > 60
    written = Counter(
        node.value
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and node.value in helps
    )
    assert {help: count for help, count in written.items() if count != 1} == {}
    assert set(written) == helps


def test_the_front_door_has_twelve_parameters_with_the_defaults_of_the_options():
    parameters = inspect.signature(align).parameters
    named = {name: one.default for name, one in parameters.items() if one.kind is not one.VAR_KEYWORD}
    assert len(named) <= 12
    assert all(default == RunSpec.model_fields[name].default for name, default in named.items()
               if name in RunSpec.model_fields and default is not inspect.Parameter.empty)  # fmt: skip
    assert all(f"    {name} (" in (align.__doc__ or "") for name in RunSpec.names())


def test_the_page_of_options_is_what_the_code_makes_of_it():
    assert PAGE.read_text(encoding="utf-8") == options_page(), "python -m tests.pages writes it again"


def test_the_table_of_rewards_is_what_the_code_makes_of_it():
    assert REWARDS.read_text(encoding="utf-8") == rewards_page(), "python -m tests.pages writes it again"


def test_the_schema_names_every_option_and_method(run):
    status, out, _ = run("schema")
    content = json.loads(out)
    assert status == 0 and set(content["properties"]) == set(RunSpec.model_fields)
    assert set(content["methods"]) == set(METHODS) and "\n" not in content["description"]
    assert content["properties"]["eta"]["anyOf"][0]["maximum"] == 1


# ---- where values come from ----

NUMBERS = [name for name in Settings.names() if type_of(Settings.model_fields[name]).startswith(("integer", "number"))]


def wrong_values(name: str) -> list[str]:
    """Texts that are no value of a number."""
    field = Settings.model_fields[name]
    outside = {">=": lambda bound: bound - 1, ">": lambda bound: bound, "<=": lambda bound: bound + 1}
    bounds = [outside[sign](bound) for sign, bound in bounds_of(field)]
    numbers = [str(int(value) if float(value).is_integer() else value) for value in bounds]
    return ["nan", "inf", "-inf", "few", "", *numbers, *(["2.5"] if type_of(field).startswith("integer") else [])]


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_that_is_none_or_out_of_bounds_is_refused_wherever_it_comes_from(name, tmp_path):
    base = RunSpec(reward="brightness")
    for value in wrong_values(name):
        with pytest.raises(ArgumentError, match=f"^{name} must be "):
            Settings(**{name: value})
        with pytest.raises(ArgumentError, match=f"^{name} must be "):
            align("stickers", "a duck", "brightness", **{name: value})
        with pytest.raises(ArgumentError, match=f"^--{name.replace('_', '-')} must be "):
            flags(**{name: value})
        (tmp_path / "run.toml").write_text(f'{name} = "{value}"\n')
        with pytest.raises(ArgumentError, match=f"^{name} must be "):
            flags(spec_file=tmp_path / "run.toml")
        if name == "batch":
            continue  # a prompt file calls it seeds
        (tmp_path / "p.jsonl").write_text(json.dumps({"prompt": "a", name: value}) + "\n")
        with pytest.raises(ArgumentError, match=f"line 1: column '{name}' must be "):
            read_rows(tmp_path / "p.jsonl", base)
        if value:  # an empty cell says nothing
            (tmp_path / "p.csv").write_text(f"prompt,{name}\na,{value}\n")
            with pytest.raises(ArgumentError, match=f"line 2: column '{name}' must be "):
                read_rows(tmp_path / "p.csv", base)
    for value in (float("nan"), float("inf"), True, "x" * 5000, [1]):
        with pytest.raises(ArgumentError, match=f"^{name} must be ") as caught:
            Settings(**{name: value})
        assert len(str(caught.value)) < 200 and "\n" not in str(caught.value)


@pytest.mark.parametrize("method", METHODS)
def test_every_parameter_of_a_method_has_bounds(method):
    for name in METHODS[method].own():
        field = METHODS[method].model_fields[name]
        if type_of(field).startswith(("integer", "number")):
            assert list(bounds_of(field)), f"{method}:{name} has no bounds"
            for value in ("nan", "inf", "few"):
                with pytest.raises(ArgumentError, match=f"^method '{method}': {name} must be "):
                    read_method(f"{method}:{name}={value}")


def test_unknown_names_get_their_nearest(tmp_path):
    with pytest.raises(ArgumentError, match="unknown option 'stpes'; did you mean 'steps'"):
        RunSpec(reward="jpeg", stpes=3)
    (tmp_path / "run.toml").write_text("stpes = 3\n")
    with pytest.raises(ArgumentError, match="unknown option 'stpes'; did you mean 'steps'"):
        flags(spec_file=tmp_path / "run.toml")
    (tmp_path / "run.toml").write_text("lr = 0.1\n")
    with pytest.raises(ArgumentError, match="lr is an argument of the method now; use method='dno:lr=0.1'"):
        flags(spec_file=tmp_path / "run.toml")


# ---- the command line ----


def flags(**given: Any) -> RunSpec:
    """The spec that a command gets."""
    found: list[RunSpec] = []

    @expand
    def command(spec: RunSpec) -> None:
        found.append(spec)

    command(**{"reward": ["brightness"], **given})
    return found[0]


def test_flags_go_over_a_toml_file_and_an_option_has_one_value_everywhere(tmp_path):
    (tmp_path / "run.toml").write_text(
        'reward = ["brightness:2", "contrast"]\nsteps = 5\neta = 0.5\nmethod = "dno:lr=0.02"\n'
        "[call]\nclip_skip = 1\nx = 1\n"
    )
    spec = flags(reward=None, steps="7", call=["guidance_rescale=0.7", "x=2"], spec_file=tmp_path / "run.toml")
    assert (spec.steps, spec.eta, spec.method) == (7, 0.5, "dno:lr=0.02")
    assert spec.reward == ("brightness:2", "contrast") and spec.call == {
        "clip_skip": 1,
        "x": 2,
        "guidance_rescale": 0.7,
    }
    assert spec == RunSpec(
        **{name: value for name, value in json.loads(to_text(spec)).items() if name in spec.values()}
    )


def test_a_file_that_is_no_toml_or_says_what_a_command_does_not_take_is_refused(tmp_path):
    (tmp_path / "run.toml").write_text("steps = \n")
    with pytest.raises(ArgumentError, match="--spec must be a TOML file, got '.*run.toml'"):
        flags(spec_file=tmp_path / "run.toml")
    with pytest.raises(ArgumentError, match="nowhere.toml cannot be read .No such file"):
        flags(spec_file=tmp_path / "nowhere.toml")
    os.mkfifo(tmp_path / "pipe.toml")
    with pytest.raises(ArgumentError, match="pipe.toml must be a text file, got a pipe"):
        flags(spec_file=tmp_path / "pipe.toml")

    from typing import Annotated

    def command(spec: Annotated[RunSpec, Without("prompt")]) -> None:
        raise AssertionError

    command.__annotations__["spec"] = Annotated[RunSpec, Without("prompt")]
    (tmp_path / "run.toml").write_text('prompt = "a"\nreward = "jpeg"\n')
    with pytest.raises(ArgumentError, match="--spec has 'prompt', which this command does not take"):
        expand(command)(spec_file=tmp_path / "run.toml")


@pytest.mark.parametrize("command", ["align", "batch", "compare", "resume", "doctor", "serve-reward", "studio"])
def test_a_command_shows_the_help_of_its_options(run, command):
    status, out, _ = run(command, "--help")
    assert status == 0
    shown = "".join(out.split())
    models = {"align": RunSpec, "batch": commands.BatchOptions, "compare": commands.CompareOptions,
              "resume": commands.ResumeOptions, "doctor": commands.DoctorOptions,
              "serve-reward": commands.ServeOptions, "studio": commands.StudioOptions}[command]  # fmt: skip
    for field in models.model_fields.values():
        assert "".join(str(field.description).split()) in shown


# ---- what CONTRIBUTING shows ----


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGES, re.MULTILINE | re.DOTALL)


def test_an_option_is_added_as_contributing_shows(tmp_path):
    """In a copy of the package the lines are put where the page says, and the option is known everywhere."""
    (change,) = blocks("diff")
    assert len(change.splitlines()) < 20
    shutil.copytree(
        PACKAGE, tmp_path / "src" / "noiseward", ignore=shutil.ignore_patterns("model", "clip", "judge", "*.pyc")
    )
    path, before = Path(), ""
    for line in change.splitlines():
        if line.startswith("+++ b/"):
            path = tmp_path / line[6:]
        elif line.startswith(" "):
            before = line[1:]
        elif line.startswith("+") and path.suffix:
            source = path.read_text(encoding="utf-8")
            assert source.count(before + "\n") == 1, f"{path.name} has no line '{before.strip()}'"
            path.write_text(source.replace(before + "\n", f"{before}\n{line[1:]}\n"), encoding="utf-8")
    code = """
import pathlib
import typer
from noiseward import align
from noiseward.cli import app
from noiseward.cli.flags import expand
from noiseward.options.run import RunSpec
from noiseward.toys import GaussianModel, Linear
from typer.testing import CliRunner
plain, inverted = (
    align(GaussianModel(steps=2).sampler(), None, Linear(1.0), steps=2, invert=invert, progress=False)
    for invert in (False, True)
)
assert (inverted.initial.reward == -plain.initial.reward).all() and (inverted.gain > 0).all()
pathlib.Path("run.toml").write_text("reward = 'jpeg'\\ninvert = true\\n")
found = []
@expand
def command(spec: RunSpec) -> None:
    found.append(spec.invert)
    assert ("invert" in spec.plain()) == spec.invert  # so ids of runs without it stay what they were
one = typer.Typer()
one.command()(command)
for flags in (["--spec", "run.toml"], ["--reward", "jpeg", "--invert"], ["--reward", "jpeg"]):
    assert CliRunner().invoke(one, flags).exit_code == 0
assert found == [True, True, False]
for command in ("align", "batch"):
    assert "--invert" in CliRunner().invoke(app, [command, "--help"]).output
assert '"invert"' in CliRunner().invoke(app, ["schema"]).output and "invert (true or false)" in align.__doc__
"""
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "src")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_method_is_added_as_contributing_shows(run, small):
    example = next(block for block in blocks("python") if "Recipe" in block)
    assert len(example.splitlines()) < 20
    try:
        exec(compile(example, "example", "exec", dont_inherit=True), {"__name__": "example"})
        status, out, _ = run("methods", "wander")
        assert status == 0 and "Cosine of the angle of a step." in out
        options = ("--reward", "brightness", "--steps", "1", "--method", "wander:cosine=0.9", "-q", "--out", "out")
        assert run("align", "a", *options, *small)[0] == 0
        assert run("show", "out")[1].count("wander:cosine=0.9") == 1
    finally:
        METHODS.pop("wander", None)
