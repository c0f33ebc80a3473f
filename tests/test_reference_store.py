"""Profiles of fresh samples on disk: the same test, fewer calls, and nothing that is of another model."""

from __future__ import annotations

import json

import pytest
import torch

from noiseward import FunctionSampler, align
from noiseward.pipelines.open import open_sampler
from noiseward.samplers.entries import number_prompts
from noiseward.samplers.image_tests import ImageTest
from noiseward.samplers.reference_store import ReferenceStore
from noiseward.toys import GaussianModel


def sampler(std=0.7):
    """Samples of a model without weights, so that nothing but its samples tells it apart."""
    toy = GaussianModel(steps=6, dim=64, std=std)

    def draw(batch):
        calls.append(batch)
        return toy.sample(batch)

    calls = []
    return FunctionSampler(draw, denoiser=toy), calls


def probability(model, store):
    return ImageTest(model, fresh=8, store=store)(model.init(2), None, None)


def test_fresh_samples_are_made_once(tmp_path):
    store, (model, calls) = ReferenceStore(tmp_path / "references"), sampler()
    plain = probability(model, None)
    first = probability(model, store)
    assert [file.suffix for file in store.folder.iterdir()] == [".json"]
    before = len(calls)
    second = probability(model, store)
    assert torch.equal(first, plain) and torch.equal(second, plain)
    assert sum(calls[before:]) == 2 * 1 + 2 * 2  # the first fresh sample and its profile, two rows and theirs


def test_what_is_of_another_model_is_made_again_and_replaced(tmp_path):
    store, (model, _), (other, _) = ReferenceStore(tmp_path), sampler(), sampler(std=0.5)
    probability(model, store)
    (file,) = tmp_path.iterdir()
    was = file.read_text()
    assert torch.equal(probability(other, store), probability(other, None))
    assert [one.name for one in tmp_path.iterdir()] == [file.name] and file.read_text() != was


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"profiles": []}', '{"profiles": [[1, 2]]}', '{"profiles": [[]]}']
)
def test_a_file_that_is_damaged_is_written_again(tmp_path, text):
    store, (model, _) = ReferenceStore(tmp_path), sampler()
    plain = probability(model, store)
    (file,) = tmp_path.iterdir()
    file.write_text(text)
    assert torch.equal(probability(model, store), plain)
    assert len(json.loads(file.read_text())["profiles"][0]) == 8


def test_where_nothing_can_be_stored_the_test_is_the_same(tmp_path):
    (tmp_path / "file").write_text("")
    model, _ = sampler()
    assert torch.equal(probability(model, ReferenceStore(tmp_path / "file" / "below")), probability(model, None))


def test_models_arguments_and_prompts_have_files_of_their_own(tmp_path):
    store, few, more = ReferenceStore(tmp_path), *(open_sampler("stickers", call={"eta": eta}) for eta in (1.0, 0.5))
    profiles = (torch.zeros(4, 4, dtype=torch.float64),)
    first, second = number_prompts(["a", "a"], 2)
    asked = [(few, "a"), (more, "a"), (few, "b"), (few, None), (few, first), (few, second)]
    for model, prompt in asked:
        assert store.read(model, prompt, seeds=range(4)) is None
        store.write(model, prompt, profiles, seeds=range(4))
        assert torch.equal(store.read(model, prompt, seeds=range(4))[0], profiles[0])
    assert len(list(tmp_path.iterdir())) == len(asked) and store.read(few, "a", seeds=range(8)) is None
    assert not any("duck" in file.read_text() for file in tmp_path.iterdir())


def test_align_stores_for_the_user(tmp_path, monkeypatch):
    for name, folder in (("NOISEWARD_CACHE", "own"), ("XDG_CACHE_HOME", "shared/noiseward")):
        monkeypatch.delenv("NOISEWARD_CACHE", raising=False)
        monkeypatch.setenv(name, str(tmp_path / folder.partition("/")[0]))
        align("stickers", "a duck", "brightness", method="ntrk", steps=1, num_inference_steps=3, progress=False)
        assert len(list((tmp_path / folder / "references").iterdir())) == 1
