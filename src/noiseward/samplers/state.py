"""What a module's call depends on besides its arguments, kept so that the call can be repeated later.

A call is repeated when a gradient comes back, and by then the module may have changed: a pipeline restores its
attention processors when its own call ends, an adapter's scale is set for one call and unset after it, a context
manager around the sampler has been left. :func:`snapshot` keeps the attributes of a module and of all its parts,
including what their lists and dicts hold, and the context variables; :func:`Snapshot.restored` puts them back for the
time of a repetition. Weights and buffers are not copied: only which tensors they are.

An attribute `forward` that this library put there to intercept calls (:func:`mark_interceptor`) is left alone.
"""

from __future__ import annotations

import contextlib
import contextvars
import operator
import weakref
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from typing import Any

from torch.nn import Module

from noiseward.samplers.in_use import act_for, find_thread

__all__ = ["COMPILED", "Snapshot", "forget_parts", "is_compiled", "mark_interceptor", "snapshot"]

_IGNORED = ("_parameters", "_buffers", "_non_persistent_buffers_set")  # which tensors they hold is all that matters

_MARK = "_intercepts"

COMPILED = "_compiled_call_impl"  # where torch keeps a module's compiled call

Contents = dict[str, Any]
Containers = list[list[Any] | dict[Any, Any]]

# For a module, its parts and the names of their lists and dicts. Nothing of a part itself is here: hooks that offload
# refer back to the module, which would then be held by its own entry.
_PARTS: MutableMapping[Module, list[tuple[weakref.ref[Module], list[str]]]] = weakref.WeakKeyDictionary()


def is_compiled(modules: Iterable[Module]) -> bool:
    """Whether some part of the modules is compiled when it is first called.

    Example:
        >>> layer = Module()
        >>> before = is_compiled([layer])
        >>> layer.compile(backend="eager")
        >>> before, is_compiled([layer])
        (False, True)
    """
    return any(vars(part).get(COMPILED) is not None for module in modules for part in module.modules())


class Snapshot:
    """The attributes of a module's parts, and the context variables, at some moment. Made by :func:`snapshot`.

    Attributes:
        thread: whose work it was made in.
    """

    def __init__(self, contents: list[Contents], containers: Containers) -> None:
        self._contents = [(own, own.copy()) for own in contents]
        self._containers = [(own, own.copy()) for own in containers]
        self._context, self.thread = contextvars.copy_context(), find_thread()
        self._context.run(act_for, self.thread)

    @contextlib.contextmanager
    def restored(self) -> Iterator[contextvars.Context]:
        """For the body of a `with`, the module is what it was; gives the context to run its call in."""
        changed = [(own, kept, own.copy()) for own, kept in self._contents if _differ(own, kept)]
        held = [(own, kept, own.copy()) for own, kept in self._containers if not _same(own, kept)]
        try:
            for own, kept, _ in held:
                _fill(own, kept)
            for own, kept, _ in changed:
                _assign(own, kept)
            yield self._context
        finally:
            for own, _, now in changed:
                _assign(own, now)
            for own, _, now in held:
                _fill(own, now)


def snapshot(module: Module) -> Snapshot:
    """The state of a module now.

    Example:
        >>> module = Module()
        >>> module.scale = 2.0
        >>> before = snapshot(module)
        >>> module.scale = 1.0
        >>> with before.restored():
        ...     module.scale
        2.0
        >>> module.scale
        1.0
    """
    if (parts := _PARTS.get(module)) is None:  # another thread may forget them at any time
        _PARTS[module] = parts = [(weakref.ref(part), _list_containers(vars(part))) for part in module.modules()]
    found = [(vars(part), names) for reference, names in parts if (part := reference()) is not None]
    values = [own.get(name) for own, names in found for name in names]
    return Snapshot([own for own, _ in found], [value for value in values if isinstance(value, list | dict)])


def _list_containers(own: Contents) -> list[str]:
    """The names of a part's lists and dicts that hold something."""
    return [name for name, value in own.items() if name not in _IGNORED and isinstance(value, list | dict) and value]


def mark_interceptor(forward: Callable[..., Any]) -> Callable[..., Any]:
    """A function, marked as one that stands in for a module's `forward`; a module's own method stays as it is."""
    with contextlib.suppress(AttributeError):
        setattr(forward, _MARK, True)
    return forward


def forget_parts() -> None:
    """Find the parts of modules again at their next snapshot: adapters may have come or gone since the last run."""
    _PARTS.clear()


def _same(own: Any, kept: Any) -> bool:
    """Whether two lists, or two dicts, hold the same objects."""
    if len(own) != len(kept):
        return False
    if isinstance(own, dict):
        return all(map(operator.is_, own.values(), kept.values())) and own.keys() == kept.keys()
    return all(map(operator.is_, own, kept))


def _differ(own: Contents, kept: Contents) -> bool:
    """Whether attributes differ, other than a `forward` that intercepts."""
    if len(own) == len(kept) and all(map(operator.is_, own.values(), kept.values())):
        return False
    left = _left(own, kept)
    plain = ({name: value for name, value in one.items() if name not in left} for one in (own, kept))
    return not _same(*plain)


def _left(own: Contents, kept: Contents) -> set[str]:
    """The attributes that are left as they are."""
    return {name for name in ("forward", COMPILED) if any(getattr(one.get(name), _MARK, False) for one in (own, kept))}


def _fill(own: list[Any] | dict[Any, Any], kept: list[Any] | dict[Any, Any]) -> None:
    own.clear()
    if isinstance(own, dict):
        own.update(kept)
    else:
        own.extend(kept)


def _assign(own: Contents, kept: Contents) -> None:
    """Make attributes those that were kept."""
    left = _left(own, kept)
    for name in own.keys() - kept.keys() - left:
        del own[name]
    own.update({name: value for name, value in kept.items() if name not in left})
