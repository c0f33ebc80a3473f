"""A solution as a notebook shows it: before and after, what was asked, what came of it, and what to do next."""

from __future__ import annotations

import html
from typing import Any

from noiseward.loop.describe import describe_peak, describe_stall
from noiseward.loop.notebook import draw_image
from noiseward.rewards.shortfall import describe_reward

__all__ = ["MOST", "to_html"]

MOST = 16  # rows with images


def to_html(solution: Any) -> str:
    """A `Solution` as HTML, images included."""
    from noiseward.images import has_images

    about = solution.about
    spent = [f"{len(solution.history)} steps", f"{solution.nfe.forward:,} denoiser calls", f"{solution.seconds:.1f} s"]
    head = f"<div><b>{html.escape(' · '.join(filter(None, (about.reward, about.method, *spent))))}</b></div>"
    if solution.method:
        head += f"<div>{html.escape(solution.method)}</div>"
    images = [""] * len(solution.status)
    titles = ""
    if has_images(solution.sample):
        pairs = zip(solution.initial_images[:MOST], solution.images[:MOST], strict=True)
        images[:MOST] = [f"<td>{draw_image(before)}</td><td>{draw_image(after)}</td>" for before, after in pairs]
        titles = "<tr><th>before</th><th>after</th><th></th></tr>"
    style = "text-align: left; vertical-align: top"
    rows = [f'<tr>{shown}<td style="{style}">{_describe(solution, row)}</td></tr>' for row, shown in enumerate(images)]
    return f"<div>{head}<table>{titles}{''.join(rows)}</table></div>"


def _describe(solution: Any, row: int) -> str:
    start, best = (describe_reward(float(found[row])) for found in (solution.initial.reward, solution.reward))
    image = solution.image_probability[row]
    lines = [
        f"<b>{html.escape(solution.about.title(row))}</b>",
        f"reward {start} → <b>{best}</b> (step {int(solution.index[row])})",
        f"P(z) {solution.probability[row]:.2g}" + ("" if image is None else f", P(image) {image:.2g}"),
        html.escape(solution.status[row].value),
    ]
    notes = (
        solution.shortfall[row],
        describe_peak(solution.history, row),
        solution.hacking[row],
        describe_stall(solution.history, row),
    )
    return "<br>".join([*lines, *(f"<i>{html.escape(str(note))}</i>" for note in notes if note)])
