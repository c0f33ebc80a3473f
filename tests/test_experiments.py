"""Experiments on the paper: each runs in its smallest form, and what they measure with is right."""

from __future__ import annotations

import importlib
import json
import math
import re

import pytest
import torch

from experiments import (
    black_box,
    built_in,
    cells,
    concentration,
    frame,
    idea,
    in_distribution_report,
    judge,
    page,
    report,
    ring_model,
    smoothness,
    table1,
)  # fmt: skip
from experiments.anytime import anytime
from noiseward import GradientAscent, Objective, stickers
from noiseward.noise.concentration import log_bounds
from noiseward.sweep.engine import Context, Engine
from noiseward.toys import GaussianModel, Linear, Quadratic
from tests.checkpoints import linear_head, open_clip, small_clip
from tests.families import unets

AGREEMENTS = ("agrees", "agrees in part", "contradicts", "not comparable")


# ---- every experiment, from the command line to its files ----


def smoke(name, out, *more):
    module = importlib.import_module(f"experiments.{name}")
    options = getattr(module, "options", None)
    argv = ["--smoke", "--out", str(out), *more]
    frame.main(name, module.CLAIM, module.conduct, options=options, argv=argv)
    return json.loads((out / f"{name}.json").read_text(encoding="utf-8"))


@pytest.mark.filterwarnings("ignore:the prompt is longer")
@pytest.mark.parametrize("name", page.ORDER)
def test_an_experiment_runs_and_says_what_it_found(name, tmp_path):
    found = smoke(name, tmp_path)
    assert found["agreement"] in AGREEMENTS and len(found["verdict"]) > 20
    assert any("seed" in key for key in found["settings"]), "the seeds are not told"
    assert found["settings"]["size"] == "smoke" and {"torch", "noiseward", "stickers"} <= found["versions"].keys()
    head, *lines = found["table"]
    assert lines and all(len(line) == len(head) for line in lines)
    assert (tmp_path / f"{name}.png").stat().st_size > 5_000
    section = page.section(name, importlib.import_module(f"experiments.{name}").CLAIM, found, tmp_path)
    assert found["verdict"].split()[0] in section and f"{name}.png" in section


def test_smoke_leaves_no_cells_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(cells, "CELLS", tmp_path / "kept")
    smoke("concentration", tmp_path)
    assert not (tmp_path / "kept").exists()


def test_the_benchmark_runs_on_a_pipeline_and_rewards_in_published_formats(tmp_path):
    unets.sd1().save_pretrained(tmp_path / "sd")
    clip = small_clip(tmp_path / "clip")
    torch.save(linear_head(16), tmp_path / "head.pth")
    tokenizer = built_in.sampler().pipe.tokenizer
    (tmp_path / "hps").mkdir()
    torch.save({"state_dict": open_clip(len(tokenizer), places=tokenizer.model_max_length)},
               tmp_path / "hps" / "HPS_v2.1_compressed.pt")  # fmt: skip
    tokenizer.save_pretrained(tmp_path / "hps")
    rewards = [
        f"aesthetic:path={tmp_path}/head.pth,model={clip}",
        f"hpsv2:path={tmp_path}/hps",
        f"pickscore:path={clip}",
    ]
    found = smoke("table1", tmp_path, "--model", str(tmp_path / "sd"), "--rewards", *rewards, "--prompts", "animals",
                  "--seeds", "1", "--unit", "0.05", "--steps", "2", "--size", "16")  # fmt: skip
    assert set(found["results"]) == {"aesthetic", "hpsv2", "pickscore"}
    assert set(found["results"]["hpsv2"]["DNO"]["held"]) == {"aesthetic", "pickscore"}
    assert found["settings"]["prompts"] == ["a cat"]


@pytest.mark.filterwarnings("ignore:the prompt is longer")
def test_figure_1_runs_on_a_folder_of_sdxl(tmp_path):
    unets.sdxl().save_pretrained(tmp_path / "sdxl")
    found = smoke("sdxl", tmp_path, "--model", str(tmp_path / "sdxl"))
    assert len(found["results"]) == 4 and found["settings"]["model"].endswith("sdxl")
    for told in found["results"].values():
        assert told["reward"] == sorted(told["reward"]), "the best so far never falls"


def test_the_paper_has_45_animals():
    assert len(set(table1.ANIMALS)) == 45


# ---- the page ----


def test_the_page_is_what_the_results_make_of_it():
    assert page.PAGE.read_text(encoding="utf-8") == page.page(), "run python -m experiments.page"


def test_the_page_names_every_claim_and_no_image_that_is_not_there():
    text = page.PAGE.read_text(encoding="utf-8")
    for name, claim in page.claims().items():
        assert f"## {claim.title}" in text and f"experiments.{name}`" in text
    for picture in re.findall(r"\]\((\.\./experiments/results/[^)]+)\)", text):
        assert (page.PAGE.parent / picture).exists(), picture


# ---- how it is written down ----


@pytest.mark.parametrize(
    ("gains", "agreement"),
    [([3.0, 3.1, 3.2], "agrees"), ([0.9, 1.2, 1.8], "agrees in part"), ([0.1, 0.2, 0.1], "contradicts")],
)
def test_hybrid2_leads_where_its_lead_is_more_than_chance(gains, agreement):
    methods = {
        name: {"gain": {"100": report.interval(found)}, "gains": found}
        for name, found in (
            ("hybrid2, 4", gains),
            ("hybrid1, 4", [1.0, 1.1, 1.2]),
            ("zeroth-order, 4", [0.0, 0.1, 0.0]),
        )
    }
    assert black_box.agreement({"jpeg": methods}) == agreement
    surely = int(agreement == "agrees")
    assert f"on {int(gains[0] > 0.5)} of 1 rewards, significantly on {surely};" in black_box.verdict({"jpeg": methods})


@pytest.mark.parametrize(
    ("kept", "agreement"), [((-0.1, -0.1), "agrees"), ((-0.1, -0.3), "agrees in part"), (None, "not comparable")]
)
def test_the_penalty_remedies_where_it_keeps_significantly_more_nouns(kept, agreement):
    def guard(changes, half, n):
        kinds = zip(in_distribution_report.KINDS, changes, strict=True)
        return {kind: {"noun_change": {"mean": change, "half": half, "n": n}} for kind, change in kinds}

    table = {"none": guard((-0.4, -0.4), 0.1, 80), "concentration:1.0": guard((0.0, 0.0), 0.1, 16)}
    if kept:  # the one with more pairs counts
        table["concentration:target=0.1"] = guard(kept, 0.1, 80)
    else:
        del table["concentration:1.0"]
    assert in_distribution_report.agreement(table) == agreement


def test_the_figures_of_the_idea_show_what_was_measured():
    z = torch.randn(1, 3, 64, generator=torch.Generator().manual_seed(0))
    other = torch.randn(1, 3, 64, generator=torch.Generator().manual_seed(1))
    assert idea.turn(z, z) == pytest.approx(0, abs=1e-3) and idea.turn(z, -z) == pytest.approx(180, abs=1e-3)
    assert 75 < idea.turn(z, other) < 105
    table = [
        ["flaw", "order given", "100 random orders", "both: P(z)", "strict P(z)"],
        ["copied", *["0 %"] * 3, "98 %"],
    ]
    (axes,) = idea.draw_tests(table, 60).axes
    assert [text.get_text() for text in axes.texts] == ["0", "98"] and "60" in axes.get_xlabel()


def test_an_interval_is_students():
    told = report.interval([1.0, 2.0, 3.0, 4.0])
    assert told["mean"] == 2.5 and told["n"] == 4
    assert told["half"] == pytest.approx(3.18 * math.sqrt(5 / 3) / 2)


def test_one_number_has_no_interval_and_says_none():
    assert report.format_mean(report.interval([2.0])) == "2.00"
    assert report.format_mean({"mean": 0.5, "half": 0.125, "n": 9}, 1, 100) == "50.0 ± 12.5"


def test_what_json_has_no_number_for_is_null(tmp_path, capsys):
    report.write("x", settings={}, results={"a": [math.nan, math.inf, 1.0]}, verdict="v", out=tmp_path)
    assert json.loads((tmp_path / "x.json").read_text())["results"] == {"a": [None, None, 1.0]}


def test_a_cell_is_computed_once_for_its_key(tmp_path):
    made = []
    request = frame.Request("x", root=tmp_path)

    def count():
        made.append(1)
        return len(made)

    for key in ({"a": 1}, {"a": 1}, {"a": 2}):
        request.cells({"one": cells.Cell(key, count)})
    assert len(made) == 2 and request.cells({"one": cells.Cell({"a": 1}, count)}) == {"one": 1}
    assert (tmp_path / "x" / f"{cells.hash_key({'a': 1})}.json").exists()
    assert cells.hash_key({"b": [1, None], "a": 0.5}) == "f1d6c169b786bbcbda60"


def test_a_cell_that_fails_is_named_and_the_others_are_kept(tmp_path, capsys):
    some = {"good": cells.Cell({"a": 1}, lambda: [1, 2]), "bad": cells.Cell({"a": 2}, lambda: 1 / 0)}
    with pytest.raises(RuntimeError, match="1 cells failed, first bad: ZeroDivisionError"):
        cells.compute("x", some, root=tmp_path)
    assert "ZeroDivisionError" in capsys.readouterr().err
    assert cells.compute("x", {"good": some["good"]}, root=tmp_path) == {"good": [1, 2]}


@pytest.mark.filterwarnings("ignore")
def test_cells_run_on_workers(tmp_path, monkeypatch):
    pytest.importorskip("ray")
    from noiseward.options.commands import EngineOptions
    from noiseward.sweep import ray as engines

    monkeypatch.setattr(engines, "RayEngine", ReverseEngine)
    some = {name: cells.Cell({"name": name}, name.upper) for name in "abc"}
    assert cells.compute("x", some, root=tmp_path, engine=EngineOptions(engine="ray", workers=2)) == {
        "a": "A", "b": "B", "c": "C"
    }  # fmt: skip


class ReverseEngine(Engine):
    """Stands for workers that end in any order; what they get and give is pickled."""

    remote = True

    def __init__(self, address, *, workers, threads):
        assert (address, workers, threads) == (None, 2, 1)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def run(self, tasks):
        import ray.cloudpickle as pickle

        for task in reversed([pickle.loads(pickle.dumps(task)) for task in tasks]):
            yield from map(pickle.loads, [pickle.dumps(beat) for beat in task.run(Context())])


# ---- what they measure with ----


def test_curvature_is_the_largest_eigenvalue_and_the_gradient_exact():
    model = GaussianModel(steps=6, dim=3, dtype=torch.float64)
    objective = Objective(model.sampler(), Quadratic(2.0))
    noise = objective.sampler.init(3, seed=1)
    square, largest = smoothness.curvature(objective, noise, iterations=5)
    away = 2.0 - objective.sampler(noise)
    weight = model.weights.square().sum()
    torch.testing.assert_close(largest.double(), weight.expand(3), rtol=1e-5, atol=0)
    torch.testing.assert_close(square.double(), weight * away.square().sum(1), rtol=1e-6, atol=0)


def test_a_plain_step_on_a_quadratic_gains_what_theorem_1_says_and_falls_beyond_2_over_l():
    model = GaussianModel(steps=6, dim=3, dtype=torch.float64)
    objective = Objective(model.sampler(), Quadratic(2.0))
    noise = objective.sampler.init(3, seed=1)
    square, largest = (one.double() for one in smoothness.curvature(objective, noise, iterations=5))
    sizes = [times / largest[0].item() for times in (0.5, 1.0, 1.9, 2.5)]
    gains = smoothness.one_step(objective, noise, sizes)
    for size, gain in zip(sizes, gains, strict=True):
        torch.testing.assert_close(gain.double(), (size - size**2 * largest / 2) * square, rtol=1e-4, atol=1e-7)
    assert (gains[:3] > 0).all() and (gains[3] < 0).all()
    run = smoothness.ascend(objective, noise, size=sizes[0], steps=1)
    assert run["reward"][1] == pytest.approx([a + b for a, b in zip(run["reward"][0], gains[0].tolist(), strict=True)])


def test_the_bounds_drawn_are_the_librarys():
    z = (
        torch.randn(6, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        * torch.linspace(1, 2, 6)[:, None]
    )
    one, two = log_bounds(z, block=4, permutations=0)
    blocks = z.view(6, 16, 4)
    mean = blocks.mean(1).norm(dim=1)
    deviation = blocks.mT @ blocks / 16 - torch.eye(4, dtype=z.dtype)
    torch.testing.assert_close(concentration.log1(mean, 4, 16), one[:, 0])
    torch.testing.assert_close(concentration.log2(torch.linalg.matrix_norm(deviation, 2), 4, 16), two[:, 0])
    assert (two < 0).any(), "no bound below 1: nothing was compared"


def test_second_moments_have_the_law_of_gaussian_noise():
    k, m, count = 3, 20, 4000
    law = concentration.second_moments(count, k, m, torch.Generator().manual_seed(0)).sort().values
    blocks = torch.randn(count, m, k, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    direct = torch.linalg.eigvalsh(blocks.mT @ blocks / m - torch.eye(k, dtype=torch.float64)).abs().amax(1)
    below = torch.searchsorted(law, direct.sort().values) / count
    distance = (below - torch.arange(1, count + 1) / count).abs().max().item()
    assert distance < 1.95 * math.sqrt(2 / count)  # Smirnov, 0.1 %


@pytest.mark.parametrize("flaw", concentration.FLAWS)
def test_flawed_noise_keeps_its_shape_and_is_flawed(flaw):
    z = concentration.draw_noise(2, 0)
    made = concentration.FLAWS[flaw](z)
    assert made.shape == z.shape and torch.equal(made, z) == flaw.startswith("none")
    if "scaled" not in flaw and "zero" not in flaw:
        assert made.square().mean().item() == pytest.approx(1, abs=0.15), "it could be told by its norm alone"


def test_spikes_that_are_evenly_placed_pass_in_the_order_given():
    made = concentration.FLAWS["one in 64 is +-8, evenly placed"](concentration.draw_noise(1, 0)).view(-1, 4)
    assert (made.square().mean(0) == 1).all()


def test_the_ring_learns_and_its_samplers_are_what_they_say(tmp_path):
    data = ring_model.points(1000, torch.Generator().manual_seed(0))
    assert ring_model.inside(data, 1e-6).all() and data.mean(0).norm() < 0.1
    model = ring_model.Ring(10)
    first = ring_model.train(model, iterations=10, batch=64)
    assert ring_model.train(model, iterations=150, batch=64) < 0.9 * first
    assert model.sampler(eta=0.0).noise_shape == (1, 2)
    sampler = model.sampler()
    assert sampler.noise_shape == (11, 2) and sampler.layout.dead == ("step 10",)
    notebook = model.sampler(kind="notebook")
    noise = notebook.init(2, seed=0)
    far = noise.clone()
    far[:, 0] += 1.0  # with fresh noise at each step the start only passes through the denoiser
    assert (notebook(far) - notebook(noise)).norm() < (sampler(far) - sampler(noise)).norm()


def test_a_trained_ring_is_kept_and_found_again(tmp_path):
    a, b = (ring_model.ring(tmp_path, iterations=3, steps=5) for _ in range(2))
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
    assert len(list((tmp_path / "ring_model").iterdir())) == 1


def test_a_run_is_read_off_at_its_marks():
    objective = Objective(GaussianModel(steps=3).sampler(), Linear(1.0))
    start = objective.sampler.init(2, seed=0)
    first, bests = anytime(objective, start, optimizer=GradientAscent(lr=0.1), marks=[1e-9, 0.05, 0.2], seeds=[0, 1])
    assert torch.equal(bests[0].reward, first.evaluation.reward), "before the first move there is only the start"
    assert (bests[2].reward >= bests[1].reward).all() and (bests[2].reward > bests[0].reward).all()


def test_the_background_is_read_from_the_border():
    red = torch.tensor([218, 38, 38])[:, None, None] / 255
    picture = red.expand(3, 16, 16).clone()
    picture[:, 4:12, 4:12] = 0
    assert judge.right_background(picture[None].repeat(2, 1, 1, 1), ["red", "black"]) == [1.0, 0.0]


def test_captions_and_seeds_cover_each_noun_with_each_seed():
    captions, seeds = built_in.pairs(3, 2, color="black")
    assert len(set(captions)) == 3 and seeds == [1000, 1001] * 3
    assert all(caption.endswith("on a black background") for caption in captions)
    assert all(caption.split()[1] in stickers.nouns() for caption in captions)
