"""The panel: what it sees, when it speaks, and what it keeps; on runs made to hack and runs that do not."""

from __future__ import annotations

import json
import math

import pytest
import torch

from noiseward import ArgumentError, FunctionReward, GradientAscent, align, iterate
from noiseward.cli import main
from noiseward.loop.budget import Budget
from noiseward.loop.collect import collect
from noiseward.loop.hacking import find_hacking
from noiseward.loop.objective import Objective
from noiseward.loop.panel import Panel
from noiseward.options.run import Settings
from noiseward.problem import prepare
from noiseward.runs import RunFolder, RunSpec, execute
from noiseward.toys import GaussianModel, Linear
from tests.tiny import CALL, stable_diffusion

MODEL = GaussianModel(steps=4, dim=1, dtype=torch.float64)


def held_out(target, name):
    return FunctionReward(lambda x: -(x - target).square().flatten(1).sum(1), name=name)


def run(reward, panel, steps=150, batch=1, lr=0.05, **more):
    return align(
        MODEL.sampler(),
        None,
        reward,
        watch=panel,
        steps=steps,
        batch=batch,
        method=f"dno:lr={lr},guard=none",
        progress=False,
        **more,
    )


# ---- runs with a known answer: held-out rewards have their maximum where we put it ----


def test_a_run_past_the_maximum_of_the_panel_is_hacking_from_there_on():
    solution = run(Linear(1.0), [held_out(1.5, "judge")])
    (said,) = solution.hacking
    scores = [record["watched"]["judge"][0] for record in solution.history]
    peak = scores.index(max(scores))
    assert 3 < peak < 50
    assert (said.since, said.before, said.falling) == (peak + 1, peak, ("judge",))
    sentence = (
        f"likely reward hacking from step {peak + 1} on, judge falls while the reward rises; best before that: "
        f"step {peak}"
    )
    assert str(said) == sentence and sentence in repr(solution)
    kept = solution.best(by="pareto")
    assert kept.index.item() == peak and abs(kept.sample.item() - 1.5) < 0.1
    assert solution.best().index.item() == 150 and torch.equal(solution.best().noise, solution.noise)


def test_rows_that_are_kept_hold_the_pair_law():
    solution = run(Linear(1.0), [held_out(1.5, "judge")], batch=3)
    kept, sampler = solution.best(by="pareto"), MODEL.sampler()
    assert torch.equal(sampler(kept.noise), kept.sample)
    for row, said in enumerate(solution.hacking):
        assert said is not None and said.before == kept.index[row].item()
        assert solution.history[said.before]["reward"][row] == kept.reward[row].item()


@pytest.mark.parametrize(
    "panel",
    [
        [held_out(3.0, "same")],  # the target, under another name
        [held_out(3.3, "beyond")],
        [Linear(1.0)],
        [held_out(3.0, "same"), held_out(0.0, "start")],  # one of two falls: no majority
        [FunctionReward(lambda x: torch.zeros(len(x)), name="nothing")],
    ],
)
def test_a_run_that_gets_what_it_stands_for_is_not_hacking(panel):
    solution = run(held_out(3.0, "target"), panel)
    assert solution.gain.item() > 1 and solution.hacking == [None]
    assert torch.equal(solution.best(by="pareto").noise, solution.noise)


def test_more_than_half_of_a_panel_decides_by_the_peak_that_makes_the_majority():
    panel = [held_out(0.6, "first"), held_out(1.5, "second"), Linear(1.0)]
    (said,) = run(FunctionReward(lambda x: x.flatten(1).sum(1), name="far"), panel).hacking
    alone = run(FunctionReward(lambda x: x.flatten(1).sum(1), name="far"), panel[1:2]).hacking[0]
    assert said.falling == ("first", "second") and (said.since, said.before) == (alone.since, alone.before)


def test_rows_are_judged_alone():
    together = run(Linear(1.0), [held_out(1.5, "judge")], batch=3)
    for row in range(3):
        alone = run(Linear(1.0), [held_out(1.5, "judge")], seed=row)
        assert alone.hacking[0] == together.hacking[row]
        torch.testing.assert_close(alone.best(by="pareto").noise[0], together.best(by="pareto").noise[row])


def test_watching_every_third_step_and_the_last():
    solution = run(Linear(1.0), [held_out(1.5, "judge")], steps=148, watch_every=3)
    assert [r["index"] for r in solution.history if "watched" in r] == [*range(0, 148, 3), 148]
    (said,) = solution.hacking
    assert said.since % 3 == 0 and solution.best(by="pareto").index.item() == said.before == said.since - 3


def test_a_panel_changes_nothing_of_the_run():
    watched, plain = run(Linear(1.0), [held_out(1.5, "judge")], steps=5), run(Linear(1.0), (), steps=5)
    assert torch.equal(watched.noise, plain.noise)
    keep = {"index", "nfe", "reward", "terms", "penalty", "value", "probability", "grad_norm", "found"}
    for one, two in zip(watched.history, plain.history, strict=True):
        assert {key: one[key] for key in keep} == {key: two[key] for key in keep}
        assert set(one) - set(two) == {"watched", "silent"}


def test_a_run_that_is_interrupted_is_judged_up_to_there():
    objective = Objective(MODEL.sampler(), Linear(1.0))

    def stop_at_40(steps):
        for step in steps:
            yield step
            if step.index == 40:
                raise KeyboardInterrupt

    steps = iterate(objective, objective.sampler.init(1), optimizer=GradientAscent(lr=0.2), budget=Budget(steps=99))
    solution = collect(stop_at_40(Panel([held_out(1.5, "judge")]).watch(steps)), objective)
    assert len(solution.history) == 41 and solution.hacking[0].before == solution.best(by="pareto").index.item()


# ---- the rule, on numbers ----


def history(target, **panel):
    """Records of one row; the best so far is the highest target."""
    records, found = [], 0
    for index, reward in enumerate(target):
        found = index if reward > target[found] else found
        watched = {name: [scores[index]] for name, scores in panel.items()}
        records.append({"index": index, "reward": [reward], "value": [reward], "watched": watched, "found": [found]})
    return records


RISING = [k / 10 for k in range(40)]


def noise(size, seed=0):
    return (size * torch.randn(40, generator=torch.Generator().manual_seed(seed))).tolist()


def tent(peak, up=0.001, down=0.05):
    return [-up * (peak - k) if k < peak else -down * (k - peak) for k in range(40)]


@pytest.mark.parametrize("seed", range(20))
def test_jitter_alone_is_no_fall_and_a_fall_is_seen_through_jitter(seed):
    assert find_hacking(history(RISING, held=noise(1.0, seed)), 0) is None
    up = [0.05 * k + one for k, one in enumerate(noise(0.3, seed))]
    assert find_hacking(history(RISING, held=up), 0) is None
    shaken = [one + two for one, two in zip(tent(15, up=0.05, down=0.15), noise(0.1, seed), strict=True)]
    said = find_hacking(history(RISING, held=shaken), 0)
    assert said is not None and abs(said.before - 15) <= 6


def test_a_panel_that_falls_with_its_target_is_no_hacking():
    falls = [*RISING[:20], *(RISING[19] - 0.05 * k for k in range(20))]
    assert find_hacking(history(falls, held=tent(19)), 0) is None
    assert find_hacking(history(RISING, held=tent(19)), 0) is not None


def test_a_target_that_does_not_get_beyond_what_it_had_is_no_hacking():
    fresh_start = [*RISING[:20], *(0.01 * k for k in range(20))]
    assert find_hacking(history(fresh_start, held=tent(19)), 0) is None
    assert find_hacking(history([*RISING[:20], *(2 + 0.01 * k for k in range(20))], held=tent(19)), 0) is not None


def test_a_panel_past_its_peak_and_better_than_at_the_start_is_no_hacking():
    assert find_hacking(history(RISING, held=tent(19, up=0.05)), 0) is None
    assert (
        find_hacking(history(RISING, held=tent(19, up=0.03)), 0) is None
    )  # below the start, by less than it was above
    assert find_hacking(history(RISING, held=tent(19, up=0.02)), 0) is not None


def test_statistics_of_pixels_have_no_say():
    far = FunctionReward(lambda x: x.flatten(1).sum(1), name="far")
    plain = FunctionReward(lambda x: -(x - 1.5).square().flatten(1).sum(1), name="plain", statistic=True)
    assert run(far, [plain]).hacking == [None]
    alone = run(far, [held_out(1.5, "judge")])
    beside = run(
        far, [plain, held_out(1.5, "judge"), FunctionReward(lambda x: x[:, 0] * 0, name="flat", statistic=True)]
    )
    assert beside.hacking[0] is not None and beside.hacking == alone.hacking
    assert beside.history[0]["silent"] == ["plain", "flat"] and set(beside.history[0]["watched"]) > {"plain"}


def test_a_panel_that_recovers_after_a_drop_is_no_hacking():
    assert find_hacking(history(RISING, held=[1.0] * 20 + [0.01 * k for k in range(20)]), 0) is None
    assert find_hacking(history(RISING, held=[1.0] * 20 + [-0.01 * k for k in range(20)]), 0) is not None


@pytest.mark.parametrize(("peak", "says"), [(34, True), (35, True), (36, False), (39, False)])
def test_four_watched_steps_after_the_peak_are_needed(peak, says):
    assert (find_hacking(history(RISING, held=tent(peak)), 0) is not None) == says


def test_scores_that_are_no_numbers_are_passed_over():
    broken = [math.nan if k % 7 == 3 else one for k, one in enumerate(tent(15))]
    assert find_hacking(history(RISING, held=broken), 0) == find_hacking(history(RISING, held=tent(15)), 0)
    assert find_hacking(history(RISING, held=[math.nan] * 40), 0) is None
    assert find_hacking([{"index": 0, "reward": [1.0], "value": [1.0]}], 0) is None and find_hacking([], 0) is None


# ---- arguments ----


def test_bad_panels_are_refused():
    with pytest.raises(ArgumentError, match="got 'linear', which is optimized"):
        run(Linear(1.0), [Linear(2.0)])
    with pytest.raises(ArgumentError, match="watched rewards must have different names, got"):
        run(Linear(1.0), [held_out(0.0, "a"), held_out(1.0, "a")])
    with pytest.raises(ArgumentError, match="watch_every must be >= 1, got 0"):
        run(Linear(1.0), [held_out(0.0, "a")], watch_every=0)
    with pytest.raises(ArgumentError, match="expected a watched reward without a weight, got 'jpeg:0.5'"):
        run(Linear(1.0), ["jpeg:0.5"])
    with pytest.raises(ArgumentError, match="did you mean 'jpeg'"):
        run(Linear(1.0), "jepg")
    plain = run(Linear(1.0), (), steps=1)
    with pytest.raises(ArgumentError, match="pass watch="):
        plain.best(by="pareto")
    with pytest.raises(ArgumentError, match="by must be 'value' or 'pareto', got 'front'"):
        plain.best(by="front")  # pyright: ignore


def test_the_command_lines_list():
    def read_watch(*texts):
        return RunSpec(reward="jpeg", watch=texts).watch

    assert read_watch("clip,jpeg") == ("clip", "jpeg")
    assert read_watch("clip:model=a/b,scale=100,jpeg", "contrast") == ("clip:model=a/b,scale=100", "jpeg", "contrast")
    assert read_watch("none") == ()


# ---- on images, and on disk ----


def test_the_built_in_model_is_watched_by_default():
    few = {"steps": 1, "num_inference_steps": 2, "progress": False}
    names = set(align("stickers", "a duck", "brightness", **few).history[0]["watched"])
    assert {"contrast", "jpeg"} <= names <= {"contrast", "jpeg", "stickers-judge"}
    assert "contrast" not in align("stickers", "a duck", "contrast", **few).history[0].get("watched", {})
    assert "watched" not in align("stickers", "a duck", "brightness", watch=(), **few).history[0]


def test_other_models_are_watched_when_asked():
    pipe = stable_diffusion()
    plain = align(pipe, "a", "brightness", steps=1, progress=False, **CALL)
    asked = align(pipe, "a", "brightness", watch=["jpeg"], steps=1, progress=False, **CALL)
    assert "watched" not in plain.history[0] and set(asked.history[0]["watched"]) == {"jpeg"}


def test_a_run_directory_keeps_what_was_seen(model, tmp_path, monkeypatch, capsys):
    (tmp_path / "mine.py").write_text(
        "import itertools\nimport torch\ncount = itertools.count()\n"
        "def falling(images):\n    k = next(count)\n    return torch.full((len(images),), -float(abs(k - 2)))\n"
    )
    spec = RunSpec(
        prompt=("a",), reward=("brightness",), model=model, steps=8, method="dno:lr=0.1,guard=none",
        call={**CALL, "eta": 1.0},
        watch=(f"{tmp_path}/mine.py:falling",),
    )  # fmt: skip
    execute(spec, tmp_path / "run", quiet=True)
    folder = RunFolder(tmp_path / "run")
    assert [step["watched"]["falling"] for step in folder.steps()][:4] == [[-2.0], [-1.0], [0.0], [-1.0]]
    assert (folder.path / "pareto/00.png").exists() and (folder.path / "pareto.safetensors").exists()
    monkeypatch.setattr("sys.argv", ["noiseward", "show", str(folder.path)])
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit):
        main()
    out = capsys.readouterr().out
    assert "row 0: likely reward hacking from step 3 on, falling falls while the reward rises" in out
    assert "falling" in out and "-2 -> " in out and str(folder.path / "pareto") in out
    assert json.loads((folder.path / "spec.json").read_text())["watch"] == list(spec.watch)


def test_the_command_line_watches_the_built_in_model_by_default(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    few = ["align", "a duck", "--reward", "brightness", "--steps", "1", "--num-inference-steps", "2", "-q"]
    for name, more in (("seen", []), ("unseen", ["--watch", "none"])):
        monkeypatch.setattr("sys.argv", ["noiseward", *few, "--out", name, *more])
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code
    watched = [RunFolder(tmp_path / name).steps()[0].get("watched", {}) for name in ("seen", "unseen")]
    assert set(watched[0]) == {"stickers-judge", "contrast", "jpeg"} and not watched[1]
    assert RunFolder(tmp_path / "seen").spec().watch is None


def test_a_panel_that_cannot_warn_is_reported_before_the_run():
    pipe, call = stable_diffusion(), {**CALL, "num_inference_steps": 2}

    def note(*watch):
        return prepare(pipe, "a", "brightness", Settings(steps=1, call=call), method="dno", watch=watch).note

    assert note("contrast", "jpeg") == "only statistics of pixels are watched (contrast, jpeg), which never warn"
    assert note() is None and note("contrast", FunctionReward(lambda x: x.sum((1, 2, 3)), name="judge")) is None
