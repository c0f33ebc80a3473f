"""Prompts as names of files."""

from __future__ import annotations

import re
import unicodedata

__all__ = ["shorten_to_slug", "spell_emoji"]

_DRAWN_AS = r"[\ufe0f\u200d\U0001f3fb-\U0001f3ff]"  # how the emoji before is drawn, and whether it joins the next


def shorten_to_slug(text: str) -> str:
    """A short name for a folder.

    Example:
        >>> shorten_to_slug("A duck!")
        'a-duck'
    """
    return re.sub(r"[^a-z0-9]+", "-", spell_emoji(text).lower()).strip("-")[:60].strip("-") or "run"


def spell_emoji(text: str) -> str:
    """A text with emoji by name, for names of files and for fonts without them.

    Example:
        >>> spell_emoji("a \\N{DUCK} on \\N{FIRE}\\N{FIRE}"), spell_emoji("a  duck")
        ('a duck on fire fire', 'a  duck')
    """
    if not any(unicodedata.category(one) == "So" for one in text):
        return text
    plain = re.sub(_DRAWN_AS, "", text)
    spelled = (f" {unicodedata.name(one, '').lower()} " if unicodedata.category(one) == "So" else one for one in plain)
    return " ".join("".join(spelled).split())
