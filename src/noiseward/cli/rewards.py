"""`noiseward rewards`: what --reward takes, and `noiseward rewards fetch NAME` for the weights of one."""

from __future__ import annotations

from typing import Any

import typer

from noiseward.cli.complete import COMPLETERS
from noiseward.cli.help import Command, Group
from noiseward.cli.printing import JsonFlag, print_json

__all__ = ["app"]

GRADIENT = {True: "yes", False: "black box", None: ""}
PROMPT = {True: "yes", False: "", None: ""}

app = typer.Typer(help="List what --reward takes; fetch the weights of one.", cls=Group, rich_markup_mode=None)


@app.callback(invoke_without_command=True)
def rewards(context: typer.Context, json: JsonFlag = False) -> None:
    """List the rewards: what each measures, its range, its gradient, its weights and whether they are here."""
    if context.invoked_subcommand is not None:
        return
    from noiseward import terminal
    from noiseward.cli.columns import print_table

    found = list(_describe())
    if json:
        print_json(found)
        return
    console = terminal.console(soft_wrap=True)
    head = ("reward", "gradient", "prompt", "range", "measures")
    cells = [
        [one["reward"], GRADIENT[one["gradient"]], PROMPT[one["prompt"]], one["range"], one["measures"]]
        for one in found
    ]
    narrow = terminal.console()
    print_table(head, cells, narrow, left=head, wrap=("range", "measures"))
    console.print()
    head = ("reward", "weights", "size", "here", "license")
    cells = [
        [one["reward"], weights["id"], weights["size"], weights["here"], one["license"]]
        for one in found for weights in one["weights"]
    ]  # fmt: skip
    print_table(head, cells, narrow, left=("reward", "weights", "here", "license"), wrap=("license",))
    console.print()
    console.print(
        "'noiseward rewards fetch NAME' downloads weights. NAME:WEIGHT, or NAME:KEY=VALUE,...: weight=, clamp=, "
        "cutouts=, unit=, name=, and a reward's own arguments, as in hpsv2:version=2.0"
    )
    console.print(
        "path/to/file.py:function is a reward of your own: images (B, 3, H, W) in [0, 1] to (B,); it runs that file"
    )
    console.print("http://host:port is a reward server, such as 'noiseward serve-reward NAME' on this machine")


def _describe() -> list[dict[str, Any]]:
    """Every reward as plain data."""
    from noiseward.rewards.catalog import ENTRIES, list_installed, list_weights

    found: list[dict[str, Any]] = []
    for name, entry in ENTRIES.items():
        weights = []
        for what, size, here in list_weights(name):
            repo, mark, files = what.partition(" (")
            weights.append({"id": repo, "files": files.rstrip(")") if mark else "", "size": size, "here": here})
        found.append(
            {
                "reward": name,
                "measures": entry.measures,
                "range": entry.range,
                "gradient": entry.differentiable,
                "prompt": entry.prompted,
                "license": entry.license,
                "weights": weights,
            }
        )
    for name, point in list_installed().items():
        package = f"from package {point.dist.name if point.dist else point.value}"
        unknown = {"range": "", "gradient": None, "prompt": None, "license": "", "weights": []}
        found.append({"reward": name, "measures": package, **unknown})
    return found


@app.command("fetch", cls=Command)
def fetch(
    reward: str = typer.Argument(
        metavar="NAME",
        autocompletion=COMPLETERS["reward"],
        help="A name, with its arguments if it needs any: clip:model=HUB_ID.",
    ),
) -> None:
    """Download a reward's weights into the local cache, so that runs need no network."""
    from noiseward.rewards.catalog import list_repos
    from noiseward.rewards.hub import fetch as download

    repos = list_repos(reward)
    if not repos:
        print(f"{reward.partition(':')[0]} needs no download")
    for repo in repos:
        folder = repo.find_cached()
        print(f"{repo.id}: {', '.join(repo.files)} {'is here:' if folder else 'in'} {folder or download(repo)}")
