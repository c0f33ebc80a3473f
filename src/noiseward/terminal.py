"""The terminal, where text is text.

Prompts, paths, rewards' names and messages may hold anything: `[/red]`, `[cat:dog:0.5]`, `:duck:`. rich reads such
things as markup and emoji unless told not to, and raises where a tag is closed that was never opened. So every console
and every column of a bar comes from here, and no text needs to be escaped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TextColumn

__all__ = ["column", "console"]


def console(*, stderr: bool = False, soft_wrap: bool = False) -> Console:
    """A console that prints text as it is.

    Arguments:
        stderr: print to standard error.
        soft_wrap: leave it to the terminal to wrap long lines.

    Example:
        >>> console().print("[/red] :duck:")
        [/red] :duck:
    """
    from rich.console import Console

    return Console(stderr=stderr, markup=False, emoji=False, highlight=False, soft_wrap=soft_wrap)


def column(text: str) -> TextColumn:
    """A column of a bar, as `{task.description}`, that shows text as it is."""
    from rich.progress import TextColumn

    return TextColumn(text, markup=False)
