"""Models that diffusers loads in few bits: stock samples, gradients, memory modes, offloading, the doctor."""

from __future__ import annotations

import warnings

import pytest
import torch

from noiseward import DiffusersSampler, ModelError, align
from noiseward.doctor import examine
from noiseward.errors import NoisewardWarning
from noiseward.options.run import Settings
from noiseward.problem import prepare
from tests import offloading
from tests.away import poison
from tests.quantized import KINDS, build, measure
from tests.tiny import CALL

SHORT = {**CALL, "num_inference_steps": 2}
DRIVEN = [name for name, kind in KINDS.items() if not kind.refused]
REFUSED = [name for name, kind in KINDS.items() if kind.refused]


def open_kind(name, folder):
    pytest.importorskip(KINDS[name].package, reason=f"{KINDS[name].package} is not installed")
    return build(name, folder)


@pytest.mark.parametrize("name", DRIVEN)
def test_samples_are_stock_and_gradients_those_of_the_quantized_network(name, tmp_path):
    pipe = open_kind(name, tmp_path)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = measure(pipe)
    assert found.stock
    assert max(found.error.values()) < KINDS[name].exact
    ours = [str(one.message) for one in said if issubclass(one.category, NoisewardWarning)]
    assert any("rounds its activations" in one for one in ours) == KINDS[name].rounded


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_gradient_is_refused_by_name(name, tmp_path):
    with pytest.raises(ModelError, match=KINDS[name].refused):
        DiffusersSampler(open_kind(name, tmp_path), **SHORT)


@pytest.mark.parametrize("name", ["GGUF Q8_0", "torchao int8 weights", "quanto int8", "SDNQ int8", "bitsandbytes NF4"])
def test_the_doctor_finds_nothing_wrong_and_align_a_gain(name, tmp_path):
    pipe = open_kind(name, tmp_path)
    weights = torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(0))
    problem = prepare(pipe, "a", lambda images: (images * weights).sum((1, 2, 3)), Settings(steps=0, call=SHORT))
    findings = list(examine(problem))
    assert all(finding.fine for finding in findings), [finding.says for finding in findings if not finding.fine]
    assert align(pipe, "a", "brightness", steps=2, memory="auto", progress=False, **SHORT).gain.item() > 0


@pytest.mark.parametrize("setting", [offloading.take_turns, offloading.offload_leaves])
@pytest.mark.parametrize("name", ["GGUF Q8_0", "torchao int8 weights", "quanto int8", "SDNQ int8", "bitsandbytes NF4"])
def test_quantized_weights_are_offloaded_or_refused(name, setting, tmp_path):
    sample, right = offloading.gradient(open_kind(name, tmp_path / "plain"), "low", SHORT)
    with poison():
        pipe = open_kind(name, tmp_path / "moved")
        setting(pipe)
        if "bitsandbytes" in name and setting is offloading.offload_leaves:
            with pytest.raises(ModelError, match=r"layers of bitsandbytes, .*offload='models'"):
                DiffusersSampler(pipe, **SHORT)
            return
        again, found = offloading.gradient(pipe, "low", SHORT)
    assert torch.equal(sample, again) and torch.equal(right, found)


def test_weights_that_were_packed_for_a_cpu_kernel_are_refused(tmp_path):
    pipe = open_kind("bitsandbytes NF4", tmp_path)
    layer = next(part for part in pipe.transformer.modules() if type(part).__name__ == "Linear4bit")
    DiffusersSampler(pipe, **SHORT)
    assert not layer.support_avx512bf16_for_cpu  # nothing is packed from now on
    layer.quant_state.packing_format_for_cpu = True
    with pytest.raises(ModelError, match=r"packed its weights for a CPU kernel without a gradient"):
        DiffusersSampler(pipe, **SHORT)
