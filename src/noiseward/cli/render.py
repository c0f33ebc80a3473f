"""`noiseward render`: the noise of a run in another way."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from noiseward.cli.complete import RunArgument
from noiseward.cli.flags import expand
from noiseward.cli.printing import print_json, say_loading
from noiseward.options.commands import RenderOptions

if TYPE_CHECKING:
    from noiseward.runs.store import RunFolder

__all__ = ["render"]


@expand
def render(run: RunArgument, options: RenderOptions) -> None:
    """Render the best noise of a run with more steps, another sampler, in another size, or with its neighbors.

    The noise is carried over where that is exact, and refused with the reason where it is not.
    """
    from noiseward.runs.store import RunFolder

    options.check()
    folders, target = {"": RunFolder(run)}, Path(options.out) if options.out else run / "render" / _name(options)
    if os.path.exists(run / "batch.json"):
        from noiseward.sweep.directory import Sweep
        from noiseward.sweep.export import list_begun

        folders = list_begun(Sweep.read(run))
    spec = next(iter(folders.values())).spec()
    say_loading(spec)

    from rich.progress import Progress

    from noiseward import terminal
    from noiseward.pipelines.cards import set_threads
    from noiseward.runs.files import check_folder

    set_threads(spec.model)
    check_folder(target)
    rows: list[dict[str, Any]] = []
    bar = terminal.console(stderr=True)
    with Progress(console=bar, transient=True, disable=not bar.is_terminal) as progress:
        task = progress.add_task("rendering", total=len(folders) * (options.seeds + 1))
        for name, folder in folders.items():
            for found in _render(folder, target / name, options):
                rows += found
                progress.advance(task)
    if options.as_json:
        print_json({"folder": target if target.exists() else None, "rows": rows})
        return
    _report(rows, many=len(folders) > 1)
    if target.exists():
        terminal.console(soft_wrap=True).print(str(target))


def _name(options: RenderOptions) -> str:
    """A folder for what is changed."""
    changed = {**options.changes, **({"seeds": options.seeds, "cosine": options.cosine} if options.seeds else {})}
    parts = [f"{name.replace('_', '-')}-{value}" for name, value in changed.items()]
    return re.sub(r"[^\w.-]+", "-", "_".join(parts)) or "same"


def _render(folder: RunFolder, target: Path, options: RenderOptions) -> Any:
    """Render one run, and write its images; yields the rows of each rendering."""
    from noiseward.images import has_images, to_images
    from noiseward.rewards.shortfall import find_gain, is_met
    from noiseward.runs.describe import about_spec
    from noiseward.runs.rendering import render
    from noiseward.runs.write import save_image

    spec, begun, found_at = folder.spec(), folder.steps()[0]["reward"], folder.read("status.json")["found"]
    about = about_spec(spec.replace(**options.changes))
    for found in render(folder, seeds=options.seeds, cosine=options.cosine, **options.changes):
        images = to_images(found.sample) if has_images(found.sample) else []
        rewards, rows = found.reward.tolist(), list[dict[str, Any]]()
        known = about.describe(images[0].size, begun, rewards, steps=found_at) if images else []
        for row, (reward, best) in enumerate(zip(rewards, found.best.tolist(), strict=True)):
            file = target / (f"{row:02d}-{found.neighbor}.png" if found.neighbor else f"{row:02d}.png")
            if images:
                more = {"neighbor": found.neighbor, "cosine": options.cosine} if found.neighbor else {}
                save_image(file, images[row], {**known[row], **more})
            rows.append({
                "run": folder.path, "row": row, "prompt": about.prompt(row), "neighbor": found.neighbor,
                "best": best if is_met(best) else None, "reward": reward if is_met(reward) else None,
                "change": find_gain(best, reward), "file": file if images else None,
            })  # fmt: skip
        yield rows


def _report(rows: list[dict[str, Any]], *, many: bool) -> None:
    """Print a line per image."""
    from noiseward import terminal
    from noiseward.cli.columns import print_table
    from noiseward.errors import shorten
    from noiseward.rewards.shortfall import describe_reward

    head = [*(["run"] if many else []), "row", "prompt", "noise", "run's best", "render", "change", "file"]
    cells = list[list[str]]()
    for row in sorted(rows, key=lambda row: (str(row["run"]), row["row"], row["neighbor"])):
        noise = f"neighbor {row['neighbor']}" if row["neighbor"] else "best"
        change = "" if row["change"] is None else f"{row['change']:+.4g}"
        numbers = [describe_reward(row["best"]), describe_reward(row["reward"]), change]
        own = [row["run"].name] if many else []
        file = row["file"].name if row["file"] else ""
        cells.append([*own, str(row["row"]), shorten(row["prompt"], 120), noise, *numbers, file])
    drop = ("run's best", "noise", "prompt", "change")
    print_table(head, cells, terminal.console(), left=("run", "prompt", "noise", "file"), cut=("prompt",), drop=drop)
