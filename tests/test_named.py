"""Parts by name: what a text stands for, and what is said when it stands for nothing."""

import pytest

from noiseward.errors import ArgumentError
from noiseward.named import parse


class Part:
    def __init__(self, target=None, *, size: int = 4, scale: float = 1.0, normal: bool = True, family: str = "strided"):
        self.given = (target, size, scale, normal, family)


def wanting(weight, *, size: int = 4):
    return weight, size


def fussy(*, share: float = 0.5):
    if share > 1:
        raise ArgumentError(f"share={share} given: at most 1 wanted")
    return share


PARTS = {"part": Part, "wanting": wanting, "fussy": fussy, "bare": lambda: "bare"}
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
    part = parse(text, PARTS, "part")
    assert part.given == given
    assert [type(value) for value in part.given] == [type(value) for value in given]


def test_a_whole_number_given_for_a_number_is_a_float():
    assert isinstance(parse("part:scale=2", PARTS, "part").given[2], float)


def test_a_part_without_arguments_and_one_that_needs_some():
    assert parse("bare", PARTS, "part") == "bare"
    assert parse("wanting:2,size=3", PARTS, "part") == (2, 3)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("pert", "unknown thing 'pert'; did you mean 'part'"),
        ("", "unknown thing ''; available: part, wanting, fussy, bare"),
        ("part:sise=3", "thing 'part' has no argument 'sise'; did you mean 'size'"),
        ("bare:3", "'3' in thing 'bare:3' given: KEY=VALUE wanted, but it takes no arguments"),
        ("bare:x=3", "thing 'bare' has no argument 'x'; it takes none"),
        ("fussy:3", "KEY=VALUE wanted, KEY one of share"),
        ("part:1,2", "'2' in thing 'part:1,2' given: KEY=VALUE wanted"),
        ("part:size=3,size=4", "gives 'size' twice"),
        ("part:1,target=2", "gives 'target' twice"),
        ("part:size=4.5", "'size=4.5' in thing 'part:size=4.5' given: a whole number wanted"),
        ("part:size=none", "a whole number wanted"),
        ("part:size=true", "a whole number wanted"),
        ("part:size=", "a whole number wanted"),
        ("part:scale=many", "a number wanted"),
        ("part:normal=1", "true or false wanted"),
        ("part:target=some", "a number, true, false or none wanted"),
        ("part:", "a number, true, false or none wanted"),
        ("wanting", "thing 'wanting' lacks weight: give it as in 'wanting:weight=1'"),
        ("wanting:size=2", "lacks weight"),
        ("fussy:share=2", "share=2.0 given: at most 1 wanted"),
    ],
)
def test_what_stands_for_nothing_is_refused_in_one_line(text, says):
    with pytest.raises(ArgumentError, match=says.replace("(", r"\(")) as caught:
        parse(text, PARTS, "thing")
    assert "\n" not in str(caught.value)
