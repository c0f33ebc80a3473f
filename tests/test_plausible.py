"""Best means best among the plausible: what fails a test does not count, and a run that fails one backs off."""

from __future__ import annotations

import pytest
import torch

from noiseward import Budget, DiffusersSampler, GradientAscent, Objective, Plausible, Steady, Tilting, iterate, optimize
from noiseward.errors import ArgumentError, GradientError
from noiseward.loop.budget import Status
from noiseward.loop.optimizer import KNOWN
from noiseward.loop.plausible import Verdict
from noiseward.methods import choose_method, read_method
from noiseward.noise.layout import Seeds
from noiseward.optimizers.candidates import choose
from noiseward.optimizers.relay import Relay
from noiseward.optimizers.search import BestOfN, TrustRegion, ZeroOrderSearch
from noiseward.optimizers.zeroth_order import ZerothOrder
from noiseward.options.run import RunSpec, Settings
from noiseward.problem import Loaded, prepare
from noiseward.rewards.reward import FunctionReward
from noiseward.runs import execute, resume
from noiseward.runs.files import read_tensors
from noiseward.runs.resume_point import find_resume_point
from noiseward.runs.store import RunFolder
from noiseward.samplers import image_tests
from noiseward.samplers.cost import NFE, count_calls
from noiseward.samplers.image_tests import ImageTest
from noiseward.toys import GaussianModel, Linear, Quadratic
from tests.tiny import CALL, stable_diffusion

f64 = torch.float64
TESTS = Plausible(fresh=8, image=0.01)


def model(**changes):
    return GaussianModel(**{"steps": 6, "dim": 64, "dtype": f64, **changes}).sampler()


def problem(reward=None, plausible=TESTS, sampler=None):
    return Objective(sampler or model(), reward or Linear(1.0), plausible=plausible)


def run(objective, optimizer, rows=3, **budget):
    seeds = Seeds(tuple(range(40, 40 + rows)))
    start = objective.sampler.init(rows, seed=0)
    return list(iterate(objective, start, optimizer=optimizer, budget=Budget(**(budget or {"steps": 12})), seeds=seeds))


def passed(best, tests=TESTS):
    return bool(tests.passes(best.strict, best.image).all())


# ---- the loop ----


def test_the_best_passes_and_the_peak_is_what_was_highest():
    steps = run(problem(), GradientAscent(lr=0.1))
    last = steps[-1]
    assert passed(last.best) and not passed(last.peak)
    assert (last.peak.reward > last.best.reward).all() and (last.best.reward > steps[0].evaluation.reward).all()
    for step in steps:  # the pair law holds for both
        for best in (step.best, step.peak):
            for row, index in enumerate(best.index.tolist()):
                assert torch.equal(best.noise[row], steps[index].noise[row])
                assert best.reward[row] == steps[index].evaluation.reward[row]
                assert best.strict[row] == steps[index].verdict.strict[row]
    counted = [step.best.index.tolist() for step in steps]
    for row in range(3):
        allowed = [k for k, step in enumerate(steps) if passed_row(step, row)]
        highest = max(allowed, key=lambda k: steps[k].evaluation.value[row].item())
        assert counted[-1][row] == highest


def passed_row(step, row):
    verdict = step.verdict
    return bool(TESTS.passes(verdict.strict, verdict.image)[row]) and not verdict.image[row].lt(0)


def test_without_tests_the_best_is_the_highest():
    steps = run(problem(plausible=None), GradientAscent(lr=0.3))
    assert steps[-1].verdict is None and steps[-1].peak is None and steps[-1].best.strict.lt(0).all()
    assert steps[-1].best.index.tolist() == [12] * 3
    assert "strict" not in steps[-1].record()


def test_a_start_that_fails_is_the_best_until_something_passes():
    objective = problem(Linear(-1.0))  # back to where noise is plausible
    start = objective.sampler.init(2, seed=0) + 0.8
    steps = list(iterate(objective, start, optimizer=GradientAscent(lr=0.1), budget=Budget(steps=14)))
    assert not TESTS.passes(steps[0].best.strict, steps[0].best.image).any()
    first = next(k for k, step in enumerate(steps) if passed_row(step, 0))
    assert first > 0 and {step.best.index[0].item() for step in steps[:first]} == {0}
    assert steps[first].best.index[0] == first


def test_only_what_would_be_the_best_is_tested_and_counted():
    objective = problem()
    steps = run(objective, GradientAscent(lr=0.3), steps=8)
    for before, step in zip(steps, steps[1:], strict=False):
        could = (step.evaluation.value > before.best.value) & (step.verdict.strict >= TESTS.strict)
        assert torch.equal(step.verdict.image >= 0, could)
        calls = 6 * (1 + bool(could.any()))
        assert step.spent.forward == calls
        assert step.record()["image"] == [None if p < 0 else p for p in step.verdict.image.tolist()]


def test_a_target_counts_when_it_is_reached_by_a_plausible_image():
    steps = run(problem(), GradientAscent(lr=0.3), steps=12, reward=60.0)
    assert (steps[-1].peak.reward > 60).all() and Status.REWARD not in steps[-1].status
    modest = run(problem(), GradientAscent(lr=0.05), steps=12, reward=steps[0].evaluation.reward.max().item() + 1)
    assert modest[-1].status == (Status.REWARD,) * 3


def test_rows_do_not_depend_on_their_batch():
    objective, start = problem(), model().init(3, seed=0)
    for optimizer in (GradientAscent(lr=0.3), Steady(GradientAscent(lr=0.3)), Tilting(chunk=2)):
        together = list(iterate(objective, start, optimizer=optimizer, budget=Budget(steps=6), seeds=Seeds((1, 2, 3))))
        alone = list(iterate(objective, start[1:2], optimizer=optimizer, budget=Budget(steps=6), seeds=Seeds((2,))))
        for one, other in zip(together, alone, strict=True):
            torch.testing.assert_close(one.best.noise[1:2], other.best.noise, rtol=1e-9, atol=1e-9)
            torch.testing.assert_close(one.best.image[1:2], other.best.image, rtol=1e-6, atol=0, equal_nan=True)


def test_a_sampler_without_an_image_test_is_held_to_the_strict_one():
    steps = run(problem(sampler=model(steps=2)), GradientAscent(lr=0.3))
    assert steps[-1].best.image.lt(0).all() and (steps[-1].best.strict >= TESTS.strict).all()
    assert (steps[-1].peak.strict < TESTS.strict).all()
    few = problem(sampler=model(steps=2))
    solution = optimize(few, few.sampler.init(1), optimizer=GradientAscent(lr=0.1), budget=Budget(steps=1))
    assert solution.untested == "the image test needs a sampler of at least 3 steps, got 2"
    assert f"images were not tested, their noise alone was: {solution.untested}" in repr(solution)
    assert optimize(problem(), model().init(1), optimizer=BestOfN(2), budget=Budget(steps=1)).untested is None


@pytest.mark.parametrize("method", ["dno:lr=0.3", "ntrk", "zero-order:samples=2", "pcnl:best_of=2", "walk:best_of=2"])
def test_a_resumed_run_is_the_run_that_never_stopped(tmp_path, method):
    stable_diffusion().save_pretrained(tmp_path / "model")
    asked = {"model": str(tmp_path / "model"), "prompt": ["a", "b"], "reward": ["brightness"], "method": method}
    spec = RunSpec(**asked, call={**CALL, "num_inference_steps": 4}, steps=2, watch=())
    execute(spec, tmp_path / "run", quiet=True)
    resume(tmp_path / "run", steps="4", quiet=True)
    whole = execute(spec.replace(steps=4), tmp_path / "whole", quiet=True)
    for name in ("best", "peaks", "latest"):
        one, other = (read_tensors(tmp_path / folder / f"{name}.safetensors")[0] for folder in ("run", "whole"))
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)
    assert whole.last.peak is not None


def test_a_resumed_run_has_its_state_where_its_noise_is(tmp_path):
    stable_diffusion().save_pretrained(tmp_path / "model")
    spec = RunSpec(model=str(tmp_path / "model"), reward=["brightness"], prompt=["a"], method="dno", steps=1, watch=())
    execute(spec.replace(call={**CALL, "num_inference_steps": 4}), tmp_path / "run", quiet=True)
    stood = find_resume_point(RunFolder(tmp_path / "run"), torch.device("meta"))
    assert {"ascent.update.exp_avg", "center", "scale"} <= stood.place.state.keys()
    assert all(part.is_meta for part in (stood.place.noise, *stood.place.state.values()))


def test_fresh_samples_take_time_but_are_no_part_of_the_pace(monkeypatch):
    """Half of the time goes into them; what is left is spent on steps."""
    toy, at = GaussianModel(steps=6, dim=64), [0.0]
    forward = toy.forward

    def tick(x, alpha):
        at[0] += 1
        return forward(x, alpha)

    monkeypatch.setattr(toy, "forward", tick)
    monkeypatch.setattr(image_tests.time, "monotonic", lambda: at[0])
    objective = problem(sampler=toy.sampler())
    start = objective.sampler.init(1)
    at[0] = 0.0
    made = iterate(objective, start, optimizer=Tilting(), budget=Budget(seconds=120), clock=lambda: at[0])
    steps = list(made)
    assert objective.image_test.seconds == 24 and steps[0].pace[0] == steps[0].seconds - 24
    assert steps[-1].status == (Status.SECONDS,) and steps[-1].seconds <= 120 and steps[-1].index >= 3


def test_a_run_of_no_steps_makes_no_fresh_samples():
    objective = problem()
    (step,) = run(objective, Steady(GradientAscent(lr=0.3)), steps=0)
    assert step.spent == NFE(6) and step.best.image.lt(0).all() and objective.image_test.seconds == 0


def test_runs_of_one_model_share_its_fresh_samples():
    pipe, loaded = stable_diffusion(), Loaded()
    settings = Settings(steps=1, call={**CALL, "num_inference_steps": 4})
    one, two, other = (
        prepare(pipe, "a", "brightness", settings, method=method, loaded=loaded)
        for method in ("dno", "ntrk", "dno:guard=plausible:fresh=5")
    )
    assert one.objective.image_test is two.objective.image_test is not other.objective.image_test
    assert len(other.objective.image_test.seeds) == 5


def test_levels_are_probabilities():
    with pytest.raises(ArgumentError, match=r"strict must be in \[0, 1\), got -1"):
        Plausible(strict=-1.0)
    assert choose_method("dno:guard=plausible:image=0.05", Linear(1.0)).plausible == Plausible(image=0.05)
    assert choose_method("dno", Linear(1.0)).plausible == Plausible()
    assert choose_method("dno:guard=none", Linear(1.0)).plausible is None
    assert choose_method("best-of-n", Linear(1.0)).plausible is None
    assert problem(plausible=Plausible(image=0.0)).image_test is None


# ---- optimizers that back off ----


def test_steady_ascent_takes_back_what_does_not_pass_and_ends_higher_for_it():
    loose = optimize(problem(), model().init(3), optimizer=GradientAscent(lr=0.3), budget=Budget(steps=30))
    steady = optimize(problem(), model().init(3), optimizer=Steady(GradientAscent(lr=0.3)), budget=Budget(steps=30))
    assert passed(loose.last.best) and passed(steady.last.best)
    assert (steady.gain > loose.gain).all()


def test_steady_ascent_makes_the_steps_of_its_optimizer_while_they_succeed():
    plain = run(problem(plausible=None), GradientAscent(lr=1e-3), steps=1)
    steady = run(problem(), Steady(GradientAscent(lr=1e-3)), steps=1)
    torch.testing.assert_close(steady[1].noise, plain[1].noise)
    untested = run(problem(plausible=None), Steady(GradientAscent(lr=0.3)), steps=4)
    assert torch.equal(untested[-1].noise, run(problem(plausible=None), GradientAscent(lr=0.3), steps=4)[-1].noise)


def test_a_row_that_nothing_more_is_gained_for_settles():
    """The optimum of a quadratic inside the allowed set, and a reward that is flat at the start."""
    objective = problem(Quadratic(0.5))
    steps = run(objective, Steady(GradientAscent(lr=0.05)), steps=200)
    assert steps[-1].status == (Status.SETTLED,) * 3 and steps[-1].index < 200
    flat = run(problem(FunctionReward(lambda x: 0 * x.sum(1), name="flat")), Steady(GradientAscent(lr=0.05)), steps=9)
    assert flat[-1].status == (Status.SETTLED,) * 3 and flat[-1].index == 0


def test_a_flat_step_of_a_random_direction_does_not_settle_a_row():
    """A reward in steps: some candidates of an estimator score all the same, and later ones do not."""
    stairs = FunctionReward(lambda x: (x.mean(1) * 20).floor(), differentiable=False, name="stairs")
    steps = run(problem(stairs), Steady(GradientAscent(ZerothOrder(2, 0.2), lr=0.02)), rows=6, steps=4)
    assert steps[-1].index == 4 and Status.SETTLED not in steps[-1].status
    moved = [(step.noise != steps[0].noise).flatten(1).any(1) for step in steps]
    assert not moved[1].all() and moved[-1].sum() > moved[1].sum()


def test_steady_ascent_begins_with_its_optimizers_own_step_wherever_it_begins():
    ascent = Steady(GradientAscent(lr=1e-3))
    objective, noise = problem(), model().init(2)
    first, later = (ascent.step(objective, noise, {}, Seeds((0, 1)).at(step)) for step in (0, 8))
    assert torch.equal(first.noise, later.noise) and (later.state["scale"] == 1).all()


def test_noise_that_would_fail_the_strict_test_is_never_sampled():
    for step in run(problem(), Steady(GradientAscent(lr=3.0)), steps=10):
        assert (step.verdict.strict >= TESTS.strict).all()


def test_tilting_never_falls_and_what_it_finds_passes():
    steps = run(problem(), Tilting(), steps=10)
    values = torch.stack([step.evaluation.value for step in steps])
    assert (values.diff(dim=0) >= -1e-9).all() and (values[-1] > values[0]).all()
    assert all(passed(step.best) for step in steps)


def test_the_share_shrinks_where_the_tests_fail_and_grows_elsewhere():
    """Two rows that ask for what is there, and for what the model never makes."""
    far = FunctionReward(lambda x: x.sum(1), name="sum")
    objective = problem(far, plausible=Plausible(fresh=8, image=0.2))
    states = [step.state for step in run(objective, Tilting(0.1), steps=16)[:-1]]
    fresh, turned = (torch.stack([state[name] for state in states]).diff(dim=0) for name in ("share", "turned_share"))
    for changes in (fresh, turned):
        assert (changes > 0).any()
    assert ((fresh < 0) | (turned < 0)).any() and not ((fresh != 0) & (turned != 0)).any()  # one kind of run at a time


def test_a_step_of_tilting_costs_a_guided_run_with_a_gradient_and_its_tests():
    objective, start = problem(), model().init(2)
    objective.image_test.calibrate(None)
    with count_calls() as meter:
        move = Tilting().step(objective, start, {}, Seeds((0, 1)).at(0))
    tested = bool((move.state["image"] >= 0).any())
    assert meter.nfe == NFE(6 * (1 + 1 + tested), 6)
    with count_calls() as meter:  # what is known of the noise is not found out again
        again = Tilting().step(objective, move.noise, move.state, Seeds((0, 1)).at(1))
    assert meter.nfe.forward <= 6 * 3 and again.verdict is not None
    verdict = objective.test(move.noise, None, torch.ones(2, dtype=torch.bool))
    torch.testing.assert_close(again.verdict.image, verdict.image)


def test_tilting_that_keeps_the_seed_keeps_its_first_draw():
    objective = problem()
    start = objective.sampler.init(3, seed=0)
    for step in run(objective, Tilting(keep_seed=True), steps=8):
        assert torch.equal(step.noise[:, 0], start[:, 0])
    assert not torch.equal(run(objective, Tilting(), steps=8)[-1].noise[:, 0], start[:, 0])


def test_what_tilting_cannot_do_is_said_before_anything_is_computed():
    black = FunctionReward(lambda x: x.sum(1), differentiable=False, name="black")
    with pytest.raises(GradientError, match="'black' is a black box"):
        Tilting().check(problem(black))
    with pytest.raises(ArgumentError, match="needs noise at the sampler's steps"):
        Tilting().check(problem(sampler=model(eta=0.0)))
    with pytest.raises(ArgumentError, match=r"share must be in \(0, 0.4\], got 0.9"):
        Tilting(0.9)


@pytest.mark.parametrize("optimizer", [ZeroOrderSearch(4, 0.8), TrustRegion(4, 2)])
def test_searches_choose_among_candidates_that_pass(optimizer):
    steps = run(problem(), optimizer, steps=12)
    assert all(passed(step.best) for step in steps)
    assert (steps[-1].evaluation.value == steps[-1].best.value).all()  # they did not go where the best is not


def test_candidates_that_would_be_chosen_are_tested_the_best_first():
    objective, noise = problem(), model().init(1)
    values = torch.tensor([[5.0, 4.0, 3.0, 2.0, 0.0]])
    asked = []

    def make(row, i):
        asked.append(i)
        return noise[row]

    def answer(strict):
        objective.rows = lambda rows: objective
        objective.test = lambda *_: Verdict(torch.tensor([strict], dtype=f64), torch.tensor([0.5], dtype=f64))

    answer(1.0)
    choice = choose(objective, noise, torch.tensor([1.0]), values, make)
    assert torch.equal(choice.values, values) and asked == [0] and choice.image.item() == 0.5
    answer(0.0)
    choice = choose(objective, noise, torch.tensor([1.0]), values, make)
    assert asked == [0, 0, 1, 2] and choice.values.tolist() == [[-torch.inf] * 4 + [0.0]]
    assert choice.value.item() == 1.0 and choice.image.item() == choice.own.item() == -1.0


def test_noise_in_doubt_is_tested_where_it_would_be_chosen_and_gives_way_where_it_fails():
    objective, start = problem(), model().init(1)
    values = torch.tensor([[0.5, 0.8]])

    def make(row, i):
        return start[row] + 1 + i

    objective.rows = lambda rows: objective
    objective.test = lambda noise, *_: Verdict(torch.ones(1, dtype=f64), (noise[:, 0, 0] != start[:, 0, 0]).double())
    cases = (
        (1.0, True, None, True), (1.0, False, None, False), (0.7, True, None, True),
        (1.0, True, 0.9, False), (1.0, True, 0.0, True), (1.0, False, 0.0, True),
    )  # fmt: skip
    for value, doubt, known, gives_way in cases:
        said = None if known is None else torch.tensor([known], dtype=f64)
        choice = choose(objective, start, torch.tensor([value]), values, make, known=said, doubt=doubt)
        expected = make(0, 1) if gives_way else start[0]
        assert torch.equal(choice.select(start, make)[0], expected), (value, doubt, known)


@pytest.mark.parametrize(
    "optimizer", [BestOfN(9), TrustRegion(9, 3), Relay(BestOfN(9), Steady(GradientAscent(lr=0.1)))]
)
def test_luck_is_held_to_the_tests_and_what_they_said_is_not_found_out_again(optimizer):
    """Half of all fresh samples fail here, the seed's own among them."""
    tests = Plausible(fresh=8, image=0.5)
    steps = run(problem(plausible=tests), optimizer, rows=16, steps=3)
    first = steps[0].best
    assert (first.image >= 0).any() and ((first.image >= 0) & ~tests.passes(first.strict, first.image)).any()
    assert all(passed(step.best, tests) and (step.best.image >= 0).all() for step in steps[1:])
    assert (steps[1].verdict.image == steps[0].state[KNOWN]).all()  # a row may have failed, and its noise stayed
    lower = steps[1].evaluation.value < steps[0].evaluation.value
    assert lower.any() and not tests.passes(first.strict, first.image)[lower].any()


def test_a_pipelines_run_is_tested():
    sampler = DiffusersSampler(stable_diffusion(), **{**CALL, "num_inference_steps": 4, "eta": 1.0})
    objective = Objective(sampler, FunctionReward(lambda x: x.flatten(1).mean(1), name="light"), "a", plausible=TESTS)
    assert isinstance(objective.image_test, ImageTest)
    steps = list(iterate(objective, sampler.init(2), optimizer=Tilting(), budget=Budget(steps=2)))
    assert not steps[-1].best.image.lt(0).any() and objective.image_test.trouble is None


def test_the_papers_settings_have_a_name():
    assert read_method("dno:paper").text == "dno:lr=0.01,guard=concentration:weight=1.0"
    assert read_method("dno:paper,best_of=4,project=norm").text.startswith(
        "dno:lr=0.01,project=norm,best_of=4,guard=con"
    )
    method = choose_method("dno:paper", Linear(1.0))
    assert method.plausible is None and method.regularizer.weight == 1.0
    with pytest.raises(ArgumentError, match="method 'dno': coarse needs a value; give dno:coarse=..."):
        read_method("dno:coarse")


def test_the_methods_are_registered():
    assert read_method("ntrk:0.05").text == "ntrk:share=0.05,keep_seed=false,chunk=16"
    assert isinstance(choose_method("ntrk:0.05", Linear(1.0)).optimizer, Tilting)
