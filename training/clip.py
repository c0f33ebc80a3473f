"""Two small CLIP models: `stickers-clip`, a reward, and `stickers-judge`, which only ever judges.

They differ in seed, size and augmentation and see different streams of images. A batch holds N images
and 3 N captions: the true caption of each image, the same noun on another background, another noun on the
same background. Several captions fit an image ("a duck" fits every duck), so with M the 0/1 matrix of what
fits and S the scaled cosine similarities,

    loss = ( CE(S, M / row sums) + CE(S^T, M^T / column sums) ) / 2,

where captions that fit no image of the batch drop out of the second term and are only negatives in the
first.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel, CLIPVisionConfig

from training import glyphs, language, loop, precision
from training.glyphs import Scene
from training.settings import CLIPS, PACKAGE, WORK, Clip
from training.words import COLORS, NOUNS, caption

ALL = tuple(NOUNS)
_COLORS = tuple(COLORS)


def build(clip: Clip) -> CLIPModel:
    """The untrained model; images enter as (N, 3, 64, 64) in [-1, 1]."""
    torch.manual_seed(clip.seed)
    text = language.settings(language.tokenizer(), clip.text_width, clip.text_layers, 4, clip.projection)
    vision = CLIPVisionConfig(
        hidden_size=clip.width,
        intermediate_size=4 * clip.width,
        projection_dim=clip.projection,
        num_hidden_layers=clip.layers,
        num_attention_heads=4,
        image_size=64,
        patch_size=8,
    )
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=clip.projection))


def load_shipped(name: str) -> CLIPModel:
    """The model as it is in the package, for use in float32."""
    return CLIPModel.from_pretrained(PACKAGE / name, local_files_only=True, dtype=torch.float32).eval()


def load_trained(name: str) -> CLIPModel:
    """The model as it was trained here, frozen; as it is in the package before that."""
    if loop.checkpoint(name).exists():
        model = build(CLIPS[name])
        model.load_state_dict(loop.load_averaged(name))
    else:
        model = load_shipped(name)
    return model.eval().requires_grad_(False)


def augment(pixels: Tensor, clip: Clip, generator: torch.Generator) -> Tensor:
    """Make the images worse the way a generator does: blur some, add noise to some, hide a patch of some."""
    count = len(pixels)
    draws = torch.rand(count, 4, generator=generator)
    blurred = F.avg_pool2d(F.pad(pixels, (1, 1, 1, 1), mode="replicate"), 3, 1)
    if clip.blur > 1:
        blurred = F.avg_pool2d(F.pad(blurred, (1, 1, 1, 1), mode="replicate"), 3, 1)
    amount = (draws[:, 0] < 0.5).float()[:, None, None, None] * draws[:, 1, None, None, None]
    pixels = torch.lerp(pixels, blurred, amount)
    strength = clip.noise * draws[:, 2, None, None, None]
    pixels = pixels + strength * torch.randn(pixels.shape, generator=generator)
    if clip.hide:
        corners = torch.randint(0, 64 - clip.hide, (count, 2), generator=generator).tolist()
        for n, (top, left) in enumerate(corners):
            if draws[n, 3] < 0.5:
                pixels[n, :, top : top + clip.hide, left : left + clip.hide] = 0
    return pixels


def bank(scenes: list[Scene], generator: torch.Generator) -> list[tuple[str, str | None]]:
    """(noun, color or None) of the true caption, another color, another noun, for each image."""
    nouns = torch.randint(1, len(ALL), (len(scenes),), generator=generator).tolist()
    colors = torch.randint(1, len(_COLORS), (len(scenes),), generator=generator).tolist()
    meanings: list[tuple[str, str | None]] = []
    for scene, noun, color in zip(scenes, nouns, colors, strict=True):
        color_named = scene.color if scene.named else None
        meanings.append((scene.noun, color_named))
        meanings.append((scene.noun, _COLORS[(_COLORS.index(scene.color) + color) % len(_COLORS)]))
        meanings.append((ALL[(ALL.index(scene.noun) + noun) % len(ALL)], color_named))
    return list(dict.fromkeys(meanings))


def fits(scenes: list[Scene], meanings: list[tuple[str, str | None]]) -> Tensor:
    """1 where a caption fits an image: (images, captions)."""
    rows = [[float(p.noun == noun and color in (None, p.color)) for noun, color in meanings] for p in scenes]
    return torch.tensor(rows)


def contrast(similarity: Tensor, match: Tensor) -> Tensor:
    """The symmetric loss for several positives."""
    by_image = F.cross_entropy(similarity, match / match.sum(1, keepdim=True))
    used = match.sum(0) > 0
    columns = match[:, used].T
    return (by_image + F.cross_entropy(similarity[:, used].T, columns / columns.sum(1, keepdim=True))) / 2


def embed_images(model: CLIPModel, pixels: Tensor) -> Tensor:
    """Unit image embeddings."""
    return F.normalize(model.get_image_features(pixel_values=pixels).pooler_output, dim=-1)


def embed_texts(model: CLIPModel, ids: Tensor) -> Tensor:
    """Unit caption embeddings."""
    return F.normalize(model.get_text_features(input_ids=ids).pooler_output, dim=-1)


def accuracy(model: CLIPModel, pixels: Tensor, scenes: list[Scene]) -> tuple[float, float]:
    """Shares of right nouns (among all) and of right colors (among 12, the noun given)."""
    words = language.tokenizer()
    image_vectors = embed_images(model, pixels)
    names = embed_texts(model, language.tokens([caption(noun) for noun in ALL], words))
    truth = torch.tensor([ALL.index(p.noun) for p in scenes])
    nouns = (image_vectors @ names.T).argmax(1).eq(truth).float().mean().item()
    colored = embed_texts(model, language.tokens([caption(n, c) for n in ALL for c in _COLORS], words))
    choices = colored.reshape(len(ALL), len(_COLORS), -1)[truth]
    shades = torch.tensor([_COLORS.index(p.color) for p in scenes])
    colors = torch.einsum("nd,ncd->nc", image_vectors, choices).argmax(1).eq(shades).float().mean().item()
    return nouns, colors


def train(name: str) -> None:
    """The stage `clip` or `judge`."""
    clip = CLIPS[name]
    model, words = build(clip), language.tokenizer()
    held, shown = glyphs.batch("heldout", 0, 512, ALL)
    count = clip.stage.batch
    spoiled = WORK / f"{name}-samples.png"

    def loss(step: int) -> Tensor:
        generator = torch.Generator().manual_seed(clip.seed * 1_000_003 + step)
        pixels, scenes = glyphs.batch(name, step * count, count, ALL)
        pixels = augment(pixels, clip, generator)
        meanings = bank(scenes, generator)
        ids = language.tokens([caption(*meaning) for meaning in meanings], words)[:, :9]
        with precision.half(clip.stage.half):
            image_vectors, text_vectors = embed_images(model, pixels), embed_texts(model, ids)
        similarity = image_vectors.float() @ text_vectors.float().T * model.logit_scale.exp().clamp(max=100)
        return contrast(similarity, fits(scenes, meanings))

    def sample() -> str:
        nouns, colors = accuracy(model, held, shown)
        if not spoiled.exists():
            glyphs.sheet(augment(held[:64].clone(), clip, torch.Generator().manual_seed(0)), 8).save(spoiled)
        return f"held-out nouns {nouns:.1%} colors {colors:.1%}"

    loop.Trainer(name, model, clip.stage, loss, sample).run()
