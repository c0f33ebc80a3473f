"""Forms that follow from options: a field per option, with its help and its bounds.

A new option appears by itself. What a field is depends on the option's type: a choice, a box to tick, a list, an image,
or text. Numbers are text, too, which the options read and check. A field that is left empty is an option that is not
given.
"""

from __future__ import annotations

import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import gradio as gr
from pydantic.fields import FieldInfo

from noiseward.options.option import Options
from noiseward.options.parts import read_assignments
from noiseward.options.table import describe_option, type_of
from noiseward.options.task import IMAGES
from noiseward.studio.words import LABELS, PLAIN

__all__ = ["Form", "label_of", "make_command", "make_field"]

Choices = Mapping[str, Callable[[], Sequence[str]]]


class Form:
    """Fields for options of a model, listed in groups.

    Arguments:
        options: the model.
        names: which of its options, in order; those that another field takes are left out by the caller.
        choices: what to offer for an option, by name.
        prefix: of the fields' ids on the page.
        plain: help by option instead of the option's own.

    Attributes:
        fields: a component per option, by name; made when `show` is called.
    """

    def __init__(
        self,
        options: type[Options],
        names: Iterable[str],
        choices: Choices | None = None,
        *,
        prefix: str = "option",
        plain: Mapping[str, str] = PLAIN,
    ) -> None:
        self.options, self.names, self._choices = options, list(names), choices or {}
        self._prefix, self._plain = prefix, plain
        self.fields: dict[str, Any] = {}

    def show(self) -> None:
        """Put the fields on the page, in a section per group that a user may open."""
        groups: dict[str, list[str]] = {}
        for name in self.names:
            groups.setdefault(self.options.group(name) or "Other", []).append(name)
        for group, names in groups.items():
            with gr.Accordion(group, open=False):
                self._show(names)

    def show_plainly(self) -> None:
        """Put the fields on the page without sections."""
        self._show(self.names)

    def _show(self, names: Iterable[str]) -> None:
        for name in names:
            self.fields[name] = make_field(
                self.options, name, self._choices.get(name), prefix=self._prefix, plain=self._plain
            )

    @property
    def components(self) -> list[Any]:
        """The fields in order."""
        return [self.fields[name] for name in self.names]

    def read(self, values: Sequence[Any]) -> dict[str, Any]:
        """What is given, by option.

        Raises:
            ArgumentError: a line of a field that holds a table is no KEY=VALUE.
        """
        found = {}
        for name, value in zip(self.names, values, strict=True):
            value = value.strip() if isinstance(value, str) else value
            if value in (None, "", [], False):
                continue
            kind = type_of(self.options.model_fields[name])
            if kind == "table":
                value = read_assignments(filter(None, map(str.strip, value.splitlines())), name=label_of(name))
            found[name] = tuple(value) if isinstance(value, list) else value
        return found


def make_field(
    options: type[Options],
    name: str,
    choices: Callable[[], Sequence[str]] | None = None,
    *,
    prefix: str = "option",
    plain: Mapping[str, str] = PLAIN,
) -> Any:
    """The field of an option."""
    field = options.model_fields[name]
    kind, label = type_of(field), label_of(name)
    more: dict[str, Any] = {
        "label": label,
        "info": plain.get(name) or describe_option(field),
        "elem_id": f"{prefix}-{name.replace('_', '-')}",
    }
    known = _literals(field)
    if field.annotation is bool:
        return gr.Checkbox(value=False, **more)
    if known and not kind.startswith("list"):
        return gr.Dropdown([("", ""), *((one, one) for one in known)], value="", **more)
    if name in IMAGES:
        return gr.Image(
            type="filepath", label=label, height=160, elem_id=more["elem_id"], sources=["upload", "clipboard"]
        )
    if kind.startswith("list"):
        return gr.Dropdown(
            list(choices()) if choices else [], value=[], multiselect=True, allow_custom_value=True, **more
        )
    if kind == "table":
        return gr.Textbox(lines=2, placeholder="KEY=VALUE, one per line", **more)
    if choices:
        default = field.default if isinstance(field.default, str) else ""
        return gr.Dropdown(["", *choices()], value=default, allow_custom_value=True, **more)
    empty = "" if field.is_required() else "default" if field.default in (None, "") else str(field.default)
    return gr.Textbox(placeholder=empty, **more)


def make_command(name: str) -> Any:
    """Where a command is shown to be copied; hidden until there is one."""
    return gr.Code(label="As a command", language="shell", interactive=False, lines=1, visible=False, elem_id=name)


def label_of(name: str) -> str:
    """The name of an option as a label.

    Example:
        >>> label_of("num_inference_steps"), label_of("watch_every")
        ('Denoising steps', 'Watch every')
    """
    return LABELS.get(name) or name.replace("_", " ").capitalize()


def _literals(field: FieldInfo) -> list[str]:
    """The values that an option can have, where it has a fixed choice."""
    kinds = [field.annotation, *typing.get_args(field.annotation)]
    return [str(value) for kind in kinds if typing.get_origin(kind) is Literal for value in typing.get_args(kind)]
