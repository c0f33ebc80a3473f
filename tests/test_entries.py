"""Arguments with an entry per prompt or row: each row gets its own, however a batch is cut, repeated or selected."""

from __future__ import annotations

import pickle

import pytest
import torch
from PIL import Image

from noiseward import (
    ArgumentError,
    BestOfN,
    DiffusersSampler,
    FunctionReward,
    Objective,
    align,
)
from noiseward.optimizers.candidates import evaluate
from noiseward.pipelines.arguments import build_arguments, count_entries
from noiseward.samplers.entries import Entry, number_prompts, plain_prompts
from noiseward.samplers.function import FunctionSampler
from tests.families import guided, pixels
from tests.tiny import CALL, stable_diffusion

SEEN: list[list[str] | None] = []
GIVEN = {"num_inference_steps": 2, "strength": 0.8, "eta": 1.0}


def mean(sample: torch.Tensor, prompt: list[str] | None) -> torch.Tensor:
    SEEN.append(prompt)
    return sample.flatten(1).mean(1)


REWARD = FunctionReward(mean, name="mean")


@pytest.fixture(scope="module")
def pipe():
    return stable_diffusion()


def photo(k: int) -> Image.Image:
    noise = torch.rand(16, 16, 3, generator=torch.Generator().manual_seed(k))
    return Image.fromarray((noise * 255).byte().numpy())


def sample_alone(pipe, noise, texts, name, entries, **call):
    """Every row by a sampler of its own."""
    rows = zip(noise, texts, entries, strict=True)
    return torch.cat([DiffusersSampler(pipe, **call, **{name: entry})(z[None], text) for z, text, entry in rows])


def test_one_negative_prompt_per_row(pipe):
    negatives, texts = ["d", "e f", ""], ["a", "b c", "b c"]
    sampler = DiffusersSampler(pipe, negative_prompt=negatives, **CALL)
    noise = sampler.init(3)
    expected = sample_alone(pipe, noise, texts, "negative_prompt", negatives, **CALL)
    torch.testing.assert_close(sampler(noise, texts), expected, rtol=0, atol=1e-5)
    assert (expected[1] - DiffusersSampler(pipe, **CALL)(noise, texts)[1]).abs().max() > 1e-4


@pytest.mark.parametrize("listed", [False, True], ids=["a tensor", "a list"])
def test_one_embedding_per_row(pipe, listed):
    with torch.no_grad():
        embeds = torch.cat([pipe.encode_prompt(text, "cpu", 1, False)[0] for text in ("a", "b c")])
    given = {"negative_prompt_embeds": embeds[:1] * 0.5, "prompt_embeds": embeds}
    if listed:
        given = {"prompt_embeds": embeds, "negative_prompt_embeds": embeds[1:]}
    sampler = DiffusersSampler(pipe, **given, **CALL)
    noise = sampler.init(2)
    rest = {"negative_prompt_embeds": given["negative_prompt_embeds"], **CALL}
    expected = sample_alone(pipe, noise, [None, None], "prompt_embeds", embeds.split(1), **rest)
    torch.testing.assert_close(sampler(noise), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["images", "paths", "tensor"])
def test_one_image_per_row(kind, tmp_path):
    pipe, photos = guided.img2img(), [photo(0), photo(1)]
    given = photos
    if kind == "paths":
        given = [tmp_path / f"{k}.png" for k in range(2)]
        for image, path in zip(photos, given, strict=True):
            image.save(path)
    if kind == "tensor":
        given = pipe.image_processor.preprocess(photos) / 2 + 0.5
    sampler = DiffusersSampler(pipe, image=given, **GIVEN)
    noise = sampler.init(2)
    each = photos if kind != "tensor" else given.split(1)
    assert torch.equal(sampler(noise, "a"), sample_alone(pipe, noise, "aa", "image", each, **GIVEN))


def test_one_mask_and_one_control_image_per_row():
    masks = [Image.new("L", (16, 16), 255), Image.linear_gradient("L").resize((16, 16))]
    pipe, call = guided.inpaint(), {**GIVEN, "height": 16, "width": 16, "image": photo(0)}
    sampler = DiffusersSampler(pipe, mask_image=masks, **call)
    noise = sampler.init(2)
    assert torch.equal(sampler(noise, "a"), sample_alone(pipe, noise, "aa", "mask_image", masks, **call))
    pipe, call = guided.controlnet(), {**CALL, "eta": 1.0}
    sampler = DiffusersSampler(pipe, image=[photo(0), photo(1)], **call)
    noise = sampler.init(2)
    assert torch.equal(sampler(noise, "a"), sample_alone(pipe, noise, "aa", "image", [photo(0), photo(1)], **call))


def test_one_class_per_row():
    pipe = pixels.dit()
    sampler = DiffusersSampler(pipe, class_labels=[1, 7], num_inference_steps=2)
    noise = sampler.init(2)
    expected = DiffusersSampler(pipe, num_inference_steps=2)(noise, ["1", "7"])
    assert torch.equal(sampler(noise), expected)


def test_images_that_belong_together_are_shared_unless_nested():
    pipe = guided.controlnet()
    pair = type(pipe)(
        **{**pipe.components, "controlnet": [pipe.controlnet, pipe.controlnet]}, requires_safety_checker=False
    )
    call = {**CALL, "num_inference_steps": 2}
    shared = DiffusersSampler(pair, image=[photo(0), photo(1)], **call)
    assert shared.by_row == ()
    nested = DiffusersSampler(pair, image=[[photo(0), photo(1)], [photo(2), photo(3)]], **call)
    assert nested.by_row == ("image",)
    noise = shared.init(2)
    second = DiffusersSampler(pair, image=[photo(2), photo(3)], **call)
    expected = torch.cat([shared(noise[:1], "a"), second(noise[1:], "a")])
    assert torch.equal(nested(noise, "a"), expected)


def test_entries_follow_rows_that_are_selected_and_repeated(pipe):
    negatives = ["d", "e f", "g"]
    sampler = DiffusersSampler(pipe, negative_prompt=negatives, **CALL)
    objective = Objective(sampler, REWARD, ["a", "b", "c"])
    noise = sampler.init(3)
    whole = objective(noise).reward
    torch.testing.assert_close(objective.rows([2, 0])(noise[[2, 0]]).reward, whole[[2, 0]], rtol=0, atol=1e-6)
    pairs = objective.repeat(2)(noise.repeat_interleave(2, 0)).reward
    torch.testing.assert_close(pairs, whole.repeat_interleave(2), rtol=0, atol=1e-6)
    found = evaluate(objective, lambda row, _: noise[row], rows=3, count=2, chunk=4)
    torch.testing.assert_close(found.reward[:, 1], whole, rtol=0, atol=1e-6)


def test_rows_of_one_prompt_for_all_cannot_be_selected(pipe):
    sampler = DiffusersSampler(pipe, negative_prompt=["d", "e"], **CALL)
    with pytest.raises(
        ArgumentError, match="prompt: expected one per row, since rows have a negative_prompt of their own"
    ):
        Objective(sampler, REWARD, "a").rows([1])


@pytest.mark.parametrize("count", [2, 4], ids=["per prompt", "per row"])
def test_align_gives_entries_to_prompts_or_to_rows(pipe, count):
    negatives = ["d", "e f", "g", ""][:count]
    SEEN.clear()
    solution = align(
        pipe, ["a", "b"], REWARD, batch=2, negative_prompt=negatives, method=BestOfN(2), steps=1, progress=False,
        **CALL,
    )  # fmt: skip
    mine = [negatives[0], negatives[0], negatives[1], negatives[1]] if count == 2 else negatives
    expected = sample_alone(pipe, solution.noise, "aabb", "negative_prompt", mine, eta=1.0, **CALL)
    torch.testing.assert_close(solution.sample, expected, rtol=0, atol=1e-5)
    assert all(type(text) is str for texts in SEEN for text in texts or ())


def test_a_wrong_number_of_entries_is_one_line(pipe):
    with pytest.raises(ArgumentError, match=r"negative_prompt: expected 1 or 2 or 4 entries .*, got 3"):
        align(pipe, ["a", "b"], REWARD, batch=2, negative_prompt=["d"] * 3, steps=1, progress=False, **CALL)


def test_a_model_without_prompts_has_entries_too_and_its_reward_no_prompt():
    pipe = guided.img2img()
    with torch.no_grad():
        embeds = pipe.encode_prompt("a", "cpu", 1, False)[0]
    given = {"prompt_embeds": embeds, "negative_prompt_embeds": embeds * 0, **GIVEN}
    SEEN.clear()
    solution = align(pipe, None, REWARD, batch=2, image=[photo(0), photo(1)], steps=1, progress=False, **given)
    expected = sample_alone(pipe, solution.noise, [None, None], "image", [photo(0), photo(1)], **given)
    torch.testing.assert_close(solution.sample, expected, rtol=0, atol=1e-5)
    assert SEEN and all(texts is None for texts in SEEN)


def test_an_entry_is_a_string_that_travels():
    entry = number_prompts(["a duck"] * 4, 4, batch=2)[3]
    again = pickle.loads(pickle.dumps(entry))
    assert (again, again.places, again.silent) == ("a duck", ((1, 2), (3, 4)), False)
    assert number_prompts([again], 1) == [entry] and number_prompts([again], 1)[0].places == entry.places
    assert [type(text) for text in plain_prompts([entry])] == [str]
    assert plain_prompts(None) is None and plain_prompts(number_prompts(None, 2)) is None
    assert isinstance(entry, Entry) and entry.among(3) is None


def test_a_pipeline_that_edits_its_arguments_edits_a_copy(pipe):
    class Editor(type(pipe)):
        @torch.no_grad()
        def __call__(self, prompt, negative_prompt=None, **kwargs):
            prompt, negative_prompt = ([text] if isinstance(text, str) else text for text in (prompt, negative_prompt))
            prompt[:] = [f"{text} e" for text in prompt]
            negative_prompt[:] = [f"{text} f" for text in negative_prompt]
            return super().__call__(prompt, negative_prompt=negative_prompt, **kwargs)

    editing = Editor(**pipe.components, requires_safety_checker=False)
    given = ["d", "g"]
    sampler = DiffusersSampler(editing, negative_prompt=given, **CALL)
    noise, texts = sampler.init(2), ["a", "b"]
    plain = DiffusersSampler(pipe, negative_prompt=["d f", "g f"], **CALL)
    for _ in range(2):
        assert torch.equal(sampler(noise, texts), plain(noise, ["a e", "b e"]))
    assert (given, texts) == (["d", "g"], ["a", "b"])


def test_one_row_is_one_prompt(pipe):
    class Single(type(pipe)):
        @torch.no_grad()
        def __call__(self, prompt, negative_prompt=None, **kwargs):
            if not isinstance(prompt, str) or not isinstance(negative_prompt, str):
                raise ValueError("a list of prompts is not supported")
            return super().__call__(prompt, negative_prompt=negative_prompt, **kwargs)

    single = Single(**pipe.components, requires_safety_checker=False)
    sampler, plain = (DiffusersSampler(each, negative_prompt="d", **CALL) for each in (single, pipe))
    noise = sampler.init(1)
    assert torch.equal(sampler(noise, "a"), plain(noise, "a"))


def test_a_pipeline_that_edits_an_image_in_place_edits_a_copy():
    class Editor(type(guided.img2img())):
        @torch.no_grad()
        def __call__(self, prompt, image=None, **kwargs):
            image.mul_(0.5)
            return super().__call__(prompt, image=image, **kwargs)

    parts = {**guided.img2img().components, "requires_safety_checker": False}
    image = guided.make_image()
    sampler = DiffusersSampler(Editor(**parts), image=image, **GIVEN)
    plain = DiffusersSampler(guided.img2img(), image=image * 0.5, **GIVEN)
    noise = sampler.init(1)
    assert torch.equal(sampler(noise, "a"), plain(noise, "a"))
    assert torch.equal(image, guided.make_image())


def test_a_function_sampler_has_no_entries():
    assert FunctionSampler(lambda batch: torch.randn(batch, 2)).by_row == ()


def test_embeddings_of_several_layers_go_by_row_along_their_second_axis():
    pipe, name = stable_diffusion(), "prompt_embeds_llama3"
    layers = torch.arange(24.0).view(4, 3, 2, 1)
    assert count_entries(pipe, {name}, name, layers) == 3
    rows = list(number_prompts(["a", "b", "c"], 3))
    built = build_arguments(pipe, {name}, {name: layers}, 2, [rows[2], rows[0]])
    assert torch.equal(built[name], layers[:, [2, 0]])
    shared = build_arguments(pipe, {name, "prompt"}, {name: layers[:, :1]}, 2, [rows[1], rows[2]])
    assert torch.equal(shared[name], layers[:, :1].expand(-1, 2, -1, -1)) and "prompt" not in shared
