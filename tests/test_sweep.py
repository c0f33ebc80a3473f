"""A batch does every row it is asked, once, whatever happens to some of them on the way."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
from pathlib import Path

import pytest
from PIL import Image

from noiseward import RunError, problem
from noiseward.images import enlarge
from noiseward.images.tiles import LINE
from noiseward.runs import RunFolder, RunSpec, execute
from noiseward.runs.binding import seal
from noiseward.runs.files import lock
from noiseward.runs.page import SORT
from noiseward.runs.spec import run_id
from noiseward.sweep.directory import Sweep
from noiseward.sweep.engine import Beat, Context, Local
from noiseward.sweep.outcomes import Outcome, find_outcomes, write_contact
from noiseward.sweep.pack_task import PackTask
from noiseward.sweep.report import report
from noiseward.sweep.rows import read_rows
from tests.test_resume import assert_equal
from tests.tiny import CALL

PROMPTS = "a\nb\nc\n"


@pytest.fixture(scope="module")
def spec(model):
    call = {**CALL, "num_inference_steps": 2}
    return RunSpec(prompt=(), reward=("brightness",), model=model, steps=2, method="dno:lr=0.05", batch=2, call=call)


def prompts(folder: Path, text: str = PROMPTS, name: str = "prompts.txt") -> Path:
    (folder / name).write_text(text)
    return folder / name


def run(out: Path, file: Path, spec: RunSpec) -> tuple[Sweep, list[Beat]]:
    sweep = Sweep.begin(out, read_rows(file, spec), size=4)
    return sweep, list(sweep.run(Local()))


def outcomes(sweep: Sweep, ended: dict[str, Beat] | None = None) -> list[Outcome]:
    return [one for _, _, some in find_outcomes(sweep, ended) for one in some]


@pytest.fixture(scope="module")
def whole(spec, tmp_path_factory):
    """A batch never disturbed: packs a+b and c, two seeds each."""
    folder = tmp_path_factory.mktemp("whole")
    batch, beats = run(folder / "out", prompts(folder), spec)
    assert [beat.pack for beat in beats if beat.state == "done"] == ["0000", "0001"]
    report(batch)
    return batch


def assert_same(one: Path, other: Path) -> None:
    """Assert that two batches hold the same packs, bit for bit."""
    names = [sorted(path.name for path in (out / "packs").iterdir()) for out in (one, other)]
    assert names[0] == names[1]
    for name in names[0]:
        for file in ("best.safetensors", "latest.safetensors", "initial.safetensors"):
            assert (one / "packs" / name / file).read_bytes() == (other / "packs" / name / file).read_bytes(), name
        assert RunFolder(other / "packs" / name).read("status.json")["state"] == "done"


def test_a_pack_is_a_run_like_any_other(whole, tmp_path):
    pack = whole.packs[0]
    assert (pack.ids, pack.spec.prompt, pack.spec.batch) == (("a", "b"), ("a", "b"), 2)
    execute(pack.spec, tmp_path / "run", quiet=True)
    for file in ("best.safetensors", "latest.safetensors", "spec.json"):
        assert (tmp_path / "run" / file).read_bytes() == (whole.out / "packs/0000" / file).read_bytes()


def test_the_index_has_every_row_with_its_own_numbers_and_images(whole):
    with open(whole.out / "index.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [(line["id"], line["seed"]) for line in lines] == [(name, seed) for name in "abc" for seed in "01"]
    for line in lines:
        folder, row = RunFolder(whole.out / line["run"]), int(line["row"])
        status, steps = folder.read("status.json"), folder.steps()
        assert folder.spec().prompt[row // 2] == line["prompt"] == line["id"]
        assert float(line["before"]) == steps[0]["reward"][row] and float(line["best"]) == status["best"][row]
        assert float(line["gain"]) == pytest.approx(float(line["best"]) - float(line["before"])) and line["gain"] > "0"
        assert float(line["probability"]) == steps[int(line["step"])]["probability"][row]
        assert (line["state"], line["ended"], line["error"]) == ("done", "steps", "")


def test_the_contact_sheet_shows_before_and_after_side_by_side(whole):
    with Image.open(whole.out / "contact.png") as sheet:
        found = outcomes(whole)
        width = (128 + 4) * 2
        for number, one in enumerate(found):
            # a line of titles above all rows, and a line of captions above each
            x, y = (number % 4) * width, LINE + (number // 4) * (LINE + 128 + 4) + LINE
            for offset, which in ((0, "initial"), (132, "best")):
                tile = enlarge(Image.open(whole.out / one.run / which / f"{one.row:02d}.png").convert("RGB"))
                assert sheet.crop((x + offset, y, x + offset + 128, y + 128)).tobytes() == tile.tobytes()
            assert one.caption == f"{one.prompt}, seed {one.seed}: {one.before:.3g} -> {one.best:.3g}"


def test_the_page_needs_only_the_images_next_to_it(whole, tmp_path):
    text = (whole.out / "report.html").read_text().replace(f"<script>{SORT}</script>", "")
    links = re.findall(r'(?:src|href)="([^"]*)"', text)
    assert len(links) == 12 and all((whole.out / link).is_file() for link in links)
    assert not re.search(r"https?:|//|url\(|@import|<script", text)
    wrong = dataclasses.replace(whole.packs[1], spec=whole.packs[1].spec.replace(prompt=("<b>&",)))
    failed = Beat(wrong.name, "failed", 2, error="<script>alert()</script>")
    report(Sweep(tmp_path, (wrong,)), {wrong.name: failed})
    text = (tmp_path / "report.html").read_text().replace(f"<script>{SORT}</script>", "")
    assert "&lt;b&gt;&amp;" in text and "<script" not in text and "2 rows: 2 failed" in text


def test_a_batch_asked_again_does_nothing_and_more_prompts_only_what_is_new(whole, spec, tmp_path):
    import shutil

    shutil.copytree(whole.out, tmp_path / "out")
    batch, beats = run(tmp_path / "out", prompts(tmp_path), spec)
    assert beats == [] and batch.packs == whole.packs
    batch, beats = run(tmp_path / "out", prompts(tmp_path, PROMPTS + "d\n"), spec)
    assert {beat.pack for beat in beats} == {"0002"}
    assert [(one.id, one.state) for one in outcomes(batch)][-2:] == [("d", "done")] * 2


def test_a_batch_asked_again_with_an_earlier_name_of_an_argument_does_nothing(spec, tmp_path):
    prompts(tmp_path, "a\n")
    for key, done in (("target", 1), ("min_probability", 0), ("target", 0)):
        again = spec.replace(method=f"dno:guard=concentration:{key}=0.1")
        _, beats = run(tmp_path / "out", tmp_path / "prompts.txt", again)
        assert sum(beat.state == "done" for beat in beats) == done and all(beat.state != "failed" for beat in beats)
    (path,) = (tmp_path / "out" / "packs").iterdir()
    assert RunFolder(path).spec().method == "dno:lr=0.01,guard=concentration:min_probability=0.1"


def test_a_batch_cut_at_any_beat_continues_to_the_same_bits(whole, spec, tmp_path):
    file = prompts(tmp_path)
    for beats in (2, 5, 8):
        begun = Sweep.begin(tmp_path / "out", read_rows(file, spec), size=4).run(Local())
        for _, beat in zip(range(beats), begun, strict=False):
            assert beat.state in ("running", "done")
        begun.close()  # as a kill would leave it
    run(tmp_path / "out", file, spec)
    assert_same(whole.out, tmp_path / "out")


REWARD = (
    "import pathlib\n"
    "def picky(images, prompts):\n"
    "    if {bad!r} in prompts and not pathlib.Path({cure!r}).exists():\n"
    "        {does}\n"
    "    return images.mean((1, 2, 3))\n"
)


def picky(folder: Path, does: str, bad: str = "b") -> str:
    (folder / "mine.py").write_text(REWARD.format(bad=bad, cure=str(folder / "cure"), does=does))
    return f"{folder / 'mine.py'}:picky"


def test_a_failing_row_fails_alone_and_is_retried(whole, spec, tmp_path):
    picky_spec = spec.replace(reward=(picky(tmp_path, "raise ValueError('no b')"),))
    batch, beats = run(tmp_path / "out", prompts(tmp_path), picky_spec)
    assert [(beat.pack, beat.state, beat.divisible) for beat in beats if beat.state != "running"] == [
        ("0000", "failed", True), ("0001", "done", False),
        ("0000.0", "done", False), ("0000.1", "done", False), ("0000.2", "failed", True), ("0000.3", "failed", True),
    ]  # fmt: skip
    found = report(batch, {beat.pack: beat for beat in beats})
    assert [(one.id, one.seed, one.state) for one in found] == [
        ("a", 0, "done"), ("a", 1, "done"), ("b", 0, "failed"), ("b", 1, "failed"), ("c", 0, "done"), ("c", 1, "done")
    ]  # fmt: skip
    assert "raised ValueError: no b" in found[2].error and "no b" in (tmp_path / "out/report.html").read_text()
    for one, undisturbed in zip(found, outcomes(whole), strict=True):
        if one.state == "done":  # rows done one by one differ by rounding
            assert one.best == pytest.approx(undisturbed.best, abs=1e-4)
    (tmp_path / "cure").touch()
    batch, beats = run(tmp_path / "out", prompts(tmp_path), picky_spec)
    assert {beat.pack for beat in beats} == {"0000.2", "0000.3"}
    assert {one.state for one in outcomes(batch)} == {"done"}


def test_an_interrupted_batch_stops_and_continues(whole, spec, tmp_path):
    log, once = (f"pathlib.Path({str(tmp_path / name)!r})" for name in ("out/packs/0000/steps.jsonl", "once"))
    stop = f"if {log}.exists() and not {once}.exists(): {once}.touch(); __import__('signal').raise_signal(2)"
    mine = spec.replace(reward=(picky(tmp_path, stop),))
    batch, beats = run(tmp_path / "out", prompts(tmp_path), mine)
    assert [(beat.pack, beat.state) for beat in beats][-1] == ("0000", "interrupted")
    assert {one.state for one in outcomes(batch)} == {"interrupted", "waiting"}
    run(tmp_path / "out", prompts(tmp_path), mine)
    for name in ("0000", "0001"):
        for file in ("best.safetensors", "latest.safetensors"):
            assert_equal(tmp_path / "out/packs" / name / file, whole.out / "packs" / name / file)


def test_models_and_rewards_are_made_once_for_all_packs(spec, tmp_path, monkeypatch):
    made = []
    load, parse = problem.open_sampler, problem.convert_reward
    monkeypatch.setattr(problem, "open_sampler", lambda *a, **k: made.append("model") or load(*a, **k))
    monkeypatch.setattr(problem, "convert_reward", lambda *a: made.append("reward") or parse(*a))
    text = '{"prompt": "a"}\n{"prompt": "b"}\n{"prompt": "c", "method": "dno:lr=0.02"}\n'
    file = prompts(tmp_path, text, "p.jsonl")
    batch = Sweep.begin(tmp_path / "out", read_rows(file, spec.replace(steps=0, batch=1)), size=1)
    assert [beat.pack for beat in batch.run(Local()) if beat.state == "done"] == ["0000", "0001", "0002"]
    assert sorted(made) == ["model", "reward"]


def test_a_row_that_cannot_be_begun_fails_alone_and_leaves_nothing(spec, tmp_path):
    text = '{"prompt": "a", "reward": "brightness:clamp=high"}\n{"prompt": "b", "steps": 0, "seeds": 1}\n'
    batch, beats = run(tmp_path / "out", prompts(tmp_path, text, "p.jsonl"), spec)
    failed = next(beat for beat in beats if beat.state == "failed")
    assert failed.error and "high" in failed.error and not failed.divisible
    assert [path.name for path in (tmp_path / "out/packs").iterdir()] == ["0001"]
    assert [one.state for one in outcomes(batch, {"0000": failed})] == ["failed", "failed", "done"]
    cured = '{"prompt": "a", "steps": 0}\n{"prompt": "b", "steps": 0, "seeds": 1}\n'  # may be asked otherwise now
    batch, _ = run(tmp_path / "out", prompts(tmp_path, cured, "p.jsonl"), spec)
    assert {one.state for one in outcomes(batch)} == {"done"}


def test_damaged_packs_and_other_models_are_outcomes_not_ends(whole, spec, tmp_path):
    import shutil

    shutil.copytree(whole.out, tmp_path / "out")
    (tmp_path / "out/packs/0000/status.json").write_text("{")
    (tmp_path / "out/packs/0001/status.json").write_text('{"state": "running"}')
    other = RunFolder(tmp_path / "out/packs/0001")
    env = seal({**other.read("env.json"), "fingerprint": "0"}, run_id(other.spec()))
    (other.path / "env.json").write_text(json.dumps(env))
    found = outcomes(Sweep.read(tmp_path / "out"))
    assert [one.state for one in found] == ["damaged"] * 6
    assert "status.json cannot be read" in found[0].error
    _, beats = run(tmp_path / "out", prompts(tmp_path), spec)
    ended = {beat.pack: beat for beat in beats if beat.state != "running"}
    assert ended["0000"].state == "done"  # its place was whole
    assert "was run with other weights" in (ended["0001"].error or "")


def test_a_directory_that_is_no_batch_is_refused_in_one_line(whole, spec, tmp_path):
    rows = read_rows(prompts(tmp_path), spec)
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="is a file"):
        Sweep.begin(tmp_path / "file", rows, size=4)
    with pytest.raises(RunError, match="is not empty and holds no batch.json"):
        Sweep.begin(tmp_path, rows, size=4)
    with pytest.raises(RunError, match="cannot be made"):
        Sweep.begin(tmp_path / "file" / "out", rows, size=4)
    with pytest.raises(RunError, match="is no batch directory"):
        Sweep.read(tmp_path)
    with lock(whole.out), pytest.raises(RunError, match="is being written by another process"):
        list(whole.run(Local()))


def test_a_run_begun_as_something_else_is_left_alone(spec, tmp_path):
    batch = Sweep.begin(tmp_path / "out", read_rows(prompts(tmp_path, "a\n"), spec.replace(steps=0)), size=4)
    (pack,) = batch.packs
    other = dataclasses.replace(pack, spec=pack.spec.replace(steps=1))
    context = Context()
    assert [beat.state for beat in PackTask(pack, batch.out).run(context)][-1] == "done"
    last = list(PackTask(other, batch.out).run(context))[-1]
    assert last.state == "failed" and "was asked for something else" in (last.error or "")


def test_samples_that_are_no_images_have_no_contact_sheet(whole, tmp_path):
    write_contact([Outcome("x", "x", 0, "jpeg", "done", run="packs/0000")], tmp_path, tmp_path / "contact.png")
    assert not (tmp_path / "contact.png").exists()
