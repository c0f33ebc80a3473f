"""What a notebook shows: the tutorial, the bar, and results."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from types import SimpleNamespace

import nbformat
import pytest
import torch

from noiseward import FunctionReward, align, steps
from noiseward.loop import notebook
from noiseward.loop.notebook import NotebookBars, is_notebook
from noiseward.samplers import discovery
from noiseward.toys import GaussianModel, Linear, Quadratic
from tests.tiny import CALL, stable_diffusion
from tests.tutorial import NOTEBOOK, run


class Handle:
    """What `display(..., display_id=True)` returns."""

    def __init__(self, seen):
        self.seen = seen

    def update(self, content):
        self.seen.append(content)


@pytest.fixture
def kernel(monkeypatch):
    """A kernel that notes what is displayed: the outputs, each with everything it showed."""
    outputs = []

    def display(content, *, display_id):
        outputs.append([content])
        return Handle(outputs[-1])

    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: SimpleNamespace(kernel=1)))
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(HTML=str, display=display))
    monkeypatch.setattr(notebook, "EVERY", 0.0)
    return outputs


@pytest.fixture(scope="module")
def pipe():
    return stable_diffusion()


def test_one_output_is_updated_with_numbers_a_preview_and_the_time_left(kernel, pipe, capsys):
    assert is_notebook()
    solution = align(pipe, "a", "brightness", steps=4, method="dno:lr=0.1", **CALL)
    (seen,) = kernel
    assert len(seen) >= 5 and capsys.readouterr().err == ""
    middle = next(one for one in seen if "step 2" in one)
    assert "reward" in middle and "left" in middle and "<progress" in middle and "data:image/png;base64," in middle
    assert 'value="0.5000"' in middle
    assert "done in" in seen[-1] and "<img" not in seen[-1]  # the result has its own
    assert solution.status[0].name == "STEPS"


def test_few_steps_first_share_the_output(kernel, pipe):
    align(pipe, "a", "brightness", steps=4, method="dno:coarse=2,guard=none", **{**CALL, "num_inference_steps": 4})
    (seen,) = kernel
    assert any("few steps: " in one for one in seen) and "few steps: " not in seen[-1]


def test_nothing_is_shown_where_nothing_is_asked_for(kernel, pipe):
    align(pipe, "a", "brightness", steps=1, method="dno", progress=False, **CALL)
    assert kernel == []


def test_names_are_text(kernel, pipe):
    bars = NotebookBars()
    bars.say("<b>")
    assert "&lt;b&gt;" in kernel[0][-1] and "<b>" not in kernel[0][-1]


def test_long_waits_are_shown(kernel):
    with NotebookBars().show_discovery(patience=-1.0):
        report = discovery._REPORT.get()
        assert report is not None
        report(3)
    assert "draws: 3 calls" in kernel[0][-1]


def test_a_solution_shows_before_and_after_and_what_to_do(pipe):
    solution = align(pipe, ["a <cat>", "b"], "brightness", steps=2, method="dno:lr=0.1", progress=False, **CALL)
    page = solution._repr_html_()
    assert page.count("<img") == 4 and "a &lt;cat&gt;, seed 0" in page and "<cat>" not in page
    assert f"{solution.reward[1].item():.4g}" in page and "P(z)" in page and "more steps may raise" in page
    assert "dno:lr=0.1" in page and "before" in page
    assert (solution._repr_png_() or b"").startswith(b"\x89PNG")
    assert "row 0 (a <cat>, seed 0): reward" in repr(solution)


def test_large_images_are_not_put_into_a_notebook_whole():
    solution = align("stickers", ["a duck", "a heart"], "brightness", steps=0, num_inference_steps=1, progress=False)
    large = dataclasses.replace(
        solution,
        found=dataclasses.replace(solution.found, sample=torch.rand(2, 3, 1024, 1024)),
        initial=dataclasses.replace(solution.initial, sample=torch.rand(2, 3, 1024, 1024)),
    )
    assert len(large._repr_html_()) < 4e6 and len(large._repr_png_() or b"") < 2e6  # 4 images of 3 MB each


def test_a_hacked_row_says_so():
    judge = FunctionReward(lambda x: -(x - 1.5).square().flatten(1).sum(1), name="judge")
    sampler = GaussianModel(steps=4, dim=1, dtype=torch.float64).sampler()
    solution = align(
        sampler, None, Linear(1.0), watch=[judge], steps=150, method="dno:lr=0.05,guard=none", progress=False
    )
    page = solution._repr_html_()
    assert "likely reward hacking" in page and "<img" not in page and solution._repr_png_() is None


def test_many_rows_show_images_of_the_first():
    solution = align(GaussianModel(steps=2).sampler(), None, Quadratic(1.0), batch=20, steps=1, progress=False)
    assert solution._repr_html_().count("<tr>") == 20


def test_a_loop_of_ones_own_has_the_bar_too(kernel, pipe):
    for _ in steps(pipe, "a", "brightness", steps=1, method="dno", **CALL):
        pass
    assert "done in" in kernel[0][-1]


# ---- the tutorial ----


def outputs(book):
    """What its cells show, by kind."""
    return [[sorted(one.get("data", {"stream": 0})) for one in cell.outputs] for cell in book.cells
            if cell.cell_type == "code"]  # fmt: skip


def test_the_tutorial_runs_and_its_outputs_are_kept():
    kept = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(kept)
    assert outputs(run(small=True)) == outputs(kept)


def test_the_kept_outputs_say_nothing_of_where_they_were_made():
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert not re.search(r"/(home|root|work|tmp)/|Warning|Traceback", text)
    assert all(cell["outputs"] for cell in json.loads(text)["cells"] if cell["cell_type"] == "code" and any(
        not line.startswith((" ", "def", "import")) for line in cell["source"]))  # fmt: skip
