"""The page of one run: whole, without a network, and with nothing in it that a prompt could run."""

from __future__ import annotations

import base64
import io
import json
import re

import pytest
from PIL import Image

from noiseward import RunError, align
from noiseward.cli import main
from noiseward.images.preview import shrink, to_data_url
from noiseward.runs import RunFolder, RunSpec, execute
from noiseward.runs.page import draw_table
from noiseward.runs.viewer import write_viewer
from noiseward.toys import GaussianModel, Quadratic
from tests.tiny import CALL

PROMPT = "<b>&"


@pytest.fixture(scope="module")
def run(model, tmp_path_factory):
    spec = RunSpec(
        prompt=(PROMPT, "b"), reward="brightness", watch=("contrast",), model=model, steps=3, call=dict(CALL),
        method="dno:lr=0.3,guard=none",
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("runs") / "run"
    execute(spec, folder, quiet=True)
    return RunFolder(folder)


def frames_of(text):
    """What the slider shows."""
    return json.loads(re.search(r"const frames = (\[.*\]);", text)[1])


def test_the_page_has_the_run(run, tmp_path):
    text = write_viewer(run, tmp_path / "to/page.html").read_text(encoding="utf-8")
    steps = run.steps()
    shown = frames_of(text)
    assert [one["step"] for one in shown] == [step["index"] for step in steps]
    assert shown[2]["captions"] == [f"{PROMPT}, seed 0: {steps[2]['reward'][0]:.4g}",
                                    f"b, seed 0: {steps[2]['reward'][1]:.4g}"]  # fmt: skip
    frame = base64.b64decode(shown[2]["images"][1].partition(",")[2])
    kept = Image.open(run.path / "frames/00002-01.png")
    assert Image.open(io.BytesIO(frame)).tobytes() == kept.tobytes()
    best = run.read("status.json")["best"]
    assert all(f"to {reward:.4g}, step" in text for reward in best)
    assert f"noiseward resume {run.path}" in text and "max=3" in text
    assert to_data_url((run.path / "plot.png").read_bytes()) in text


def test_the_page_needs_no_network_and_runs_nothing_of_a_prompt(run, tmp_path):
    text = write_viewer(run, tmp_path / "page.html").read_text(encoding="utf-8")
    sources = re.findall(r'src="([^"]*)"', text)
    assert len(sources) >= 5 and all(one == "" or one.startswith("data:image/png;base64,") for one in sources)
    assert not re.search(r"https?:|url\(|@import|<script[^>]", text)
    assert "<b>" not in text and "&lt;b&gt;&amp;" in text and "\\u003cb>&" in text
    assert text.count("<script>") == text.count("</script>") == 2


def test_a_hacked_row_says_so_on_its_page(run, tmp_path, monkeypatch):
    from noiseward.loop.hacking import Hacking
    from noiseward.runs import viewer

    monkeypatch.setattr(viewer, "find_hacking", lambda steps, row: Hacking(2, 1, ("a<b",), "a<b") if row else None)
    text = write_viewer(run, tmp_path / "page.html").read_text(encoding="utf-8")
    assert text.count("likely reward hacking from step 2 on, a&lt;b falls") == 1


def test_a_run_without_images_has_no_page(tmp_path):
    align(GaussianModel(steps=2).sampler(), None, Quadratic(1.0), steps=1, out=tmp_path / "run", progress=False)
    with pytest.raises(RunError, match="has no images"):
        write_viewer(RunFolder(tmp_path / "run"), tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_the_command_line_writes_it(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["noiseward", "export", str(run.path), "--html", str(tmp_path / "a.html")])
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code and capsys.readouterr().out.strip() == str(tmp_path / "a.html")
    (tmp_path / "many").mkdir()
    (tmp_path / "many/batch.json").write_text("{}")
    monkeypatch.setattr("sys.argv", ["noiseward", "export", str(tmp_path / "many"), "--html", "b.html"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2 and "has its page already" in capsys.readouterr().err


def test_a_table_is_sorted_by_values_where_they_are_given():
    table = draw_table(["a", "b"], [["1 &rarr; <b>3</b>", "x"]], [[2.0, None]])
    assert '<td data-value="2.0">1 &rarr; <b>3</b></td><td>x</td>' in table


@pytest.mark.parametrize(("size", "side", "found"), [((10, 4), 20, (10, 4)), ((40, 10), 20, (20, 5))])
def test_an_image_is_made_smaller_and_never_larger(size, side, found):
    assert shrink(Image.new("RGB", size), side).size == found
