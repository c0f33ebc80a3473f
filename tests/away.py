"""Weights that are away: a stand-in for a second device.

On one device, offloading hooks move nothing. Within :func:`poison` a weight that a hook sends away is overwritten with
NaN, in place (one of packed bits with ones), and restored when its hook brings it in. What touches a weight that is
away, also one that a graph kept hold of, is then never right.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
from accelerate.hooks import AlignDevicesHook, CpuOffload
from diffusers.hooks.group_offloading import ModuleGroup
from diffusers.hooks.layerwise_casting import LayerwiseCastingHook
from diffusers.modular_pipelines.components_manager import CustomOffloadHook
from torch import Tensor
from torch.nn import Module
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

__all__ = ["Depot", "poison"]


class Depot:
    """What weights were before they were sent away.

    Attributes:
        fetched: how often weights were brought in.
    """

    def __init__(self) -> None:
        self._stored: dict[int, tuple[Tensor, Tensor]] = {}
        self.fetched = 0

    def store(self, tensors: list[Tensor]) -> None:
        for tensor in tensors:
            wrong = torch.nan if tensor.is_floating_point() else 255 if tensor.dtype == torch.uint8 else None
            if id(tensor) not in self._stored and wrong is not None and _is_plain(tensor):
                self._stored[id(tensor)] = tensor, tensor.data.clone()
                tensor.data.fill_(wrong)

    def fetch(self, tensors: list[Tensor]) -> None:
        for tensor in tensors:
            if id(tensor) in self._stored:
                tensor.data.copy_(self._stored.pop(id(tensor))[1])
                self.fetched += 1

    @property
    def away(self) -> int:
        """How many weights are away."""
        return len(self._stored)


def _is_plain(tensor: Tensor) -> bool:
    return not tensor.is_meta and not is_traceable_wrapper_subclass(tensor)


def _tensors(module: Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


def _of_group(group: Any) -> list[Tensor]:
    return [*(tensor for module in group.modules for tensor in _tensors(module)), *group.parameters, *group.buffers]


@contextlib.contextmanager
def poison() -> Iterator[Depot]:
    """In the body of a `with`, hooks that offload or cast overwrite the weights they send away."""
    depot = Depot()
    enter, leave = AlignDevicesHook.pre_forward, AlignDevicesHook.post_forward
    onload, offload = ModuleGroup.onload_, ModuleGroup.offload_
    widen, narrow = LayerwiseCastingHook.pre_forward, LayerwiseCastingHook.post_forward

    def whole_in(hook: Any, module: Module, *args: Any, **kwargs: Any) -> Any:
        if hook.prev_module_hook is not None:
            depot.store(_tensors(hook.prev_module_hook.model))
        depot.fetch(_tensors(module))
        return args, kwargs

    def whole_out(hook: Any, module: Module) -> Module:
        depot.store(_tensors(module))
        return module

    def turn_in(hook: Any, module: Module, *args: Any, **kwargs: Any) -> Any:
        for other in hook.other_hooks or ():
            depot.store(_tensors(other.model))
        depot.fetch(_tensors(module))
        return args, kwargs

    def group_in(group: Any) -> None:
        if group.offload_to_disk_path:
            onload(group)
            depot.fetched += 1
        depot.fetch(_of_group(group))

    def group_out(group: Any) -> None:
        if group.offload_to_disk_path:
            offload(group)
            for tensor in filter(Tensor.is_floating_point, _of_group(group)):
                tensor.data.fill_(torch.nan)
        else:
            depot.store(_of_group(group))

    def layer_in(hook: Any, module: Module, *args: Any, **kwargs: Any) -> Any:
        result = enter(hook, module, *args, **kwargs)
        if hook.offload:
            for weight in module.parameters(recurse=False):
                weight.data = weight.data.clone()  # as on another device
                depot.fetched += 1
        return result

    def layer_out(hook: Any, module: Module, output: Any) -> Any:
        if hook.offload:
            for weight in module.parameters(recurse=False):
                if not weight.is_meta:
                    weight.data.fill_(torch.nan)
        return leave(hook, module, output)

    def cast_in(hook: Any, module: Module, *args: Any, **kwargs: Any) -> Any:
        depot.fetched += 1
        return widen(hook, module, *args, **kwargs)

    def cast_out(hook: Any, module: Module, output: Any) -> Any:
        wide = [weight.data for weight in _tensors(module)]
        result = narrow(hook, module, output)
        for tensor, weight in zip(wide, _tensors(module), strict=True):
            if tensor.data_ptr() != weight.data_ptr():
                tensor.fill_(torch.nan)
        return result

    patches = [
        mock.patch.object(CpuOffload, "pre_forward", whole_in),
        mock.patch.object(CpuOffload, "init_hook", whole_out),
        mock.patch.object(CustomOffloadHook, "pre_forward", turn_in),
        mock.patch.object(CustomOffloadHook, "init_hook", whole_out),
        mock.patch.object(ModuleGroup, "onload_", group_in),
        mock.patch.object(ModuleGroup, "offload_", group_out),
        mock.patch.object(AlignDevicesHook, "pre_forward", layer_in),
        mock.patch.object(AlignDevicesHook, "post_forward", layer_out),
        mock.patch.object(LayerwiseCastingHook, "pre_forward", cast_in),
        mock.patch.object(LayerwiseCastingHook, "post_forward", cast_out),
    ]
    with contextlib.ExitStack() as stack:
        for patch in patches:
            stack.enter_context(patch)
        yield depot
