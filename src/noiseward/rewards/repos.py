"""What each reward takes from the hub, for the arguments of its maker; nothing is loaded, not even torch."""

from __future__ import annotations

from noiseward.errors import ArgumentError, choices
from noiseward.rewards.hub import JSON, Repo, is_folder

__all__ = [
    "AESTHETIC",
    "CLIP",
    "CYCLE_REWARD",
    "HPSV2",
    "HPSV2_TOKENIZER",
    "HPSV3",
    "HPSV3_BACKBONE",
    "IMAGE_REWARD",
    "IMAGE_REWARD_TOKENIZER",
    "MPS",
    "PICKSCORE",
    "QUESTION",
    "T5_TOKENIZER",
    "T5_VISION",
    "check_cycle",
    "check_version",
    "classifier_repo",
    "clip_repo",
    "count_repo",
    "dino_repo",
    "list_aesthetic",
    "list_classifier",
    "list_clip",
    "list_count",
    "list_cyclereward",
    "list_hpsv2",
    "list_hpsv3",
    "list_imagereward",
    "list_judge",
    "list_mps",
    "list_pickscore",
    "list_similarity",
    "list_vqa",
    "vqa_repo",
]

SIZES = {
    "openai/clip-vit-base-patch32": 605, "openai/clip-vit-large-patch14": 1712,
    "google/siglip2-base-patch16-224": 1501, "google/siglip-so400m-patch14-384": 3511,
    "facebook/dinov2-small": 88, "facebook/dinov2-base": 346, "facebook/dinov2-large": 1217,
    "Qwen/Qwen2-VL-2B-Instruct": 4418, "Qwen/Qwen2.5-VL-3B-Instruct": 7510,
    "IDEA-Research/grounding-dino-tiny": 689, "IDEA-Research/grounding-dino-base": 933,
    "google/owlv2-base-patch16-ensemble": 620, "google/owlv2-large-patch14-ensemble": 1760,
}  # fmt: skip  # MB
QUESTION = 'Does this figure show "{}"? Please answer yes or no.'
BERT = ("tokenizer.json", "tokenizer_config.json")

AESTHETIC = Repo("trl-lib/ddpo-aesthetic-predictor", ("aesthetic-model.pth",), (), 4)
PICKSCORE = Repo("yuvalkirstain/PickScore_v1", ("config.json", "model.safetensors"), JSON, 3945)
HPSV2 = {
    "2.0": Repo("xswu/HPSv2", ("HPS_v2_compressed.pt",), (), 1972),
    "2.1": Repo("xswu/HPSv2", ("HPS_v2.1_compressed.pt",), (), 1972),
}
HPSV2_TOKENIZER = Repo("laion/CLIP-ViT-H-14-laion2B-s32B-b79K", BERT, JSON, 3)
T5_TOKENIZER = Repo("google/flan-t5-xl", BERT, JSON, 3)
T5_VISION = Repo("openai/clip-vit-large-patch14-336", ("config.json", "pytorch_model.bin"), (), 1712)
HPSV3 = Repo("MizzenAI/HPSv3", ("HPSv3.safetensors",), (), 16600)
HPSV3_BACKBONE = Repo("Qwen/Qwen2-VL-7B-Instruct", ("config.json", "preprocessor_config.json"), JSON, 11)
MPS = Repo("RE-N-Y/mpsv1", ("model.safetensors",), (), 4170)
IMAGE_REWARD = Repo("THUDM/ImageReward", ("ImageReward.pt",), (), 1790)
CYCLE_REWARD = {
    version: Repo(f"NagaSaiAbhinay/CycleReward-{name}", ("model.safetensors",), (), 1790)
    for version, name in (("combo", "Combo"), ("t2i", "T2I"), ("i2t", "I2T"))
}
IMAGE_REWARD_TOKENIZER = Repo("google-bert/bert-base-uncased", BERT, JSON, 1)


def clip_repo(model: str) -> Repo:
    """The files of a CLIP on the hub."""
    return Repo(model, ("config.json", "model.safetensors"), JSON, SIZES.get(model, 0))


def classifier_repo(model: str) -> Repo:
    """The files of a classifier on the hub."""
    return Repo(model, ("config.json", "preprocessor_config.json", "model.safetensors"), JSON)


def dino_repo(model: str) -> Repo:
    """The files of a DINOv2 on the hub."""
    repo = clip_repo(model)
    return Repo(repo.id, (*repo.files, "preprocessor_config.json"), repo.also, repo.megabytes)


def vqa_repo(model: str) -> Repo:
    """The files of a Qwen-VL or a CLIP-FlanT5 on the hub."""
    if "flant5" in model:
        weights = (*JSON, "*.safetensors", "pytorch_model*.bin")
        return Repo(model, ("config.json",), weights, SIZES.get(model, 0))
    return Repo(model, ("config.json", "preprocessor_config.json"), (*JSON, "*.safetensors"), SIZES.get(model, 0))


def count_repo(model: str) -> Repo:
    """The files of an OWLv2 or a Grounding DINO on the hub."""
    return Repo(model, ("config.json", "preprocessor_config.json", "model.safetensors"), JSON, SIZES.get(model, 0))


CLIP = clip_repo("openai/clip-vit-large-patch14")


def check_version(version: str) -> str:
    """A version of HPSv2, by the name it is listed under."""
    version = version.removeprefix("v")
    if version not in HPSV2:
        raise ArgumentError(f"unknown version '{version}' of reward 'hpsv2'; {choices(version, HPSV2)}")
    return version


def list_aesthetic(path: str = "", *, model: str = CLIP.id) -> tuple[Repo, ...]:
    """What `aesthetic` takes from the hub."""
    return (*(() if path else (AESTHETIC,)), *list_clip(model))


def list_clip(model: str = "stickers", *, scale: float = 1.0) -> tuple[Repo, ...]:
    """What `clip` takes from the hub."""
    return () if model == "stickers" or is_folder(model) else (clip_repo(model),)


def list_judge() -> tuple[Repo, ...]:
    """Nothing: it comes with the built-in model."""
    return ()


def list_pickscore(path: str = "") -> tuple[Repo, ...]:
    """What `pickscore` takes from the hub."""
    return () if path else (PICKSCORE,)


def list_hpsv2(version: str = "2.1", *, path: str = "", tokenizer: str = "") -> tuple[Repo, ...]:
    """What `hpsv2` takes from the hub."""
    return (*(() if path else (HPSV2[check_version(version)],)), *(() if tokenizer else (HPSV2_TOKENIZER,)))


def list_hpsv3(path: str = "", *, backbone: str = "", question: str = "") -> tuple[Repo, ...]:
    """What `hpsv3` takes from the hub."""
    return (*(() if path else (HPSV3,)), *(() if backbone else (HPSV3_BACKBONE,)))


def list_imagereward(path: str = "", *, tokenizer: str = "") -> tuple[Repo, ...]:
    """What `imagereward` takes from the hub."""
    return (*(() if path else (IMAGE_REWARD,)), *(() if tokenizer else (IMAGE_REWARD_TOKENIZER,)))


def check_cycle(version: str) -> str:
    """A version of CycleReward, by the name it is listed under."""
    if version not in CYCLE_REWARD:
        raise ArgumentError(f"unknown version '{version}' of reward 'cyclereward'; {choices(version, CYCLE_REWARD)}")
    return version


def list_mps(path: str = "", *, tokenizer: str = "", condition: str = "", threshold: float = 0.01) -> tuple[Repo, ...]:
    """What `mps` takes from the hub."""
    return (*(() if path else (MPS,)), *(() if tokenizer else (HPSV2_TOKENIZER,)))


def list_cyclereward(path: str = "", *, version: str = "combo", tokenizer: str = "") -> tuple[Repo, ...]:
    """What `cyclereward` takes from the hub."""
    weights = () if path else (CYCLE_REWARD[check_cycle(version)],)
    return (*weights, *(() if tokenizer else (IMAGE_REWARD_TOKENIZER,)))


def list_similarity(path: str = "", *, model: str = CLIP.id) -> tuple[Repo, ...]:
    """What `similarity` takes from the hub."""
    return tuple(dino_repo(repo.id) if "dino" in repo.id else repo for repo in list_clip(model))


def list_classifier(model: str = "", *, target: str = "") -> tuple[Repo, ...]:
    """What `classifier` takes from the hub."""
    return (classifier_repo(model),) if model and not is_folder(model) else ()


def list_vqa(
    model: str = "Qwen/Qwen2.5-VL-3B-Instruct", *, question: str = QUESTION, tokenizer: str = "", vision: str = ""
) -> tuple[Repo, ...]:
    """What `vqa` takes from the hub."""
    if is_folder(model):
        return ()
    more = ((tokenizer, T5_TOKENIZER), (vision, T5_VISION)) if "flant5" in model else ()
    return (vqa_repo(model), *(repo for given, repo in more if not given))


def list_count(
    target: str = "", *, number: int = 1, threshold: float = 0.2, model: str = "google/owlv2-base-patch16-ensemble"
) -> tuple[Repo, ...]:
    """What `count` takes from the hub."""
    return () if is_folder(model) else (count_repo(model),)
