"""The pages of docs/reference say what the code does: files of a run and their keys, the schema, exit codes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import typing
from pathlib import Path

import pytest
from safetensors import safe_open

from noiseward.options.run import RunSpec
from tests import reference

EXIT_CODES = reference.FOLDER / "exit-codes.md"
FILES = reference.RUN_DIRECTORY.read_text(encoding="utf-8").partition("## Files\n")[2].partition("\n## ")[0]
ALWAYS = {"spec.json", "env.json", "about.json", "steps.jsonl", "status.json", ".lock", "strip.png", "plot.png"}
SIGNALS = """
import os, signal

def ends(number):
    def reward(x, calls=[]):
        calls.append(1)
        if len(calls) > 2:
            os.kill(os.getpid(), number)
        return x.mean((1, 2, 3))
    return reward

hangup, interrupt, terminate = ends(signal.SIGHUP), ends(signal.SIGINT), ends(signal.SIGTERM)
"""


def test_the_generated_parts_are_those_of_the_code():
    for page, made in (
        (reference.RUN_DIRECTORY, reference.run_directory_page()),
        (reference.SCHEMAS, reference.schemas_page()),
    ):
        assert page.read_text(encoding="utf-8") == made, "run python -m tests.pages"


@pytest.mark.parametrize("kind", [kind for kind, _ in reference.TABLES.values()], ids=lambda kind: kind.__name__)
def test_every_field_is_described_and_no_other(kind):
    assert list(reference.describe_fields(kind)) == list(typing.get_type_hints(kind))


# ---- the files of a run ----


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    """A run that is done, and has watched a reward."""
    from noiseward.runs import execute
    from tests.tiny import CALL

    path = tmp_path_factory.mktemp("reference") / "run"
    spec = RunSpec(prompt="a", reward="brightness", model=model, steps=2, watch=["contrast"], method="dno", **CALL)
    execute(spec, path, quiet=True)
    return path


def documented(name: str) -> bool:
    """Whether a file has a row in the table, which names files by an example."""
    shape = re.sub(r"\d+", "0", name)
    return any(re.sub(r"\d+", "0", one) == shape for one in re.findall(r"`([^`]+)`", FILES))


def test_every_file_of_a_run_is_in_the_table(folder):
    files = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    assert [name for name in files if not documented(name)] == []
    assert set(files) >= ALWAYS and all(documented(name) for name in ALWAYS)
    assert not documented("other.json")


def test_what_is_in_the_files_is_in_the_table(folder):
    text = reference.RUN_DIRECTORY.read_text(encoding="utf-8")
    for name in ("initial", "best", "latest"):
        with safe_open(folder / f"{name}.safetensors", "pt") as file:
            kinds = {key.partition(".")[0] + (".NAME" if "." in key else "") for key in file.keys()}  # noqa: SIM118
            assert all(f"`{key}`" in text for key in kinds), kinds
            assert set(file.metadata()) <= {"loop", "bound"}
    for name in ("env", "about", "status"):
        assert {"run", "sum"} <= set(json.loads((folder / f"{name}.json").read_text()))
    line = json.loads((folder / "steps.jsonl").read_text().splitlines()[-1])
    assert all(f"`{key}`" in text for key in (*line, *line["bound"]))


def test_a_spec_has_the_keys_of_the_schema_its_format_and_a_sum(folder):
    keys = set(json.loads((folder / "spec.json").read_text()))
    assert {"format", "sum"} <= keys and keys - {"format", "sum"} <= set(RunSpec.model_json_schema()["properties"])


# ---- the schema ----


def test_the_schema_is_what_the_page_says(run):
    status, out, _ = run("schema")
    schema = json.loads(out)
    assert status == 0 and schema["additionalProperties"] is False and "required" in schema
    assert schema["methods"]["dno"]["properties"]["lr"] and schema["properties"]["steps"]["anyOf"][0]["minimum"] == 0
    options = Path(reference.FOLDER.parent / "options.md").read_text(encoding="utf-8")
    assert run("schema", "--markdown")[1].strip() in options


# ---- exit codes ----


def end(code: int, run, small: list[str], folder: Path) -> int:
    """What a command returns that should return a code."""
    if code < 128:
        return run(*{0: ["schema"], 1: ["show", "nowhere"], 2: ["align", "a", "--steps", "-1"]}[code])[0]
    name = {129: "hangup", 130: "interrupt", 143: "terminate"}[code]
    (folder / "mine.py").write_text(SIGNALS)
    first = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    command = [sys.executable, "-c", f"{first}\nfrom noiseward.cli import command; command()", "align", "a", *small]
    command += ["--reward", f"mine.py:{name}", "--method", "dno:guard=none", "--steps", "9", "--out", "r", "-q"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(part for part in sys.path if part)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True).returncode


def list_codes() -> list[int]:
    return [int(code) for code in re.findall(r"^\| (\d+) \|", EXIT_CODES.read_text(encoding="utf-8"), re.MULTILINE)]


@pytest.mark.parametrize("code", list_codes())
def test_an_exit_code_is_what_is_returned(code, run, small, tmp_path):
    assert end(code, run, small, tmp_path) == code
    if code > 128:
        assert json.loads((tmp_path / "r" / "status.json").read_text())["state"] == "interrupted"


def test_all_codes_that_the_command_line_can_return_are_listed():
    assert list_codes() == [0, 1, 2, 129, 130, 143]
