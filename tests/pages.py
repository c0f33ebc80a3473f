"""Pages of the docs that follow from the code: `python -m tests.pages` writes them again."""

from __future__ import annotations

from pathlib import Path

from noiseward.methods import METHODS, Recipe
from noiseward.options.run import RunSpec
from noiseward.options.table import to_markdown

__all__ = ["PAGE", "options_page"]

PAGE = Path(__file__).resolve().parents[1] / "docs" / "options.md"

HEAD = """# Options

Every option of a run. In Python they are keyword arguments of `align`, on the command line flags with `-` for `_`
(`--num-inference-steps`; `call` is `--set KEY=VALUE`), in a TOML file (`--spec run.toml`) keys, in a prompt file
columns. `noiseward schema` prints them as JSON Schema.

This page follows from `src/noiseward/options` and `src/noiseward/methods`: `python -m tests.pages` writes it again.
"""


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


if __name__ == "__main__":
    PAGE.write_text(options_page(), encoding="utf-8")
