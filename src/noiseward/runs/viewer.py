"""A run as one page that needs no network: before and after, a slider over the steps, the plot, and what was asked."""

from __future__ import annotations

import json
from pathlib import Path

from noiseward.errors import RunError
from noiseward.images.preview import shrink
from noiseward.loop.hacking import find_hacking
from noiseward.rewards.shortfall import describe_reward
from noiseward.runs.consistency import read_initial
from noiseward.runs.describe import about_spec
from noiseward.runs.images import read_frames, read_images
from noiseward.runs.page import draw_figure, draw_table, escape, inline, write_page
from noiseward.runs.record import read_record
from noiseward.runs.store import RunFolder
from noiseward.runs.summary import resume_command, summarize_run

__all__ = ["write_viewer"]

LARGEST = 512  # pixels of an image's longer side, on the page
SLIDE = """
const frames = FRAMES;
const slider = document.getElementById("step"), label = document.getElementById("label");
const show = () => {
  const frame = frames[slider.value];
  label.textContent = `step ${frame.step}`;
  document.querySelectorAll("#frames figure").forEach((figure, row) => {
    figure.firstElementChild.src = frame.images[row];
    figure.lastElementChild.textContent = frame.captions[row];
  });
};
slider.addEventListener("input", show);
show();
"""


def write_viewer(folder: RunFolder, path: Path) -> Path:
    """Write the page of a run.

    Raises:
        RunError: there are no images, or they are not those of the run.
    """
    record, summary, about = read_record(folder), summarize_run(folder), about_spec(folder.spec())
    before, best = (read_images(folder, record, which) if record.lines else [] for which in ("initial", "best"))
    if not before or not best:
        raise RunError(f"{folder.path} has no images; its samples are not images, or it ended before its first step")
    rows = summary["rows"]
    parts = [f"<p class=small>{escape(_describe(folder))}</p>"]
    for row, one in enumerate(rows):
        change = " to ".join(map(describe_reward, (record.steps[0]["reward"][row], record.status["best"][row])))
        pair = draw_figure(inline(shrink(before[row], LARGEST)), "before") + draw_figure(
            inline(shrink(best[row], LARGEST)), f"after: reward {change}, step {one['step']}"
        )
        parts.append(f'<h2>{escape(about.title(row))}</h2><div class="row pair">{pair}</div>')
        if hacking := find_hacking(record.steps, row):
            parts.append(f"<p class=bad>{escape(str(hacking))}</p>")
    frames = [
        {
            "step": line.record["index"],
            "images": [inline(shrink(image, LARGEST)) for image in images],
            "captions": [_caption(about.title(row), line.record["reward"][row]) for row in range(len(images))],
        }
        for line, images in read_frames(folder, record.lines, read_initial(folder, record.spec)["sample"])
    ]
    if frames:
        first = "".join(draw_figure("", "") for _ in rows)
        slider = f'<input type=range id=step min=0 max={len(frames) - 1} value={len(frames) - 1} aria-label="step">'
        parts.append(
            f"<h2>Along the way</h2><p>{slider} <span id=label></span></p><div class=row id=frames>{first}</div>"
        )
    if (plot := folder.path / "plot.png").exists():
        parts.append(f'<h2>Course</h2><img alt="reward and P(z) against steps" src="{inline(plot)}">')
    head = ("row", "prompt", "seed", "before", "after", "P(z)", "P(image)", "step", "ended by")
    keys = ("row", "prompt", "seed", "before", "best", "probability", "image", "step", "ended")
    values = [[one[key] for key in keys] for one in rows]
    parts.append("<h2>Results</h2>" + draw_table(head, [[escape(_number(cell)) for cell in line] for line in values]))
    parts.append(f"<p>More steps: <code>{escape(resume_command(folder.path))} --steps +20</code></p>")
    if frames:
        content = json.dumps(frames).replace("<", "\\u003c")
        parts.append(f"<script>{SLIDE.replace('FRAMES', content)}</script>")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_page(path, folder.path.name, parts)
    return path


def _describe(folder: RunFolder) -> str:
    spec = folder.spec()
    return f"{' + '.join(spec.reward)} on {spec.model} by {spec.method or 'the default method'}"


def _caption(title: str, reward: float) -> str:
    return f"{title}: {describe_reward(reward)}"


def _number(value: object) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
