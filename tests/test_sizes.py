"""The benchmark of large pipelines, at toy size: it runs, and finds them fit."""

from __future__ import annotations

from benchmarks import sizes


def test_toys_are_fit_in_both_memory_modes(capsys):
    assert sizes.main(["--toy", "--steps", "2"]) == 0
    said = capsys.readouterr().out
    assert said.count("verdict: fit for noise optimization") == 4
    assert said.count("memory=balanced") == 2 and "FAIL" not in said
