"""`noiseward rewards`: what --reward takes; `describe NAME`, `fetch NAME` its weights, `test NAME IMAGE...`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from noiseward.cli.complete import COMPLETERS
from noiseward.cli.help import Command, Group
from noiseward.cli.printing import JsonFlag, print_json

__all__ = ["app"]

GRADIENT = {True: "yes", False: "black box", None: ""}
PROMPT = {True: "yes", False: "", None: ""}
COMMON = "weight=, clamp=, cutouts=, unit=, name=, device=, dtype=, recompute="

app = typer.Typer(
    help="List what --reward takes; describe one; fetch its weights; score images.", cls=Group, rich_markup_mode=None
)


@app.callback(invoke_without_command=True)
def rewards(context: typer.Context, json: JsonFlag = False) -> None:
    """List the rewards: what each measures, its range, its gradient, its weights and whether they are here."""
    if context.invoked_subcommand is not None:
        return
    from noiseward import terminal
    from noiseward.cli.columns import print_table

    found = _describe()
    if json:
        print_json(found)
        return
    console = terminal.console(soft_wrap=True)
    head = ("reward", "kind", "gradient", "prompt", "range", "measures")
    cells = [
        [one["reward"], one["kind"], GRADIENT[one["gradient"]], PROMPT[one["prompt"]], one["range"], one["measures"]]
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
        "'noiseward rewards describe NAME' lists a reward's own arguments, 'noiseward rewards fetch NAME' downloads "
        "weights, 'noiseward rewards test NAME IMAGE...' scores images. NAME:WEIGHT, or NAME:KEY=VALUE,...: a reward's "
        f"own arguments, as in hpsv2:version=2.0, and {COMMON}"
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
                "kind": entry.kind,
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
        unknown = {"kind": "", "range": "", "gradient": None, "prompt": None, "license": "", "weights": []}
        found.append({"reward": name, "measures": package, **unknown})
    return found


@app.command("describe", cls=Command)
def describe(
    reward: Annotated[
        str, typer.Argument(metavar="NAME", autocompletion=COMPLETERS["reward"], help="A reward, by name.")
    ],
    json: JsonFlag = False,
) -> None:
    """Show what a reward measures, its arguments, and its weights."""
    import dataclasses

    from noiseward import terminal
    from noiseward.cli.columns import print_table
    from noiseward.rewards.arguments import list_arguments
    from noiseward.rewards.names import read_name

    name = read_name(reward)
    (found,) = (one for one in _describe() if one["reward"] == name)
    arguments = [dataclasses.asdict(one) for one in list_arguments(name)]
    if json:
        print_json({**found, "arguments": arguments})
        return
    console, wide = terminal.console(), terminal.console(soft_wrap=True)
    wide.print(f"{name}: {found['measures']}")
    gradient = {True: "has a gradient", False: "black box", None: ""}[found["gradient"]]
    prompt = "compares images with the prompt" if found["prompt"] else ""
    span, license = (f"{key} {found[key]}" if found[key] else "" for key in ("range", "license"))
    wide.print("; ".join(part for part in (found["kind"], gradient, prompt, span, license) if part))
    for weights in found["weights"]:
        files, size = (weights[key] and f", {weights[key]}" for key in ("files", "size"))
        wide.print(f"weights: {weights['id']}{files}{size}; here: {weights['here']}")
    if arguments:
        console.print()
        head = ("argument", "default", "does")
        cells = [[one["name"], one["default"], one["does"]] for one in arguments]
        print_table(head, cells, console, left=head, wrap=("default", "does"))
    console.print()
    wide.print(f"{name}:{arguments[0]['name'] if arguments else 'weight'}=VALUE,...; any reward also takes {COMMON}")


@app.command("fetch", cls=Command)
def fetch(
    reward: str = typer.Argument(
        metavar="NAME",
        autocompletion=COMPLETERS["reward"],
        help="A name, with its arguments if it needs any: clip:model=HUB_ID.",
    ),
) -> None:
    """Download a reward's weights into the local cache, so that runs need no network; continue what was cut off."""
    from noiseward.rewards.catalog import ENTRIES, list_repos, list_weights
    from noiseward.rewards.hub import check_files, find_cache
    from noiseward.rewards.hub import fetch as download

    repos, name = list_repos(reward), reward.partition(":")[0].strip()
    if not repos:
        print(f"{name} needs no download")
    if (entry := ENTRIES.get(name)) and entry.package:
        for what, size, here in list_weights(name):
            print(f"its weights are {what}, {size}, {entry.license}; here: {here}")
    for repo in repos:
        folder, files = repo.find_cached(), ", ".join(repo.files)
        if folder is None:
            size = f", about {repo.megabytes} MB" if repo.megabytes else ""
            license = f", license: {ENTRIES[name].license}" if ENTRIES[name].license else ""
            print(f"{repo.id}: {files}{size}{license}, to {find_cache()}", flush=True)
            folder = download(repo)
        checked = check_files(repo, folder)
        print(f"{repo.id}: {files} is here: {folder}{f' ({checked} of them checked by hash)' if checked else ''}")


@app.command("test", cls=Command)
def test(
    reward: Annotated[
        str,
        typer.Argument(
            metavar="NAME", autocompletion=COMPLETERS["reward"], help="A name with its arguments, as for --reward."
        ),
    ],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE", help="Image files, or folders of them.")],
    prompt: Annotated[str | None, typer.Option(help="What the images should show.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, ...")] = "cpu",
    json: JsonFlag = False,
) -> None:
    """Score images, and print how long each takes."""
    from rich.progress import Progress
    from rich.table import Table

    from noiseward import terminal
    from noiseward.rewards.parse import parse_rewards
    from noiseward.rewards.score_files import find_images, score_files

    files, loaded = find_images(images), parse_rewards([reward])
    bar = terminal.console(stderr=True)
    with Progress(console=bar, transient=True, disable=not bar.is_terminal) as progress:
        scored = score_files(loaded, files, prompt=prompt, device=device)
        found = list(progress.track(scored, total=len(files), description="scoring"))
    if json:
        scores = [{"image": one.path, "score": one.total, "seconds": one.seconds} for one in found]
        print_json({"reward": loaded.name, "device": device, "images": scores})
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in ("image", loaded.name, "time"):
        table.add_column(title, justify="left" if title == "image" else "right", overflow="fold")
    for one in found:
        table.add_row(str(one.path), f"{one.total:.6g}", f"{1000 * one.seconds:.0f} ms")
    console = terminal.console()
    console.print(table)
    if len(found) > 1:
        mean, later = sum(one.total for one in found) / len(found), [one.seconds for one in found[1:]]
        console.print(
            f"mean {mean:.6g}, {1000 * sum(later) / len(later):.0f} ms per image after the first, on {device}"
        )
