"""`noiseward schema`: every option as JSON Schema, or as a table."""

from __future__ import annotations

import json
from typing import Annotated

import typer

__all__ = ["schema"]


def schema(
    markdown: Annotated[bool, typer.Option("--markdown", help="A Markdown table instead.")] = False,
) -> None:
    """Print the JSON Schema of a run's options, which a TOML file, a prompt file and spec.json share."""
    from noiseward.methods import METHODS
    from noiseward.options.run import RunSpec
    from noiseward.options.table import to_markdown as table

    if markdown:
        print(table(RunSpec))
        return
    content = RunSpec.model_json_schema()
    content["description"] = content["description"].partition("\n")[0]
    content["methods"] = {name: recipe.model_json_schema() for name, recipe in METHODS.items()}
    print(json.dumps(content, indent=1))
