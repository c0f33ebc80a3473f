"""`noiseward replay`: the images of a run again, from its noise."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["replay"]


def replay(
    run: Annotated[Path, typer.Argument(help="A run directory.")],
    out: Annotated[Path | None, typer.Option(help="Where to write the images.  [default: RUN/replay]")] = None,
) -> None:
    """Sample the best noise again, and say whether the images are the same bit for bit."""
    from noiseward import terminal
    from noiseward.images import to_images
    from noiseward.pipelines.cards import set_threads
    from noiseward.runs import RunFolder
    from noiseward.runs.files import check_folder
    from noiseward.runs.replay import changed_versions
    from noiseward.runs.replay import replay as again
    from noiseward.runs.write import has_images, save_images

    folder, console = RunFolder(run), terminal.console(soft_wrap=True)
    set_threads(folder.spec().model)
    target = out or run / "replay"
    check_folder(target)
    for name, (then, now) in changed_versions(folder).items():
        console.print(f"{name} was {then} and is {now} now: the images may differ")
    found = again(folder)
    if has_images(found.sample):
        save_images(target, to_images(found.sample))
    for row, (same, apart) in enumerate(zip(found.identical, found.difference, strict=True)):
        said = "identical, bit for bit" if same else f"differs by at most {apart:.2g}"
        console.print(f"row {row}: {said}; reward {found.reward[row].item():.6g}")
    if target.exists():
        console.print(str(target))
