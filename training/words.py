"""What the model can be asked to draw: 104 nouns, one emoji each, and 12 background colors.

A caption is "a duck" (the background may have any color) or "a duck on a black background". Every noun is
one lower-case word and one Unicode code point, chosen to be bold and easy to tell apart at 64 x 64 pixels.
The order is part of the recipe: version 0.1 trains its denoiser on the first 48 nouns, 0.2 on the first 64, 0.3 on
all of them. New nouns go to the end, so that the tokens of the old ones stay what they are.

0.3 completes the 45 "simple animals" of DDPO, as far as the font has one glyph for each. Where it has two, the face
or the body was taken that is easiest to distinguish: the mouse is a face because the rat is a body.

References:
    Kevin Black et al., Training Diffusion Models with Reinforcement Learning, https://arxiv.org/abs/2305.13301
"""

from __future__ import annotations

NOUNS: dict[str, str] = {
    "duck": "\U0001f986", "rabbit": "\U0001f430", "cat": "\U0001f431", "dog": "\U0001f436",
    "heart": "\u2764", "star": "\u2b50", "fox": "\U0001f98a", "owl": "\U0001f989",
    "penguin": "\U0001f427", "frog": "\U0001f438", "fish": "\U0001f420", "whale": "\U0001f433",
    "octopus": "\U0001f419", "butterfly": "\U0001f98b", "bee": "\U0001f41d", "turtle": "\U0001f422",
    "panda": "\U0001f43c", "lion": "\U0001f981", "pig": "\U0001f437", "monkey": "\U0001f435",
    "ladybug": "\U0001f41e", "crab": "\U0001f980", "chick": "\U0001f425", "elephant": "\U0001f418",
    "apple": "\U0001f34e", "banana": "\U0001f34c", "strawberry": "\U0001f353", "watermelon": "\U0001f349",
    "pizza": "\U0001f355", "burger": "\U0001f354", "donut": "\U0001f369", "cherry": "\U0001f352",
    "car": "\U0001f697", "bus": "\U0001f68c", "rocket": "\U0001f680", "boat": "\u26f5",
    "tree": "\U0001f333", "cactus": "\U0001f335", "mushroom": "\U0001f344", "sunflower": "\U0001f33b",
    "tulip": "\U0001f337", "moon": "\U0001f319", "ghost": "\U0001f47b", "robot": "\U0001f916",
    "pumpkin": "\U0001f383", "crown": "\U0001f451", "balloon": "\U0001f388", "house": "\U0001f3e0",
    # from 0.2 on
    "cow": "\U0001f42e", "koala": "\U0001f428", "snail": "\U0001f40c", "unicorn": "\U0001f984",
    "carrot": "\U0001f955", "lemon": "\U0001f34b", "pineapple": "\U0001f34d", "cake": "\U0001f382",
    "train": "\U0001f682", "hat": "\U0001f3a9", "guitar": "\U0001f3b8", "ball": "\u26bd",
    "gift": "\U0001f381", "bell": "\U0001f514", "skull": "\U0001f480", "snowman": "\u26c4",
    # from 0.3 on
    "horse": "\U0001f434", "zebra": "\U0001f993", "spider": "\U0001f577", "bird": "\U0001f426",
    "sheep": "\U0001f411", "deer": "\U0001f98c", "goat": "\U0001f410", "tiger": "\U0001f42f",
    "bear": "\U0001f43b", "raccoon": "\U0001f99d", "wolf": "\U0001f43a", "lizard": "\U0001f98e",
    "beetle": "\U0001fab2", "ant": "\U0001f41c", "shark": "\U0001f988", "dolphin": "\U0001f42c",
    "squirrel": "\U0001f43f", "mouse": "\U0001f42d", "rat": "\U0001f400", "snake": "\U0001f40d",
    "chicken": "\U0001f414", "goose": "\U0001fabf", "turkey": "\U0001f983", "fly": "\U0001fab0",
    "llama": "\U0001f999", "camel": "\U0001f42b", "bat": "\U0001f987", "gorilla": "\U0001f98d",
    "hedgehog": "\U0001f994", "kangaroo": "\U0001f998", "giraffe": "\U0001f992", "flamingo": "\U0001f9a9",
    "crocodile": "\U0001f40a", "parrot": "\U0001f99c", "avocado": "\U0001f951", "pear": "\U0001f350",
    "airplane": "\u2708", "umbrella": "\u2602", "rainbow": "\U0001f308", "diamond": "\U0001f48e",
}  # fmt: skip

COLORS: dict[str, tuple[int, int, int]] = {
    "black": (20, 20, 20), "white": (244, 244, 244), "gray": (128, 128, 128), "red": (218, 38, 38),
    "orange": (246, 138, 28), "yellow": (250, 220, 48), "green": (46, 164, 68), "blue": (36, 84, 216),
    "purple": (128, 54, 186), "pink": (250, 158, 202), "brown": (122, 74, 38), "cyan": (64, 212, 228),
}  # fmt: skip


def article(word: str) -> str:
    """The article of a word: "an" before a vowel, "a" otherwise and for "unicorn"."""
    return "an" if word[0] in "aeiou" and word != "unicorn" else "a"


def caption(noun: str, color: str | None = None) -> str:
    """The caption of a noun on a background: `caption("owl", "black") == "an owl on a black background"`."""
    text = f"{article(noun)} {noun}"
    return text if color is None else f"{text} on {article(color)} {color} background"
