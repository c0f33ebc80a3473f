"""What tasks refuse: each in one line that says what to do."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import diffusers
import numpy
import pytest
import torch
from PIL import Image

from noiseward import ArgumentError, ModelError, align
from noiseward.options.run import RunSpec
from noiseward.pipelines.open import open_sampler
from noiseward.sweep.directory import Sweep
from noiseward.sweep.rows import read_rows
from tests.task_models import write_models

STEPS: dict[str, Any] = {"num_inference_steps": 4}


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    return write_models(tmp_path_factory.mktemp("models"))


def pipeline(models: Path, conversion: dict[str, Any] | None = None, model: str = "sd", **call: Any) -> str:
    """The class that drives a task."""
    paths = {name: str(models / f"{value}.png") if isinstance(value, str) else value for name, value in call.items()}
    return type(open_sampler(str(models / model), call={**STEPS, **paths}, conversion=conversion or {}).pipe).__name__


NET = {"controlnet": "canny"}


@pytest.mark.parametrize(
    "conversion, call, message",
    [
        ({}, {"mask_image": "mask"}, "mask_image needs image, got none; give the image that it masks"),
        ({"task": "inpaint"}, {"image": "photo"}, "task inpaint needs mask_image, got none"),
        ({"task": "img2img"}, {}, "task img2img needs image, got none; give the image to start from"),
        ({"task": "img2img"}, {"image": "photo", "mask_image": "mask"}, "img2img takes no mask_image; leave it out"),
        ({"task": "text2img"}, {"image": "photo"}, "text2img takes no image; leave it out, or name the task img2img"),
        ({"task": "controlnet"}, {}, "task controlnet needs control_image"),
        ({"task": "controlnet"}, {"control_image": "edges"}, "needs controlnet, which StableDiffusionPipeline"),
        ({}, {"control_image": "edges"}, "control_image needs controlnet, which StableDiffusionPipeline has none of"),
        ({}, {"control_image": "edges", "image": "photo"}, "control_image needs controlnet"),
        (NET, {}, "controlnet needs control_image, got none; give the image that it follows"),
        (NET, {"control_image": "edges", "mask_image": "mask"}, "mask_image needs image"),
        ({**NET, "task": "text2img"}, {"control_image": "edges"}, "text2img takes no control_image"),
        ({"controlnet": "canny-xl"}, {"control_image": "edges"}, "for models with (cross_attention_dim|addition)"),
        ({"controlnet": "sd/unet"}, {"control_image": "edges"}, "must be a ControlNet, got a UNet2DConditionModel"),
        ({"task": "upscale"}, {}, "unknown task 'upscale'; available: text2img, img2img, inpaint, controlnet"),
        ({}, {"strength": 0.5}, "strength needs image, got none; give the image to start from"),
        ({}, {"image": "photo", "strength": 0.1}, "strength=0.1 of num_inference_steps=4 leaves no step; give"),
        ({"ip_adapter_scale": 0.5}, {}, "ip_adapter_scale needs ip_adapter"),
        ({"ip_adapter": "ip-adapter/models"}, {}, "ip_adapter needs ip_adapter_image"),
        ({}, {"ip_adapter_image": "photo"}, "ip_adapter_image needs ip_adapter, got none"),
        ({"ip_adapter": "ip-adapter"}, {"ip_adapter_image": "photo"}, "folder with one .safetensors file, got none"),
        ({"ip_adapter": "photo.png"}, {"ip_adapter_image": "photo"}, "must be a .safetensors file, got"),
        ({}, {"image": "nothing"}, "image: expected the path of an image, got"),
    ],
)  # fmt: skip
def test_what_does_not_fit_together_is_refused_in_one_line(models, conversion, call, message):
    asked = {
        name: str(models / value) if name in ("controlnet", "ip_adapter") else value
        for name, value in conversion.items()
    }
    with pytest.raises(ArgumentError, match=message) as refused:
        pipeline(models, asked, **call)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "conversion, call, message",
    [
        ({"controlnet": "none"}, {"control_image": "edges"}, "unknown controlnet '.*none': no folder here"),
        ({"controlnet": "ip-adapter"}, {"control_image": "edges"}, "is no ControlNet, it has no config.json"),
        ({"ip_adapter": "none"}, {"ip_adapter_image": "photo"}, "unknown ip_adapter '.*none': no file here"),
        ({"ip_adapter": "xl-adapter"}, {"ip_adapter_image": "photo"}, "has no image encoder; put its folder"),
        ({"ip_adapter": "ip-adapter/damaged"}, {"ip_adapter_image": "photo"}, "does not fit StableDiffusionPipeline"),
    ],
)  # fmt: skip
def test_models_that_are_not_there_or_damaged_are_refused_in_one_line(models, conversion, call, message):
    (models / "xl-adapter").mkdir(exist_ok=True)
    (models / "xl-adapter" / "ip.safetensors").write_bytes(b"nothing")
    (models / "ip-adapter" / "damaged").mkdir(exist_ok=True)
    (models / "ip-adapter" / "damaged" / "ip.safetensors").write_bytes(b"nothing")
    shutil.copytree(models / "ip-adapter" / "models" / "image_encoder", models / "ip-adapter" / "image_encoder",
                    dirs_exist_ok=True)  # fmt: skip
    with pytest.raises(ModelError, match=message) as refused:
        pipeline(models, {name: str(models / value) for name, value in conversion.items()}, **call)
    assert "\n" not in str(refused.value)


def test_a_pipeline_without_such_a_task_is_refused(models):
    pixart = {"transformer": None, "vae": None, "text_encoder": None, "tokenizer": None}
    pipe = diffusers.PixArtSigmaPipeline(**pixart, scheduler=diffusers.DDIMScheduler())
    with pytest.raises(ModelError, match="PixArtSigmaPipeline has no pipeline for img2img in diffusers"):
        open_sampler(pipe, call={"image": str(models / "photo.png")})


def test_a_model_for_inpainting_alone_does_nothing_else(models, tmp_path):
    from tests.catalog.stable import parts

    pipe = diffusers.StableDiffusionInpaintPipeline(**parts(in_channels=9))
    with pytest.raises(ArgumentError, match="this model only inpaints"):
        open_sampler(pipe, call={"image": str(models / "photo.png")}, conversion={"task": "img2img"})


def test_an_ip_adapter_is_not_loaded_into_the_pipeline_of_another(models):
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(models / "sd")
    with pytest.raises(ArgumentError, match="ip_adapter needs a model by its name, got a StableDiffusionPipeline"):
        open_sampler(pipe, call={"ip_adapter_image": str(models / "photo.png")}, conversion={"ip_adapter": "x/y"})


def test_the_built_in_model_cannot_inpaint(models):
    call = {"image": str(models / "photo.png"), "mask_image": str(models / "mask.png")}
    says = "needs a UNet of 4 or 9 channels, got one of 8; give an SD 1.5, SDXL or inpainting model"
    with pytest.raises(ArgumentError, match=f"inpainting in diffusers {says}"):
        open_sampler("stickers", call=call)


def test_a_mask_without_white_is_refused(models):
    call = {**STEPS, "image": str(models / "photo.png"), "mask_image": Image.new("L", (24, 20))}
    with pytest.raises(ArgumentError, match="mask_image has no white part, its lightest pixel is 0 of 255"):
        open_sampler(str(models / "sd"), call=call)


def test_tensors_are_taken_as_they_are_or_refused(models):
    tensor = torch.rand(1, 3, 24, 16)
    settings = {"steps": 0, "progress": False, **STEPS}
    assert align(str(models / "sd"), "a", "brightness", image=tensor, **settings).sample.shape[2:] == (24, 16)
    with pytest.raises(ArgumentError, match="image must be 32 x 48, got 16 x 24; arrays and tensors are not resized"):
        align(str(models / "sd"), "a", "brightness", image=tensor, height=48, width=32, **settings)
    with pytest.raises(ArgumentError, match="mask_image must be 16 x 24, got 8 x 8; arrays and tensors"):
        align(str(models / "sd"), "a", "brightness", image=tensor, mask_image=numpy.ones((8, 8, 1)), **settings)


def test_a_size_beyond_all_memory_is_refused_before_the_image_is_resized(models):
    with pytest.raises(ArgumentError, match="height x width must be <= 134,217,728 pixels, got 100000 x 120000"):
        open_sampler(str(models / "sd"), call={**STEPS, "image": str(models / "photo.png"), "height": 100_000})


def test_a_list_that_fits_no_rows_is_named(models):
    images = [Image.new("RGB", (16, 16))] * 3
    with pytest.raises(ModelError, match=r"\(image has 3 entries for 2 rows\)$"):
        align(str(models / "sd"), ["a", "b"], "brightness", image=images, steps=0, progress=False, **STEPS)


def test_a_batch_does_not_begin_with_an_image_that_is_not_there(models, tmp_path):
    table = tmp_path / "prompts.csv"
    table.write_text(f"prompt,image\na,{models / 'photo.png'}\nb,{tmp_path / 'nothing.png'}\n")
    rows = read_rows(table, RunSpec(prompt=(), reward="brightness", model=str(models / "sd")))
    with pytest.raises(ArgumentError, match="line 3: image: expected the path of an image, got '.*nothing.png'"):
        Sweep.begin(tmp_path / "out", rows, size=4)
    assert not (tmp_path / "out").exists()


def test_a_git_lfs_pointer_in_the_place_of_an_image_says_what_to_do(models, tmp_path):
    (tmp_path / "photo.png").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(ArgumentError, match="is a Git LFS pointer, not the image; run 'git lfs pull'"):
        open_sampler(str(models / "sd"), call={**STEPS, "image": str(tmp_path / "photo.png")})
