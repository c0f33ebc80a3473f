"""Ctrl-C stops the step being made, never the writing of one that was."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

import pytest

from noiseward.runs.interrupt import Interruptible


def press_ctrl_c() -> None:
    signal.raise_signal(signal.SIGINT)


def steps(at: int | None = None) -> Iterator[Any]:
    for index in range(5):
        if index == at:
            press_ctrl_c()
        yield f"step {index}"


def test_inside_a_step_it_is_raised_at_once():
    seen = []
    with Interruptible() as interruptible, pytest.raises(KeyboardInterrupt):
        for step in interruptible.within(steps(at=2)):
            seen.append(step)
    assert seen == ["step 0", "step 1"]


def test_between_steps_it_waits_for_the_next_to_begin():
    written = []
    with Interruptible() as interruptible, pytest.raises(KeyboardInterrupt):
        for step in interruptible.within(steps()):
            if step == "step 2":
                press_ctrl_c()
            written.append(step)
    assert written == ["step 0", "step 1", "step 2"]


def test_after_the_last_step_it_is_not_raised_and_later_it_works_as_before():
    before = signal.default_int_handler
    signal.signal(signal.SIGINT, before)  # in the background, tests are started with it ignored
    with Interruptible() as interruptible:
        assert len(list(interruptible.within(steps()))) == 5
        press_ctrl_c()
    assert signal.getsignal(signal.SIGINT) is before
    with pytest.raises(KeyboardInterrupt):
        press_ctrl_c()


@pytest.mark.parametrize("theirs", [signal.SIG_IGN, lambda number, frame: None], ids=["ignored", "handled"])
def test_sigterm_is_left_to_its_handler_or_stops_the_step_as_ctrl_c_does(theirs):
    before = signal.getsignal(signal.SIGTERM)
    try:
        signal.signal(signal.SIGTERM, theirs)
        with Interruptible() as interruptible:
            assert signal.getsignal(signal.SIGTERM) is theirs
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        with Interruptible() as outer, Interruptible() as interruptible:
            with pytest.raises(KeyboardInterrupt):
                for step in interruptible.within(steps()):
                    signal.raise_signal(signal.SIGTERM) if step == "step 1" else None
            assert interruptible.asked and not outer.asked and Interruptible.heard[-1] == signal.SIGTERM
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)
