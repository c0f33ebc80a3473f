"""`noiseward rewards`: what --reward takes, and `noiseward rewards fetch NAME` for the weights of one."""

from __future__ import annotations

import typer

__all__ = ["app"]

app = typer.Typer(help="List what --reward takes; fetch the weights of one.", rich_markup_mode=None)


@app.callback(invoke_without_command=True)
def rewards(context: typer.Context) -> None:
    """List the rewards: what each measures, its range, its gradient, its weights and whether they are here."""
    if context.invoked_subcommand is not None:
        return
    from rich.table import Table

    from noiseward import terminal
    from noiseward.rewards.catalog import ENTRIES, list_installed, list_weights

    console = terminal.console()
    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in ("reward", "measures", "range", "gradient", "prompt"):
        table.add_column(title, overflow="fold")
    for name, entry in ENTRIES.items():
        gradient, prompt = "yes" if entry.differentiable else "no (black box)", "yes" if entry.prompted else ""
        table.add_row(name, entry.measures, entry.range, gradient, prompt)
    for name, point in list_installed().items():
        table.add_row(name, f"from package {point.dist.name if point.dist else point.value}", "", "", "")
    console.print(table)
    weights = Table(box=None, header_style="bold", pad_edge=False)
    for title in ("reward", "weights", "size", "license", "here"):
        weights.add_column(title, overflow="fold")
    for name, entry in ENTRIES.items():
        for number, (what, size, here) in enumerate(list_weights(name)):
            weights.add_row(*(("", what, size, "", here) if number else (name, what, size, entry.license, here)))
    console.print()
    console.print(weights)
    console.print()
    console.print(
        "'noiseward rewards fetch NAME' downloads weights. NAME:WEIGHT, or NAME:KEY=VALUE,...: weight=, clamp=, "
        "cutouts=, unit=, name=, and a reward's own arguments, as in hpsv2:version=2.0"
    )
    console.print(
        "path/to/file.py:function is a reward of your own: images (B, 3, H, W) in [0, 1] to (B,); it runs that file"
    )
    console.print("http://host:port is a reward server, such as 'noiseward serve-reward NAME' on this machine")


@app.command("fetch")
def fetch(reward: str = typer.Argument(help="A name, with its arguments if it needs any: clip:model=HUB_ID.")) -> None:
    """Download a reward's weights into the local cache, so that runs need no network."""
    from noiseward.rewards.catalog import list_repos
    from noiseward.rewards.hub import fetch as download

    repos = list_repos(reward)
    if not repos:
        print(f"{reward.partition(':')[0]} needs no download")
    for repo in repos:
        folder = repo.find_cached()
        print(f"{repo.id}: {', '.join(repo.files)} {'is here:' if folder else 'in'} {folder or download(repo)}")
