"""Code of others: whatever a reward does, the run fails with one line; a Ctrl-C that really came is one."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading

import pytest
import torch

from noiseward.errors import GradientError, ModelError, RewardError
from noiseward.rewards.reward import FunctionReward, WeightedSum, score
from noiseward.runs.interrupt import Interruptible
from noiseward.user_code import ErrorBoundary, InterruptListener, StandardStreams

SAMPLE = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))


class Mute(Exception):
    def __str__(self):
        raise RuntimeError("nothing is said")


class Loud(Exception):
    def __str__(self):
        return "one\n\n  two\x1b[2J " + "x" * 5000


RAISED = {
    "exit": (SystemExit(0), "raised SystemExit: 0"),
    "exit without": (SystemExit(), "raised SystemExit"),
    "generator": (GeneratorExit(), "raised GeneratorExit"),
    "keyboard": (KeyboardInterrupt(), "raised KeyboardInterrupt"),
    "base": (BaseException("x"), "raised BaseException: x"),
    "mute": (Mute(), "raised Mute: (its message cannot be read)"),
    "loud": (Loud(), "raised Loud: one two\\x1b[2J xxx"),
    "stop": (StopIteration(3), "raised StopIteration: 3"),
    "warning": (UserWarning("w"), "raised UserWarning: w"),
}


@pytest.mark.parametrize(("error", "says"), RAISED.values(), ids=RAISED)
@pytest.mark.parametrize("wrap", [lambda r: r, lambda r: WeightedSum({r: 1.0})], ids=["alone", "in a sum"])
def test_whatever_a_reward_raises_is_an_error_of_one_line(error, says, wrap):
    def mine(images):
        raise error

    with pytest.raises(RewardError) as caught:
        score(wrap(FunctionReward(mine)), SAMPLE, None)
    said = str(caught.value)
    assert said.startswith(f"reward 'mine' {says}") and said.isprintable() and len(said) < 1100


ODD = {
    "sparse": (lambda x: x.mean((1, 2, 3)).to_sparse(), "of layout sparse_coo"),
    "meta": (lambda x: torch.zeros(2, device="meta"), "on the meta device"),
    "float8": (lambda x: x.mean((1, 2, 3)).to(torch.float8_e4m3fn), "of dtype float8_e4m3fn"),
    "complex": (lambda x: x.mean((1, 2, 3)) + 1j, "of dtype complex64"),
    "complex numbers": (lambda x: [1j, 2j], "of dtype complex64"),
}


@pytest.mark.parametrize(("fn", "says"), ODD.values(), ids=ODD)
def test_tensors_that_are_no_plain_real_numbers_are_refused_by_what_they_are(fn, says):
    with pytest.raises(RewardError, match=f"'r' must return a dense tensor of real numbers, got one {says}"):
        score(FunctionReward(fn, name="r"), SAMPLE, None)


def test_numbers_too_large_for_any_tensor_are_refused():
    with pytest.raises(RewardError, match="return one number per row"):
        score(FunctionReward(lambda x: [10**400, 1], name="r"), SAMPLE, None)


@pytest.mark.parametrize("handler", ["python's own", "a run's"])
@pytest.mark.parametrize("does", ["lets it through", "swallows it", "makes another of it"])
def test_a_real_ctrl_c_inside_a_reward_interrupts_whatever_the_reward_makes_of_it(ctrl_c, handler, does):
    def mine(images):
        try:
            ctrl_c()
        except KeyboardInterrupt:
            if does == "lets it through":
                raise
            if does == "makes another of it":
                raise ValueError("a key was pressed") from None
        return images.mean((1, 2, 3))

    def steps():
        yield score(FunctionReward(mine), SAMPLE, None)

    with pytest.raises(KeyboardInterrupt):
        if handler == "python's own":
            next(steps())
        else:
            with Interruptible() as interruptible:
                list(interruptible.within(steps()))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_one_that_code_of_a_step_raises_by_itself_is_an_error(ctrl_c):
    class RaisingFunction(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.mean((1, 2, 3))

        @staticmethod
        def backward(ctx, *_):  # pyright: ignore[reportIncompatibleMethodOverride]
            raise KeyboardInterrupt

    def steps():
        x = SAMPLE.clone().requires_grad_(True)
        total, _ = score(FunctionReward(RaisingFunction.apply, name="mine"), x, None)
        yield torch.autograd.grad(total.sum(), x)

    with Interruptible() as interruptible, pytest.raises(RewardError, match="a step raised KeyboardInterrupt"):
        list(interruptible.within(steps()))


def test_in_another_thread_nothing_is_a_real_ctrl_c():
    found = []

    def run():
        with pytest.raises(RewardError, match="raised KeyboardInterrupt"), ErrorBoundary("it"):
            raise KeyboardInterrupt
        found.append(True)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found


def test_handlers_that_the_code_sets_stay():
    before = signal.getsignal(signal.SIGTERM)
    try:
        with InterruptListener():
            signal.signal(signal.SIGTERM, theirs := lambda number, frame: None)
        assert signal.getsignal(signal.SIGTERM) is theirs
    finally:
        signal.signal(signal.SIGTERM, before)


def test_errors_of_this_library_and_memory_that_ran_out_pass_as_they_are():
    for error in (GradientError("mine"), MemoryError("no room"), RuntimeError("CUDA out of memory")):
        with pytest.raises(type(error)) as caught, ErrorBoundary("it"):
            raise error
        assert caught.value is error


def test_the_kind_of_error_and_when_are_reported():
    with (
        pytest.raises(ModelError, match="^m.py raised ValueError when it was run: no$"),
        ErrorBoundary("m.py", "when it was run", kind=ModelError),
    ):
        raise ValueError("no")


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_a_stream_that_is_closed_is_an_error_and_open_again(monkeypatch, name):
    monkeypatch.setattr(sys, name, io.TextIOWrapper(io.BytesIO()))
    monkeypatch.setattr(StandardStreams, "saved", StandardStreams())
    with pytest.raises(RewardError, match=f"reward 'r' closed {name}: leave the streams open"):
        score(FunctionReward(lambda x: getattr(sys, name).close() or x.mean((1, 2, 3)), name="r"), SAMPLE, None)
    assert not getattr(sys, name).closed
    getattr(sys, name).close()  # that of the test; the descriptor stays
    os.fstat(1 if name == "stdout" else 2)
