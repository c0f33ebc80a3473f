"""The built-in model as it is shipped."""

from __future__ import annotations

import warnings

import pytest

from noiseward import NoisewardWarning, stickers


@pytest.mark.parametrize(
    ("caption", "says"),
    [
        ("a dukc", "'dukc'; did you mean 'duck'? 'noiseward models stickers' lists"),
        ("A HAPPY duck on a grey background", "'happy', 'grey'; did you mean 'gray'?"),
        ("a yak, please", "'yak', 'please'"),
        ("very very very big", "does not know 'very', 'big'; "),
        ("a \N{DUCK} duck \N{FIRE}\N{FIRE}, $5", "does not know '\N{DUCK}', '\N{FIRE}', '5'; "),
        (" ".join(f"xq{number}" for number in range(30)), "'xq6', 'xq7' and 22 more; 'noiseward models"),
    ],
)
def test_words_it_does_not_know_are_named_with_the_nearest_it_knows(caption, says):
    with pytest.warns(NoisewardWarning) as caught:
        stickers.check_prompt(caption)
    (warning,) = caught
    assert says in str(warning.message) and "\n" not in str(warning.message)


def test_what_it_knows_is_not_remarked_on():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for noun in stickers.nouns():
            stickers.check_prompt(f"a {noun}")
        for color in stickers.colors():
            stickers.check_prompt(f"An owl on a {color.title()} background.")
        stickers.check_prompt("")
