"""Parts by name: what a text stands for, and what is said when it stands for nothing."""

import pytest

from noiseward.errors import ArgumentError
from noiseward.options.parts import build_part


class Part:
    def __init__(self, target=None, *, size: int = 4, scale: float = 1.0, normal: bool = True, family: str = "strided"):
        self.given = (target, size, scale, normal, family)


def needy(weight, *, size: int = 4):
    return weight, size


def bounded(*, share: float = 0.5):
    if share > 1:
        raise ArgumentError(f"share must be <= 1, got {share}")
    return share


PARTS = {"part": Part, "wanting": needy, "fussy": bounded, "bare": lambda: "bare"}
PLAIN = (None, 4, 1.0, True, "strided")


@pytest.mark.parametrize(
    ("text", "given"),
    [
        ("part", PLAIN),
        (" part ", PLAIN),
        ("part:0.1", (0.1, *PLAIN[1:])),
        ("part:-3", (-3, *PLAIN[1:])),
        ("part:none", PLAIN),
        ("part:target=1e-3", (1e-3, *PLAIN[1:])),
        ("part:size=8,scale=2", (None, 8, 2.0, True, "strided")),
        ("part: 0.5 , size = 8", (0.5, 8, *PLAIN[2:])),
        ("part:normal=False,family=random", (None, 4, 1.0, False, "random")),
    ],
)
def test_a_text_stands_for_a_part_with_its_arguments(text, given):
    part = build_part(text, PARTS, "part")
    assert part.given == given
    assert [type(value) for value in part.given] == [type(value) for value in given]


def test_a_whole_number_given_for_a_number_is_a_float():
    assert isinstance(build_part("part:scale=2", PARTS, "part").given[2], float)


def test_a_part_without_arguments_and_one_that_needs_some():
    assert build_part("bare", PARTS, "part") == "bare"
    assert build_part("wanting:2,size=3", PARTS, "part") == (2, 3)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("pert", "unknown thing 'pert'; did you mean 'part'"),
        ("", "unknown thing ''; available: part, wanting, fussy, bare"),
        ("part:sise=3", "thing 'part' has no argument 'sise'; did you mean 'size'"),
        ("bare:3", "expected KEY=VALUE, got '3' in thing 'bare:3'"),
        ("bare:x=3", "thing 'bare' has no argument 'x'; it takes none"),
        ("fussy:3", "expected KEY=VALUE, got '3' in thing 'fussy:3'"),
        ("part:1,2", "expected KEY=VALUE, got '2' in thing 'part:1,2'"),
        ("part:size=3,size=4", "has 'size' twice"),
        ("part:1,target=2", "has 'target' twice"),
        ("part:size=4.5", "thing 'part': size must be an integer, got '4.5'"),
        ("part:size=none", "must be an integer"),
        ("part:size=true", "must be an integer"),
        ("part:size=", "must be an integer, got ''"),
        ("part:scale=many", "must be a finite number, got 'many'"),
        ("part:scale=nan", "must be a finite number, got 'nan'"),
        ("part:target=inf", "must be a finite number, true, false, or none, got 'inf'"),
        ("part:normal=1", "must be true or false, got '1'"),
        ("part:target=some", "must be a finite number, true, false, or none"),
        ("part:", "must be a finite number, true, false, or none"),
        ("wanting", "thing 'wanting' has no weight; give it as in 'wanting:weight=1'"),
        ("wanting:size=2", "has no weight"),
        ("fussy:share=2", "share must be <= 1, got 2.0"),
    ],
)
def test_an_invalid_part_is_refused_in_one_line(text, says):
    with pytest.raises(ArgumentError, match=says.replace("(", r"\(")) as caught:
        build_part(text, PARTS, "thing")
    assert "\n" not in str(caught.value)
