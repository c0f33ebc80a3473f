"""Options written as a command, which gives the same options again."""

from __future__ import annotations

import shlex

import pytest

from noiseward.cli.flags import expand
from noiseward.options.command_line import to_arguments, to_command
from noiseward.options.run import RunSpec

SPECS = [
    {"prompt": "a duck"},
    {"prompt": ("a duck", "-x", "$HOME 'q'"), "steps": 3, "seconds": 2.5},
    {"prompt": "a [b:c:0.5]", "watch": ("clip", "contrast"), "require": ("brightness>=0.25",)},
    {"prompt": "a", "watch": ()},
    {"prompt": "a", "negative_prompt": "-blurry", "guidance_scale": -1.5, "target": -0.5, "eta": 0.0},
    {"prompt": "a", "method": "dno:lr=0.02,guard=shell:0.01", "call": {"clip_skip": 1, "text": "it's", "flag": True}},
    {"prompt": "a", "stop_when": ("plateau", "hacked"), "memory": "low", "image": "a b.png", "start": "runs/x@3:1"},
    {"reward": ("brightness:1e-05", "my.py:f:0.5"), "prompt": (), "seed": 2**62, "batch": 4},
]


@pytest.mark.parametrize("values", SPECS)
def test_the_command_line_reads_back_what_is_written(values):
    import typer
    from typer.testing import CliRunner

    spec, read = RunSpec(**{"reward": "brightness", **values}), []

    @expand
    def command(spec: RunSpec) -> None:
        read.append(spec)

    app = typer.Typer()
    app.command()(command)
    result = CliRunner().invoke(app, shlex.split(to_command(*to_arguments(spec))))
    assert result.exit_code == 0, result.output
    assert read[0].values() == spec.values()
