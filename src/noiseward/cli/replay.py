"""`noiseward replay`: the pictures of a run once more, from its noise."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["replay"]


def replay(
    run: Annotated[Path, typer.Argument(help="A run directory.")],
    out: Annotated[Path | None, typer.Option(help="Where to write the pictures.  [default: RUN/replay]")] = None,
) -> None:
    """Sample the best noise again, and say whether the pictures are the same bit for bit."""
    from noiseward import terminal
    from noiseward.images import to_images
    from noiseward.pipelines.cards import set_threads
    from noiseward.runs import RunFolder
    from noiseward.runs.files import check_folder
    from noiseward.runs.replay import changed
    from noiseward.runs.replay import replay as again
    from noiseward.runs.write import pictured, save_images

    folder, console = RunFolder(run), terminal.console(soft_wrap=True)
    set_threads(folder.spec().model)
    target = out or run / "replay"
    check_folder(target)
    for name, (then, now) in changed(folder).items():
        console.print(f"{name} was {then} then and is {now} now: the pictures may differ")
    found = again(folder)
    if pictured(found.sample):
        save_images(target, to_images(found.sample))
    for row, (same, apart) in enumerate(zip(found.identical, found.difference, strict=True)):
        said = "identical, bit for bit" if same else f"differs by at most {apart:.2g}"
        console.print(f"row {row}: {said}; reward {found.reward[row].item():.6g}")
    if target.exists():
        console.print(str(target))
