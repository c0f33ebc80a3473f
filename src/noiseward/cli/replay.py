"""`noiseward replay`: the images of a run again, from its noise."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from noiseward.cli.complete import RunArgument
from noiseward.cli.printing import JsonFlag, print_json

__all__ = ["replay"]


def replay(
    run: RunArgument,
    out: Annotated[Path | None, typer.Option(help="Where to write the images.  [default: RUN/replay]")] = None,
    json: JsonFlag = False,
) -> None:
    """Sample the best noise again, and say whether the images are the same bit for bit."""
    from noiseward import terminal
    from noiseward.pipelines.cards import set_threads
    from noiseward.runs.files import check_folder
    from noiseward.runs.store import RunFolder

    folders = {"": RunFolder(run)}
    if os.path.exists(run / "batch.json"):
        from noiseward.sweep.directory import Sweep
        from noiseward.sweep.export import list_begun

        folders = list_begun(Sweep.read(run))
    console = terminal.console(soft_wrap=True)
    target = out or run / "replay"
    set_threads(next(iter(folders.values())).spec().model)
    check_folder(target)
    rows: list[dict[str, Any]] = []
    for name, folder in folders.items():
        if name and not json:
            console.print(f"{folder.path}:")
        found = _replay(folder, target / name, None if json else console)
        rows += [{"run": folder.path, **row} for row in found]
    if json:
        print_json({"folder": target if target.exists() else None, "rows": rows})
    elif target.exists():
        console.print(str(target))


def _replay(folder: Any, target: Path, console: Any) -> list[dict[str, Any]]:
    """Replay one run, and print what differs."""
    from noiseward.images import has_images, to_images
    from noiseward.runs.replay import changed_versions, replay
    from noiseward.runs.write import save_images

    if console is not None:
        for name, (then, now) in changed_versions(folder).items():
            console.print(f"{name} was {then} and is {now} now: the images may differ")
    found = replay(folder)
    if has_images(found.sample):
        save_images(target, to_images(found.sample))
    rows = []
    for row, (same, apart) in enumerate(zip(found.identical, found.difference, strict=True)):
        reward = found.reward[row].item()
        rows.append({"row": row, "identical": same, "difference": apart, "reward": reward})
        if console is not None:
            what = "identical, bit for bit" if same else f"differs by at most {apart:.2g}"
            console.print(f"row {row}: {what}; reward {reward:.6g}")
    return rows
