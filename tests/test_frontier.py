"""The experiments on plausibility: they run, and what they report is what they found."""

from __future__ import annotations

import functools
import json

import pytest
from PIL import Image

from experiments import frontier, frontier_report, image_tests
from noiseward import ImageTest
from noiseward.methods import METHODS, read_method
from noiseward.pipelines.open import open_sampler


def test_a_method_is_read_off_at_each_mark(tmp_path):
    call = {"num_inference_steps": 3, "guidance_scale": 3.0, "eta": 1.0}
    chunk = [("duck", "blue"), ("cat", None)]
    how = {"batch": 1, "seed": 1000, "marks": [1, 2], "images": tmp_path, "work": tmp_path / "work"}
    looks = frontier.run("stickers", call, "brightness", "best-of-n:samples=4", chunk, **how)
    assert [look["mark"] for look in looks] == [0, 1, 2]
    rewards = [look["reward"] for look in looks]
    assert all(a <= b <= c for a, b, c in zip(*rewards, strict=True)) and rewards[2] > rewards[0]
    assert all(look["ground"][1] is None and look["ground"][0] in (0.0, 1.0) for look in looks)
    assert sorted(path.name for path in (tmp_path / "2").iterdir()) == ["00.png", "01.png"]


@pytest.mark.parametrize("at", [2, 3], ids=["on the way", "at the end"])
def test_a_method_that_is_interrupted_continues_from_its_run(tmp_path, monkeypatch, at):
    call = {"num_inference_steps": 2, "guidance_scale": 3.0, "eta": 1.0}
    how = {"batch": 1, "seed": 1000, "marks": [1, 2]}
    given = "stickers", call, "brightness", "dno", [("duck", "blue")]
    whole = frontier.run(*given, **how, images=tmp_path / "a", work=tmp_path / "b")
    assert frontier.run(*given, **how, images=tmp_path / "a", work=tmp_path / "b") == whole  # what has ended stays
    looks, judge = [], frontier.judge

    def interrupted(*arguments):
        looks.append(judge(*arguments))
        if len(looks) == at:
            raise KeyboardInterrupt
        return looks[-1]

    monkeypatch.setattr(frontier, "judge", interrupted)
    with pytest.raises(KeyboardInterrupt):
        frontier.run(*given, **how, images=tmp_path / "c", work=tmp_path / "d")
    assert frontier.run(*given, **how, images=tmp_path / "c", work=tmp_path / "d") == whole
    assert len(looks) == 4  # the start was not looked at again
    assert [len((tmp_path / one / "run" / "steps.jsonl").read_text().splitlines()) for one in "bd"] == [5, 5]


def test_the_methods_of_the_frontier_exist():
    for method in (*frontier.METHODS, *frontier.BLIND):
        assert read_method(method).name in METHODS
    assert set(frontier.BLIND) <= set(frontier.METHODS)


def test_the_report_compares_each_image_with_its_own_start_and_with_luck(tmp_path):
    def look(mark, reward, image):
        fixed = {"strict": [1.0, 1.0], "other": image, "noun": [1.0, 0.0]}
        return {"mark": mark, "reward": reward, "image": image, **fixed}

    results = {
        "light": {
            frontier_report.LUCK: [[look(0, [0.0, 0.5], [0.5, 0.5]), look(1, [0.25, 0.75], [0.5, 0.5])]],
            "auto": [[look(0, [0.0, 0.5], [0.5, 0.5]), look(1, [0.5, 1.0], [0.5, 0.001])]],
        }
    }
    text = "\n".join(frontier_report.lines(results, [1]))
    longer = {**results["light"], "ntrk": [[*results["light"]["auto"][0], look(3, [0.5, 1.0], [0.5, 0.5])]]}
    (row,) = [line for line in frontier_report.lines({"light": longer}, [1, 3]) if line.startswith("| 3x")]
    assert row.startswith("| 3x | `ntrk` | 0.500 ± 0.000 | 0.000 ± 0.000 |"), "luck ended before"
    assert frontier_report.verdict({"light": longer}, [1, 3]) == frontier_report.verdict(results, [1])
    few = {method: longer[method] for method in ("ntrk", "auto")}
    lines = [axes.get_lines() for axes in frontier_report.draw({"light": longer, "dark": few}, [1, 3]).axes]
    colors = [{line.get_label(): line.get_color() for line in lines[column]} for column in (0, 1)]
    assert len(lines) == 6 and colors[1] == {method: colors[0][method] for method in few}, "a color is a method's"
    half = "50% (9% to 91%)"
    assert f"| 1x | `auto` | 0.500 ± 0.000 | 0.250 ± 0.000 | {half} | {half} | {half} |" in text
    assert frontier_report.verdict(results, [1]) == (
        "light: auto less best-of-n 1x 0.250 ± 0.000; 1 of its images fail a test"
    )
    figure = frontier_report.draw(results, [1])
    assert len(figure.axes) == 3
    (tmp_path / "pictures").mkdir()
    page = tmp_path / "how-to-choose.md"
    page.write_text("a\n<!-- frontier -->\nold\n<!-- end -->\nz\n")
    for images in ({"light": Image.new("RGB", (8, 8))}, {}):  # what was there is replaced, or kept
        frontier_report.publish("frontier", results, [1], images, docs=tmp_path)
    begin, plot, table = page.read_text().partition("![Gain, and the share of images that pass, against cost]")
    assert begin == "a\n<!-- frontier -->\n\n" and plot and table.endswith("<!-- end -->\nz\n")
    assert text in table and "(pictures/frontier_light.png)" in table and "old" not in table
    frontier_report.publish("frontier", results, [1], {"light_auto": Image.new("RGB", (8, 8))}, docs=tmp_path)
    assert (
        "(pictures/frontier_light.png)" in page.read_text() and "(pictures/frontier_light_auto.png)" in page.read_text()
    )
    Image.new("RGB", (8, 8)).save(tmp_path / "pictures" / "frontier_lightness.png")  # another reward's
    frontier_report.publish("frontier", results, [1], {"light": Image.new("RGB", (8, 8))}, docs=tmp_path)
    assert page.read_text().count("(pictures/frontier_light") == 1, "all methods, in place of some"
    assert (tmp_path / "pictures" / "frontier.png").stat().st_size > 1000


def test_what_was_run_before_with_the_same_settings_is_kept(tmp_path):
    results = {"light": {"auto": [[1], [2]], "dno": [[3], [4]]}}
    known = {"settings": {"marks": [1], "captions": ["a", "b"]}, "results": results}
    (tmp_path / "frontier.json").write_text(json.dumps(known))
    stored = functools.partial(frontier_report.stored, "frontier", folder=tmp_path)
    assert stored({"marks": (1,)}) == results
    assert stored({"marks": (1,), "captions": ["a"], "revised": {"auto": "now"}}) == {"light": {"dno": [[3], [4]]}}
    assert stored({"marks": (1, 3)}) == {}
    assert frontier_report.stored("other", {"marks": (1,)}, folder=tmp_path) == {}
    found = {"light": {"auto": [[5]]}, "dark": {"fk": [[6]]}}
    merged = frontier_report.merge(results, found)
    assert merged == {"light": {"auto": [[5], [2]], "dno": [[3], [4]]}, "dark": {"fk": [[6]]}}
    assert results["light"]["auto"] == [[1], [2]]


def test_a_method_with_fewer_chunks_is_compared_on_those_that_both_have():
    def look(reward):
        return [{"mark": mark, "reward": [value], "strict": [1.0], "image": [1.0], "other": [1.0]}
                for mark, value in ((0, 0.0), (1, reward))]  # fmt: skip

    by = {frontier_report.LUCK: [look(1.0), look(5.0)], "auto": [look(3.0)]}
    assert frontier_report.ahead(by, by["auto"], 1) == [2.0]
    auto = frontier_report.lines({"light": by}, [1])[-2]
    assert auto.startswith("| 1x | `auto` | 1 | 3.000 | 2.000 |")
    assert frontier_report.draw({"light": by}, [1])


def test_the_image_test_is_measured_on_a_caption(monkeypatch):
    few = functools.partial(open_sampler, call={"num_inference_steps": 4})
    monkeypatch.setattr(image_tests, "open_sampler", few)
    monkeypatch.setattr(image_tests, "ImageTest", functools.partial(ImageTest, fresh=4))
    found = image_tests.look("duck", "blue", 4, (1,))
    assert len(found["fresh"]) == 4 and set(found["steps"]) == {0, 1}
    table = image_tests.lines([found], (1,))
    assert table[2].startswith("| fresh, 4 |") and table[-1].startswith("| 1 | 0.")


def test_shares_have_intervals():
    assert image_tests.share([0.001, 0.5, 0.5, 0.5], 0.01) == "25% (5% to 70%)"
    assert frontier_report.share([]) == "" and frontier_report.share([1.0, 0.0]) == "50% (9% to 91%)"
