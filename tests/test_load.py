"""Loading by name, folder, hub id and file, with another scheduler, LoRA, precision: what works, and one line else."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from noiseward import ArgumentError, DiffusersSampler, ModelError, align
from noiseward.options.run import Settings
from noiseward.pipelines.cards import card_of, load_cards, load_schedulers
from noiseward.pipelines.load import DTYPES, load_pipeline
from noiseward.pipelines.open import open_sampler
from noiseward.problem import prepare
from noiseward.rewards.catalog import is_available
from noiseward.toys import GaussianModel
from tests import single_file
from tests.test_house import load_after
from tests.test_settings import add_lora
from tests.tiny import CALL, stable_diffusion


def one_line(caught: pytest.ExceptionInfo[Exception]) -> str:
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", load_cards())
def test_a_card_names_a_model_and_settings_that_exist(name):
    card = load_cards()[name]
    assert card.says and (card.id is None) == (card.module is not None)
    assert (card.path / "model_index.json").exists() if card.path else card.id.count("/") == 1
    assert card.scheduler is None or card.scheduler in load_schedulers()
    assert card.dtype is None or card.dtype in DTYPES


@pytest.mark.parametrize(("name", "repository"), [("sdxl", load_cards()["sdxl"].id), ("some/model", "some/model")])
def test_a_model_that_is_not_cached_is_one_line_that_says_how_to_fetch_it(name, repository, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError) as caught:
        load_pipeline(name)
    assert f"hf download {repository}" in one_line(caught)


def test_a_card_gives_id_revision_precision_and_scheduler(model, monkeypatch):
    import diffusers

    asked = {}
    from_pretrained = diffusers.DiffusionPipeline.from_pretrained

    def load_cached(source, **options):
        asked.update(options, source=source)
        return from_pretrained(model, dtype=options["dtype"])

    monkeypatch.setattr(diffusers.DiffusionPipeline, "from_pretrained", load_cached)
    pipe = load_pipeline("sd15", device="cpu")
    assert (asked["source"], asked["revision"], asked["dtype"]) == (load_cards()["sd15"].id, "main", torch.float32)
    assert type(pipe.scheduler).__name__ == "DDIMScheduler"
    assert load_pipeline("flux-schnell", device="cpu").unet.dtype == torch.bfloat16  # the card's, not the device's
    other = load_pipeline("sd15", device="cpu", scheduler="euler-a")
    assert type(other.scheduler).__name__ == "EulerAncestralDiscreteScheduler"
    solution = align("sd15", "a", "brightness", steps=0, num_inference_steps=2, height=16, width=16, progress=False)
    assert len(solution.noise[0]) == 3  # the card's eta = 1: two steps with noise of their own


def test_precision_and_scheduler_are_chosen_by_name(model):
    pipe = load_pipeline(model, dtype="bfloat16", scheduler="euler-a", device="cpu")
    assert pipe.unet.dtype == pipe.vae.dtype == torch.bfloat16
    assert type(pipe.scheduler).__name__ == "EulerAncestralDiscreteScheduler"


def test_lora_weights_are_loaded_from_a_file_or_its_folder(model, tmp_path):
    tuned = stable_diffusion()
    add_lora(tuned, tmp_path)
    (file,) = tmp_path.glob("*.safetensors")
    samples = []
    for pipe in (
        tuned,
        load_pipeline(model, lora=file, device="cpu"),
        load_pipeline(model, lora=tmp_path, device="cpu"),
    ):
        sampler = DiffusersSampler(pipe, **CALL)
        samples.append(sampler(sampler.init(1), "a"))
    assert torch.equal(samples[0], samples[1]) and torch.equal(samples[0], samples[2])


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"dtype": "half"}, ArgumentError, "unknown dtype 'half'; available: float32"),
        ({"device": "gpu"}, ArgumentError, "unknown device 'gpu'; did you mean 'cpu'"),
        ({"device": "cuda:99"}, ModelError, "cannot be put on cuda:99"),
        ({"scheduler": "eular"}, ArgumentError, "did you mean 'euler'"),
        ({"scheduler": "flow-euler"}, ModelError, "does not fit a model that came with DDIMScheduler"),
        ({"lora": "nowhere.safetensors"}, ModelError, "LoRA weights 'nowhere.safetensors' do not exist"),
    ],
)
def test_options_that_have_no_meaning_are_one_line(model, options, error, says):
    with pytest.raises(error, match=says) as caught:
        load_pipeline(model, **options)
    one_line(caught)


def test_weights_that_are_no_lora_are_one_line(model, tmp_path):
    save_file({"a": torch.zeros(2)}, tmp_path / "a.safetensors")
    with pytest.raises(ModelError, match="LoRA weights .* do not fit") as caught:
        load_pipeline(model, lora=tmp_path / "a.safetensors")
    one_line(caught)


V1 = {"model.diffusion_model.input_blocks.0.0.bias": torch.zeros(4)}


def test_a_checkpoint_in_one_file_is_loaded_by_the_pipeline_it_is_for(tmp_path, monkeypatch):
    import diffusers

    save_file(V1, tmp_path / "v1.safetensors")
    asked = {}

    def from_single_file(file, dtype):  # the real one fetches a configuration from the hub
        asked.update(file=file, dtype=dtype)
        return stable_diffusion()

    monkeypatch.setattr(diffusers.StableDiffusionPipeline, "from_single_file", from_single_file)
    pipe = load_pipeline(tmp_path / "v1.safetensors", scheduler="euler", device="cpu")
    assert asked == {"file": str(tmp_path / "v1.safetensors"), "dtype": torch.float32}
    assert type(pipe.scheduler).__name__ == "EulerDiscreteScheduler"


def test_the_weights_of_a_checkpoint_in_one_file_arrive(tmp_path, monkeypatch):
    """Published names and shapes; the configuration, as after a first fetch, in the hub client's cache."""
    pipe = stable_diffusion()
    single_file.write(pipe, tmp_path / "v1.safetensors")
    single_file.cache(pipe, tmp_path / "hub", "stable-diffusion-v1-5/stable-diffusion-v1-5")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    loaded = load_pipeline(tmp_path / "v1.safetensors", device="cpu")
    for part in ("unet", "vae", "text_encoder"):
        expected, found = getattr(pipe, part).state_dict(), getattr(loaded, part).state_dict()
        assert expected.keys() == found.keys()
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    samplers = [DiffusersSampler(each, eta=1.0, **CALL) for each in (pipe, loaded)]
    noise = samplers[0].init(1, seed=3)
    assert torch.equal(samplers[0](noise, "a"), samplers[1](noise, "a"))


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        (V1, "has weights but no configuration, and that of 'v1' could not be loaded from the hub"),
        ({"down_blocks.0.motion_modules.0.temporal_transformer.norm.bias": torch.zeros(2)}, "of kind|configuration"),
        (None, "cannot be read as a checkpoint"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_line(tensors, says, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    file = tmp_path / "file.safetensors"
    file.write_bytes(b"none") if tensors is None else save_file(tensors, file)
    with pytest.raises(ModelError, match=says) as caught:
        load_pipeline(file)
    one_line(caught)


def test_loading_is_only_for_models_given_by_name(model):
    pipe = stable_diffusion()
    with pytest.raises(ArgumentError, match="expected a model's name with scheduler, device, got a pipeline"):
        align(pipe, "a", "brightness", scheduler="ddim", device="cpu")
    with pytest.raises(ArgumentError, match="expected a pipeline or a name with dtype, got a sampler"):
        align(DiffusersSampler(pipe, **CALL), "a", "brightness", dtype="float32")


def test_the_command_line_loads_as_asked_and_stores_the_options(run, small, tmp_path):
    add_lora(stable_diffusion(), tmp_path / "lora")
    status, _, err = run(
        "align", "a", "--reward", "brightness", "--steps", "1", "--scheduler", "euler-a", "--device", "cpu",
        "--dtype", "bfloat16", "--lora", "lora", "--out", "here", "-q", *small,
    )  # fmt: skip
    assert status == 0, err
    spec = json.loads((tmp_path / "here/spec.json").read_text())
    assert [spec[name] for name in ("scheduler", "device", "dtype", "lora")] == ["euler-a", "cpu", "bfloat16", "lora"]
    assert json.loads((tmp_path / "here/status.json").read_text())["dead_draws"] == ["step 4"]


def test_the_command_line_needs_no_prompt_where_the_model_takes_none(run, tmp_path):
    from tests.families.pixels import ddpm

    ddpm().save_pretrained(tmp_path / "ddpm")
    given = ["--model", "ddpm", "--reward", "brightness", "--steps", "1", "--num-inference-steps", "2"]
    status, _, err = run("align", *given, "-q")
    assert status == 0, err
    assert (tmp_path / "runs/brightness/best/00.png").exists()
    status, _, err = run("align", "a duck", *given)
    assert status == 2 and "DDPMPipeline takes no prompt, got 'a duck'" in err and len(err.strip().splitlines()) == 1
    status, _, err = run("align", "--reward", "brightness")
    assert status == 2 and "PROMPT is missing" in err


def test_cards_are_listed_and_explained(run):
    _, out, _ = run("models")
    assert all(name in out for name in load_cards()) and all(name in out for name in load_schedulers())
    status, out, _ = run("models", "sdxl-turbo")
    assert status == 0 and "hf download stabilityai/sdxl-turbo" in out and "num_inference_steps=1" in out
    status, out, _ = run("models", "stickers")
    assert status == 0 and "rabbit" in out and "'a NOUN' or 'a NOUN on a COLOR" in out
    status, _, err = run("models", "sdlx")
    assert status == 2 and "did you mean 'sdxl'" in err


def test_doctor_says_what_is_wrong(run, tmp_path):
    """Stable Diffusion 3 keeps its generator from its scheduler: a note, no failure."""
    from tests.families.flows import sd3_stochastic

    sd3_stochastic().save_pretrained(tmp_path / "sd3")
    sizes = ["--set", "height=16", "--set", "width=16", "--num-inference-steps", "2"]
    status, out, err = run("doctor", "--model", "sd3", *sizes)
    assert status == 0, err
    assert "note  seed 0 gives the pipeline's own image" in out and "another one" in out
    assert "without effect: step 2" in out and "fit for noise optimization, with the exception above" in out


def test_cards_are_read_without_torch():
    code = "from noiseward.pipelines.cards import card_of, load_cards\nload_cards(), card_of('stickers').judge"
    assert load_after(code) == set()


def test_the_built_in_model_is_a_card_like_any_other(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "stickers").mkdir()  # a folder of that name is another model only as a path
    assert type(load_pipeline("stickers", device="cpu")).__name__ == "StableDiffusionPipeline"
    with pytest.raises(ModelError, match="model_index"):
        load_pipeline(tmp_path / "stickers")
    sampler = open_sampler("stickers", call={"num_inference_steps": 3})
    assert sampler.memory == "fast"
    assert sampler.arguments == {"eta": 1.0, "num_inference_steps": 3, "guidance_scale": 3.0}
    assert [card_of(model) for model in ("clip", tmp_path, None, sampler)] == [None] * 4


def test_the_judge_is_left_out_where_its_files_are_missing(tmp_path, monkeypatch):
    def watched_rewards() -> tuple[str, ...]:
        return prepare("stickers", "a duck", "brightness", Settings(steps=0)).panel.names

    card = card_of("stickers")
    assert watched_rewards() == card.watch and card.judge.name == "judge"
    monkeypatch.setattr("noiseward.stickers._HERE", tmp_path)
    assert card.judge is None and not is_available("stickers-judge")
    monkeypatch.setattr("noiseward.problem.open_sampler", lambda *_, **__: GaussianModel().sampler())
    assert watched_rewards() == ("contrast", "jpeg")
