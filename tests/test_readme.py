"""The README's Python runs as it stands there, but for fewer steps."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import noiseward

README = Path(__file__).parents[1] / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL) if README.exists() else []
HERE = [block for block in BLOCKS if "cuda" not in block]
ELSEWHERE = [block for block in BLOCKS if "cuda" in block]


@pytest.mark.parametrize("block", HERE, ids=range(len(HERE)))
def test_a_block_runs(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fewer = re.sub(r"steps=\d+", "steps=2, num_inference_steps=4", block)
    assert fewer != block
    exec(compile(fewer, str(README), "exec"), {"__name__": "readme"})
    named = re.findall(r"(?:save|plot)\(\"(\S+)\"\)", block)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(named)


@pytest.mark.parametrize("block", ELSEWHERE, ids=range(len(ELSEWHERE)))
def test_a_block_for_a_large_model_names_what_there_is(block):
    import diffusers

    for node in ast.walk(ast.parse(block)):
        if isinstance(node, ast.ImportFrom):
            module = {"diffusers": diffusers, "noiseward": noiseward}[str(node.module)]
            assert all(hasattr(module, alias.name) for alias in node.names)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "noiseward":
            assert node.attr in noiseward.__all__


def test_there_is_something_to_run():
    assert len(HERE) >= 1 and len(ELSEWHERE) >= 1
