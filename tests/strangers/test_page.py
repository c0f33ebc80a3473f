"""The code on docs/samplers.md runs, block after block."""

from __future__ import annotations

import re
from pathlib import Path

from tests.strangers.absent import stand_ins

PAGE = Path(__file__).parents[2] / "docs" / "samplers.md"


def test_every_block_of_the_page_runs():
    with stand_ins():
        import denoising_diffusion_pytorch  # noqa: F401
        import k_diffusion  # noqa: F401
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 5
    names: dict[str, object] = {}
    for number, block in enumerate(blocks, start=1):
        exec(compile(block, f"{PAGE.name}, block {number}", "exec"), names)
