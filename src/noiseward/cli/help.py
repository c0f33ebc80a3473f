"""How commands explain themselves: options in groups, whole sentences, and examples."""

from __future__ import annotations

import re
from typing import Any

from typer.core import TyperCommand, TyperGroup

from noiseward.errors import ArgumentError
from noiseward.options.replaced import REPLACED, renamed

__all__ = ["EXAMPLES", "Command", "Group"]

TYPES = {"str": "TEXT", "path": "PATH", "int range": "INTEGER", "int": "INTEGER"}
FOLDERS = ("run", "folder", "out", "runs", "images")  # arguments and options that may name one
GROUPS = ("Model", "Task", "Method", "Budget", "Watch", "Output", "Workers")

EXAMPLES = {
    "align": (
        'noiseward align "a duck" --reward brightness',
        'noiseward align "a rabbit" --model sdxl-turbo --reward contrast --method dno:best_of=16 --seconds 300',
    ),
    "batch": (
        "noiseward batch prompts.csv --reward contrast --seeds 4 --out runs/animals",
        'noiseward batch simple-animals --template "a {} on a lake" --reward clip --out runs/lake --json',
    ),
    "compare": (
        'noiseward compare --reward brightness --prompts "a duck" --budget nfe=2000 --out compared',
        "noiseward compare --reward jpeg --prompts prompts.txt --methods best-of-n,trust-region --seeds 8 --out jpeg",
    ),
    "resume": (
        "noiseward resume runs/a-duck-brightness",
        "noiseward resume runs/a-duck-brightness --steps +20",
    ),
    "studio": (
        "noiseward studio --browser",
        "noiseward studio --runs runs --port 8080 --allow-code",
    ),
    "replay": (
        "noiseward replay runs/a-duck-brightness",
        "noiseward replay runs/a-duck-brightness --out again --json",
    ),
    "render": (
        "noiseward render runs/a-duck-brightness --num-inference-steps 40",
        "noiseward render runs/a-duck-brightness --seeds 8 --cosine 0.9",
    ),
    "export": (
        "noiseward export runs/a-duck-brightness",
        "noiseward export runs/animals --images site --format webp --csv animals.csv",
    ),
    "show": (
        "noiseward show runs/a-duck-brightness",
        "noiseward show runs/a-duck-brightness/best/00.png",
    ),
    "list": (
        "noiseward list",
        "noiseward list runs/animals --state done --sort gain --limit 5",
    ),
    "models": (
        "noiseward models",
        "noiseward models sdxl-turbo",
    ),
    "methods": (
        "noiseward methods",
        "noiseward methods dno",
    ),
    "rewards": (
        "noiseward rewards",
        "noiseward rewards describe hpsv2",
    ),
    "describe": (
        "noiseward rewards describe count",
        "noiseward rewards describe hpsv2 --json",
    ),
    "fetch": (
        "noiseward rewards fetch aesthetic",
        "noiseward rewards fetch hpsv2:version=2.0",
    ),
    "test": (
        "noiseward rewards test brightness runs/a-duck-brightness/best/00.png",
        'noiseward rewards test clip images --prompt "a duck" --json',
    ),
    "serve-reward": (
        "noiseward serve-reward aesthetic --port 8000",
        "noiseward serve-reward mine.py:score --port 0",
    ),
    "doctor": (
        "noiseward doctor",
        "noiseward doctor --model path/to/sd --num-inference-steps 10",
    ),
    "schema": (
        "noiseward schema",
        "noiseward schema --markdown",
    ),
}
"""By command, what is printed below its options."""


class Command(TyperCommand):
    """A command whose help has groups and examples; it knows earlier options, and takes no empty path."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        flags = args[: args.index("--")] if "--" in args else args
        for place, text in enumerate(flags):
            name, mark, value = text.partition("=")
            if name.startswith("--") and name[2:].replace("-", "_") in REPLACED:
                following = next((one for one in args[place + 1 : place + 2] if not one.startswith("--")), None)
                raise ArgumentError(renamed(name, value if mark else following))
        given, _, _ = self.make_parser(ctx).parse_args(list(args))  # as text: the path '' would be '.'
        for one in self.params:
            value = given.get(one.name)
            if one.name in FOLDERS and "" in (value if isinstance(value, list | tuple) else [value]):
                name = one.metavar if one.param_type_name == "argument" else one.opts[0]
                raise ArgumentError(f"{name} must be a path, got ''; give one, as . for this folder")
        return super().parse_args(ctx, args)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return [piece.replace("{", "").replace("}", "") for piece in super().collect_usage_pieces(ctx)]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        _format_options(self, ctx, formatter)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        _format_examples(self, formatter)


class Group(TyperGroup):
    """A group of commands whose list has whole sentences."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        _format_options(self, ctx, formatter)
        rows = [(name, _first_sentence(command)) for name, command in self.commands.items() if not command.hidden]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        _format_examples(self, formatter)


def _first_sentence(command: Any) -> str:
    """The first sentence of a command's help, whole."""
    paragraph = " ".join((command.help or "").partition("\n\n")[0].split())
    return f"{paragraph.partition('. ')[0].removesuffix('.')}."


def _format_options(command: Any, ctx: Any, formatter: Any) -> None:
    """Write the parameters, group by group."""
    rows: dict[str, list[tuple[str, str]]] = {}
    for one in command.get_params(ctx):
        record = one.get_help_record(ctx)
        if record is not None:
            record = _name_types(record[0]), record[1]
            what = "Arguments" if one.param_type_name == "argument" else getattr(one, "rich_help_panel", None)
            rows.setdefault(what or "Options", []).append(record)
    for group in ("Arguments", *GROUPS, *(name for name in rows if name not in ("Arguments", *GROUPS))):
        if group in rows:
            with formatter.section(group):
                formatter.write_dl(sorted(rows[group], key=lambda row: not row[0].startswith("--model ")))


def _name_types(text: str) -> str:
    """A parameter with its type as those that are declared once have it; an argument without."""
    if not text.startswith("-"):
        return text.partition(" <")[0]
    return re.sub(r"<(str|path|int range|int)>", lambda found: TYPES[found[1]], text)


def _format_examples(command: Any, formatter: Any) -> None:
    """Write the examples of a command, each on a line of its own, whatever its length."""
    if examples := EXAMPLES.get(command.name):
        with formatter.section("Examples"):
            for example in examples:
                formatter.write(f"{'':{formatter.current_indent}}{example}\n")
