"""Tasks of a text-to-image model: the pipeline is diffusers' own for the task, and its noise is optimized as any."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import numpy
import pytest
import torch
from PIL import Image

from noiseward import align
from noiseward.errors import NoisewardWarning
from noiseward.pipelines.open import open_sampler
from noiseward.pipelines.sizes import find_size
from noiseward.samplers.reference_store import ReferenceStore
from tests.battery import slopes, weigh
from tests.task_models import write_models

STEPS: dict[str, Any] = {"num_inference_steps": 4}
SMALL = (16, 8)  # what the photo becomes: as many pixels as the model draws, in multiples of 8


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    return write_models(tmp_path_factory.mktemp("models"))


def open_image(models: Path, name: str, size: tuple[int, int] = SMALL) -> Image.Image:
    """An image as a user of diffusers would prepare it."""
    mode = "L" if name == "mask" else "RGB"
    return Image.open(models / f"{name}.png").convert(mode).resize(size, Image.Resampling.LANCZOS)


GIVEN: dict[str, dict[str, str]] = {
    "img2img": {"image": "photo"},
    "inpaint": {"image": "photo", "mask_image": "mask"},
    "controlnet": {"control_image": "edges"},
    "controlnet img2img": {"control_image": "edges", "image": "photo"},
    "controlnet inpaint": {"control_image": "edges", "image": "photo", "mask_image": "mask"},
}
CLASSES = {
    "img2img": "Img2Img",
    "inpaint": "Inpaint",
    "controlnet": "ControlNet",
    "controlnet img2img": "ControlNetImg2Img",
    "controlnet inpaint": "ControlNetInpaint",
}
FAMILIES = {"sd": "StableDiffusion", "xl": "StableDiffusionXL"}


def open_task(models: Path, family: str, name: str, **loading: Any):
    """A sampler of a task, as a user asks for it: by paths."""
    call: dict[str, Any] = {one: str(models / f"{file}.png") for one, file in GIVEN[name].items()}
    call |= {"strength": 0.7} if "image" in call else {}
    net = "canny" if family == "sd" else "canny-xl"
    conversion = {"controlnet": str(models / net)} if "control_image" in call else {}
    return open_sampler(str(models / family), call={**STEPS, **call}, conversion=conversion, loading=loading)


def make_stock(models: Path, family: str, name: str) -> tuple[Any, dict[str, Any]]:
    """The pipeline that the diffusers docs make for a task, and its arguments."""
    folder, kind = models / family, getattr(diffusers, f"{FAMILIES[family]}{CLASSES[name]}Pipeline")
    more = {}
    if "controlnet" in name:
        more["controlnet"] = diffusers.ControlNetModel.from_pretrained(
            models / ("canny" if family == "sd" else "canny-xl")
        )
    pipe = kind.from_pretrained(folder, **more)
    pipe.set_progress_bar_config(disable=True)
    images = {one: open_image(models, file) for one, file in GIVEN[name].items()}
    if name == "controlnet":
        images = {"image": images["control_image"]}
    sides = {} if name == "img2img" else {"width": SMALL[0], "height": SMALL[1]}
    strength = {} if name == "controlnet" else {"strength": 0.7}
    return pipe, {**STEPS, **images, **sides, **strength, "eta": 1.0}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", GIVEN)
def test_a_task_gives_the_sample_of_the_stock_pipeline_bit_for_bit(models, family, name):
    sampler = open_task(models, family, name)
    pipe, call = make_stock(models, family, name)
    assert type(sampler.pipe) is type(pipe)
    torch.manual_seed(7)
    theirs = pipe("a b", **call, generator=torch.Generator().manual_seed(7), output_type="pt", return_dict=False)[0]
    with torch.no_grad():
        ours = sampler(sampler.init(1, seed=7), "a b")
    assert torch.equal(ours, sampler.run_stock("a b", seed=7)) and torch.equal(ours, theirs)
    assert ours.shape[2:] == SMALL[::-1]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", GIVEN)
def test_the_gradient_to_the_noise_of_a_task_is_that_of_finite_differences(models, family, name):
    sampler = open_task(models, family, name, dtype="float64")
    errors = slopes(sampler, "a b", 1e-3)
    assert "start" in errors and len(errors) >= 3  # it moves the first noise and that of the steps
    assert max(errors.values()) < 1e-6, errors


def test_an_ip_adapter_is_that_of_diffusers(models):
    scale, photo = 0.6, models / "photo.png"
    call = {**STEPS, "height": 16, "width": 16, "ip_adapter_image": str(photo)}
    conversion = {"ip_adapter": str(models / "ip-adapter" / "models"), "ip_adapter_scale": scale}
    sampler = open_sampler(str(models / "sd"), call=call, conversion=conversion)
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(models / "sd")
    pipe.set_progress_bar_config(disable=True)
    pipe.load_ip_adapter(str(models / "ip-adapter"), subfolder="models", weight_name="ip-adapter.safetensors")
    pipe.set_ip_adapter_scale(scale)
    with torch.no_grad():
        ours = sampler(sampler.init(1, seed=7), "a b")
        theirs = pipe("a b", **{**call, "ip_adapter_image": Image.open(photo)}, eta=1.0, output_type="pt",
                      generator=torch.Generator().manual_seed(7)).images  # fmt: skip
        pipe.set_ip_adapter_scale(0.0)
        without = pipe("a b", **{**call, "ip_adapter_image": Image.open(photo)}, eta=1.0, output_type="pt",
                       generator=torch.Generator().manual_seed(7)).images  # fmt: skip
    assert torch.equal(ours, theirs) and not torch.equal(ours, without)


def test_an_ip_adapter_leaves_the_gradient_right(models):
    call = {**STEPS, "image": str(models / "photo.png"), "ip_adapter_image": str(models / "photo.png")}
    conversion = {"ip_adapter": str(models / "ip-adapter" / "models" / "ip-adapter.safetensors")}
    sampler = open_sampler(str(models / "sd"), call=call, conversion=conversion, loading={"dtype": "float64"})
    assert type(sampler.pipe) is diffusers.StableDiffusionImg2ImgPipeline
    assert max(slopes(sampler, "a b", 1e-3).values()) < 1e-6


@pytest.mark.parametrize("memory", ["fast", "low"])
def test_a_task_has_the_same_gradient_in_every_memory_mode(models, memory):
    call = {**STEPS, **{one: str(models / f"{file}.png") for one, file in GIVEN["controlnet inpaint"].items()}}
    gradients = []
    for mode in ("balanced", memory):
        sampler = open_sampler(
            str(models / "sd"), call=call, memory=mode, conversion={"controlnet": str(models / "canny")},
            loading={"dtype": "float64"},
        )  # fmt: skip
        noise = sampler.init(1, seed=4).double().requires_grad_()
        gradients += torch.autograd.grad(weigh(sampler(noise, "a b")).sum(), noise)
    assert ((gradients[0] - gradients[1]).norm() / gradients[0].norm()).item() < 1e-10


def test_the_part_of_an_image_that_stays_is_left_alone(models):
    mask = numpy.zeros((16, 16), dtype=numpy.uint8)
    mask[:, 8:] = 255
    photo = Image.open(models / "photo.png").resize((16, 16))
    sampler = open_sampler(str(models / "sd"), call={**STEPS, "image": photo, "mask_image": Image.fromarray(mask)})
    with torch.no_grad():
        one, other = (sampler(sampler.init(1, seed=seed), "a b") for seed in (1, 2))
    apart = (one - other).abs().mean((0, 1, 2))
    assert apart[:4].max() < 0.2 * apart[12:].min()


# ---- which task ----


def pipeline(models: Path, conversion: dict[str, Any] | None = None, model: str = "sd", **call: Any) -> str:
    """The class that drives a task."""
    paths = {name: str(models / f"{value}.png") if isinstance(value, str) else value for name, value in call.items()}
    return type(open_sampler(str(models / model), call={**STEPS, **paths}, conversion=conversion or {}).pipe).__name__


def test_images_imply_the_task_and_a_name_may_say_it(models):
    net = {"controlnet": str(models / "canny")}
    assert pipeline(models) == pipeline(models, {"task": "text2img"}) == "StableDiffusionPipeline"
    for task in ({}, {"task": "img2img"}):
        assert pipeline(models, task, image="photo") == "StableDiffusionImg2ImgPipeline"
    for task in ({}, {"task": "inpaint"}):
        assert pipeline(models, task, image="photo", mask_image="mask") == "StableDiffusionInpaintPipeline"
    for task in ({}, {"task": "controlnet"}):
        assert pipeline(models, net | task, control_image="edges") == "StableDiffusionControlNetPipeline"
    for task in ({}, {"task": "controlnet"}, {"task": "img2img"}):
        found = pipeline(models, net | task, control_image="edges", image="photo")
        assert found == "StableDiffusionControlNetImg2ImgPipeline"


def test_a_pipeline_that_takes_images_by_itself_is_called_as_it_is(models):
    made = diffusers.StableDiffusionInpaintPipeline.from_pretrained(models / "sd")
    photo, mask = open_image(models, "photo", (16, 16)), open_image(models, "mask", (16, 16))
    sampler = open_sampler(made, call={**STEPS, "image": photo, "mask_image": mask})
    assert sampler.pipe is made and set(sampler.arguments) == {*STEPS, "eta", "image", "mask_image"}
    named = open_sampler(made, call={**STEPS, "image": photo, "mask_image": mask}, conversion={"task": "inpaint"})
    assert named.pipe is made and named.arguments["height"] == 16
    back = open_sampler(made, call=STEPS, conversion={"task": "text2img"})
    assert type(back.pipe) is diffusers.StableDiffusionPipeline


def test_a_pipeline_with_a_controlnet_follows_control_image(models):
    net = diffusers.ControlNetModel.from_pretrained(models / "canny")
    made = diffusers.StableDiffusionControlNetPipeline.from_pretrained(models / "sd", controlnet=net)
    edges, photo = open_image(models, "edges"), open_image(models, "photo")
    assert open_sampler(made, call={**STEPS, "control_image": edges}).arguments["image"].tobytes() == edges.tobytes()
    both = open_sampler(made, call={**STEPS, "control_image": edges, "image": photo})
    assert type(both.pipe) is diffusers.StableDiffusionControlNetImg2ImgPipeline
    plain = open_sampler(made, call=STEPS, conversion={"task": "text2img"})
    assert type(plain.pipe) is diffusers.StableDiffusionPipeline


def test_models_are_shared_and_a_pipeline_of_ones_own_stays_as_it_is(models):
    made = diffusers.StableDiffusionPipeline.from_pretrained(models / "sd")
    sampler = open_sampler(made, call={**STEPS, "image": str(models / "photo.png")})
    assert sampler.pipe is not made and sampler.pipe.unet is made.unet
    assert type(made) is diffusers.StableDiffusionPipeline and "controlnet" not in made.components


def test_from_python_images_may_be_paths_pillow_images_and_tensors(models):
    path, photo = models / "photo.png", open_image(models, "photo")
    tensor = torch.from_numpy(numpy.asarray(photo).copy()).permute(2, 0, 1)[None] / 255
    settings = {"steps": 1, "progress": False, "method": "dno:guard=none", **STEPS}
    found = [align(str(models / "sd"), "a b", "brightness", image=image, **settings) for image in (path, photo, tensor)]
    assert torch.equal(found[0].noise, found[1].noise)
    assert torch.allclose(found[1].sample, found[2].sample, atol=1e-6)
    assert all(one.gain > 0 for one in found)


def test_a_controlnet_may_be_a_path_or_a_model_and_an_array_of_bytes_is_an_image(models):
    net, edges = models / "canny", numpy.asarray(Image.open(models / "edges.png").convert("RGB"))
    settings = {"steps": 0, "progress": False, "control_image": edges, **STEPS}
    given = (str(net), net, diffusers.ControlNetModel.from_pretrained(net))
    found = [align(str(models / "sd"), "a b", "brightness", controlnet=one, **settings).sample for one in given]
    path = align(
        str(models / "sd"), "a b", "brightness", controlnet=net, **{**settings, "control_image": models / "edges.png"}
    )
    assert all(torch.equal(found[0], one) for one in (*found, path.sample))


def test_the_built_in_model_starts_from_an_image(models):
    solution = align("stickers", "a duck", "brightness", image=models / "photo.png", strength=0.6, width=64,
                     steps=2, progress=False, method="dno", num_inference_steps=5)  # fmt: skip
    assert solution.gain > 0 and solution.images[0].size == (64, 48)


# ---- sizes ----


@pytest.mark.parametrize(
    "size, height, width, expected",
    [
        ((100, 50), None, None, (96, 48)),
        ((4000, 3000), None, None, (584, 440)),
        ((5, 5), None, None, (8, 8)),
        ((100, 50), 64, None, (128, 64)),
        ((100, 50), None, 64, (64, 32)),
        ((100, 50), 40, 40, (40, 40)),
        ((10000, 1), None, None, (10000, 8)),
    ],
)
def test_the_rule_of_sizes(size, height, width, expected):
    assert find_size(size, height, width, unit=8, most=512 * 512) == expected


def test_all_images_become_as_large_as_is_asked_for(models):
    paths = {name: str(models / f"{file}.png") for name, file in GIVEN["controlnet inpaint"].items()}
    call = {**STEPS, **paths, "height": 24, "width": 16}
    sampler = open_sampler(str(models / "sd"), call=call, conversion={"controlnet": str(models / "canny")})
    assert all(sampler.arguments[name].size == (16, 24) for name in paths)
    img2img = open_sampler(str(models / "sd"), call={**STEPS, "image": paths["image"], "height": 24, "width": 16})
    assert "height" not in img2img.arguments and img2img.arguments["image"].size == (16, 24)
    assert img2img.noise_shape[-2:] == (12, 8)


def test_a_mask_of_another_shape_is_a_warning(models):
    call = {**STEPS, "image": str(models / "photo.png"), "mask_image": Image.new("L", (30, 10), 255)}
    with pytest.warns(NoisewardWarning, match="mask_image is 30 x 10, image 24 x 20: the mask is stretched"):
        open_sampler(str(models / "sd"), call=call)


def test_images_of_spreadsheets_and_cameras_are_converted(models, tmp_path):
    photo = Image.open(models / "photo.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright
    photo.save(tmp_path / "turned.png", exif=exif)
    photo.convert("RGBA").save(tmp_path / "alpha.png")
    photo.convert("L").save(tmp_path / "gray.png")
    Image.fromarray(numpy.asarray(photo.convert("L")).astype(numpy.uint16) * 257).save(tmp_path / "deep.png")
    found = {}
    for name in ("turned", "alpha", "gray", "deep"):
        sampler = open_sampler(str(models / "sd"), call={**STEPS, "image": str(tmp_path / f"{name}.png")})
        found[name] = sampler.arguments["image"]
    assert found["turned"].size == SMALL[::-1] and found["alpha"].size == SMALL
    assert all(image.mode == "RGB" for image in found.values())
    assert found["gray"].tobytes() == found["deep"].tobytes()


def test_fresh_samples_of_another_image_are_not_taken_from_the_store(models, tmp_path):
    store = ReferenceStore(tmp_path)
    for name in ("photo", "edges", "photo"):
        sampler = open_sampler(str(models / "sd"), call={**STEPS, "image": str(models / f"{name}.png")})
        store.write(sampler, "a", (torch.zeros(2, 3),), seeds=range(2))
    assert len(list(tmp_path.iterdir())) == 2
