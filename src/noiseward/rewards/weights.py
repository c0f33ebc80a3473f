"""Weights of rewards: where they lie, how they get there, and whether they fit.

Nothing is downloaded behind anybody's back: a reward takes its files from a path it is given or from the local cache of
the hub, and says in one line which file is missing and how to provide it. `fetch` downloads. Files are read without
running code from them: safetensors, or pickles that hold tensors alone (`torch.load(weights_only=True)`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import fnmatch
import os
import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from noiseward import lfs
from noiseward.errors import ModelError, choices

__all__ = ["Repo", "fetch", "files", "fit", "head", "one", "read", "without_bars"]

JSON = ("*.json", "vocab.txt", "merges.txt")  # configurations and tokenizers


@dataclasses.dataclass(frozen=True)
class Repo:
    """Files of one repository on the hub.

    Arguments:
        id: `owner/name`.
        wanted: the files that must be there.
        also: patterns of smaller files that are fetched with them.
        megabytes: about how much is downloaded; 0 where it depends.
    """

    id: str
    wanted: tuple[str, ...]
    also: tuple[str, ...] = ()
    megabytes: int = 0

    def cached(self) -> Path | None:
        """The folder in the local cache that holds the wanted files, if there is one."""
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

        try:
            folder = Path(snapshot_download(self.id, local_files_only=True))
        except (LocalEntryNotFoundError, HfHubHTTPError, OSError, ValueError):
            return None
        return folder if all((folder / name).exists() for name in self.wanted) else None


def files(repo: Repo, given: str, reward: str, *, argument: str = "path") -> Path:
    """The folder that holds a repository's wanted files.

    Arguments:
        repo: which.
        given: a folder of one's own, or the path of its one wanted file; empty for the local cache.
        reward: what the reward is called on the command line, with its arguments.
        argument: which of them takes a folder.

    Raises:
        ModelError: a file is missing; the message names it and both ways to provide it.
    """
    name = reward.partition(":")[0]
    if given:
        folder = Path(os.path.expanduser(given))
        if os.path.isfile(folder):
            folder = folder.parent
        for wanted in repo.wanted:
            if not os.path.exists(folder / wanted):
                lies = f"{folder} has no {wanted}" if os.path.isdir(folder) else f"{given} does not exist"
                raise ModelError(
                    f"{lies}: {argument}= of reward '{name}' is a folder with {' and '.join(repo.wanted)} of {repo.id}"
                )
        return folder
    found = repo.cached()
    if found is None:
        size = f", about {repo.megabytes} MB" if repo.megabytes else ""
        raise ModelError(
            f"reward '{name}' needs {' and '.join(repo.wanted)} of {repo.id}{size}, not in the local cache: run "
            f"'noiseward rewards fetch {reward}', or give a folder that has it, {name}:{argument}=FOLDER"
        )
    return found


def fetch(repo: Repo) -> Path:
    """Download a repository's files into the local cache, with the hub's progress bars.

    Raises:
        ModelError: that failed.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        folder = Path(snapshot_download(repo.id, allow_patterns=[*repo.wanted, *repo.also]))
    except (HfHubHTTPError, OSError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise ModelError(f"{repo.id} cannot be downloaded: {first}; check the name and the network") from None
    missing = [name for name in repo.wanted if not (folder / name).exists()]
    if missing:
        raise ModelError(f"{repo.id} has no {' and '.join(missing)}: it is not what this reward takes")
    return folder


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of a `.safetensors`, `.pt` or `.pth` file; what lies under `state_dict` in it, where that is so.

    Raises:
        ModelError: it cannot be read, or holds more than tensors.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        lfs.check(path)
        raise ModelError(
            f"{path} holds more than tensors, or is no checkpoint: it is not loaded, since that would run its code"
        ) from None
    except Exception as error:  # torch and safetensors raise several kinds for files cut short
        lfs.check(path)
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(f"{path} cannot be read ({first}): fetch it again") from None
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not all(isinstance(one, Tensor) for one in content.values()):
        raise ModelError(f"{path} is no checkpoint: names and tensors wanted, alone or under 'state_dict'")
    return dict(content)


def one(state: Mapping[str, Tensor], key: str, path: Path) -> Tensor:
    """A tensor without which one cannot even tell how large the model is."""
    if key not in state:
        raise ModelError(f"{path} does not fit: it has no '{key}' ({choices(key, state, limit=3)})")
    return state[key]


@dataclasses.dataclass(frozen=True)
class Source:
    """Where a parameter comes from in a checkpoint: a tensor, a third of one, or a transposed one."""

    key: str
    third: int | None = None
    transposed: bool = False

    def shape(self, wanted: tuple[int, ...]) -> tuple[int, ...]:
        """The shape the checkpoint's tensor must have for a parameter of the wanted shape."""
        if self.third is not None:
            return (3 * wanted[0], *wanted[1:])
        return wanted[::-1] if self.transposed else wanted

    def take(self, tensor: Tensor) -> Tensor:
        """The parameter."""
        tensor = tensor if self.third is None else tensor.chunk(3)[self.third]
        return tensor.T if self.transposed else tensor


def fit(
    module: nn.Module, state: Mapping[str, Tensor], sources: Any, path: Path, *, ignored: tuple[str, ...] = ()
) -> None:
    """Load a checkpoint into a module whose parameters have other names.

    Arguments:
        module: what to fill.
        state: the checkpoint.
        sources: the `Source` of a parameter, by the module's name for it.
        path: the checkpoint's, for messages.
        ignored: patterns of the checkpoint's names that have no place in the module.

    Raises:
        ModelError: a tensor lacks, is too many or has another shape; the message names the first three.
    """
    wanted = {name: (sources(name), tuple(part.shape)) for name, part in module.state_dict().items()}
    wrong = []
    for source, shape in wanted.values():
        have, need = state.get(source.key), source.shape(shape)
        if have is None:
            wrong.append(f"'{source.key}' is missing")
        elif tuple(have.shape) != need:
            wrong.append(f"'{source.key}' is {tuple(have.shape)}, not {need}")
    known = {source.key for source, _ in wanted.values()}
    wrong += [
        f"'{key}' is unknown"
        for key in state
        if key not in known and not any(fnmatch.fnmatch(key, pattern) for pattern in ignored)
    ]
    wrong = list(dict.fromkeys(wrong))
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise ModelError(f"{path} does not fit: {'; '.join(wrong[:3])}{more}")
    module.load_state_dict({name: source.take(state[source.key]).float() for name, (source, _) in wanted.items()})


def head(state: Mapping[str, Tensor], path: Path, prefix: str = "") -> nn.Sequential:
    """Five linear layers d-1024-128-64-16-1 with nothing between them but dropout, off here: the LAION head.

    Arguments:
        state: weights `layers.0`, `layers.2`, `layers.4`, `layers.6`, `layers.7`, and biases.
        path: the checkpoint's, for messages.
        prefix: of these names.
    """
    width = one(state, f"{prefix}layers.0.weight", path).shape[-1]
    sizes = (width, 1024, 128, 64, 16, 1)
    layers = nn.Sequential(*(nn.Linear(*pair) for pair in zip(sizes, sizes[1:], strict=False)))
    places = dict(zip("01234", "02467", strict=True))
    own = {key: part for key, part in state.items() if key.startswith(prefix)}
    fit(layers, own, lambda name: Source(f"{prefix}layers.{places[name[0]]}{name[1:]}"), path)
    return layers.eval().requires_grad_(False)


@contextlib.contextmanager
def without_bars() -> Iterator[None]:
    """No progress bars and no remarks of transformers while something is loaded."""
    from transformers.utils import logging

    shown, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()
