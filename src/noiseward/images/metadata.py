"""What made an image, in the image: text in PNG files, EXIF in JPEG and WebP.

Two forms are written. `noiseward` is JSON with all there is; `parameters` is the text that AUTOMATIC1111's web UI
writes, and that it and Civitai read:

    a duck
    Negative prompt: blurry
    Steps: 20, Sampler: ddim, CFG scale: 5.0, Seed: 0, Size: 64x64, Model: stickers, ...

In EXIF the text is the user comment, as there, and the JSON the image description.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from noiseward.errors import ArgumentError, describe_error

__all__ = ["FORMATS", "read_metadata", "save_with_metadata", "write_parameters"]

FORMATS = {"png": "PNG", "jpg": "JPEG", "webp": "WEBP"}
QUALITY = 95
_DESCRIPTION, _EXIF, _COMMENT = 0x010E, 0x8769, 0x9286  # tags: image description, the EXIF directory, user comment
_NAMES = {
    "num_inference_steps": "Steps", "scheduler": "Sampler", "guidance_scale": "CFG scale", "seed": "Seed",
    "size": "Size", "model": "Model", "strength": "Denoising strength",
}  # fmt: skip
_OURS = {"reward": "Reward", "before": "Reward before", "after": "Reward after", "method": "Method"}


def write_parameters(metadata: Mapping[str, Any]) -> str:
    """The text that other tools read.

    Example:
        >>> print(write_parameters({"prompt": "a duck", "seed": 3, "method": "dno:lr=0.01,guard=none", "version": "1"}))
        a duck
        Seed: 3, Method: "dno:lr=0.01,guard=none", Version: noiseward 1
    """
    lines = [str(metadata.get("prompt") or "")]
    if negative := metadata.get("negative_prompt"):
        lines.append(f"Negative prompt: {negative}")
    known = {shown: metadata[name] for name, shown in (_NAMES | _OURS).items() if metadata.get(name) is not None}
    known |= {"Version": f"noiseward {metadata['version']}"} if "version" in metadata else {}
    lines.append(", ".join(f"{name}: {_quote(value)}" for name, value in known.items()))
    return "\n".join(lines)


def _quote(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return json.dumps(text, ensure_ascii=False) if re.search(r'[,:\n"]', text) else text


def save_with_metadata(
    image: Image.Image, path: str | os.PathLike[str], metadata: Mapping[str, Any], *, kind: str = "PNG"
) -> None:
    """Save an image with what made it.

    Arguments:
        image: to save.
        path: of the file.
        metadata: plain data by name.
        kind: `PNG`, `JPEG` or `WEBP`.
    """
    text, plain = write_parameters(metadata), json.dumps(metadata, ensure_ascii=False)
    if kind == "PNG":
        info = PngInfo()
        for name, value in (("parameters", text), ("noiseward", plain)):
            info.add_itxt(name, value) if not value.isascii() else info.add_text(name, value)
        image.save(path, format=kind, pnginfo=info)
        return
    exif = Image.Exif()
    exif[_DESCRIPTION] = json.dumps(metadata)
    exif.get_ifd(_EXIF)[_COMMENT] = b"UNICODE\0" + text.encode("utf-16-be")
    image.save(path, format=kind, quality=QUALITY, exif=exif)


def read_metadata(path: Path) -> dict[str, Any]:
    """What made an image, as its file says; of an image of another tool its `parameters` alone.

    Raises:
        ArgumentError: it is no image, or does not say.
    """
    try:
        with Image.open(path) as image:
            found: dict[str, Any] = {name: image.info.get(name) for name in ("noiseward", "parameters")}
            exif = image.getexif()
            comment = exif.get_ifd(_EXIF).get(_COMMENT, b"")
            found["noiseward"] = found["noiseward"] or exif.get(_DESCRIPTION)
            found["parameters"] = found["parameters"] or _decode(comment)
    except Exception as error:  # Pillow raises errors of many kinds over damaged files
        raise ArgumentError(f"expected an image, got '{path}' ({describe_error(error, 100)}); check the file") from None
    try:
        plain = json.loads(found["noiseward"] or "")
    except ValueError:
        plain = None
    if isinstance(plain, dict) and "version" in plain:
        return plain
    if isinstance(found["parameters"], str) and found["parameters"]:
        return {"parameters": found["parameters"]}
    raise ArgumentError(f"{path} does not say what made it; images of run directories, and exported ones, do")


def _decode(comment: Any) -> str:
    if not isinstance(comment, bytes) or not comment.startswith(b"UNICODE\0"):
        return ""
    return comment[8:].decode("utf-16-be", errors="replace")
