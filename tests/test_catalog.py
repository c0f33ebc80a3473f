"""The table of classes: it holds every case of the catalog, and some of them are measured again here."""

from __future__ import annotations

import pytest

from tests.catalog import CASES
from tests.sweep import EXACT, sweep
from tests.test_support import first_cells

SAMPLE = (
    "AnimateDiffSparseControlNetPipeline",  # images encoded without the generator, five axes
    "ConsistencyModelPipeline",  # a class label that its model does not have
    "Cosmos2TextToImagePipeline",  # refused: its guardrail stays
    "HiDreamImagePipeline",  # experts, added up in place; embeddings whose first axis is not rows
    "HunyuanDiTControlNetPipeline",
    "Kandinsky5T2VPipeline",  # writes into its latents; lengths that go by no row
    "IFSuperResolutionPipeline",  # tensors in [-1, 1]
    "SanaVideoPipeline",  # only right in float64
    "StableDiffusionPAGPipeline",  # attention processors for the time of a call
    "StableDiffusionPipelineSafe",  # returns arrays
    "StableUnCLIPPipeline",  # a prior in front
    "WanVACEPipeline",  # takes one prompt and no list
    "ZImageControlNetPipeline",  # a model that reads, where gradients are on, what it never set
    "ZImagePipeline",  # edits the list of prompts
)


def test_every_case_has_its_line_in_the_page():
    assert first_cells("catalog") == [f"`{name}`" for name in sorted(CASES)]
    assert len(CASES) >= 190


@pytest.mark.parametrize("name", SAMPLE)
def test_a_class_is_driven_rightly_or_refused_with_a_reason(name):
    found = sweep(CASES[name])
    assert found.fault == ""
    if CASES[name].refused is None:
        assert found.parity <= EXACT and not found.noted
