"""What makes a sample differ from its recording is named, with its line and what to do; so is noise made by numpy."""

from __future__ import annotations

import random
import threading

import numpy
import pytest
import torch
from torch import nn

from noiseward import FunctionSampler, NoisewardWarning
from noiseward.errors import UnseenRandomness


class State:
    """State that outlives a call."""

    count = 0.0
    cache: list[torch.Tensor] = []

    @classmethod
    def count_up(cls):
        cls.count += 1.0
        return cls.count

    @classmethod
    def warm(cls):
        cls.cache.append(torch.ones(1))
        return float(len(cls.cache) > 1)


class Noisy(nn.Module):
    def forward(self, x):
        return x + 1e-6 * torch.randn_like(x)


NOISY, DROPOUT, GENERATOR = Noisy(), nn.Sequential(nn.Linear(2, 20), nn.Dropout(0.5)), numpy.random.default_rng(0)


def draw_in_thread(batch):
    found = []
    thread = threading.Thread(target=lambda: found.append(torch.randn(batch, 2)))
    thread.start()
    thread.join()
    return torch.randn(batch, 2) + found[0]


def draw_labels(batch):
    labels = torch.randint(0, 10**9, (batch, 1))
    return torch.randn(batch, 2) + labels


def own_generator(batch):
    return torch.randn(batch, 2) + torch.rand(batch, 2, generator=RAND)


def draw_mask(batch):
    return torch.randn(batch, 2) + (torch.bernoulli(torch.full((batch, 40), 0.5)) @ BITS)[:, None]


MANY = torch.ones(10**6)
BITS = 2.0 ** torch.arange(-20, 20)  # no two sums of theirs are the same
RAND = torch.Generator().manual_seed(0)
HERE = r"test_unseen.py:\d+"
CAUSES = {
    "torch.rand": (lambda batch: torch.randn(batch, 2) + torch.rand(batch, 2), None, rf"torch.rand at {HERE}; draw"),
    "a generator": (own_generator, None, rf"torch.rand at {HERE}"),
    "labels": (draw_labels, None, rf"torch.randint at {HERE}; .*such as labels, once and outside the sampler"),
    "bernoulli": (draw_mask, None, rf"torch.bernoulli at {HERE}"),
    "multinomial": (
        lambda batch: torch.randn(batch, 2) + torch.distributions.Categorical(MANY).sample((batch, 1)), None,
        rf"torch.multinomial at {HERE}",
    ),
    "exponential_": (lambda batch: torch.randn(batch, 2) + torch.empty(batch, 2).exponential_(), None, "exponential_"),
    "dropout": (lambda batch: DROPOUT(torch.randn(batch, 2)), None, r"nn.functional.dropout at .*call .eval\(\)"),
    "dropout in the denoiser": (lambda batch: DROPOUT(torch.randn(batch, 2)), DROPOUT, r"dropout at .*call .eval\(\)"),
    "noise in the denoiser": (
        lambda batch: NOISY(torch.randn(batch, 2)), NOISY,
        rf"torch.randn_like at {HERE} draws noise inside the denoiser, .*name as denoiser= a module inside it",
    ),
    "numpy": (
        lambda batch: torch.randn(batch, 2) + torch.from_numpy(numpy.random.randn(batch, 2)), None,
        rf"a numpy array became a tensor at {HERE} and differs; draw noise with torch.randn, not numpy",
    ),
    "numpy by number": (lambda batch: torch.randn(batch, 2) + float(numpy.random.randn()), None, "numpy.random was"),
    "a numpy generator": (
        lambda batch: torch.randn(batch, 2) + torch.tensor(GENERATOR.normal(size=(batch, 2))), None, "a numpy array"
    ),
    "Python's random": (lambda batch: torch.randn(batch, 2) + random.gauss(0, 1), None, "Python's random was used"),
    "a counter": (lambda batch: torch.randn(batch, 2) + State.count_up(), None, "from call to call.*counter"),
    "a cache": (lambda batch: torch.randn(batch, 2) + State.warm(), None, "keeps something of its first run.*cache"),
    "another thread": (draw_in_thread, None, "no call was seen to be random: .*another thread"),
}  # fmt: skip


@pytest.mark.parametrize(("fn", "denoiser", "message"), CAUSES.values(), ids=CAUSES)
def test_the_cause_is_named_with_its_line_and_what_to_do(fn, denoiser, message):
    State.cache.clear()
    with pytest.raises(UnseenRandomness, match=f"a replay of the same draws .*{message}") as caught:
        FunctionSampler(fn, denoiser).init()
    assert "\n" not in str(caught.value)


def test_a_sampler_that_edits_its_prompts_is_given_a_copy_each_time():
    def fn(batch, prompt):
        prompt[:] = [f"{text}, please" for text in prompt]
        return torch.randn(batch, 2) + torch.tensor([[len(text)] for text in prompt])

    sampler, mine = FunctionSampler(fn), ["a", "duck"]
    noise = sampler.init(2)
    assert torch.equal(sampler(noise, mine), sampler(noise, mine)) and mine == ["a", "duck"]


SEEDED = {
    "from_numpy": lambda batch: torch.from_numpy(numpy.random.RandomState(0).randn(batch, 3, 4, 4)),
    "tensor": lambda batch: torch.tensor(numpy.random.default_rng(0).normal(size=(batch, 3, 4, 4))),
    "float32": lambda batch: torch.as_tensor(10 * numpy.random.RandomState(0).randn(batch, 3, 4, 4).astype("float32")),
}


@pytest.mark.parametrize("start", SEEDED.values(), ids=SEEDED)
def test_noise_made_by_numpy_from_a_seed_of_its_own_is_warned_of(start):
    sampler = FunctionSampler(lambda batch: start(batch) + torch.randn(batch, 3, 4, 4))
    with pytest.warns(NoisewardWarning, match=rf"numpy array of shape \(1, 3, 4, 4\) at {HERE}: .*torch.randn"):
        sampler.init()


def test_arrays_that_are_no_noise_are_not():
    sigmas = numpy.linspace(10.0, 0.1, 48)
    image = numpy.random.RandomState(0).rand(1, 3, 4, 4)

    def fn(batch):
        x = torch.randn(batch, 3, 4, 4, dtype=torch.float64) * torch.from_numpy(sigmas)[0] + torch.tensor(image)
        return torch.from_numpy(numpy.asarray(x.detach())) + 0 * x

    FunctionSampler(fn).init()


def test_an_error_says_where_a_sampler_draws_with_numpy():
    with pytest.raises(Exception, match=rf"no Gaussian noise with torch \(it converts a numpy array at {HERE}\)"):
        FunctionSampler(lambda batch: torch.from_numpy(numpy.random.randn(batch, 2))).init()
