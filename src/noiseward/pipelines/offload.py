"""Weights that are elsewhere between calls: on the CPU, on disk, or in a smaller type.

Offloading and layerwise casting bring a module's weights in when it is called and send them away afterwards. A gradient
comes later. Here it finds them: what autograd saves of such a weight is which one it is, not its values; when the
gradient needs it, the weight's own hook brings it in, and sends it away once another is needed. So no graph holds
weights on the device, and each is brought in once more per gradient of a call.

Whole models take turns (`enable_model_cpu_offload`): a model that is called again for its gradient sends away those
that are called after it in a run. What hooks do in a call stays as it is; only the pipeline's sending all models away
at the end of its run is left out, because the decoder's gradient comes next.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module, Parameter

from noiseward.errors import ModelError
from noiseward.pipelines.calls import list_pipelines
from noiseward.pipelines.override import override
from noiseward.samplers.memory import note_kept
from noiseward.samplers.recompute import replace_forward

__all__ = ["OffloadedWeights"]

_WHOLE = {"CpuOffload", "CustomOffloadHook"}  # hooks of a whole model
_OPAQUE = {"Linear4bit", "Linear8bitLt"}  # layers whose gradient takes weights that autograd does not see
_METHODS = ("encode", "decode")  # of an autoencoder, which are called in place of its forward


@dataclasses.dataclass(frozen=True, eq=False)
class _Place:
    """Where some weights stay, with the hook that brings them in and sends them away.

    Arguments:
        fetch: brings them in.
        leave: sends them away.
        first: the module whose call brings them in, where that is known.
        last: the module whose call sends them away.
    """

    fetch: Callable[[], object]
    leave: Callable[[], object]
    first: Module | None
    last: Module


@dataclasses.dataclass(frozen=True)
class _Saved:
    """A weight that a graph needs, or a view of one."""

    places: tuple[_Place, ...]
    read: Callable[[], Tensor]
    view: tuple[Sequence[int], Sequence[int], int] | None


class OffloadedWeights:
    """The weights of a pipeline's models that are elsewhere between calls.

    Arguments:
        pipe: the pipeline, whose hooks are read once.
        modules: its models by name.

    Raises:
        ModelError: a layer hides from autograd which weights it needs.
    """

    def __init__(self, pipe: Any, modules: Mapping[str, Module]) -> None:
        self._pipes = [one for one in list_pipelines(pipe) if getattr(one, "_all_hooks", None)]
        self._models = {name: module for name, module in modules.items() if any(map(_has_hook, module.modules()))}
        self._places: dict[int, tuple[_Place, ...]] = {}
        self._weights: dict[int, Tensor] = {}  # held, so that no id is used again
        self._layers: list[tuple[Module, _Place]] = []  # whose weights are other objects at each call
        self._here: tuple[_Place, ...] = ()
        for name, module in self._models.items():
            self._read(module)
            if any(type(part).__name__ in _OPAQUE and self._goes_alone(part) for part in module.modules()):
                raise ModelError(
                    f"{type(pipe).__name__}'s {name} has layers of bitsandbytes, whose gradient would not find weights "
                    "that are offloaded in groups or layers: use pipe.enable_model_cpu_offload() (offload='models')"
                )

    def __bool__(self) -> bool:
        return bool(self._models)

    def holds(self, module: Module) -> bool:
        """Whether a model has such weights."""
        return any(module is one for one in self._models.values())

    @contextlib.contextmanager
    def call(self, module: Module) -> Iterator[None]:
        """Around a call of a module, and around its repetition for the gradient: its graph holds no weights."""
        self.leave()
        self._take_turn(module)
        with self._saving():
            yield

    @contextlib.contextmanager
    def repeat(self, block: Module) -> Iterator[None]:
        """Around a call of a block by itself, for its gradient: what the model's other parts bring in is here, too."""
        inside, places = set(block.modules()), self._list(block)
        outer = [place for place in places if place.first not in inside and place.last not in inside]
        split = [place for place in places if place.first not in inside and place.last in inside]
        self._fetch(outer)
        for place in split:
            place.fetch()
        with self._saving():
            yield
        for place in places:
            if place not in outer:
                place.leave()

    @contextlib.contextmanager
    def hold(self, module: Module) -> Iterator[None]:
        """All weights of a module are here in the body of a `with`."""
        self._fetch(self._list(module))
        yield
        self.leave()

    @contextlib.contextmanager
    def drive(self, module: Module) -> Iterator[None]:
        """Drive the calls of a model that is no denoiser in the body of a `with`."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(replace_forward(module, self.around(module, module.forward)))
            for name in _METHODS:
                if callable(own := getattr(module, name, None)):
                    stack.enter_context(override(module, name, self.around(module, own)))
            yield

    @contextlib.contextmanager
    def stay(self) -> Iterator[None]:
        """Models stay where they are at the end of a run in the body of a `with`."""
        with contextlib.ExitStack() as stack:
            for pipe in self._pipes:
                stack.enter_context(override(pipe, "maybe_free_model_hooks", lambda: None))
            yield

    def clear(self) -> None:
        """Send all models away that take turns."""
        for pipe in self._pipes:
            for hook in pipe._all_hooks:
                hook.offload()

    def leave(self) -> None:
        """Send away what the last gradient brought in."""
        self._fetch(())

    def around(self, module: Module, own: Callable[..., Any]) -> Callable[..., Any]:
        """A function of a model, called as `call` says."""

        @functools.wraps(own)
        def call(*args: Any, **kwargs: Any) -> Any:
            with self.call(module):
                return own(*args, **kwargs)

        return call

    def around_block(self, block: Module, own: Callable[..., Any]) -> Callable[..., Any]:
        """A function of a block, called as `repeat` says where it has a gradient: only when it is repeated."""

        @functools.wraps(own)
        def call(*args: Any, **kwargs: Any) -> Any:
            with self.repeat(block) if torch.is_grad_enabled() else contextlib.nullcontext():
                return own(*args, **kwargs)

        return call

    def _goes_alone(self, part: Module) -> bool:
        """Whether a weight of a part comes and goes without the whole model."""
        places = [place for tensor in _tensors(part) for place in self._places.get(id(tensor), ())]
        return any(place.first not in self._models.values() for place in places)

    def _saving(self) -> contextlib.AbstractContextManager[None]:
        return torch.autograd.graph.saved_tensors_hooks(self._pack, self._unpack)

    def _list(self, module: Module) -> list[_Place]:
        """Where the weights of a module and of its parts stay."""
        own = set(module.modules())
        places = [self._places.get(id(weight), ()) for weight in _tensors(module)]
        places += [(place,) for layer, place in self._layers if layer in own]
        return list(dict.fromkeys(place for each in places for place in each))

    def _fetch(self, places: Sequence[_Place]) -> None:
        """Bring weights in, and send away the others that a gradient brought in."""
        before, self._here = self._here, tuple(places)
        for place in reversed(before):
            if place not in places:
                place.leave()
        for place in places:
            if place not in before:
                place.fetch()

    def _take_turn(self, module: Module) -> None:
        """Send away the models that are called after this one in a run."""
        for pipe in self._pipes:
            order = [getattr(pipe, name, None) for name in (pipe.model_cpu_offload_seq or "").split("->")]
            later = [id(one) for one in order[order.index(module) + 1 :]] if module in order else []
            for hook in pipe._all_hooks:
                if id(hook.model) in later:
                    hook.offload()

    def _read(self, model: Module) -> None:
        """Find out by which hooks a model's weights come and go."""
        for part in model.modules():
            for hook in _accelerate_hooks(part):
                if type(hook).__name__ in _WHOLE:
                    self._add(_tensors(part), self._whole(part, hook))
                elif getattr(hook, "offload", False):
                    self._layers.append((part, _hooked(part, hook)))
            for hook in _diffusers_hooks(part):
                if type(hook).__name__ == "GroupOffloadingHook" and hook.group.offload_leader is part:
                    inner = [tensor for module in hook.group.modules for tensor in _tensors(module)]
                    self._add([*inner, *hook.group.parameters, *hook.group.buffers], _grouped(hook))
        for part in model.modules():  # cast once they are here
            for hook in _diffusers_hooks(part):
                if type(hook).__name__ == "LayerwiseCastingHook":
                    self._add(_tensors(part), _hooked(part, hook))

    def _add(self, tensors: Sequence[Tensor], place: _Place) -> None:
        for tensor in tensors:
            self._weights[id(tensor)] = tensor
            self._places[id(tensor)] = (*self._places.get(id(tensor), ()), place)

    def _whole(self, model: Module, hook: Any) -> _Place:
        def fetch() -> None:
            self._take_turn(model)
            hook.pre_forward(model)

        return _Place(fetch, lambda: None, model, model)

    def _pack(self, tensor: Tensor) -> Tensor | _Saved:
        weight = tensor if tensor._base is None else tensor._base
        is_view = weight is not tensor
        plain = type(weight) in (Tensor, Parameter)
        if plain or not is_view:
            view = (tensor.size(), tensor.stride(), int(tensor.storage_offset())) if is_view else None
            if places := self._places.get(id(weight)):
                return _Saved(places, lambda: weight, view)
            if self._layers and isinstance(weight, Parameter):
                for part, place in self._layers:
                    for name, own in part._parameters.items():
                        if own is weight:
                            return _Saved((place,), lambda part=part, name=name: getattr(part, name), view)
        note_kept(tensor)
        return tensor

    def _unpack(self, saved: Tensor | _Saved) -> Tensor:
        if isinstance(saved, Tensor):
            return saved
        if not set(saved.places) <= set(self._here):
            self._fetch(saved.places)
            engine: Any = torch.autograd.Variable._execution_engine
            engine.queue_callback(self.leave)
        weight = saved.read().detach()
        return weight if saved.view is None else weight.as_strided(*saved.view)


def _hooked(part: Module, hook: Any) -> _Place:
    return _Place(lambda: hook.pre_forward(part), lambda: hook.post_forward(part, None), part, part)


def _grouped(hook: Any) -> _Place:
    group = hook.group

    def fetch() -> None:
        group.onload_()
        if group.stream is not None:
            group.stream.synchronize()

    def leave() -> None:
        group.offload_()
        if hook.next_group is not None and not hook.next_group.onload_self:
            hook.next_group.offload_()  # fetched ahead by the call, for a call that does not come next

    return _Place(fetch, leave, group.onload_leader, group.offload_leader)


def _tensors(module: Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


def _accelerate_hooks(part: Module) -> list[Any]:
    hook = vars(part).get("_hf_hook")
    return [] if hook is None else [hook, *getattr(hook, "hooks", ())]


def _diffusers_hooks(part: Module) -> list[Any]:
    registry = vars(part).get("_diffusers_hook")
    return [] if registry is None else [*registry.hooks.values()]


def _has_hook(part: Module) -> bool:
    """Whether a hook transfers or casts the weights of a part."""
    kinds = {type(hook).__name__ for hook in _diffusers_hooks(part)}
    return not kinds.isdisjoint({"GroupOffloadingHook", "LayerwiseCastingHook"}) or any(
        type(hook).__name__ in _WHOLE or getattr(hook, "offload", False) is True for hook in _accelerate_hooks(part)
    )
