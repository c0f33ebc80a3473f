"""What a model says to a prompt before anything starts: the words it does not know, and those that are close."""

from __future__ import annotations

import html
import re
from typing import Any

import gradio as gr

from noiseward.options.run import DEFAULT_MODEL
from noiseward.pipelines.cards import card_of

__all__ = ["PromptNote", "draw_note", "replace_word"]

CLICKS = """
element.addEventListener('click', (event) => {
  const word = event.target.closest('.nw-word');
  if (word) trigger('click', {old: word.dataset.old, new: word.dataset.new});
});
"""


class PromptNote:
    """The note below a prompt.

    Arguments:
        name: its id on the page.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def show(self) -> None:
        """Put the component on the page."""
        self.note = gr.HTML("", elem_id=self._name, js_on_load=CLICKS)

    def connect(self, prompt: gr.Textbox, model: Any) -> None:
        """Say what happens.

        Arguments:
            prompt: one or more lines.
            model: its short name, or something else that nothing is known of.
        """
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        for field in (prompt, model):
            field.change(draw_note, [prompt, model], self.note, trigger_mode="always_last", queue=False, **quiet)
        self.note.click(_replace, prompt, prompt, queue=False, **quiet)


def draw_note(prompt: str | None, model: str | None) -> str:
    """The words of a prompt that a model does not know, as HTML; empty if it knows all, or that is not known.

    Example:
        >>> draw_note("a duck", "stickers"), draw_note("a duck", "owner/name")
        ('', '')
        >>> "does not know 'dukc'" in draw_note("a dukc", "stickers")
        True
    """
    name = model or DEFAULT_MODEL
    card = card_of(name)
    found = card.find_unknown(prompt or "") if card else {}
    if card is None or not found:
        return ""
    lines = []
    for word, close in list(found.items())[:8]:
        offers = " or ".join(
            f'<button type="button" class="nw-word" data-old="{html.escape(word)}" data-new="{html.escape(one)}">'
            f"{html.escape(one)}</button>"
            for one in close
        )
        said = f"{html.escape(name)} does not know '{html.escape(word)}'"
        lines.append(f"{said}; did you mean {offers}?" if offers else f"{said}, and draws the rest.")
    known = "".join(
        f"<p>{html.escape(kind)}: {html.escape(', '.join(words))}</p>" for kind, words in card.words.items()
    )
    return (
        f'<div class="nw-note" role="status">{"<br>".join(lines)}'
        f"<details><summary>All words that {html.escape(name)} knows</summary>{known}</details></div>"
    )


def replace_word(prompt: str, old: str, new: str) -> str:
    """A prompt with another word.

    Example:
        >>> replace_word("A Dukc, a dukclike", "dukc", "duck")
        'A duck, a dukclike'
    """
    return re.sub(rf"(?<![\w'-]){re.escape(old)}(?![\w'-])", lambda _: new, prompt, flags=re.IGNORECASE)


def _replace(prompt: str, event: gr.EventData) -> str:
    return replace_word(prompt or "", str(event._data.get("old")), str(event._data.get("new")))
