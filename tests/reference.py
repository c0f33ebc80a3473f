"""The tables of docs/reference that follow from the code; `python -m tests.pages` writes them."""

from __future__ import annotations

import json
import re
import types
import typing
from pathlib import Path
from typing import Any, NotRequired

from noiseward.loop.budget import Status
from noiseward.options.run import RunSpec
from noiseward.runs import schema

__all__ = ["RUN_DIRECTORY", "SCHEMAS", "field_table", "run_directory_page", "schemas_page"]

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "reference"
RUN_DIRECTORY, SCHEMAS = FOLDER / "run-directory.md", FOLDER / "json-schemas.md"
MARKED = re.compile(r"(<!-- schema: python -m tests\.pages -->\n).*?(<!-- end -->)", re.DOTALL)
TABLES = {
    "`steps.jsonl`": (schema.Record, "One object per line and step. A list has one entry per row."),
    "`status.json`": (schema.StatusFile, "Where the run is."),
    "`loop` in `latest.safetensors`": (schema.Loop, "JSON in the metadata of the file."),
    "`nfe`": (schema.Nfe, "Denoiser calls, wherever they are counted."),
    "`batch.json`": (schema.BatchFile, "Of a [batch or a comparison](../runs.md#batches), next to `packs/`."),
    "A pack in `batch.json`": (schema.PackFile, "Each pack is a run directory."),
}
WORDS = {int: "integer", float: "number", str: "text", type(None): "null", dict: "object", Any: "anything"}
EXAMPLE = "steps"


def name_type(kind: Any) -> str:
    """A type in words."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return ", ".join(f"`{one}`" for one in inner)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(name_type, inner))
    if origin is list:
        inside = name_type(inner[0])
        return f"list of ({inside})" if " or " in inside else f"list of {inside}s".replace("texts", "text")
    if origin is dict:
        return f"object: name to {name_type(inner[1])}" if inner[1] is not Any else "object"
    return "object" if typing.is_typeddict(kind) else WORDS[kind]


def describe_fields(kind: type) -> dict[str, str]:
    """What the docstring says of each field."""
    text = (kind.__doc__ or "").partition("Attributes:\n")[2]
    found = re.findall(r"^ {8}(\w+): (.*(?:\n {12}.*)*)", text, re.MULTILINE)
    return {name: " ".join(says.split()) for name, says in found}


def field_table(kind: type) -> str:
    """Fields with their types and meanings."""
    hints, marked = typing.get_type_hints(kind), typing.get_type_hints(kind, include_extras=True)
    says = describe_fields(kind)
    lines = ["| key | type | |", "|---|---|---|"]
    for name, hint in hints.items():
        optional = ", not always there" if typing.get_origin(marked[name]) is NotRequired else ""
        lines.append(f"| `{name}` | {name_type(hint)}{optional} | {says[name].rstrip('.')} |")
    return "\n".join(lines)


def run_directory_page() -> str:
    """The page of run directories, with its tables."""
    parts = [f"## {title}\n\n{says}\n\n{field_table(kind)}" for title, (kind, says) in TABLES.items()]
    ends = "\n".join(f"| `{status.name}` | {status.value} |" for status in Status)
    parts.insert(2, f"### Why a row stopped\n\nThe values of `rows`.\n\n| value | |\n|---|---|\n{ends}")
    return _insert(RUN_DIRECTORY, "\n\n".join(parts))


def schemas_page() -> str:
    """The page of JSON schemas, with an option as it is printed."""
    content = RunSpec.model_json_schema()["properties"][EXAMPLE]
    return _insert(SCHEMAS, f"```json\n{json.dumps({EXAMPLE: content}, indent=1)}\n```")


def _insert(page: Path, text: str) -> str:
    return MARKED.sub(lambda found: f"{found[1]}{text}\n{found[2]}", page.read_text(encoding="utf-8"))
