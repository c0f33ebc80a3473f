"""Checkpoints: weights with other names than a module's own, and whether they fit.

Files are read without running code from them: safetensors, or pickles that hold tensors alone
(`torch.load(weights_only=True)`).
"""

from __future__ import annotations

import dataclasses
import fnmatch
import json
import pickle
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from noiseward import lfs
from noiseward.errors import ModelError, choices, describe_error
from noiseward.terminal import silence

__all__ = [
    "Source", "build_head", "build_layers", "count_layers", "get_tensor", "load_network", "load_weights",
    "read_checkpoint", "read_shards", "summarize",
]  # fmt: skip


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a `.safetensors`, `.pt` or `.pth` file, or those under `state_dict` in it.

    Raises:
        ModelError: it cannot be read, or holds more than tensors.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        lfs.check_pointers(path)
        raise ModelError(
            f"{path} holds more than tensors, or is no checkpoint: it is not loaded, since that would run its code"
        ) from None
    except Exception as error:  # torch and safetensors raise several kinds for files cut short
        lfs.check_pointers(path)
        raise ModelError(f"{path} cannot be read ({describe_error(error, 200)}): fetch it again") from None
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not all(isinstance(one, Tensor) for one in content.values()):
        raise ModelError(f"{path} is no checkpoint: expected names and tensors, alone or under 'state_dict'")
    return dict(content)


def read_shards(folder: Path) -> tuple[dict[str, Tensor], Path]:
    """Read the weights of a folder as transformers saves them, in one file or several; and the file that was found.

    Raises:
        ModelError: there are none, or they cannot be read.
    """
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (folder / name).is_file():
            return read_checkpoint(folder / name), folder / name
        index = folder / f"{name}.index.json"
        if index.is_file():
            try:
                files = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
            except (OSError, ValueError, KeyError, AttributeError) as error:
                raise ModelError(f"{index} is no index of weights: {describe_error(error, 100)}") from None
            parts = (read_checkpoint(folder / Path(file).name) for file in files)
            return {key: part for each in parts for key, part in each.items()}, index
    raise ModelError(f"{folder} has no weights: expected model.safetensors or pytorch_model.bin, or an index of them")


def get_tensor(state: Mapping[str, Tensor], key: str, path: Path) -> Tensor:
    """A tensor of a checkpoint that the size of the model is read from."""
    if key not in state:
        raise ModelError(f"{path} does not fit: it has no '{key}' ({choices(key, state, limit=3)})")
    return state[key]


def count_layers(state: Mapping[str, Tensor], prefix: str) -> int:
    """The number of layers in a checkpoint whose names begin so, followed by a number."""
    return 1 + max(int(key.removeprefix(prefix).split(".")[0]) for key in state if key.startswith(prefix))


@dataclasses.dataclass(frozen=True)
class Source:
    """Where a parameter comes from in a checkpoint: a tensor, a third of one, or a transposed one."""

    key: str
    third: int | None = None
    transposed: bool = False

    def shape(self, parameter: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the checkpoint's tensor for a parameter of some shape."""
        if self.third is not None:
            return (3 * parameter[0], *parameter[1:])
        return parameter[::-1] if self.transposed else parameter

    def take(self, tensor: Tensor) -> Tensor:
        """The parameter."""
        tensor = tensor if self.third is None else tensor.chunk(3)[self.third]
        return tensor.T if self.transposed else tensor


def load_weights(
    module: nn.Module,
    state: Mapping[str, Tensor],
    source_of: Callable[[str], Source],
    path: Path,
    *,
    ignored: tuple[str, ...] = (),
) -> None:
    """Load a checkpoint into a module whose parameters have other names.

    Arguments:
        module: to load into.
        state: the checkpoint.
        source_of: the `Source` of a parameter, by the module's name for it.
        path: the checkpoint's, for messages.
        ignored: patterns of the checkpoint's names that have no place in the module.

    Raises:
        ModelError: a tensor is missing, unknown or has another shape; the message names the first three.
    """
    sources = {name: (source_of(name), tuple(part.shape)) for name, part in module.state_dict().items()}
    problems = []
    for source, shape in sources.values():
        tensor, expected = state.get(source.key), source.shape(shape)
        if tensor is None:
            problems.append(f"'{source.key}' is missing")
        elif tuple(tensor.shape) != expected:
            problems.append(f"'{source.key}' is {tuple(tensor.shape)}, not {expected}")
    known = {source.key for source, _ in sources.values()}
    problems += [
        f"'{key}' is unknown"
        for key in state
        if key not in known and not any(fnmatch.fnmatch(key, pattern) for pattern in ignored)
    ]
    if problems:
        raise ModelError(f"{path} does not fit: {summarize(problems)}")
    module.load_state_dict({name: source.take(state[source.key]).float() for name, (source, _) in sources.items()})


def summarize(problems: list[str]) -> str:
    """The first three problems, and how many more there are."""
    problems = list(dict.fromkeys(problems))
    return "; ".join(problems[:3]) + (f" and {len(problems) - 3} more" if len(problems) > 3 else "")


def build_head(state: Mapping[str, Tensor], path: Path, prefix: str = "") -> nn.Sequential:
    """The LAION head: five linear layers d-1024-128-64-16-1 with nothing between them but dropout, off here.

    Arguments:
        state: weights `layers.0`, `layers.2`, `layers.4`, `layers.6`, `layers.7`, and biases.
        path: the checkpoint's, for messages.
        prefix: of these names.
    """
    width = get_tensor(state, f"{prefix}layers.0.weight", path).shape[-1]
    sizes = (width, 1024, 128, 64, 16, 1)
    layers = nn.Sequential(*(nn.Linear(*pair) for pair in zip(sizes, sizes[1:], strict=False)))
    places = dict(zip("01234", "02467", strict=True))
    own = {key: part for key, part in state.items() if key.startswith(prefix)}
    load_weights(layers, own, lambda name: Source(f"{prefix}layers.{places[name[0]]}{name[1:]}"), path)
    return layers.eval().requires_grad_(False)


def build_layers(
    state: Mapping[str, Tensor], path: Path, prefix: str, places: Sequence[int], between: type[nn.Module]
) -> nn.Sequential:
    """Linear layers with a nonlinearity between them, of the sizes that a checkpoint has.

    Arguments:
        state: weights and biases by place in a sequence, as `0.weight`.
        path: the checkpoint's, for messages.
        prefix: of these names.
        places: of the linear layers, among layers without weights.
        between: the nonlinearity.
    """
    shapes = [get_tensor(state, f"{prefix}{place}.weight", path).shape for place in places]
    linear = [nn.Linear(columns, rows) for rows, columns in shapes]
    sources = {f"{2 * number}": place for number, place in enumerate(places)}

    def source_of(name: str) -> Source:
        number, _, kind = name.partition(".")
        return Source(f"{prefix}{sources[number]}.{kind}")

    layers = nn.Sequential(*[layer for one in linear for layer in (one, between())][:-1])
    load_weights(layers, {key: part for key, part in state.items() if key.startswith(prefix)}, source_of, path)
    return layers.eval().requires_grad_(False)


def load_network(kind: Any, config: Any, state: Mapping[str, Tensor], path: Path) -> Any:
    """A transformers model with the weights of a checkpoint, which must be all of its own and no others; in the
    precision of the largest.

    Arguments:
        kind: its class.
        config: its configuration.
        state: weights under the names of the class.
        path: the checkpoint's, for messages.

    Raises:
        ModelError: a tensor is missing, unknown or has another shape, or the configuration is of another model.
    """
    try:
        with silence("transformers"), torch.device("meta"):
            empty = kind(config)
    except Exception as error:  # transformers raises kinds of its own
        raise ModelError(f"{path} does not fit its configuration: {describe_error(error, 200)}") from None
    shapes = {name: tuple(part.shape) for name, part in empty.state_dict().items()}
    problems = [f"'{name}' is missing" for name, _ in empty.named_parameters() if name not in state]
    problems += [f"'{name}' is unknown" for name in state if name not in shapes]
    problems += [
        f"'{name}' is {tuple(part.shape)}, not {shapes[name]}"
        for name, part in state.items()
        if name in shapes and tuple(part.shape) != shapes[name]
    ]
    if problems:
        raise ModelError(f"{path} does not fit: {summarize(problems)}")
    dtype = max(state.values(), key=lambda part: part.numel()).dtype
    with silence("transformers"):
        return kind.from_pretrained(None, config=config, state_dict=dict(state), dtype=dtype)
