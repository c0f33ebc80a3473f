"""The nodes for ComfyUI, against its contract for custom nodes, with a stand-in for what they call of it.

The contract is that of the documentation: `INPUT_TYPES` is a class method that gives `required`, `optional` and
`hidden` inputs as tuples of a type and options; `RETURN_TYPES` and `FUNCTION` are attributes; the function gets the
inputs by name and returns one value per output; images are `(B, H, W, C)` from 0 to 1. The integrations are no part of
the wheel.
"""

from __future__ import annotations

import importlib.util
import inspect
import json
import sys
import types
from pathlib import Path

import pytest
import torch
from PIL import Image

FOLDER = Path(__file__).parents[1] / "integrations"


class Interrupted(Exception):
    pass


@pytest.fixture
def comfy(monkeypatch):
    """A stand-in that notes what is shown; `after` is the number of steps after which Cancel is pressed."""
    noted = types.SimpleNamespace(updates=[], after=None)

    class ProgressBar:
        def __init__(self, total, node_id=None):
            noted.total, noted.node = total, node_id

        def update_absolute(self, value, total=None, preview=None):
            noted.updates.append((value, total, preview))

    def throw_exception_if_processing_interrupted():
        if noted.after is not None and len(noted.updates) > noted.after:
            raise Interrupted

    modules = {name: types.ModuleType(name) for name in ("comfy", "comfy.utils", "comfy.model_management")}
    modules["comfy.utils"].ProgressBar = ProgressBar
    modules[
        "comfy.model_management"
    ].throw_exception_if_processing_interrupted = throw_exception_if_processing_interrupted
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
        if "." in name:
            setattr(modules["comfy"], name.partition(".")[2], module)
    return noted


@pytest.fixture(scope="module")
def nodes():
    spec = importlib.util.spec_from_file_location("noiseward_comfyui", FOLDER / "comfyui/__init__.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(nodes, **changes):
    how = {
        "model": "stickers",
        "prompt": "a duck",
        "rewards": "brightness",
        "method": "dno",
        "steps": 2,
        "batch": 2,
        "seed": 0,
    }
    return nodes.NoisewardAlign().align(
        **{**how, "options": "num_inference_steps=4\nwatch=none", "unique_id": "7", **changes}
    )


def test_every_node_keeps_the_contract(nodes):
    assert nodes.NODE_CLASS_MAPPINGS.keys() == nodes.NODE_DISPLAY_NAME_MAPPINGS.keys()
    for node in nodes.NODE_CLASS_MAPPINGS.values():
        inputs = node.INPUT_TYPES()
        assert set(inputs) <= {"required", "optional", "hidden"}
        names = [name for part in inputs.values() for name in part]
        taken = inspect.signature(getattr(node, node.FUNCTION)).parameters
        assert set(taken) - {"self"} == set(names)
        for name in inputs.get("optional", {}):
            assert taken[name].default is not inspect.Parameter.empty
        for kind, *options in [one for part in ("required", "optional") for one in inputs.get(part, {}).values()]:
            assert isinstance(kind, str | list) and all(isinstance(one, dict) for one in options)
        assert len(node.RETURN_TYPES) == len(node.RETURN_NAMES) and isinstance(node.CATEGORY, str)


def test_a_run_gives_images_noise_and_a_plot_and_shows_every_step(nodes, comfy):
    best, before, noise, plot, report = run(nodes)
    assert best.shape == before.shape == (2, 64, 64, 3) and best.dtype == torch.float32
    assert 0 <= best.min() and best.max() <= 1 and plot.shape[0] == 1 and plot.shape[3] == 3
    gain = best.mean((1, 2, 3)) - before.mean((1, 2, 3))
    assert (gain >= 0).all() and (gain > 0).any() and "a duck" in report
    assert (comfy.total, comfy.node) == (2, "7") and [value for value, _, _ in comfy.updates] == [0, 1, 2]
    kind, image, size = comfy.updates[0][2]
    assert kind == "JPEG" and isinstance(image, Image.Image) and size == 512
    again, start, *_ = run(nodes, start=noise, rewards="contrast", method="refine", steps=1)
    assert torch.allclose(start, best, atol=1e-5)
    mean, scores = nodes.NoisewardReward().score(best, "brightness", "")
    assert mean == pytest.approx(best.mean().item(), abs=1e-4) and len(scores.split(",")) == 2


def test_cancel_ends_the_run(nodes, comfy):
    comfy.after = 1
    with pytest.raises(Interrupted):
        run(nodes, steps=50)
    assert len(comfy.updates) == 2


def test_options_are_read_or_refused_in_one_line(nodes):
    assert nodes.read_options(" eta=0.5\n\nnegative_prompt=blurry ") == {"eta": 0.5, "negative_prompt": "blurry"}
    with pytest.raises(Exception, match="options must be KEY=VALUE, as in guidance_rescale=0.7, got 'what'"):
        nodes.read_options("what")


def test_the_workflow_fits_the_nodes(nodes):
    flow = json.loads((FOLDER / "comfyui/workflow.json").read_text())
    by_id = {node["id"]: node for node in flow["nodes"]}
    for _, source, out, target, into, kind in flow["links"]:
        assert by_id[source]["outputs"][out]["type"] == by_id[target]["inputs"][into]["type"] == kind
    for node in flow["nodes"]:
        known = nodes.NODE_CLASS_MAPPINGS.get(node["type"])
        if known is None:
            continue
        assert [one["type"] for one in node["outputs"]] == list(known.RETURN_TYPES)
        inputs = known.INPUT_TYPES()
        fields = {**inputs["required"], **inputs.get("optional", {})}
        widgets = [
            name for name, (kind, *_) in fields.items() if kind in ("STRING", "INT", "FLOAT") or isinstance(kind, list)
        ]
        extra = sum(bool(options and options[0].get("control_after_generate")) for _, *options in fields.values())
        assert len(node["widgets_values"]) == len(widgets) + extra
        assert {one["name"] for one in node["inputs"]} == set(fields) - set(widgets)


def test_the_space_is_what_its_page_says():
    text = (FOLDER / "space/app.py").read_text()
    calls = []
    fake = types.ModuleType("noiseward.studio.app")
    fake.serve = lambda *given, **more: calls.append((given, more))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "noiseward.studio.app", fake)
        patch.setenv("NOISEWARD_TOKEN", "secret")
        exec(compile(text, "app.py", "exec"), {})
    assert calls == [((Path("runs"),), {"host": "0.0.0.0", "port": 7860, "token": "secret"})]
    assert (FOLDER / "space/requirements.txt").read_text().strip() == "noiseward[studio]"
