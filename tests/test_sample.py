"""FunctionSampler: any function that draws with torch, found out once and then a function of its noise."""

import functools

import numpy
import pytest
import torch
from torch import nn

from noiseward import align
from noiseward.errors import ArgumentError, DrawMismatch, NoisewardWarning, TapeError
from noiseward.samplers.cost import NFE, count_calls
from noiseward.samplers.function import FunctionSampler
from noiseward.samplers.sampler import expand_prompts

f64 = torch.float64


def rows(sampler, noise, prompt=None):
    """The samples of each row alone."""
    return torch.cat([sampler(noise[row : row + 1], prompt and prompt[row]) for row in range(noise.shape[0])])


def count_letters(prompt):
    return torch.tensor([[float(len(text))] for text in prompt], dtype=f64)


def batch_and_prompt(batch, prompt):
    return torch.randn(batch, 3, dtype=f64) * count_letters(prompt) + torch.randn(batch, 3, dtype=f64)


def prompt_alone(prompt):
    return torch.randn(1, 3, dtype=f64) * count_letters(prompt) + torch.randn(1, 3, dtype=f64)


def batch_alone(batch):
    return torch.randn(batch, 3, dtype=f64) + 2 * torch.randn(batch, 3, dtype=f64)


def no_batch():
    return torch.randn(3, dtype=f64) + 2 * torch.randn(3, dtype=f64)


def leading_one():
    return torch.randn(1, 3, dtype=f64) + 2 * torch.randn(1, 3, dtype=f64)


def mixed_axes():
    return torch.randn(1, 3, dtype=f64) + 2 * torch.randn(3, dtype=f64)


def shared_draw(batch):
    """The second draw is one for all rows: its leading 1 is no batch axis."""
    return torch.randn(batch, 3, dtype=f64) + 2 * torch.randn(1, 3, dtype=f64)


def doubled_draw(batch):
    """Classifier-free doubling: the second draw has two entries per row."""
    first, second = torch.randn(2 * batch, 3, dtype=f64).chunk(2)
    return torch.randn(batch, 3, dtype=f64) + first + 2 * second


def channels_first(batch):
    return torch.randn(3, batch, dtype=f64).T + 2 * torch.randn(batch, 3, dtype=f64)


FUNCTIONS = [
    batch_and_prompt, prompt_alone, batch_alone, no_batch, leading_one, mixed_axes, shared_draw, doubled_draw,
    channels_first,
]  # fmt: skip


@pytest.mark.parametrize("fn", FUNCTIONS)
def test_each_row_of_a_batch_is_the_sample_of_that_row_alone(fn):
    sampler = FunctionSampler(fn)
    noise, words = sampler.init(3, seed=4), ["a", "duck", "on black"]
    samples = sampler(noise, words)
    assert samples.shape == (3, 3)
    assert torch.equal(samples, rows(FunctionSampler(fn), noise, words))
    assert len(set(samples[:, 0].tolist())) == 3


@pytest.mark.parametrize("fn", FUNCTIONS)
def test_fresh_noise_gives_what_the_function_gives_with_a_generator_of_that_seed(fn):
    sampler = FunctionSampler(fn)
    given = {"batch": 1, "prompt": ["duck"]}
    torch.manual_seed(11)
    stock = fn(**{name: given[name] for name in fn.__code__.co_varnames[: fn.__code__.co_argcount]})
    assert torch.equal(sampler(sampler.init(1, seed=11), "duck").flatten(), stock.flatten())


def test_a_fixed_batch_and_a_batched_form_of_one_sampler_agree():
    batched, single = FunctionSampler(batch_alone), FunctionSampler(no_batch)
    noise = batched.init(4, seed=0)
    assert batched.layout == single.layout
    assert torch.equal(batched(noise), single(noise))


@pytest.mark.parametrize(
    ("fn", "calls"), [(batch_alone, 1), (shared_draw, 4), (doubled_draw, 3), (no_batch, 3), (channels_first, 3)]
)
def test_rows_go_together_where_every_draw_has_the_batch_axis_and_one_by_one_elsewhere(fn, calls):
    made = []
    counted = functools.wraps(fn)(lambda *args, **kwargs: made.append(1) or fn(*args, **kwargs))
    sampler = FunctionSampler(counted)
    noise = sampler.init(3)
    made.clear()
    sampler(noise)
    # `shared_draw` takes one attempt to find out; two rows are compared
    assert len(made) == calls + 2 * (fn is batch_alone)
    made.clear()
    sampler(noise)
    assert len(made) == min(calls, 3)


def test_a_shared_draw_is_each_rows_own():
    noise = FunctionSampler(shared_draw).init(3)
    assert torch.equal(FunctionSampler(shared_draw)(noise), noise[:, 0] + 2 * noise[:, 1])


def test_parameters_with_a_default_and_bound_by_partial_are_left_alone():
    def fn(batch, scale=2.0, *, shift=1.0):
        return torch.randn(batch, 3) * scale + shift

    z = torch.ones(1, 1, 3)
    assert FunctionSampler(fn)(z).tolist() == [[3, 3, 3]]
    assert FunctionSampler(functools.partial(fn, scale=5.0))(z).tolist() == [[6, 6, 6]]


@pytest.mark.parametrize(
    ("fn", "message"),
    [
        (lambda n: torch.randn(n, 2), "takes n: only `batch` and `prompt`"),
        (lambda batch, steps: torch.randn(batch, steps), "takes steps: only .* bind the rest"),
        (lambda *args, **kwargs: torch.randn(1, 2), "takes args, kwargs"),
        (3, "expected a function of .* got 3"),
        (torch.randn, "expected a function of"),
    ],
)
def test_functions_that_cannot_be_called_are_refused_in_one_line(fn, message):
    with pytest.raises(ArgumentError, match=message) as caught:
        FunctionSampler(fn)
    assert "\n" not in str(caught.value)


def test_recomputing_needs_to_know_what():
    with pytest.raises(ArgumentError, match="needs denoiser="):
        FunctionSampler(no_batch, recompute=True)


@pytest.mark.parametrize(
    ("fn", "message"),
    [
        (lambda: torch.zeros(2), "drew no Gaussian noise"),
        (lambda batch: torch.randn(batch, 0, 2).sum(1), "drew no Gaussian noise"),
        (lambda batch: {"x": torch.randn(batch, 2)}, "returned dict"),
        (lambda batch: torch.randn(batch, 2).mean(), r"shape \(\) for a batch of 1: lead with the batch"),
        (lambda batch: torch.randn(batch, 2).T, r"shape \(2, 1\) for a batch of 1"),
        (lambda batch: torch.randn(batch, 2) / 0 * 0, "not finite"),
    ],
)
def test_functions_that_are_no_samplers_are_refused(fn, message):
    with pytest.raises(TapeError, match=message):
        FunctionSampler(fn).init()


def test_a_draw_without_elements_is_no_draw():
    sampler = FunctionSampler(lambda batch: torch.randn(batch, 3) + torch.randn(batch, 0, 3).sum(1))
    assert sampler.noise_shape == (1, 3)
    solution = align(sampler, None, lambda sample: sample.sum(1), batch=2, steps=2, progress=False)
    assert (solution.gain > 0).all()


def one_row_only(batch):
    if batch > 1:
        raise ValueError("one image at a time,\nplease")
    return torch.randn(batch, 2)


ONE_ROW = {
    "a wrong batch axis": (
        lambda batch: torch.randn(batch, 2).mean(0, keepdim=True), r"shape \(1, 2\) for a batch of 3"
    ),
    "an error": (one_row_only, r"fails with a batch of 3 \(ValueError: one image at a time,\)"),
    "a list of prompts": (
        lambda batch, prompt: torch.randn(batch, 2) + len(prompt[0]) * 1 / int(batch == 1),
        "ZeroDivisionError",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("fn", "message"), ONE_ROW.values(), ids=ONE_ROW)
def test_a_function_that_fails_with_a_batch_takes_rows_one_at_a_time_and_says_so_once(fn, message):
    sampler = FunctionSampler(fn)
    noise = sampler.init(3)
    with count_calls() as meter:
        with pytest.warns(NoisewardWarning, match=f"{message}.*one at a time") as said:
            together = sampler(noise, "duck")
            assert torch.equal(sampler(noise, "duck"), together)
        assert len(said) == 1 and "\n" not in str(said[0].message)
    assert meter.nfe == NFE(2) and sampler.alone
    assert torch.equal(together, rows(FunctionSampler(fn), noise, ["duck"] * 3))


def test_an_error_that_has_nothing_to_do_with_the_batch_is_raised_as_it_is():
    def fn(batch, prompt):
        if prompt[0] == "bad":
            raise ValueError(f"{len(prompt)} bad")
        return torch.randn(batch, 2)

    sampler = FunctionSampler(fn)
    with pytest.raises(ValueError, match="3 bad"):
        sampler(sampler.init(3), "bad")
    assert sampler.alone is None and sampler(sampler.init(3), "good").shape == (3, 2)


def test_a_denoiser_is_taken_off_the_tape_frozen_and_otherwise_as_it_was():
    net = nn.Sequential(*(nn.Linear(2, 2) for _ in range(9)))
    before = set(vars(net))
    sampler = FunctionSampler(lambda batch: net(torch.randn(batch, 2)), net)
    noise = sampler.init(2).requires_grad_(True)
    sampler(noise).sum().backward()
    assert noise.grad.abs().min() > 0
    assert all(part.grad is None and not part.requires_grad for part in net.parameters())
    assert set(vars(net)) == before and not net._forward_pre_hooks


def test_an_error_in_the_sampler_leaves_no_hook_on_its_denoiser():
    net = nn.Linear(2, 3)
    sampler = FunctionSampler(lambda batch: net(torch.randn(batch, 4)), net)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        sampler.init()
    assert not net._forward_pre_hooks and "forward" not in vars(net)


@pytest.mark.parametrize("fn", [batch_alone, no_batch, shared_draw, doubled_draw])
def test_without_a_denoiser_whole_runs_are_counted_once_per_row(fn):
    sampler = FunctionSampler(fn)
    noise = sampler.init(3).requires_grad_(True)
    with count_calls() as meter:
        sampler(noise).sum().backward()
    assert meter.nfe == NFE(forward=1, backward=1)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("together", [False, True])
def test_denoiser_calls_are_counted_per_row_together_and_one_by_one(together, recompute):
    net = nn.Tanh()

    def fn(batch):
        x = torch.randn(batch, 2)
        for _ in range(5):
            x = net(x)
        return x + torch.randn(batch if together else 1, 2)

    sampler = FunctionSampler(fn, net, recompute=recompute)
    noise = sampler.init(3).requires_grad_(True)
    with count_calls() as meter:
        sampler(noise).sum().backward()
    assert meter.nfe == NFE(forward=5, backward=5, recomputed=5 * recompute)


def test_several_denoisers_are_each_driven_and_their_calls_add_up():
    first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    sampler = FunctionSampler(lambda batch: second(first(torch.randn(batch, 2))), [first, second], recompute=True)
    noise = sampler.init(2).requires_grad_()
    with count_calls() as meter:
        torch.autograd.grad(sampler(noise).sum(), noise)
    assert meter.nfe == NFE(forward=2, backward=2, recomputed=2)
    assert not any(parameter.requires_grad for net in (first, second) for parameter in net.parameters())


def test_counting_continues_after_a_row_that_failed():
    def fn():
        x = torch.randn(2)
        return x + torch.randn(2) if x[0] > 0 else x  # a draw that depends on another

    sampler = FunctionSampler(fn)
    noise = sampler.init(2)
    noise[0, 0, 0], noise[1, 0, 0] = 1.0, -1.0
    with pytest.raises(DrawMismatch, match="'step 1' and later"):
        sampler(noise)
    with count_calls() as meter:
        sampler(noise[:1])
    assert meter.nfe == NFE(forward=1)


def test_one_integer_seeds_rows_consecutively_and_a_list_seeds_each():
    sampler = FunctionSampler(batch_alone)
    assert torch.equal(sampler.init(3, seed=5), sampler.init(3, seed=[5, 6, 7]))
    assert torch.equal(sampler.init(3, seed=5)[2:], sampler.init(seed=7))


@pytest.mark.parametrize("make", [numpy.int64, numpy.uint8, torch.tensor, numpy.array])
def test_a_seed_is_any_integer(make):
    sampler = FunctionSampler(batch_alone)
    assert torch.equal(sampler.init(2, seed=make(5)), sampler.init(2, seed=5))
    assert torch.equal(sampler.init(2, seed=[make(5), make(9)]), sampler.init(2, seed=[5, 9]))
    if make in (torch.tensor, numpy.array):
        assert torch.equal(sampler.init(2, seed=make([5, 9])), sampler.init(2, seed=[5, 9]))


@pytest.mark.parametrize(
    ("seed", "message"),
    [
        (2**64, "seed must be <= 9223372036854775807, got 18446744073709551616"),
        (-(2**63) - 1, "seed must be >= -9223372036854775808, got -9223372036854775809"),
        (2**63 - 1, r"seed \+ batch must be <= 2\^63"),
        (1.5, "seed must be an integer, got 1.5"),
        (True, "seed must be a number, got True"),
        (None, "seed must be an integer, got None"),
        ("x", "seed must be an integer, got 'x'"),
        ([1, 1.5], "seed must be an integer, got 1.5"),
        ([2**64, 1], "seed must be <= 9223372036854775807"),
    ],
)
def test_what_is_no_seed_is_refused_as_by_align(seed, message):
    sampler = FunctionSampler(batch_alone)
    with pytest.raises(ArgumentError, match=message):
        sampler.init(2, seed=seed)
    if not isinstance(seed, list):
        with pytest.raises(ArgumentError, match=message):
            align(sampler, None, lambda sample: sample.sum(1), batch=2, seed=seed)


@pytest.mark.parametrize(
    "call",
    [
        lambda s: s.init(0),
        lambda s: s.init(2, seed=[1]),
        lambda s: s(s.init(2), ["one"]),
        lambda s: s(torch.zeros(2, 3)),
        lambda s: s(torch.zeros(2, 2, 3, dtype=torch.float16)),
    ],
    ids=["no rows", "seeds", "prompts", "shape", "dtype"],
)
def test_what_does_not_fit_the_batch_is_refused(call):
    with pytest.raises(ArgumentError):
        call(FunctionSampler(batch_alone))


def test_one_prompt_is_every_rows_prompt():
    assert expand_prompts("a duck", 2) == ["a duck", "a duck"]
    assert expand_prompts(("a", "b"), 2) == ["a", "b"]
    assert expand_prompts(None, 2) is None
    assert expand_prompts("", 2) == ["", ""]
