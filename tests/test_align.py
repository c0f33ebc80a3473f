"""The front door: names, pipelines, prompts and budgets to a solution."""

from __future__ import annotations

import json
import math
import warnings

import pytest
import torch
from safetensors.torch import load_file

from noiseward import (
    ArgumentError,
    DiffusersSampler,
    FunctionReward,
    FunctionSampler,
    GradientAscent,
    GradientError,
    Hybrid2,
    Method,
    ModelError,
    NoisewardWarning,
    Objective,
    ZeroOrderSearch,
    align,
    optimize,
)
from noiseward.loop.budget import Budget, Status
from noiseward.loop.describe import SUSPECT
from noiseward.noise.project import NormProjection
from noiseward.noise.regularize import Shell
from noiseward.toys import GaussianModel, Quadratic
from tests.tiny import CALL, stable_diffusion


@pytest.fixture(scope="module")
def pipe():
    return stable_diffusion()


def test_prompts_times_seeds_in_one_batch(pipe):
    solution = align(pipe, ["a", "b"], "brightness", batch=2, seed=3, steps=2, progress=False, **CALL)
    stock = [
        pipe(prompt, eta=1.0, generator=torch.Generator().manual_seed(seed), output_type="pt", **CALL).images
        for prompt in ("a", "b")
        for seed in (3, 4)
    ]
    torch.testing.assert_close(solution.initial.sample, torch.cat(stock), rtol=0, atol=1e-4)
    assert (solution.gain > 0).all()


def test_the_solution_is_what_its_noise_gives(pipe):
    solution = align(pipe, "a", "contrast", steps=3, method="dno:guard=none", progress=False, **CALL)
    sample = DiffusersSampler(pipe, eta=1.0, **CALL)(solution.noise, "a")
    assert torch.equal(sample, solution.sample)
    assert [record["index"] for record in solution.history] == [0, 1, 2, 3]
    assert solution.history[int(solution.index[0])]["reward"][0] == solution.reward[0].item()
    assert solution.nfe.forward == 4 * 4
    assert solution.status == (Status.STEPS,)


def test_a_sampler_and_a_reward_of_ones_own():
    model = GaussianModel(steps=4)
    solution = align(
        model.sampler(), None, Quadratic(1.0), batch=2, steps=40, method="dno:lr=0.1,guard=none", progress=False
    )
    assert (solution.reward > -0.01).all()
    assert "row 1: reward" in repr(solution)


def test_guards_by_name_are_the_guards(pipe):
    by_name = "dno:lr=0.3,guard=shell:0.5,project=norm"
    by_class = Method(GradientAscent(lr=0.3, project=(NormProjection(),)), Shell(0.5))
    named, built = (
        align(pipe, "a", "brightness", steps=3, method=method, progress=False, **CALL) for method in (by_name, by_class)
    )
    assert named.history[-1]["penalty"] == built.history[-1]["penalty"] != [0.0]
    assert torch.equal(named.noise, built.noise)
    sizes = named.noise[0].flatten(1).norm(dim=1) / math.sqrt(named.noise[0, 0].numel())
    assert (named.index > 0).all() and torch.allclose(sizes[:-1], torch.ones(len(sizes) - 1))  # the last is dead


def test_a_target_for_the_probability_holds_and_shows(pipe):
    free, held = (
        align(pipe, "a", "brightness", steps=12, method=f"dno:lr=0.2,guard={guard}", progress=False, **CALL)
        for guard in ("none", "concentration:target=0.2")
    )
    assert free.probability[0] < 0.01 and free.strict_probability[0] < SUSPECT
    assert f"strict P(z) {free.strict_probability[0]:.1g} ({free.suspect[0]})" in repr(free)
    assert held.probability[0] >= 0.2 and held.gain.item() > 0


def test_a_function_and_a_mapping_as_reward(pipe):
    red = FunctionReward(lambda images: images[:, 0].mean((1, 2)), name="red")
    blue = FunctionReward(lambda images: images[:, 2].mean((1, 2)), name="blue")
    solution = align(pipe, "a", {red: 1.0, blue: -1.0}, steps=2, progress=False, **CALL)
    assert set(solution.history[0]["terms"]) == {"red", "blue"}
    assert align(pipe, "a", lambda images: images.mean((1, 2, 3)), steps=1, progress=False, **CALL).gain.item() > 0


def test_a_target_ends_the_run_early(pipe):
    start = align(pipe, "a", "brightness", steps=0, progress=False, **CALL).reward.item()
    solution = align(pipe, "a", "brightness", steps=20, target=start + 1e-3, progress=False, **CALL)
    assert solution.status == (Status.REWARD,)
    assert 1 < len(solution.history) < 20


def test_ctrl_c_keeps_the_best_so_far(pipe, ctrl_c):
    calls = []

    def interrupt(images):
        calls.append(1)
        if len(calls) == 4:
            ctrl_c()
        return images.mean((1, 2, 3))

    solution = align(pipe, "a", interrupt, method="dno", steps=50, progress=False, **CALL)
    assert solution.status == (Status.INTERRUPTED,)
    assert len(solution.history) == 3
    assert solution.gain.item() > 0


def test_a_solution_is_saved_whole(pipe, tmp_path):
    solution = align(pipe, "a", "brightness", batch=2, steps=2, progress=False, **CALL)
    folder = solution.save(tmp_path / "out")
    names = {str(path.relative_to(folder)) for path in folder.rglob("*.*")}
    pictures = {f"{which}/{row:02d}.png" for which in ("initial", "best") for row in (0, 1)}
    frames = {f"frames/{step:05d}-{row:02d}.png" for step in range(3) for row in (0, 1)}
    tensors = {f"{name}.safetensors" for name in ("initial", "best", "peaks")}
    plain = {"about.json", "status.json", "steps.jsonl", "strip.png", "plot.png"}
    assert names == pictures | frames | tensors | plain
    assert torch.equal(load_file(folder / "best.safetensors")["noise"], solution.noise)
    assert [json.loads(line) for line in (folder / "steps.jsonl").read_text().splitlines()] == solution.history
    with pytest.raises(ArgumentError, match="expected a new or empty folder"):
        solution.save(folder)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"steps": -1}, "steps must be >= 0, got -1"),
        ({"seconds": -0.5}, "seconds must be >= 0, got -0.5"),
        ({"seconds": math.nan}, "seconds must be finite, got nan"),
        ({"eta": 2}, "eta must be <= 1, got 2"),
        ({"guidance_scale": math.inf}, "guidance_scale must be finite, got inf"),
        ({"steps": True}, "steps must be a number, got True"),
        ({"memory": "lo"}, "memory must be one of .*, got 'lo'"),
        ({"batch": 0}, "batch must be >= 1, got 0"),
        ({"method": "dno:lr=0"}, "method 'dno': lr must be > 0, got '0'"),
        ({"lr": 0.1}, "lr is an argument of the method now; use method='dno:lr=0.1'"),
        ({"step": 3}, "no argument 'step'; did you mean 'steps'?"),
        ({"stpes": 3}, "no argument 'stpes'; did you mean 'steps'?"),
        ({"prompt": 3}, "prompt must be text, a list of texts, or None, got 3"),
        ({"prompt": ["a", 3]}, r"prompt must be .*, got \['a', 3\]"),
        ({"reward": 3}, "reward must be a name, .*, got 3"),
        ({"reward": ["brightness", 3]}, r"reward must be a name, .*, got 3"),
        ({"reward": {"brightness": "x"}}, "the weight of reward 'brightness' must be a number, got 'x'"),
        ({"call": 3}, "call must be a table of names and values, got 3"),
        ({"prompt": []}, "expected at least one prompt, got none"),
        ({"reward": []}, "expected a reward, got none"),
        ({"reward": "shine"}, "unknown reward 'shine'"),
        ({"method": "dno:guard=concentrate"}, "unknown guard 'concentrate'; .*concentration"),
        ({"method": "dno:guard=concentration:-1"}, "weight must be a number >= 0, got -1.0"),
        ({"method": "dno:guard=concentration:target=2"}, "min_probability must be between 0 and 1, got 2"),
        ({"method": "dno:guard=concentration:block=7"}, "block must divide"),
        ({"method": "dno:project=whiten"}, "unknown projection 'whiten'"),
        ({"method": "best-of-n:project=norm"}, "method 'best-of-n' has no argument 'project'"),
    ],
)
def test_bad_input_is_one_line(pipe, options, says):
    arguments = {"prompt": "a", "reward": "brightness", **CALL, **options}
    with pytest.raises(ArgumentError, match=says) as caught:
        align(pipe, arguments.pop("prompt"), arguments.pop("reward"), progress=False, **arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("method", [GradientAscent(), "dno:estimator=backprop"])
def test_asking_for_a_gradient_that_is_not_there_names_the_alternatives_before_anything_is_sampled(pipe, method):
    with pytest.raises(GradientError, match="'jpeg' is a black box.*Hybrid2, Hybrid1 or ZerothOrder, or search"):
        align(pipe, "a", ["brightness", "jpeg"], method=method, progress=False, **CALL)


def test_a_mapping_takes_names_and_none_watches_nothing(pipe):
    weights = {"brightness": 1.0, "contrast": 0.5}
    solution = align(pipe, "a", weights, steps=0, watch="none", progress=False, **CALL)
    assert list(solution.initial.terms) == ["brightness", "contrast"] and "watched" not in solution.history[0]


def test_a_reward_without_a_gradient_is_searched_and_a_line_says_so(pipe, capsys):
    solution = align(pipe, "a", ["brightness", "jpeg"], steps=1, **CALL)
    says = capsys.readouterr().err.splitlines()[0]
    what = "auto: trust regions around the best of 9 noises, since reward '1 brightness + 1 jpeg' has no gradient"
    assert says == what == solution.method and f"  {what}" in repr(solution).splitlines()
    assert solution.nfe.backward == 0 and solution.nfe.forward >= 11 * 4
    align(pipe, "a", "jpeg", steps=0, method="dno:estimator=hybrid1", **CALL)
    assert "has no gradient" not in capsys.readouterr().err


@pytest.mark.parametrize("method", ["dno", "dno:lr=0.05", "dno:project=norm", "dno:best_of=2"])
def test_dno_without_a_gradient_estimates_one_by_hybrid_2(pipe, capsys, method):
    method += ",guard=none" if ":" in method else ":guard=none"
    solution = align(pipe, "a", "jpeg", steps=2, method=method, **CALL)
    assert "has no gradient" not in capsys.readouterr().err
    moves = 2 - ("best_of" in method)
    assert (solution.nfe.forward, solution.nfe.backward) == ((17 * moves + 3 * (2 - moves) + 1) * 4, 4 * moves)


def test_estimators_and_searches_by_name_are_those_of_their_classes(pipe):
    for pair in (
        ("dno:guard=none,estimator=hybrid2:samples=2,scale=0.1", GradientAscent(Hybrid2(2, 0.1))),
        ("zero-order:samples=2,cosine=0.5,guard=none", ZeroOrderSearch(2, 0.5)),
    ):
        one, two = (align(pipe, "a", "jpeg", steps=2, method=how, progress=False, **CALL).last.noise for how in pair)
        assert torch.equal(one, two)


def test_arguments_next_to_a_sampler_are_refused():
    with pytest.raises(ArgumentError, match="expected a pipeline or a name with eta, got a sampler"):
        align(GaussianModel().sampler(), None, Quadratic(0.0), eta=1.0)


@pytest.mark.parametrize(
    "how", [{}, {"method": "best-of-n:samples=2"}, {"method": "dno:coarse=2"}], ids=["", "search", "coarse"]
)
def test_inside_inference_mode_it_is_the_same(pipe, how):
    call = {"steps": 2, "progress": False, **CALL, **how}
    plain = align(pipe, "a", "brightness", **call)
    with torch.inference_mode():
        solution = align(pipe, "a", "brightness", **call)
        assert torch.is_inference_mode_enabled()
    assert torch.equal(solution.noise, plain.noise) and torch.equal(solution.sample, plain.sample)
    assert not solution.noise.is_inference() and solution.gain.item() > 0


def test_parts_made_inside_inference_mode_do_as_well():
    with torch.inference_mode():
        model = GaussianModel(steps=4)
        sampler = model.sampler()
        start = sampler.init(2)
        objective = Objective(sampler, Quadratic(1.0))
        inside = optimize(objective, start, optimizer=GradientAscent(lr=0.1), budget=Budget(steps=5))
        assert sampler(start).shape == (2, 2)
        foreign = start * 1.0
    assert foreign.is_inference() and not start.is_inference()
    outside = optimize(objective, foreign, optimizer=GradientAscent(lr=0.1), budget=Budget(steps=5))
    assert torch.equal(inside.noise, outside.noise) and (inside.gain > 0).all()


def picky(batch, prompt):
    """Some pipelines fail on an empty prompt, and draw otherwise for other lengths."""
    if not all(prompt):
        raise ValueError("an empty prompt")
    return torch.randn(batch, 2) + sum(torch.randn(batch, 2) for _ in prompt[0].split())


@pytest.mark.parametrize("method", [None, "best-of-n:samples=2"])
def test_the_draws_are_found_out_with_the_prompt_that_is_used(method):
    seen = []

    def fn(batch, prompt):
        seen.extend(prompt)
        return picky(batch, prompt)

    reward = FunctionReward(lambda sample: sample.mean(1), name="mean")
    solution = align(FunctionSampler(fn), "two words", reward, batch=2, steps=2, method=method, progress=False)
    assert set(seen) == {"two words"} and len(solution.layout) == 3 and (solution.gain >= 0).all()


def test_an_objective_tells_its_sampler_the_prompt_and_so_can_anyone():
    sampler = FunctionSampler(picky)
    Objective(sampler, Quadratic(1.0), ["one", "another"])
    assert sampler.noise_shape == (2, 2)
    sampler = FunctionSampler(picky)
    with pytest.raises(ValueError, match="an empty prompt"):
        sampler.init()
    sampler.expect("now three words")
    assert sampler.init(2).shape == (2, 4, 2)


def test_a_pipeline_that_fails_without_a_prompt_says_how_to_give_one_and_is_driven_with_it(pipe, monkeypatch):
    own = type(pipe).check_inputs

    def check(self, prompt, *args, **kwargs):
        if not all([prompt] if isinstance(prompt, str) else prompt):
            raise ValueError("the prompt is empty")
        own(self, prompt, *args, **kwargs)

    monkeypatch.setattr(type(pipe), "check_inputs", check)
    sampler = DiffusersSampler(pipe, eta=1.0, **CALL)
    with pytest.raises(ModelError, match=r"the prompt is empty .with an empty prompt; call expect.prompt. first"):
        sampler.init()
    assert align(sampler, "a", "brightness", steps=1, progress=False).gain.item() > 0
    for how in ({"method": "dno:coarse=2"}, {"memory": "auto"}):
        assert align(pipe, "a", "brightness", steps=2, progress=False, **how, **CALL).gain.item() > 0


@pytest.mark.parametrize(
    ("sampler", "options", "says"),
    [
        (
            "function",
            {"memory": "low"},
            "memory= is for pipelines, got a FunctionSampler; .* recompute=True and denoiser=",
        ),
        (
            "pipeline",
            {"memory": "low"},
            "memory= is for pipelines, got a DiffusersSampler; set it where the sampler is",
        ),
        (
            "function",
            {"method": "dno:coarse=2"},
            "coarse= needs a diffusers pipeline with DDIM and eta=1, got a FunctionSampler; leave",
        ),
    ],
)
def test_what_a_sampler_has_no_use_for_is_refused_with_advice_that_applies(pipe, sampler, options, says):
    made = GaussianModel(steps=4).sampler() if sampler == "function" else DiffusersSampler(pipe, **CALL)
    with pytest.raises(ArgumentError, match=says) as caught:
        align(made, "a", "brightness", progress=False, **options)
    assert "\n" not in str(caught.value)


def test_a_search_settles_its_memory_without_a_gradient_of_the_model(pipe, monkeypatch):
    monkeypatch.setattr(pipe.unet, "forward", torch.no_grad()(pipe.unet.forward))
    black = FunctionReward(lambda images: images.mean((1, 2, 3)), differentiable=False, name="black")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NoisewardWarning)
        solution = align(pipe, "a", black, memory="auto", steps=2, progress=False, **CALL)
    assert solution.nfe.backward == 0


def test_a_batch_that_a_pipeline_cannot_take_goes_row_by_row(pipe, monkeypatch):
    own = type(pipe).check_inputs

    def check(self, prompt, *args, **kwargs):
        if len(prompt) > 1:
            raise ValueError("a list of prompts is not supported")
        own(self, prompt, *args, **kwargs)

    plain = [align(pipe, "a", "brightness", seed=seed, steps=2, progress=False, **CALL) for seed in (0, 1)]
    monkeypatch.setattr(type(pipe), "check_inputs", check)
    with pytest.warns(
        NoisewardWarning, match="StableDiffusionPipeline: it fails with a batch of 2 .*one at a time"
    ) as said:
        solution = align(pipe, "a", "brightness", batch=2, steps=2, progress=False, **CALL)
    assert len(said) == 1
    assert torch.equal(solution.noise, torch.cat([one.noise for one in plain]))
