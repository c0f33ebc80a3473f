r"""Text in images: how well what can be read agrees with what should stand there.

Both rewards use PP-OCRv4, which comes inside the package `rapidocr-onnxruntime` (Apache-2.0).

`ocr` finds lines anywhere in the image, reads them from top to bottom, and compares: one less the edit distance,
relative to the longer text. A black box; 0 as long as nothing is found.

`ocr-line` takes the whole image, or a box in it, for one line. The recognizer gives each of its T columns a
distribution over characters, and the reward is the log-probability of the text under all its alignments with the
columns (CTC), per character,

.. math:: r(x) = \tfrac{1}{|y|} \log \sum_{\pi \to y} \prod_{t=1}^T p_t(\pi_t \mid x) \le 0,

which has a gradient, and one long before anything can be read.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

import numpy
import torch
from torch import Tensor
from torch.nn import functional as F

from noiseward.errors import ArgumentError
from noiseward.images import to_images
from noiseward.rewards.extras import import_extra
from noiseward.rewards.onnx.model import OnnxModel
from noiseward.rewards.onnx.packages import find_file
from noiseward.rewards.preprocess import check_images, widen
from noiseward.rewards.reward import Reward

__all__ = ["Ocr", "OcrLine", "compare_texts", "ocr", "ocr_line"]

HEIGHT, STRIDE = 48, 8  # of the recognizer's input, and how many of its columns of pixels make one of its own
LETTER = 24  # columns of pixels per character, at least
RECOGNIZER = "models/ch_PP-OCRv4_rec_infer.onnx"


def compare_texts(one: str, other: str) -> float:
    """One less the edit distance relative to the longer text, from 0 to 1.

    Example:
        >>> compare_texts("duck", "dock"), compare_texts("", ""), compare_texts("duck", "")
        (0.75, 1.0, 0.0)
    """
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, start=1):
        before, row[0] = row[0], i
        for j, b in enumerate(other, start=1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (a != b))
    return 1 - row[-1] / max(len(one), len(other), 1)


@final
class Ocr(Reward):
    """How well the text that is found agrees with a text, from 0 to 1. A black box.

    Arguments:
        reader: a `RapidOCR`.
        text: what should stand there.
        case: whether upper and lower case differ.
    """

    name, differentiable = "ocr", False

    def __init__(self, reader: Any, text: str, *, case: bool = False) -> None:
        self.reader, self.text, self.case = reader, text, case

    def read(self, sample: Tensor) -> list[str]:
        """The text of each image, its lines from top to bottom with spaces between."""
        return [self._read(numpy.asarray(image)[:, :, ::-1]) for image in to_images(check_images(sample))]

    def _read(self, image: Any) -> str:
        lines, _ = self.reader(numpy.ascontiguousarray(image))
        placed = [(box, text) for box, text, _ in lines or ()]
        return " ".join(text for box, text in sorted(placed, key=lambda one: (one[0][0][1], one[0][0][0])))

    def __call__(self, sample: Tensor, prompt: Sequence[str] | None) -> Tensor:
        texts = self.read(sample)
        if not self.case:
            texts = [text.casefold() for text in texts]
        goal = self.text if self.case else self.text.casefold()
        return torch.tensor([compare_texts(goal, text) for text in texts], device=sample.device)


@final
class OcrLine(Reward):
    """The log-probability of a text per character, where the image is read as one line; below 0.

    Arguments:
        model: the recognizer.
        alphabet: its characters, in the order of its outputs after the first, which is none.
        text: what should stand there.
        box: left, top, right and bottom of the line, as parts of the width and the height.

    Raises:
        ArgumentError: a character that the recognizer does not know.
    """

    name = "ocr-line"

    def __init__(
        self, model: OnnxModel, alphabet: Sequence[str], text: str, *, box: tuple[float, ...] = (0, 0, 1, 1)
    ) -> None:
        self.model, self.differentiable, self.text, self.box = model, model.differentiable, text, box
        places = {letter: place for place, letter in enumerate(alphabet, start=1)}
        if unknown := [letter for letter in text if letter not in places]:
            raise ArgumentError(f"the recognizer knows no '{unknown[0]}'; leave it out of text=")
        self.alphabet, self._codes = ("", *alphabet), [places[letter] for letter in text]

    def __call__(self, sample: Tensor, prompt: Sequence[str] | None) -> Tensor:
        found = self._columns(sample).clamp(min=1e-12).log().transpose(0, 1)
        columns, rows = found.shape[:2]
        codes = torch.tensor(self._codes, device=found.device).expand(rows, -1)
        long, short = torch.full((rows,), columns), torch.full((rows,), len(self._codes))
        loss = F.ctc_loss(found, codes, long, short, reduction="none")
        return (-loss / len(self._codes)).to(sample.dtype)

    def read(self, sample: Tensor) -> list[str]:
        """The most likely characters of each image, column by column."""
        found = []
        for row in self._columns(sample).argmax(2).tolist():
            kept = [code for code, before in zip(row, [0, *row], strict=False) if code != before]
            found.append("".join(self.alphabet[code] for code in kept))
        return found

    def _columns(self, sample: Tensor) -> Tensor:
        """The distribution of each column, `(B, T, characters)`."""
        images = check_images(widen(sample))
        height, width = images.shape[2:]
        left, top, right, bottom = self.box
        part = images[
            :, :, math.floor(top * height) : math.ceil(bottom * height),
            math.floor(left * width) : math.ceil(right * width),
        ]  # fmt: skip
        wide = round(part.shape[3] * HEIGHT / part.shape[2])
        wide = math.ceil(max(wide, LETTER * len(self._codes)) / STRIDE) * STRIDE
        line = F.interpolate(part, (HEIGHT, wide), mode="bilinear", align_corners=False)
        return self.model(2 * line.flip(1) - 1)  # blue first


def ocr(text: str = "", *, case: bool = False) -> Ocr:
    """How well the text in an image agrees with a text.

    Arguments:
        text: what should stand there.
        case: whether upper and lower case differ.
    """
    package = import_extra("rapidocr_onnxruntime", extra="ocr", name="reward 'ocr'")
    return Ocr(package.RapidOCR(), _require_text(text, "ocr"), case=case)


def ocr_line(text: str = "", *, box: str = "0,0,1,1", gradient: str = "auto") -> OcrLine:
    """The log-probability of a text, where the image is read as one line.

    Arguments:
        text: what should stand there.
        box: where the line is, left, top, right and bottom as parts of the image, as in `box="0,0.4,1,0.6"`.
        gradient: auto, yes, or no.
    """
    goal = _require_text(text, "ocr-line")
    path = find_file("rapidocr_onnxruntime", RECOGNIZER, extra="ocr", name="reward 'ocr-line'")
    model = OnnxModel(path, gradient=gradient, name="ocr-line", side=HEIGHT)
    return OcrLine(model, _read_alphabet(path), goal, box=_read_box(box))


@functools.cache
def _read_alphabet(path: Path) -> tuple[str, ...]:
    """The characters of a recognizer, from its metadata; the last is the space."""
    onnx = import_extra("onnx", extra="onnx", name="reward 'ocr-line'")
    known = {part.key: part.value for part in onnx.load(str(path)).metadata_props}
    return (*known["character"].splitlines(), " ")


def _require_text(text: str, name: str) -> str:
    if not text:
        raise ArgumentError(f"reward '{name}' needs a text, as in {name}:text=HELLO")
    return text


def _read_box(text: str) -> tuple[float, ...]:
    try:
        box = tuple(float(part) for part in text.split(","))
    except ValueError:
        box = ()
    if len(box) != 4 or not (0 <= box[0] < box[2] <= 1 and 0 <= box[1] < box[3] <= 1):
        raise ArgumentError(
            f"box must be left, top, right and bottom in [0, 1], as in box=\"0,0.4,1,0.6\", got '{text}'"
        )
    return box
